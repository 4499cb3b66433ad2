"""Which entries of a feature stand behind a row of its token histogram, found by their numbers. Pure numpy.

Memory does not grow with the feature: kept are counts of at most about BLOCKS blocks, and ENTRIES_AT_ONCE entries are
read at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sae_core.code_index import FeatureCodes
from sae_core.histograms import TokenHistogram, bin_of

BLOCKS = 4096
SMALLEST_BLOCK = 512
ENTRIES_AT_ONCE = 2**16


class RowEntries:
    """Finds the entries of a feature that count in rows of its histogram by their numbers, reading few of them.

    One pass counts the entries of every row in each of at most about BLOCKS blocks; to find an entry its block is read.
    """

    def __init__(self, found: FeatureCodes, histogram: TokenHistogram, token_ids: np.ndarray) -> None:
        self.found, self.histogram, self.token_ids = found, histogram, token_ids
        self.size = min(len(found.codes), max(SMALLEST_BLOCK, -(-len(found.codes) // BLOCKS)))
        self.row_of = self._row_of()
        counts = np.concatenate(list(self._counts()))
        self.before = np.zeros((len(counts) + 1, len(histogram.bins) + 1), np.int64)
        self.before[1:, 1:] = counts.cumsum(0).cumsum(1)

    def of_bin(self, bin: int) -> np.ndarray:
        """The first row of a bin and the one after its last."""
        return np.searchsorted(self.histogram.bins, (bin, bin + 1))

    def of_tokens(self, bin: int, token_ids: Sequence[int]) -> np.ndarray:
        """The rows of listed tokens of a bin."""
        return self.row_of[bin, np.array(token_ids, np.int64)]

    def entries(self, first: np.ndarray, stop: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Of the entries in rows first .. stop-1, in their order, those with the numbers `which`; [n]."""
        first, stop = np.broadcast_to(first, which.shape), np.broadcast_to(stop, which.shape)
        n = max(1, ENTRIES_AT_ONCE // self.size)
        spans = [slice(start, start + n) for start in range(0, len(which), n)]
        return np.concatenate([self._find(first[s], stop[s], which[s]) for s in spans] or [which])

    def _find(self, first: np.ndarray, stop: np.ndarray, which: np.ndarray) -> np.ndarray:
        before = self.before[:, stop] - self.before[:, first]
        blocks = (before <= which).sum(0) - 1
        number = which - before[blocks, np.arange(len(which))]
        entries = blocks[:, None] * self.size + np.arange(self.size)
        rows = self._rows(entries.clip(max=len(self.found.codes) - 1))
        inside = (rows >= first[:, None]) & (rows < stop[:, None])
        return entries[:, 0] + (inside.cumsum(1) > number[:, None]).argmax(1)

    def _counts(self) -> Iterator[np.ndarray]:
        """Entries of each row in each block, [blocks, rows], some blocks at a time."""
        n_rows, step = len(self.histogram.bins), max(1, ENTRIES_AT_ONCE // self.size) * self.size
        for start in range(0, len(self.found.codes), step):
            rows = self._rows(slice(start, start + step))
            blocks = np.arange(len(rows)) // self.size
            n_blocks = int(blocks[-1]) + 1
            yield np.bincount(blocks * n_rows + rows, minlength=n_blocks * n_rows).reshape(-1, n_rows)

    def _rows(self, entries: slice | np.ndarray) -> np.ndarray:
        """The row of each of these entries."""
        n_bins, width = self.row_of.shape
        token_ids = np.minimum(self.token_ids[self.found.positions[entries]], width - 1)
        bins = bin_of(self.found.codes[entries], self.histogram.edges[-1], n_bins)
        return self.row_of.ravel()[bins * width + token_ids]

    def _row_of(self) -> np.ndarray:
        """The row of a token in a bin, [bins, tokens]; the last column is for tokens that no bin lists."""
        bins, token_ids, listed = self.histogram.bins, self.histogram.token_ids, self.histogram.token_ids >= 0
        row_of = np.zeros((len(self.histogram.edges) - 1, token_ids.max() + 2), np.int32)
        row_of[bins[~listed]] = np.flatnonzero(~listed)[:, None]
        row_of[bins[listed], token_ids[listed]] = np.flatnonzero(listed)
        return row_of
