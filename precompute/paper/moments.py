"""Step `moments`: do the moments of a feature's activations predict its score (paper Table 2, App. C.4)?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sae_core.autointerp.score import score
from sae_core.schemas import MOMENTS_SCORES
from sae_core.store import DictionaryEntry, Provenance, RunStore

STEP = "moments"
TABLE = "moments_scores"
MOMENTS = ("mean", "variance", "skew", "kurtosis", "skew_uncentred", "kurtosis_uncentred")
KEYS = ["explainer", "scheme", "setting"]
POOLED = "headline"
FEWEST_FEATURES = 20


@dataclass(frozen=True)
class Args:
    """Correlate the moments in `features` with the scores in `scores`."""


def run(store: RunStore, args: Args) -> None:
    """Write `moments_scores` from every dictionary that has moments and scores; says which main ones have none."""
    if state(store) == "ready":
        return
    frames = {entry.id: features_with_scores(store, entry) for entry in _scored(store)}
    for entry in store.main_dictionaries:
        if entry.id not in frames:
            print(f"moments: {entry.id} has no scores of features yet; run the step rules first")
    headline = [frames[entry.id] for entry in _scored(store) if entry.headline]
    groups = frames | ({POOLED: pd.concat(headline)} if headline else {})
    rows = [row for name, frame in groups.items() for row in correlations(name, frame, store.manifest.spec.seed)]
    store.write_table(TABLE, pd.DataFrame(rows, columns=MOMENTS_SCORES.column_names), provenance=_provenance(store))


def state(store: RunStore) -> str:
    """`stale` also when scores have been added since."""
    return store.table_state(TABLE, **_provenance(store).settings)


def features_with_scores(store: RunStore, entry: DictionaryEntry) -> pd.DataFrame:
    """A row for each scored feature, explainer, scheme and setting, with the feature's moments."""
    scores = store.read("scores", entry.id, columns=["feature", *KEYS, "score", "skipped"])
    moments = store.read("features", entry.id, columns=["feature", *MOMENTS])
    return scores[~scores["skipped"]].merge(moments, on="feature")


def correlations(name: str, frame: pd.DataFrame, seed: int) -> Iterator[dict]:
    """Rows of `moments_scores`: for each explainer, scheme and setting with enough features, one for each moment."""
    for key, group in frame.groupby(KEYS):
        if len(group) < FEWEST_FEATURES:
            print(f"moments: {len(group)} features of {name} have a score by {key[0]}; {FEWEST_FEATURES} are needed")
            continue
        for moment in MOMENTS:
            yield {"dictionary": name, **dict(zip(KEYS, key, strict=True)), **_correlation(group, moment, seed)}


def _correlation(group: pd.DataFrame, moment: str, seed: int) -> dict:
    """Pearson correlation with the score and its interval over features drawn with replacement."""
    true, predicted = (group[column].to_numpy(np.float64)[:, None] for column in ("score", moment))
    found = score([true], [predicted], seed)
    if found is None:  # all features have the same score
        return {"moment": moment, "r": 0.0, "lower": 0.0, "upper": 0.0, "n": len(group)}
    return {"moment": moment, "r": found.score, "lower": found.lower, "upper": found.upper, "n": len(group)}


def _scored(store: RunStore) -> list[DictionaryEntry]:
    """All with both tables: the main ones, and those trained as published (step `published`)."""
    tables = ("scores", "features")
    return [e for e in store.dictionaries if all(store.table_state(table, e.id) == "ready" for table in tables)]


def _provenance(store: RunStore) -> Provenance:
    """Made from the scores that there are now: which dictionaries, and each explainer's settings."""
    made_from = {entry.id: [entry.hash, store.table_info("scores", entry.id).settings] for entry in _scored(store)}
    return store.provenance(made_from=made_from)
