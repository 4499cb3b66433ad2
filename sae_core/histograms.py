"""Histograms split by token (paper Fig. 4), exact and pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import PART_ENTRIES, FeatureCodes
from sae_core.schemas import HISTOGRAM_BINS, OTHER_TOKEN, TOKENS_PER_BIN

_WIDTH = 2**32  # more than there are tokens: bin * _WIDTH + token tells both


@dataclass(frozen=True)
class TokenHistogram:
    """Rows of a histogram by bin and token: the commonest tokens of a bin, commonest first, then OTHER_TOKEN.

    bins, token_ids, counts: [rows]; edges: [n_bins + 1], a bin is (edges[i], edges[i + 1]].
    """

    bins: np.ndarray
    token_ids: np.ndarray
    counts: np.ndarray
    edges: np.ndarray

    @property
    def lows(self) -> np.ndarray:
        return self.edges[self.bins]

    @property
    def highs(self) -> np.ndarray:
        return self.edges[self.bins + 1]

    def bin_counts(self) -> np.ndarray:
        """Values in each bin, [n_bins]."""
        return np.bincount(self.bins, self.counts, len(self.edges) - 1).astype(np.int64)

    def listed(self, bin: int) -> np.ndarray:
        """The tokens that have a row of their own in a bin."""
        return self.token_ids[(self.bins == bin) & (self.token_ids != OTHER_TOKEN)]


def bin_of(values: np.ndarray, top: float, n_bins: int = HISTOGRAM_BINS, low: float = 0.0) -> np.ndarray:
    """ceil((value - low) / (top - low) * n_bins) - 1, inside 0 .. n_bins-1: equal bins of (low, top], [n] int64."""
    share = np.asarray(values, np.float64) - low
    share /= float(top) - low
    share *= n_bins
    return np.clip(np.ceil(share, out=share).astype(np.int64) - 1, 0, n_bins - 1)


def token_histogram(
    values: np.ndarray,
    token_ids: np.ndarray,
    low: float = 0.0,
    n_bins: int = HISTOGRAM_BINS,
    per_bin: int = TOKENS_PER_BIN,
) -> TokenHistogram:
    """Counts of values in n_bins equal bins of (low, max], split by the token at each value.

    values: [n], all above low; token_ids: [n]. Counts add up to n; no value gives no rows.
    """
    spans = (slice(start, start + PART_ENTRIES) for start in range(0, len(values), PART_ENTRIES))
    parts = ((values[each], token_ids[each]) for each in spans)
    return _histogram(parts, _highest(values, low), low, n_bins, per_bin)


def feature_histogram(found: FeatureCodes, token_ids: np.ndarray) -> TokenHistogram:
    """The token histogram of a feature's codes; token_ids: the token at every position of the text."""
    parts = ((part.codes, token_ids[part.positions]) for part in found.parts())
    return _histogram(parts, _highest(found.codes, 0.0))


def _highest(values: np.ndarray, low: float) -> float:
    return float(values.max()) if len(values) else low


def _histogram(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    top: float,
    low: float = 0.0,
    n_bins: int = HISTOGRAM_BINS,
    per_bin: int = TOKENS_PER_BIN,
) -> TokenHistogram:
    """The histogram of values and tokens that come in parts; top: the largest value."""
    edges = np.linspace(low, top, n_bins + 1)
    keys, counts = _counted(
        bin_of(values, top, n_bins, low) * _WIDTH + tokens for values, tokens in parts if len(tokens)
    )
    if not len(keys):
        return TokenHistogram(keys, keys, counts, edges)
    return TokenHistogram(*_commonest(keys // _WIDTH, keys % _WIDTH, counts, per_bin), edges)


def _counted(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The different numbers in all parts, ascending, and how often each is there."""
    found = counts = np.zeros(0, np.int64)
    for part in parts:
        here, n = np.unique(part, return_counts=True)
        found, which = np.unique(np.concatenate([found, here]), return_inverse=True)
        counts = np.bincount(which, np.concatenate([counts, n]), len(found)).astype(np.int64)
    return found, counts


def _commonest(
    bins: np.ndarray, token_ids: np.ndarray, counts: np.ndarray, per_bin: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.lexsort((token_ids, -counts, bins))
    bins, token_ids, counts = bins[order], token_ids[order], counts[order]
    # Beyond the commonest ones of its bin, every token is counted on the bin's row for the rest.
    rest = _rank_inside(bins) >= per_bin
    first = ~rest | np.r_[True, bins[1:] != bins[:-1]] | np.r_[True, rest[1:] != rest[:-1]]
    token_ids = np.where(rest, OTHER_TOKEN, token_ids)
    return bins[first], token_ids[first], np.add.reduceat(counts, np.flatnonzero(first))


def _rank_inside(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... inside every run of equal values."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    lengths = np.diff(np.r_[starts, len(groups)])
    return np.arange(len(groups)) - np.repeat(starts, lengths)
