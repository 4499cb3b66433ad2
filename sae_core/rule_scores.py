"""Scores of rules: fitted on one half of the text, correlated with the true codes on fragments of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from sae_core.autointerp.fragments import Selection, in_pool, select
from sae_core.autointerp.score import Score, scores_by_scheme
from sae_core.code_index import FeatureCodes, above_zero, joined
from sae_core.contexts import TokenText
from sae_core.rule_views import View
from sae_core.rules import Fitting, Rule, best_rule, in_contexts
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
        chosen = select(self._scored(found), self.pool, self.text, self.seed, self.setting)
        if chosen is None or not self._fits(found):
            return ScoredRule(None, {}, RARE.format(SCORE_MIN_FRAGMENTS))
        parts = map(above_zero, self._fit_half(found))
        rule = best_rule(self.views, Fitting.of(self.views, parts, int(self.fitting.sum()) * self.text.context))
        return ScoredRule(rule, self.score(rule, chosen)) if rule else ScoredRule(None, {}, CONSTANT)

    def _fit_half(self, found: FeatureCodes) -> Iterator[FeatureCodes]:
        return (in_contexts(part, self.fitting, self.text.context) for part in found.parts(self.text.window))

    def _fits(self, found: FeatureCodes) -> bool:
        """Whether it is active in enough windows of the fitting half."""
        windows = (half.windows(self.text.window) for half in self._fit_half(found))
        return any(n >= SCORE_MIN_FRAGMENTS for n in accumulate(map(len, windows)))

    def _scored(self, found: FeatureCodes) -> FeatureCodes:
        """Its entries in the windows that fragments to score come from: the pool's, outside the fitting contexts."""
        halves = (in_contexts(part, ~self.fitting, self.text.context) for part in found.parts())
        return joined([in_pool(half, self.pool, self.text) for half in halves])

    def score(self, rule: Rule, chosen: Selection) -> dict[str, Score | None]:
        """Correlation of what the rule predicts with the true codes, for each scheme."""
        both, window = (chosen.top, chosen.random), self.text.window
        return scores_by_scheme(*((each.activations, rule.predict(each.windows, window)) for each in both), self.seed)
