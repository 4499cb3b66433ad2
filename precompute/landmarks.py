"""Features worth a first visit, found by measurement on a labelled run: `python -m precompute landmarks --run DIR`.

Codes of every headline dictionary on the labelled held-out tokens are held against known factors (which token, in
code or prose, which word family); the stored effects and edges decide what a feature writes; removal on held-out
indirect-object prompts decides which one carries a name. Written to `landmarks.json`, each with its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precompute.activation_files import ActivationFiles, activation_files
from precompute.common import load_entry, load_model
from precompute.held_out import batches, held_out_labels
from precompute.miniature import ioi_prompts
from precompute.miniature.names import COMMON_NAMES, COMMON_OBJECTS, COMMON_PLACES
from sae_core import factors
from sae_core.dictionaries import Dictionary
from sae_core.factors import F1, Batches, best_detectors, count_above, score_detectors
from sae_core.intervention import FeatureEdit, apply_edits, apply_many, clean_run
from sae_core.language_model import LanguageModel
from sae_core.schemas import DENSE_ABOVE
from sae_core.specs import Site
from sae_core.store import DictionaryEntry, RunStore
from sae_core.unembedding import TOP_WRITTEN, closes

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
FEWEST_POSITIVES = 100
APOSTROPHES = {"'", "’", "␣'", "␣’"}
PROMPTS_PER_NAME = 8
NAMES = 24
ROLE_PROMPTS_PER_NAME = 2
PLACES_READ = {"mention": "Where the name stands in", "last": "At the last token of"}


@dataclass(frozen=True)
class Args:
    """Find features worth a first visit in a run whose corpus carries factor labels (the miniature)."""

    run: Path
    """the run folder; its tables must be finished"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""


@dataclass(frozen=True)
class Detector:
    """How well `code > level x max` answers a question: chosen on one half of the tokens, scored on the other."""

    dictionary: str
    rule: factors.Detector
    found: F1

    @property
    def feature(self) -> int:
        return self.rule.feature

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return self.found.f1

    def __str__(self) -> str:
        level = LEVELS[self.rule.level]
        above = f"above {level:.0%} of its maximum" if level else "active"
        return (
            f"{above} on {self.found.recall:.0%} of {self.found.n_positives:,} such held-out tokens, and "
            f"{self.found.precision:.0%} of the tokens on which it is are such (F1 {self.f1:.2f})"
        )


def run(args: Args) -> None:
    """Find, print and write the landmarks."""
    store = RunStore.open(args.run)
    model = load_model(store, args.device)
    entries = [entry for entry in store.dictionaries if entry.headline]
    dictionaries = {entry.id: load_entry(store, entry, model.device) for entry in entries}
    with held_out(store, model, dictionaries) as tokens:
        found = [
            apostrophe(store, dictionaries, tokens),
            condition(dictionaries, tokens),
            closer(store, entries),
            family(dictionaries, tokens),
            receiver(dictionaries, tokens),
            name_carrier(store, model, dictionaries),
        ]
    for landmark in found:
        print(f"{landmark['title']}: {landmark['dictionary']} #{landmark['feature']}\n  {landmark['why']}")
    store.write_text("landmarks.json", json.dumps(found, indent=1, ensure_ascii=False))


def landmark(key: str, title: str, dictionary: str, feature: int, why: str) -> dict:
    """An entry of landmarks.json. key: what it is a landmark of, by which programs know it; titles are for readers."""
    return {"key": key, "title": title, "dictionary": dictionary, "feature": int(feature), "why": why}


# ---- known factors of held-out tokens


@dataclass(frozen=True)
class HeldOut:
    """Held-out contexts [n, t] with the readable form of each token [n * t] and its labels; their activations."""

    ids: np.ndarray
    tokens: np.ndarray
    labels: dict[str, np.ndarray]
    files: ActivationFiles
    first: int = 0

    def batches(self, site: Site, wanted: np.ndarray, rows: slice) -> Batches:
        """Passes over some contexts; wanted: [n * t] of bool."""
        return batches(self.files, site, wanted.reshape(self.ids.shape)[..., None], rows, self.first)


