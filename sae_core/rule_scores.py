"""Scores of rules: fitted on one half of the text, correlated with the true codes on fragments of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sae_core.autointerp.fragments import Selection, select
from sae_core.autointerp.score import Score, scores_by_scheme
from sae_core.code_index import FeatureCodes, above_zero
from sae_core.contexts import TokenText
from sae_core.rules import Rule, View, best_rule, in_contexts
from sae_core.schemas import SCORE_MIN_FRAGMENTS

SILENT = "Never active on this text."
RARE = "Active in fewer than {} fragments of one half of the text."
CONSTANT = "Its activation does not vary on the fragments."


@dataclass(frozen=True)
class ScoredRule:
    """A rule and its score under each scheme; without a rule (or a score), `reason` says why in a sentence."""

    rule: Rule | None
    scores: dict[str, Score | None]
    reason: str = ""


@dataclass(frozen=True)
class Halves:
    """The text as rules read it. fitting: [n_contexts] of bool; pool: windows that fragments to score come from."""

    text: TokenText
    views: Sequence[View]
    fitting: np.ndarray
    pool: np.ndarray
    seed: int
    setting: str

    def explain(self, found: FeatureCodes) -> ScoredRule:
        """The best rule of a feature on the fitting contexts, scored on 5 strong and 5 drawn fragments of the others.

        The fragments are chosen as for explanations by a language model, out of the other contexts only. Of a signed
        feature the rule explains the positive codes, and is scored against all (paper App. G, as the authors ran it).
        """
        if not len(found.codes):
            return ScoredRule(None, {}, SILENT)
        fit_half, score_half = (in_contexts(found, each, self.text.context) for each in (self.fitting, ~self.fitting))
        chosen = select(score_half, self.pool, self.text, self.seed, self.setting)
        n_fitting = np.count_nonzero(np.diff(fit_half.positions // self.text.window, prepend=-1))
        if chosen is None or n_fitting < SCORE_MIN_FRAGMENTS:
            return ScoredRule(None, {}, RARE.format(SCORE_MIN_FRAGMENTS))
        rule = best_rule(self.views, above_zero(fit_half), int(self.fitting.sum()) * self.text.context)
        return ScoredRule(rule, self.score(rule, chosen)) if rule else ScoredRule(None, {}, CONSTANT)

    def score(self, rule: Rule, chosen: Selection) -> dict[str, Score | None]:
        """Correlation of what the rule predicts with the true codes, for each scheme."""
        both, window = (chosen.top, chosen.random), self.text.window
        return scores_by_scheme(*((each.activations, rule.predict(each.windows, window)) for each in both), self.seed)
