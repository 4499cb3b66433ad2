"""Explanations without any model: rules that say on which tokens, endings or n-grams a feature is active. Pure numpy.

A rule is a short list of keys, each with a level of 1 to 10; it predicts the level where a key stands and 0
elsewhere. Keys are read off the text in several ways (a View each, sae_core.rule_views): the token itself, the one
before it, the ending of the token, the last two or three tokens. Rules are fitted on one half of the text; scores are
taken on the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import FeatureCodes, joined
from sae_core.rule_views import NEVER, Reading, View

MAX_KEYS = 10
LEVELS = 10
KEPT = 0.98
MARGIN = 0.02
BLOCKS = 64


@dataclass(frozen=True)
class Rule:
    """Keys of a view with levels 1 .. LEVELS, each [n]; `r` is the correlation with the code over the fitting half."""

    view: View
    keys: np.ndarray
    levels: np.ndarray
    r: float

    def __str__(self) -> str:
        """The rule as a sentence: everything needed to apply it by hand."""
        order = np.argsort(-self.levels, kind="stable")
        named = [(f"“{self.view.spell(int(self.keys[i]))}”", int(self.levels[i])) for i in order]
        listed = ", ".join(f"{name} ({level})" for name, level in named) if len(named) > 1 else named[0][0]
        return self.view.sentence.format(listed)

    def predict(self, windows: np.ndarray, window: int) -> np.ndarray:
        """Predicted levels in whole windows of the text; windows: [k] -> [k, window]."""
        ids = self.view.at(windows[:, None] * window + np.arange(window))
        return (ids[..., None] == self.keys) @ self.levels


def fitting_contexts(n_contexts: int) -> np.ndarray:
    """Which contexts are for fitting: every other of about BLOCKS stretches, as neighbours share documents; [n]."""
    stretch = max(1, n_contexts // BLOCKS)
    return np.arange(n_contexts) // stretch % 2 == 0


def in_contexts(found: FeatureCodes, chosen: np.ndarray, context: int) -> FeatureCodes:
    """The entries of a feature in the chosen contexts; chosen: [n_contexts] of bool."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)) * context
    cuts = np.searchsorted(found.positions, edges).reshape(-1, 2)
    return joined([found.part(slice(start, stop)) for start, stop in cuts] or [found.part(slice(0))])


# ---- fitting


@dataclass(frozen=True)
class Fitting:
    """A feature in the fitting half, of n_tokens tokens: mean and variance of its code over them, and its sums.

    sums: for each way to read the text [size], the summed code on each of the things read.
    """

    n_tokens: int
    mean: float
    variance: float
    sums: dict[Reading, np.ndarray]

    @classmethod
    def of(cls, views: Sequence[View], parts: Iterable[FeatureCodes], n_tokens: int) -> Fitting:
        """Taken once for all views. parts: the feature's entries in the fitting half, a part at a time."""
        total, squares = 0.0, 0.0
        sums = {view.reading: np.zeros(view.reading.size) for view in views}
        for part in parts:
            codes = part.codes.astype(np.float64)
            total += codes.sum()
            squares += np.square(codes).sum()
            for reading in sums:
                sums[reading] += np.bincount(reading.ids(part.positions), codes, reading.size)
        mean = total / n_tokens
        return cls(n_tokens, mean, squares / n_tokens - mean**2, sums)


def best_rule(views: Sequence[View], found: Fitting) -> Rule | None:
    """The first view's rule that correlates within MARGIN as well as the best; None if the code never varies."""
    rules = [rule for view in views if (rule := fit(view, found)) is not None]
    best = max((rule.r for rule in rules), default=0.0)
    return next((rule for rule in rules if rule.r >= best - MARGIN), None)


def fit(view: View, found: Fitting) -> Rule | None:
    """The keys that explain most variance, with levels in proportion to the mean code on them.

    Of the MAX_KEYS keys whose mean code m lies above the mean of all by most in n (m - mean)^2, the fewest whose rule
    correlates with the code at least KEPT times as well as the best number of them. None if there is no such key.
    """
    if found.variance <= 0:
        return None
    sums = view.sums(found.sums[view.reading])
    sums[NEVER] = 0.0
    keys = np.flatnonzero(sums > 0)  # on all others the mean code is not above that of all
    counts, sums = view.counts[keys], sums[keys]
    means = sums / counts
    gains = np.where(means > max(found.mean, 0.0), counts * (means - found.mean) ** 2, 0.0)
    top = _largest(gains, MAX_KEYS)
    if not len(top):
        return None
    levels = np.maximum(np.rint(LEVELS * means[top] / means[top].max()), 1)
    r = _correlations(levels, counts[top], sums[top], found)
    n = int(np.argmax(r >= KEPT * r.max())) + 1
    return Rule(view, keys[top[:n]], levels[:n], float(r[n - 1]))


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n largest values above 0, largest first."""
    if len(values) > n:
        top = np.argpartition(-values, n - 1)[:n]
    else:
        top = np.arange(len(values))
    top = top[values[top] > 0]
    return top[np.lexsort((top, -values[top]))]


def _correlations(levels: np.ndarray, counts: np.ndarray, sums: np.ndarray, found: Fitting) -> np.ndarray:
    """Correlation of code and prediction over all fitting tokens for the first 1, 2, .. keys; [n_keys]."""
    x, xx, xy = (np.cumsum(part) / found.n_tokens for part in (counts * levels, counts * levels**2, levels * sums))
    varies = np.maximum(xx - x**2, 1e-300)
    return (xy - x * found.mean) / np.sqrt(varies * found.variance)