@contextmanager
def held_out(store: RunStore, model: LanguageModel, dictionaries: dict[str, Dictionary]) -> Iterator[HeldOut]:
    """Raises CorpusError for a corpus without labels."""
    ids, labels = held_out_labels(store)
    readable = np.array(model.token_strings(), dtype=object)
    flat = {name: values.reshape(-1) for name, values in labels.items()}
    sites = list(dict.fromkeys(dictionary.site for dictionary in dictionaries.values()))
    with activation_files(store, model, sites, ids, "landmarks", "activations of held-out contexts") as files:
        yield HeldOut(ids, readable[ids.reshape(-1)], flat, files, store.manifest.spec.first)


def detectors(dictionaries: dict[str, Dictionary], tokens: HeldOut, wanted: np.ndarray) -> Iterator[Detector]:
    """For each dictionary the feature and level that answer best (by F1) whether a token is one of `wanted` [n]."""
    half = len(tokens.ids) // 2
    for name, dictionary in dictionaries.items():
        counts = count_above(dictionary, tokens.batches(dictionary.site, wanted, slice(half)), LEVELS)
        (rule,) = best_detectors(counts, signs=1)
        (found,) = score_detectors(dictionary, [rule], tokens.batches(dictionary.site, wanted, slice(half, None)), 0)
        yield Detector(name, rule, found)


