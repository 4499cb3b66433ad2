"""Step `rules`: an explanation without a model, and its score, for every feature of every dictionary.

Rules name tokens, endings or n-grams. They are fitted on one half of the table tokens; the scores in `scores` (rows
of the explainer `rule`) come from the other half.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from precompute.common import bar
from precompute.harvest import SCRATCH, HarvestArgs, code_indexes, release_codes, table_text
from precompute.paper.pool import dictionary_pool
from precompute.paper.score_rows import merge_scores, scores_state
from precompute.paper.states import summary, with_weights
from precompute.tables import token_names
from sae_core.autointerp.fragments import CORRECTED
from sae_core.autointerp.score import SCHEMES, Score
from sae_core.code_index import FeatureCodes
from sae_core.rule_scores import CONSTANT, Halves, ScoredRule
from sae_core.rules import fitting_contexts, views
from sae_core.store import DictionaryEntry, Provenance, RunStore

STEP = "rules"
EXPLAINER = "rule"
DICTIONARIES_AT_ONCE = 4


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Explain and score every feature of every dictionary by rules, without a language model."""

    dictionaries: tuple[str, ...] = ()
    """ids of dictionaries; none: all whose weights are in the run"""
    setting: Literal["corrected", "as-published"] = CORRECTED
    """corrected (the same pool of fragments for all dictionaries) or as-published (the authors' way to draw it)"""


def run(store: RunStore, args: Args) -> None:
    """Write the rows of the explainer `rule` for every dictionary that lacks them, a few dictionaries at once."""
    chosen = [store.dictionary(id) for id in args.dictionaries] or with_weights(store)
    waiting = [entry for entry in chosen if _state(store, entry, args.setting) != "ready"]
    if not waiting:
        return
    text, names = table_text(store), list(token_names(store)[:-1])
    fitting = fitting_contexts(len(text.token_ids) // text.context)
    all_views = views(text, names, fitting)
    for start in range(0, len(waiting), DICTIONARIES_AT_ONCE):
        group = waiting[start : start + DICTIONARIES_AT_ONCE]
        indexes = code_indexes(store, group, args.device, args.batch)
        for entry in group:
            pool = dictionary_pool(store, entry, text, args.setting)
            halves = Halves(text, all_views, fitting, pool, store.manifest.spec.seed, args.setting)
            features = bar(indexes[entry.id].features(), f"rules of {entry.id}", entry.n_features)
            rows = score_rows(halves, features)
            merge_scores(store, entry, rows, _provenance(store, entry))
            if rows["skipped"].all():
                print(f"{entry.id}: no feature is active often enough for a rule; all {entry.n_features} are skipped")
        _release(store, group)


def state(store: RunStore) -> str:
    """State of the rules as `corrected`."""
    return summary({_state(store, entry, CORRECTED) for entry in with_weights(store)})


def score_rows(halves: Halves, features: Iterable[FeatureCodes]) -> pd.DataFrame:
    """Rows of `scores`: one for each feature and scheme."""
    return pd.DataFrame([row for found in features for row in _rows(found.feature, halves.explain(found), halves)])


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


def _release(store: RunStore, group: list[DictionaryEntry]) -> None:
    """Remove the codes of dictionaries no other table is made of, so that the disk does not fill as groups go by."""
    release_codes(store)
    for entry in group:
        if entry.role != "main":
            shutil.rmtree(store.folder / "scratch" / SCRATCH / entry.id, ignore_errors=True)


def _provenance(store: RunStore, entry: DictionaryEntry) -> Provenance:
    spec = store.manifest.spec
    return store.provenance(entry.id, table_tokens=spec.table_tokens, seed=spec.seed)


def _state(store: RunStore, entry: DictionaryEntry, setting: str) -> str:
    return scores_state(store, entry, EXPLAINER, setting, _provenance(store, entry))
