"""Features worth a first visit, found by measurement on a labelled run: `python -m precompute landmarks --run DIR`.

Codes of every headline dictionary on the labelled held-out tokens are held against known factors (which token, in
code or prose, which word family); the stored effects and edges decide what a feature writes; removal on held-out
indirect-object prompts decides which one carries a name. Written to `landmarks.json`, each with its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precompute.common import load_entry, load_model
from precompute.miniature import ioi_prompts
from precompute.miniature.names import COMMON_NAMES, COMMON_OBJECTS, COMMON_PLACES
from sae_core.corpus import Windows, load_windows
from sae_core.dictionaries import Dictionary
from sae_core.errors import CorpusError
from sae_core.intervention import FeatureEdit, apply_edits, clean_run
from sae_core.language_model import LanguageModel
from sae_core.store import DictionaryEntry, RunStore

BATCH = 32
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
FEWEST_POSITIVES = 100
APOSTROPHES = {"'", "’", "␣'", "␣’"}
CLOSERS = tuple(")]}")
TOP_WRITTEN = 10
PROMPTS_PER_NAME = 8
NAMES = 24


@dataclass(frozen=True)
class Args:
    """Find features worth a first visit in a run whose corpus carries factor labels (the miniature)."""

    run: Path
    """the run folder; its tables must be finished"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""


@dataclass(frozen=True)
class Detector:
    """How well `code > level x max` answers a yes-or-no question; level chosen on one half of the held-out tokens.

    precision, recall and n_positive are those of the other half.
    """

    dictionary: str
    feature: int
    level: float
    precision: float
    recall: float
    n_positive: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-12)

    def __str__(self) -> str:
        above = f"above {self.level:.0%} of its maximum" if self.level else "active"
        return (
            f"{above} on {self.recall:.0%} of {self.n_positive:,} such held-out tokens, and {self.precision:.0%} of "
            f"the tokens on which it is are such (F1 {self.f1:.2f})"
        )


def run(args: Args) -> None:
    """Find, print and write the landmarks."""
    store = RunStore.open(args.run)
    model = load_model(store, args.device)
    entries = [entry for entry in store.dictionaries if entry.headline]
    dictionaries = {entry.id: load_entry(store, entry, model.device) for entry in entries}
    tokens = HeldOut.load(store, model)
    found = [
        apostrophe(store, model, dictionaries, tokens),
        condition(store, model, dictionaries, tokens),
        closer(store, entries),
        family(model, dictionaries, tokens),
        name_carrier(model, dictionaries),
    ]
    for landmark in found:
        print(f"{landmark['title']}: {landmark['dictionary']} #{landmark['feature']}\n  {landmark['why']}")
    store.write_text("landmarks.json", json.dumps(found, indent=1, ensure_ascii=False))


def landmark(title: str, dictionary: str, feature: int, why: str) -> dict:
    """An entry of landmarks.json."""
    return {"title": title, "dictionary": dictionary, "feature": int(feature), "why": why}


# ---- known factors of held-out tokens


@dataclass(frozen=True)
class HeldOut:
    """Held-out contexts [n, t] with the readable form of each token [n * t] and its labels."""

    ids: np.ndarray
    tokens: np.ndarray
    labels: dict[str, np.ndarray]

    @classmethod
    def load(cls, store: RunStore, model: LanguageModel) -> HeldOut:
        """Raises CorpusError for a corpus without labels."""
        windows: Windows = load_windows(store.folder, "held_out")
        ids = np.asarray(windows.tokens)
        labels = windows.labels(slice(None))
        if labels is None:
            raise CorpusError("a run whose corpus has factor labels", "none", "Use a run made with --corpus miniature")
        readable = np.array(model.token_strings(), dtype=object)
        return cls(ids, readable[ids.reshape(-1)], {name: values.reshape(-1) for name, values in labels.items()})


def detectors(
    model: LanguageModel, dictionaries: dict[str, Dictionary], tokens: HeldOut, wanted: np.ndarray
) -> Iterator[Detector]:
    """For each dictionary the feature and level that answer best (by F1) whether a token is one of `wanted` [n]."""
    half = len(tokens.ids) // 2
    mask = wanted.reshape(tokens.ids.shape)
    fit = count_active(model, dictionaries, tokens.ids[:half], mask[:half])
    score = count_active(model, dictionaries, tokens.ids[half:], mask[half:])
    for name, counts in fit.items():
        f1 = 2 * counts[1] / np.maximum(counts[0] + mask[:half].sum(), 1)
        level, feature = np.unravel_index(f1.argmax(), f1.shape)
        active, hits = score[name][:, level, feature]
        n = int(mask[half:].sum())
        yield Detector(name, int(feature), LEVELS[level], hits / max(active, 1), hits / max(n, 1), n)