def apostrophe(store: RunStore, dictionaries: dict[str, Dictionary], tokens: HeldOut) -> dict:
    """The apostrophe detector whose removal lowers `s` most."""
    wanted = np.isin(tokens.tokens, list(APOSTROPHES))
    found = [(d, _change(store, d, "s")) for d in detectors(dictionaries, tokens, wanted)]
    # Detectors that lower `s`, best first; where none does, the best detector.
    best, change = min(found, key=lambda item: (item[0].f1 * min(item[1], 0.0), -item[0].f1))
    return landmark(
        "apostrophe",
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


def condition(dictionaries: dict[str, Dictionary], tokens: HeldOut) -> dict:
    """The detector of `if` in code, with its activity on `if` in prose."""
    is_if = np.isin(tokens.tokens, ["if", "␣if"])
    code, prose = (is_if & (tokens.labels["line_kind"] == kind) for kind in ("code", "prose"))
    best = max(detectors(dictionaries, tokens, code), key=lambda d: d.f1)
    chosen = dictionaries[best.dictionary]
    in_prose = score_detectors(chosen, [best.rule], tokens.batches(chosen.site, prose, slice(None)), 0)[0].recall
    return landmark(
        "if_in_code",
        "`if` in code, not in prose",
        best.dictionary,
        best.feature,
        f"`if` in lines of code: {best}. Of {prose.sum():,} `if` in prose it is there on {in_prose:.0%}.",
    )


def family(dictionaries: dict[str, Dictionary], tokens: HeldOut) -> dict:
    """The best detector of any word family that is common enough."""
    labels = tokens.labels["word_family"]
    names, counts = np.unique(labels[labels != ""], return_counts=True)
    found = [
        (name, best)
        for name in names[counts >= FEWEST_POSITIVES]
        for best in detectors(dictionaries, tokens, labels == name)
    ]
    name, best = max(found, key=lambda item: item[1].f1)
    title, why = f"The word family {name}", f"Words of the family {name}: {best}."
    return landmark("word_family", title, best.dictionary, best.feature, why)


def receiver(dictionaries: dict[str, Dictionary], tokens: HeldOut) -> dict:
    """The best detector of names that receive something: indirect objects, whoever it is."""
    wanted = tokens.labels["name_role"] == "receiver"
    best = max(detectors(dictionaries, tokens, wanted), key=lambda d: d.f1)
    why = f"Names of indirect objects, whichever: {best}."
    return landmark("receiver", "Whoever receives something", best.dictionary, best.feature, why)


# ---- what a feature writes


def closer(store: RunStore, entries: list[DictionaryEntry]) -> dict:
    """The feature whose direction writes closing brackets most, among those with a causal tree."""
    scored = pd.concat([_written(store, entry) for entry in entries if entry.spec.site.layer > 0])
    best = scored.sort_values(["n_closers", "direct"], ascending=[False, True]).iloc[0]
    edges = store.read("causal_edges", best.dictionary, key=int(best.feature))
    strongest = edges[edges["parent"] >= 0].sort_values("relative_drop", ascending=False).iloc[0]
    return landmark(
        "closing_bracket",
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
    top = top.assign(closes=top["token"].map(closes) & (top["direct"] < 0))
    grouped = top.groupby("feature")
    return pd.DataFrame(
        {
            "dictionary": entry.id,
            "n_closers": grouped["closes"].sum(),
            "direct": grouped["direct"].mean(),
            "tokens": grouped["token"].agg(" ".join),
        }
    ).reset_index()


def dense(store: RunStore, dictionary: str) -> list[int]:
    """Features active on more than DENSE_ABOVE of the table tokens: what they do says little about one thing."""
    features = store.read("features", dictionary, columns=["feature", "density"])
    return features.loc[features["density"] > DENSE_ABOVE, "feature"].tolist()


# ---- who carries a name


@torch.inference_mode()
def name_carrier(store: RunStore, model: LanguageModel, dictionaries: dict[str, Dictionary]) -> dict:
    """The feature that tells one indirect object from others, and whose removal there lowers its name most.

    Read at two places of the prompt: where the indirect object is named, and the last token. Candidates: for each
    place, name and dictionary the feature whose activity there tells prompts with this indirect object best (F1)
    from the others; among them the one with the largest F1 x drop of the name's log-probability at the last token.
    """
    prompts = _prompts(model)
    found = [
        Carrier(key, feature, name, place, f1, _name_change(model, dictionary, prompts, name, feature, place))
        for key, dictionary in dictionaries.items()
        for place in PLACES_READ
        for name, feature, f1 in _name_features(model, dictionary, prompts, place)
    ]
    best = min(found, key=lambda carrier: carrier.change * carrier.f1)
    if best.f1 < 0.5 or best.change > -0.1:
        return role_carrier(store, model, dictionaries, prompts, best)
    return landmark(
        "name",
        f"A name on its way: {best.name}",
        best.dictionary,
        best.feature,
        f"{PLACES_READ[best.place]} indirect-object prompts it tells those whose answer is {best.name} from "
        f"{NAMES - 1} other names (F1 {best.f1:.2f} over {len(prompts)} held-out prompts); removing it there changes "
        f"the log-probability of {best.name} at the end by {best.change:+.2f} nats.",
    )


@torch.inference_mode()
def role_carrier(
    store: RunStore, model: LanguageModel, dictionaries: dict[str, Dictionary], prompts: pd.DataFrame, nearest: Carrier
) -> dict:
    """What is there instead: the feature on which the choice of the indirect object hangs most, whoever it is.

    Each feature that fires in a prompt is removed from all of it; the change of log P(indirect object) - log P(subject)
    at the last token, averaged over all prompts (0 where it is silent), is most negative for this one. Dense features
    are left out: everything hangs on them.
    """
    change = {key: torch.zeros(dictionary.n_features) for key, dictionary in dictionaries.items()}
    for prompt in (some := prompts.groupby("name").head(ROLE_PROMPTS_PER_NAME)).to_dict("records"):
        for key, dictionary in dictionaries.items():
            change[key] += _preference_change(model, dictionary, prompt, store.manifest.spec.first)
    for key, total in change.items():
        total[dense(store, key)] = 0.0
    key = min(change, key=lambda key: change[key].min())
    feature = int(change[key].argmin())
    return landmark(
        "indirect_object",
        "What the indirect object hangs on (no feature carries a single name)",
        key,
        feature,
        f"Removing it from indirect-object prompts changes log P(indirect object) - log P(subject) by "
        f"{change[key].min() / len(some):+.2f} nats on average ({len(some)} held-out prompts, {NAMES} names), the most "
        f"of all features that are not dense. The nearest to a name: feature {nearest.feature} of "
        f"{nearest.dictionary} for {nearest.name} (F1 {nearest.f1:.2f}, {nearest.change:+.2f} nats).",
    )


def _preference_change(model: LanguageModel, dictionary: Dictionary, prompt: dict, first: int) -> torch.Tensor:
    """Change of log P(indirect object) - log P(subject) at the last token by removing each feature; [F]."""
    clean = clean_run(model, dictionary, prompt["ids"], first)
    active = clean.codes.ne(0).any(0).nonzero().flatten().tolist()
    edits = [[FeatureEdit(feature)] for feature in active]
    change = torch.zeros(dictionary.n_features)
    for feature, effect in zip(
        active, apply_many(model, dictionary, clean, edits, positions=[prompt["last"]]), strict=True
    ):
        moved = (effect.edited_logprobs - effect.clean_logprobs)[0]
        change[feature] = moved[prompt["receiver"]] - moved[prompt["subject"]]
    return change


@dataclass(frozen=True)
class Carrier:
    """A feature that may carry a name, where it is read, how well it tells the name, what its removal does."""

    dictionary: str
    feature: int
    name: str
    place: str
    f1: float
    change: float


def _prompts(model: LanguageModel) -> pd.DataFrame:
    """Held-out prompts with single-token names, PROMPTS_PER_NAME for each of NAMES indirect objects.

    Columns: ids, name, receiver and subject (tokens), mention and last (positions). Prompts that begin with the name
    are left out: there it is another token.
    """
    names = [n for n in COMMON_NAMES if len(model.encode(f" {n}")) == 1][:NAMES]
    drawn = ioi_prompts(80 * NAMES * PROMPTS_PER_NAME, 1, tuple(names), COMMON_PLACES, COMMON_OBJECTS)
    token = {name: model.encode(f" {name}")[0] for name in names}
    rows = [(model.encode(p.text), p.indirect_object, token[p.indirect_object], token[p.subject]) for p in drawn]
    frame = pd.DataFrame(
        [(*row, row[0].index(row[2]), len(row[0]) - 1) for row in rows if row[2] in row[0]],
        columns=["ids", "name", "receiver", "subject", "mention", "last"],
    )
    return frame.groupby("name").head(PROMPTS_PER_NAME).reset_index(drop=True)


def _name_features(
    model: LanguageModel, dictionary: Dictionary, prompts: pd.DataFrame, place: str
) -> Iterator[tuple[str, int, float]]:
    """For each name its best feature by activity at the place, and its F1."""
    codes = []
    for ids, position in zip(prompts["ids"], prompts[place], strict=True):
        x = model.sites(torch.tensor([ids]), [dictionary.site])[dictionary.site]
        codes.append(dictionary.encode(x[0, position]))
    active = torch.stack(codes).ne(0).double().cpu().numpy()
    for name in prompts["name"].unique():
        wanted = (prompts["name"] == name).to_numpy(dtype=float)
        f1 = 2 * (wanted @ active) / np.maximum(wanted.sum() + active.sum(0), 1)
        yield name, int(f1.argmax()), float(f1.max())


def _name_change(
    model: LanguageModel, dictionary: Dictionary, prompts: pd.DataFrame, name: str, feature: int, place: str
) -> float:
    """Mean change of the name's log-probability at the last token when the feature is removed at the place; nats."""
    token = model.encode(f" {name}")[0]
    changes = []
    for row in prompts[prompts["name"] == name].to_dict("records"):
        clean = clean_run(model, dictionary, row["ids"])
        edit = FeatureEdit(feature, positions=(row[place],))
        effect = apply_edits(model, dictionary, clean, [edit], positions=[row["last"]])
        changes.append(float(effect.edited_logprobs[0, token] - effect.clean_logprobs[0, token]))
    return float(np.mean(changes))
