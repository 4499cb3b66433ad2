"""Histograms split by token (paper Fig. 4), exact and pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import PART_ENTRIES
from sae_core.schemas import HISTOGRAM_BINS, OTHER_TOKEN, TOKENS_PER_BIN


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
    share = (np.asarray(values, np.float64) - low) / (float(top) - low)
    return np.clip(np.ceil(share * n_bins).astype(np.int64) - 1, 0, n_bins - 1)


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
    top = float(values.max()) if len(values) else low
    edges = np.linspace(low, top, n_bins + 1)
    if not len(values):
        none = np.zeros(0, np.int64)
        return TokenHistogram(none, none, none, edges)
    width = int(token_ids.max()) + 1
    spans = (slice(start, start + PART_ENTRIES) for start in range(0, len(values), PART_ENTRIES))
    keys = (bin_of(values[each], top, n_bins, low) * width + token_ids[each] for each in spans)
    keys, counts = _counted(keys)
    return TokenHistogram(*_commonest(keys // width, keys % width, counts, per_bin), edges)


def _counted(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The different numbers in all parts, ascending, and how often each is there."""
    keys, counts = (
        np.concatenate(each) for each in zip(*(np.unique(p, return_counts=True) for p in parts), strict=True)
    )
    found, which = np.unique(keys, return_inverse=True)
    return found, np.bincount(which, counts, len(found)).astype(np.int64)


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