@torch.inference_mode()
def count_active(
    model: LanguageModel, dictionaries: dict[str, Dictionary], ids: np.ndarray, wanted: np.ndarray
) -> dict[str, np.ndarray]:
    """Per dictionary [2, levels, F]: tokens on which each feature is above a level, and how many of them are wanted."""
    sites = [d.site for d in dictionaries.values()]
    highest = {name: torch.zeros(d.n_features) for name, d in dictionaries.items()}
    for start in range(0, len(ids), BATCH):
        x = model.sites(torch.from_numpy(ids[start : start + BATCH].astype(np.int64)), sites)
        for name, d in dictionaries.items():
            highest[name] = highest[name].maximum(d.encode(x[d.site]).amax((0, 1)).cpu())
    totals = {name: np.zeros((2, len(LEVELS), d.n_features)) for name, d in dictionaries.items()}
    for start in range(0, len(ids), BATCH):
        x = model.sites(torch.from_numpy(ids[start : start + BATCH].astype(np.int64)), sites)
        mask = torch.from_numpy(wanted[start : start + BATCH]).flatten()
        for name, d in dictionaries.items():
            codes = d.encode(x[d.site]).flatten(0, 1).cpu()
            for i, level in enumerate(LEVELS):
                above = codes > level * highest[name]
                totals[name][0, i] += above.sum(0).numpy()
                totals[name][1, i] += above[mask].sum(0).numpy()
    return totals


def apostrophe(store: RunStore, model: LanguageModel, dictionaries: dict[str, Dictionary], tokens: HeldOut) -> dict:
    """The apostrophe detector whose removal lowers `s` most."""
    wanted = np.isin(tokens.tokens, list(APOSTROPHES))
    found = [(d, _change(store, d, "s")) for d in detectors(model, dictionaries, tokens, wanted)]
    # Detectors that lower `s`, best first; where none does, the best detector.
    best, change = min(found, key=lambda item: (item[0].f1 * min(item[1], 0.0), -item[0].f1))
    return landmark(
        "Apostrophes, and the s that follows",
        best.dictionary,
        best.feature,
        f"Apostrophe tokens: {best}. Removing it changes the log-probability of `s` by {change:+.2f} nats on average.",
    )


def _change(store: RunStore, detector: Detector, token: str) -> float:
    """Mean change of a token's log-probability when the feature is removed; 0 if it is not among the stored ones."""
    rows = store.read("logit_effects", detector.dictionary, key=detector.feature)
    rows = rows[rows["token"] == token]
    return float(rows["mean_change_logprob"].iloc[0]) if len(rows) else 0.0


def condition(store: RunStore, model: LanguageModel, dictionaries: dict[str, Dictionary], tokens: HeldOut) -> dict:
    """The detector of `if` in code, with its activity on `if` in prose."""
    is_if = np.isin(tokens.tokens, ["if", "␣if"])
    code, prose = (is_if & (tokens.labels["line_kind"] == kind) for kind in ("code", "prose"))
    best = max(detectors(model, dictionaries, tokens, code), key=lambda d: d.f1)
    only = {best.dictionary: dictionaries[best.dictionary]}
    counts = count_active(model, only, tokens.ids, prose.reshape(tokens.ids.shape))[best.dictionary]
    in_prose = counts[1, LEVELS.index(best.level), best.feature] / max(prose.sum(), 1)
    return landmark(
        "`if` in code, not in prose",
        best.dictionary,
        best.feature,
        f"`if` in lines of code: {best}. Of {prose.sum():,} `if` in prose it is there on {in_prose:.0%}.",
    )


def family(model: LanguageModel, dictionaries: dict[str, Dictionary], tokens: HeldOut) -> dict:
    """The best detector of any word family that is common enough."""
    labels = tokens.labels["word_family"]
    names, counts = np.unique(labels[labels != ""], return_counts=True)
    found = [
        (name, best)
        for name in names[counts >= FEWEST_POSITIVES]
        for best in detectors(model, dictionaries, tokens, labels == name)
    ]
    name, best = max(found, key=lambda item: item[1].f1)
    return landmark(f"The word family {name}", best.dictionary, best.feature, f"Words of the family {name}: {best}.")


# ---- what a feature writes


def closer(store: RunStore, entries: list[DictionaryEntry]) -> dict:
    """The feature whose direction writes closing brackets most, among those with a causal tree."""
    scored = pd.concat([_written(store, entry) for entry in entries if entry.spec.site.layer > 0])
    best = scored.sort_values(["n_closers", "direct"], ascending=[False, True]).iloc[0]
    edges = store.read("causal_edges", best.dictionary, key=int(best.feature))
    strongest = edges[edges["parent"] >= 0].sort_values("relative_drop", ascending=False).iloc[0]
    return landmark(
        "A direction that writes closing brackets",
        best.dictionary,
        best.feature,
        f"{int(best.n_closers)} of the {TOP_WRITTEN} tokens its direction writes most begin with a closing bracket "
        f"({best.tokens}). Strongest cause: #{int(strongest.parent)} of {strongest.parent_dictionary}, whose removal "
        f"takes away {strongest.relative_drop:.0%} of it.",
    )


