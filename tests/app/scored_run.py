"""Scores for a synthetic run: every dictionary, and baselines beside them, with known mean scores."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore

LEVELS = {"tied": 0.6, "untied": 0.5, "frozen": 0.55, "pca": 0.3, "ica": 0.35, "identity": 0.2, "random": 0.2,
          "pca_topk": 0.32, "ica_topk": 0.36}  # fmt: skip
N = 40
SKIPPED = (2, 7)


def add_dictionaries(run: RunStore, layers: tuple[int, ...] = (0, 1, 2)) -> None:
    """List baselines in every layer, a smaller SAE in layer 1 and two dictionaries of the MLP, without weights."""
    specs = [
        DictionarySpec(Site(layer), kind, 2.0, 1e-3 if kind == "frozen" else 0.0, 9 if "topk" in kind else None)
        for layer in layers
        for kind in ("pca", "ica", "identity", "random", "frozen", "pca_topk", "ica_topk")
    ]
    specs += [DictionarySpec(Site(1), "tied", 1, 8e-4)]
    specs += [DictionarySpec(Site(1, "mlp_post"), kind, 1, 1e-3) for kind in ("untied", "identity")]
    added = tuple(DictionaryEntry(spec.id, spec, N, f"hash-{spec.id}", "baseline") for spec in specs)
    run.update_manifest(dictionaries=(*run.dictionaries, *added))


def write_scores(run: RunStore, explainers: tuple[str, ...] = ("rule",), setting: str = "corrected") -> None:
    """Scores around LEVELS (random-only 0.1 lower), two features of each dictionary skipped."""
    for entry in run.dictionaries:
        frame = pd.concat(_rows(entry, who, setting) for who in explainers)
        run.write_table("scores", frame, entry.id)


def _rows(entry: DictionaryEntry, explainer: str, setting: str) -> pd.DataFrame:
    rng = np.random.default_rng(len(entry.id))
    features = np.arange(entry.n_features)
    parts = []
    for scheme, drop in (("top_and_random", 0.0), ("random_only", 0.1)):
        score = LEVELS[entry.spec.kind] - drop + 0.05 * rng.standard_normal(len(features))
        parts.append(pd.DataFrame({"feature": features, "scheme": scheme, "score": score}))
    frame = pd.concat(parts, ignore_index=True)
    frame["skipped"] = frame["feature"].isin(SKIPPED)
    frame.loc[frame["skipped"], "score"] = 0.0
    return frame.assign(
        explainer=explainer, setting=setting, simulator=explainer, kind="token", explanation="tokens <b> & \"quotes\"",
        lower=frame["score"] - 0.1, upper=frame["score"] + 0.1, n_fragments=10,
    )  # fmt: skip


def write_moments(run: RunStore, setting: str = "corrected") -> None:
    """Correlations of all six moments with the scores, for the headline dictionaries together and one of them."""
    moments = ("mean", "variance", "skew", "kurtosis", "skew_uncentred", "kurtosis_uncentred")
    rows = [
        (name, "rule", scheme, setting, moment, 0.3, 0.2, 0.4, 123)
        for name in ("headline", run.main_dictionaries[0].id)
        for scheme in ("top_and_random", "random_only")
        for moment in moments
    ]
    columns = ["dictionary", "explainer", "scheme", "setting", "moment", "r", "lower", "upper", "n"]
    run.write_table("moments_scores", pd.DataFrame(rows, columns=columns))


def write_detection(run: RunStore, explainer: str) -> None:
    """Ten judged features of one dictionary by both scorers."""
    frame = pd.DataFrame({"feature": np.repeat(np.arange(10), 2), "scorer": ["detection", "fuzzing"] * 10})
    accuracy = np.where(frame["scorer"] == "detection", 0.8, 0.55) + 0.01 * (frame["feature"] % 3)
    frame = frame.assign(
        explainer=explainer, setting="corrected", judge="judge", accuracy=accuracy, lower=0.4, upper=0.9, f1=0.7, n=20
    )
    run.write_table("detection", frame, run.main_dictionaries[0].id)
