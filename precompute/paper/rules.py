"""Step `rules`: an explanation without a model, and its score, for every feature of every dictionary.

Rules name tokens, endings or n-grams. They are fitted on one half of the table tokens; the scores in `scores` (rows
of the explainer `rule`) come from the other half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from precompute.activation_files import BYTES, ActivationFiles, activation_files
from precompute.common import bar, load_model
from precompute.harvest import HarvestArgs, code_indexes, drop_codes
from precompute.paper.pool import dictionary_pool
from precompute.paper.score_rows import add_scores, scores_made
from precompute.paper.sides import make_sides, published, sides_state
from precompute.paper.states import summary, with_weights
from precompute.workers import side_by_side
from sae_core.autointerp.fragments import AS_PUBLISHED, CORRECTED
from sae_core.autointerp.score import SCHEMES, Score
from sae_core.code_index import CodeIndex, FeatureCodes
from sae_core.errors import SpecError
from sae_core.feature_selection import ALL, parse
from sae_core.rule_scores import CONSTANT, Halves, ScoredRule
from sae_core.rule_views import views
from sae_core.rules import fitting_contexts
from sae_core.store import DictionaryEntry, Provenance, RunStore
from sae_core.table_making import table_text, token_names

STEP = "rules"
EXPLAINER = "rule"
ACTIVATIONS = "activations"
CODES_ON_DISK = 16e9
CODES_IN_CACHE = 2e9  # of activations kept in files: one or a few dictionaries at a time
ENTRY_BYTES = 6


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Explain and score every feature of every dictionary by rules, without a language model."""

    dictionaries: tuple[str, ...] = ()
    """ids of dictionaries; none: all whose weights are in the run"""
    setting: Literal["corrected", "as-published"] = CORRECTED
    """corrected (the same pool of fragments for all dictionaries) or as-published (the authors' way to draw it; the
    first 150 features, of PCA and ICA signed, of other directions positive sides)"""
    features: str = ALL
    """all; 3,17,40; 0-99; or a filter such as `alive and density<0.01`. What the table holds already stays"""


def run(store: RunStore, args: Args) -> None:
    """Write the rows of the explainer `rule` for every dictionary that lacks them.

    Dictionaries with codes of at most CODES_ON_DISK bytes share a pass of the model. For more, their activations are
    kept in files, if those fit in as much, so that the model is run once.
    """
    if args.setting == AS_PUBLISHED and args.features != ALL:
        fix = "Leave --features out: the setting says which features are scored"
        raise SpecError("all features of the setting as-published", args.features, fix)
    chosen = [store.dictionary(id) for id in args.dictionaries] or with_weights(store)
    waiting = [entry for entry in chosen if len(_left(store, entry, args)) or sides_state(store, entry) != "ready"]
    scorer = Scorer(store, args) if waiting else None
    with _activations(store, waiting, args) as files:
        for group in _groups(store, waiting, CODES_ON_DISK if files is None else CODES_IN_CACHE):
            indexes = code_indexes(store, group, args.device, args.batch, files)
            for entry in group:
                scorer.write(entry, indexes[entry.id])
                make_sides(store, entry, indexes[entry.id])
                drop_codes(store, [entry])
    store.clear_scratch(STEP)


def state(store: RunStore) -> str:
    """State of the rules as `corrected`."""
    return summary({_state(store, entry, CORRECTED) for entry in with_weights(store)})


