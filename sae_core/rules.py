"""Explanations without any model: rules that say on which tokens, endings or n-grams a feature is active. Pure numpy.

A rule is a short list of keys, each with a level of 1 to 10; it predicts the level where a key stands and 0
elsewhere. Keys are read off the text in several ways (a View each): the token itself, the one before it, the ending
of the token, the last two or three tokens. Rules are fitted on one half of the text; scores are taken on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import FeatureCodes
from sae_core.contexts import TokenText

MAX_KEYS = 10
LEVELS = 10
FEWEST_OCCURRENCES = 5
KEPT = 0.98
MARGIN = 0.02
ENDINGS = (1, 2, 3, 4)
NGRAMS = (2, 3)
BLOCKS = 64
NO_KEY = -1
NEVER = 0


@dataclass(frozen=True)
class View:
    """One way to read the text. ids: [n_tokens] the key at every token, NEVER for none or one too rare to be a rule.

    counts: [n_keys] occurrences in the fitting half, 0 for NEVER; `spell` makes a key readable; `sentence` has a
    place for the list of keys.
    """

    kind: str
    sentence: str
    ids: np.ndarray
    counts: np.ndarray
    spell: Callable[[int], str]


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
        ids = self.view.ids.reshape(-1, window)[windows]
        return (ids[..., None] == self.keys) @ self.levels


def fitting_contexts(n_contexts: int) -> np.ndarray:
    """Which contexts are for fitting: every other of about BLOCKS stretches, as neighbours share documents; [n]."""
    stretch = max(1, n_contexts // BLOCKS)
    return np.arange(n_contexts) // stretch % 2 == 0


def in_contexts(found: FeatureCodes, chosen: np.ndarray, context: int) -> FeatureCodes:
    """The entries of a feature in the chosen contexts; chosen: [n_contexts] of bool."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)) * context
    cuts = np.searchsorted(found.positions, edges).reshape(-1, 2)
    parts = [slice(start, stop) for start, stop in cuts] or [slice(0)]
    positions, codes = (np.concatenate([each[part] for part in parts]) for each in (found.positions, found.codes))
    return FeatureCodes(found.feature, positions, codes)


# ---- reading the text


def views(text: TokenText, names: Sequence[str], fitting: np.ndarray) -> list[View]:
    """All views, simplest first. names: readable tokens by id; fitting: [n_contexts] of bool."""
    fit = np.repeat(fitting, text.context)
    spell = names.__getitem__

    def view(kind: str, sentence: str, keys: np.ndarray, spell: Callable[[int], str]) -> View:
        return _view(kind, sentence, keys, spell, fit)

    found = [view("token", "Active on {}", ngram_keys(text, 1, len(names)), spell)]
    found.append(view("previous", "Active right after {}", previous_keys(text), spell))
    for length in ENDINGS:
        endings, of_token = np.unique([_ending(name, length) for name in names], return_inverse=True)
        keys = np.where(endings == "", NO_KEY, np.arange(len(endings)))[of_token][text.token_ids]
        found.append(view("suffix", "Active on tokens that end in {}", keys, endings.__getitem__))
    for n in NGRAMS:
        keys = ngram_keys(text, n, len(names))
        found.append(view("ngram", "Active at the end of {}", keys, _ngram_speller(names, n)))
    return found


def ngram_keys(text: TokenText, n: int, n_names: int) -> np.ndarray:
    """The last n tokens as one number (the earliest most significant); NO_KEY where the context has fewer; [tokens]."""
    keys = np.zeros(len(text.token_ids), np.int64)
    for back in reversed(range(n)):
        keys = keys * n_names + np.roll(text.token_ids, back)
    keys[np.arange(len(keys)) % text.context < n - 1] = NO_KEY
    return keys


def previous_keys(text: TokenText) -> np.ndarray:
    """The token before; NO_KEY at the start of a context; [tokens]."""
    keys = np.roll(text.token_ids, 1).astype(np.int64)
    keys[:: text.context] = NO_KEY
    return keys


def _ending(name: str, length: int) -> str:
    """The last `length` characters of a readable token; empty if it has fewer, or ends in part of a character."""
    bare = name.lstrip("␣")
    return bare[-length:] if len(bare) >= length and not bare.endswith("›") else ""


def _ngram_speller(names: Sequence[str], n: int) -> Callable[[int], str]:
    base = len(names)
    return lambda key: "".join(names[key // base**back % base] for back in reversed(range(n)))


def _view(kind: str, sentence: str, keys: np.ndarray, spell: Callable[[int], str], fit: np.ndarray) -> View:
    known, counts = np.unique(keys[fit & (keys != NO_KEY)], return_counts=True)
    known, counts = known[counts >= FEWEST_OCCURRENCES], counts[counts >= FEWEST_OCCURRENCES]
    at = np.searchsorted(known, keys)
    found = np.append(known, NO_KEY)[at] == keys
    ids = np.where(found & (keys != NO_KEY), at + 1, NEVER).astype(np.int32)
    return View(kind, sentence, ids, np.r_[0, counts], lambda key: spell(int(known[key - 1])))


# ---- fitting


@dataclass(frozen=True)
class Fitting:
    """A feature in the fitting half, of n_tokens tokens: where it is active [n], its codes there [n] as float64.

    mean and variance of the code are over all n_tokens.
    """

    positions: np.ndarray
    codes: np.ndarray
    n_tokens: int
    mean: float
    variance: float

    @classmethod
    def of(cls, found: FeatureCodes, n_tokens: int) -> Fitting:
        """Its moments are taken once, for all views."""
        codes = found.codes.astype(np.float64)
        mean = codes.sum() / n_tokens
        return cls(found.positions, codes, n_tokens, mean, np.square(codes).sum() / n_tokens - mean**2)


def best_rule(all_views: Sequence[View], found: FeatureCodes, n_tokens: int) -> Rule | None:
    """The first view's rule that correlates within MARGIN as well as the best; None if the code never varies.

    found: the feature in the fitting half, of n_tokens tokens.
    """
    fitting = Fitting.of(found, n_tokens)
    rules = [rule for view in all_views if (rule := fit(view, fitting)) is not None]
    best = max((rule.r for rule in rules), default=0.0)
    return next((rule for rule in rules if rule.r >= best - MARGIN), None)


def fit(view: View, found: Fitting) -> Rule | None:
    """The keys that explain most variance, with levels in proportion to the mean code on them.

    Of the MAX_KEYS keys whose mean code m lies above the mean of all by most in n (m - mean)^2, the fewest whose rule
    correlates with the code at least KEPT times as well as the best number of them. None if there is no such key.
    """
    if found.variance <= 0:
        return None
    sums = np.bincount(view.ids[found.positions], found.codes, len(view.counts))
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