def _written(store: RunStore, entry: DictionaryEntry) -> pd.DataFrame:
    """Per feature with edges: how many of the tokens its direction writes most (direct, lowered by removal) close."""
    effects = store.read("logit_effects", entry.id, columns=["feature", "token", "direct", "n_positions"])
    with_tree = store.read("causal_edges", entry.id, columns=["feature"])["feature"].unique()
    effects = effects[effects["feature"].isin(with_tree)]
    top = effects.sort_values("direct", kind="stable").groupby("feature").head(TOP_WRITTEN)
    top = top.assign(closes=top["token"].str.lstrip("␣").str.startswith(CLOSERS) & (top["direct"] < 0))
    grouped = top.groupby("feature")
    return pd.DataFrame(
        {
            "dictionary": entry.id,
            "n_closers": grouped["closes"].sum(),
            "direct": grouped["direct"].mean(),
            "tokens": grouped["token"].agg(" ".join),
        }
    ).reset_index()


# ---- who carries a name


@torch.inference_mode()
def name_carrier(model: LanguageModel, dictionaries: dict[str, Dictionary]) -> dict:
    """The feature that fires at the last token when one name is the indirect object, and whose removal lowers it most.

    Candidates: for each name and dictionary the feature whose activity at the last token tells prompts with this
    indirect object best from the others; among them the one whose removal lowers the name's log-probability most.
    """
    prompts = _prompts(model)
    best = min(
        (
            (_name_change(model, dictionary, prompts, name, feature), key, name, feature, f1)
            for key, dictionary in dictionaries.items()
            for name, feature, f1 in _name_features(model, dictionary, prompts)
        ),
        key=lambda item: item[0] * item[4],
    )
    change, key, name, feature, f1 = best
    carries = f1 >= 0.5 and change <= -0.1
    return landmark(
        f"A name on its way: {name}" if carries else f"No feature carries a name here; the nearest: {name}",
        key,
        feature,
        f"At the last token of indirect-object prompts it tells those whose answer is {name} from {NAMES - 1} other "
        f"names (F1 {f1:.2f} over {len(prompts)} held-out prompts); removing it there changes the log-probability of "
        f"{name} by {change:+.2f} nats.",
    )


def _prompts(model: LanguageModel) -> pd.DataFrame:
    """Held-out prompts with single-token names, PROMPTS_PER_NAME for each of NAMES indirect objects."""
    names = [n for n in COMMON_NAMES if len(model.encode(f" {n}")) == 1][:NAMES]
    drawn = ioi_prompts(40 * NAMES * PROMPTS_PER_NAME, 1, tuple(names), COMMON_PLACES, COMMON_OBJECTS)
    frame = pd.DataFrame({"text": [p.text for p in drawn], "name": [p.indirect_object for p in drawn]})
    return frame.groupby("name").head(PROMPTS_PER_NAME).reset_index(drop=True)


def _last_codes(model: LanguageModel, dictionary: Dictionary, prompts: pd.DataFrame) -> torch.Tensor:
    """Codes at the last token of each prompt, [n, F]."""
    codes = []
    for text in prompts["text"]:
        x = model.sites(torch.tensor([model.encode(text)]), [dictionary.site])[dictionary.site]
        codes.append(dictionary.encode(x[0, -1]))
    return torch.stack(codes)


def _name_features(
    model: LanguageModel, dictionary: Dictionary, prompts: pd.DataFrame
) -> Iterator[tuple[str, int, float]]:
    active = _last_codes(model, dictionary, prompts).ne(0).double().cpu().numpy()
    for name in prompts["name"].unique():
        wanted = (prompts["name"] == name).to_numpy(dtype=float)
        hits = wanted @ active
        f1 = 2 * hits / np.maximum(wanted.sum() + active.sum(0), 1)
        yield name, int(f1.argmax()), float(f1.max())


def _name_change(
    model: LanguageModel, dictionary: Dictionary, prompts: pd.DataFrame, name: str, feature: int
) -> float:
    """Mean change of the name's log-probability at the last token when the feature is removed there; nats."""
    token = model.encode(f" {name}")[0]
    changes = []
    for text in prompts.loc[prompts["name"] == name, "text"]:
        clean = clean_run(model, dictionary, model.encode(text))
        last = len(clean.ids) - 1
        effect = apply_edits(model, dictionary, clean, [FeatureEdit(feature, positions=(last,))], positions=[last])
        changes.append(float(effect.edited_logprobs[0, token] - effect.clean_logprobs[0, token]))
    return float(np.mean(changes))