class Scorer:
    """What the rules of all dictionaries share: the text, read in every way."""

    def __init__(self, store: RunStore, args: Args) -> None:
        self.store, self.args, self.setting = store, args, args.setting
        self.text = table_text(store)
        self.fitting = fitting_contexts(len(self.text.token_ids) // self.text.context)
        self.views = views(self.text, list(token_names(store)[:-1]), self.fitting, store.scratch(STEP))

    def write(self, entry: DictionaryEntry, index: CodeIndex) -> None:
        """Add the rows of one dictionary that are asked for and missing."""
        left = _left(self.store, entry, self.args)
        if not len(left):
            return
        features = published(entry, index) if self.setting == AS_PUBLISHED else index.chosen(left)
        rows = score_rows(self.halves(entry), bar(features, f"rules of {entry.id}", len(left), "feature"))
        add_scores(self.store, entry, EXPLAINER, rows, left, _provenance(self.store, entry))
        if rows["skipped"].all():
            print(f"{entry.id}: no feature is active often enough for a rule; all {len(rows) // 2} are skipped")

    def halves(self, entry: DictionaryEntry) -> Halves:
        """The text to fit and to score on, with the fragments of this dictionary."""
        pool = dictionary_pool(self.store, entry, self.text, self.setting)
        return Halves(self.text, self.views, self.fitting, pool, self.store.manifest.spec.seed, self.setting)


def score_rows(halves: Halves, features: Iterable[FeatureCodes]) -> pd.DataFrame:
    """Rows of `scores`: one for each feature and scheme."""
    scored = side_by_side(lambda found: (found.feature, halves.explain(found)), features)
    return pd.DataFrame([row for feature, rule in scored for row in _rows(feature, rule, halves)])


def _rows(feature: int, scored: ScoredRule, halves: Halves) -> Iterator[dict]:
    for scheme in SCHEMES:
        score = scored.scores.get(scheme)
        reason = scored.reason or CONSTANT
        yield {
            "feature": feature,
            "explainer": EXPLAINER,
            "scheme": scheme,
            "setting": halves.setting,
            "simulator": EXPLAINER,
            "kind": scored.rule.view.kind if scored.rule else "",
            "explanation": reason if score is None else str(scored.rule),
            **vars(score or Score(0.0, 0.0, 0.0, 0)),
            "skipped": score is None,
        }


@contextmanager
def _activations(store: RunStore, entries: Sequence[DictionaryEntry], args: Args) -> Iterator[ActivationFiles | None]:
    """The activations that the dictionaries read, where the model would have to be run more than once and they fit."""
    if len(list(_groups(store, entries, CODES_ON_DISK))) < 2:
        yield None
        return
    model, text = load_model(store, args.device), table_text(store)
    sites = list(dict.fromkeys(entry.spec.site for entry in entries))
    if sum(model.width(site) for site in sites) * len(text.token_ids) * BYTES > CODES_ON_DISK:
        yield None
        return
    with activation_files(store, model, sites, text.contexts, ACTIVATIONS, "activations of the table tokens") as files:
        yield files


def _groups(store: RunStore, entries: Sequence[DictionaryEntry], most: float) -> Iterator[list[DictionaryEntry]]:
    """The dictionaries layer by layer, so that a pass of the model ends early, in groups of at most so many bytes."""
    group: list[DictionaryEntry] = []
    taken = 0.0
    for entry in sorted(entries, key=lambda entry: entry.spec.site.layer):
        size = _active(store, entry) * store.manifest.spec.table_tokens * ENTRY_BYTES
        if group and taken + size > most:
            yield group
            group, taken = [], 0.0
        group.append(entry)
        taken += size
    if group:
        yield group


def _active(store: RunStore, entry: DictionaryEntry) -> float:
    """Active features a token, as measured; half of them where there are no metrics yet."""
    if store.table_state("metrics", entry.id) != "ready":
        return entry.n_features / 2
    return float(store.read("metrics", entry.id, columns=["l0"])["l0"].iloc[0])


def _provenance(store: RunStore, entry: DictionaryEntry) -> Provenance:
    spec = store.manifest.spec
    return store.provenance(entry.id, table_tokens=spec.table_tokens, seed=spec.seed)


def _state(store: RunStore, entry: DictionaryEntry, setting: str) -> str:
    return summary({rows_state(store, entry, setting), sides_state(store, entry)})


def _left(store: RunStore, entry: DictionaryEntry, args: Args) -> np.ndarray:
    """The features asked for that have no rows yet; as published, all or none."""
    asked = parse(args.features).of(store, entry.id)
    made = scores_made(store, entry, EXPLAINER, args.setting, _provenance(store, entry))
    return np.setdiff1d(asked, made.features, assume_unique=True)


def rows_state(store: RunStore, entry: DictionaryEntry, setting: str) -> str:
    """State of the rows of one dictionary and setting."""
    return scores_made(store, entry, EXPLAINER, setting, _provenance(store, entry)).state
