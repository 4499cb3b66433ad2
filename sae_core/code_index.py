"""The codes of one dictionary over the table tokens, by feature: an inverted index on disk.

One pass of the model writes it; histograms, contexts, effects, edges and neighbours then read single features.

    <folder>/00003.positions.npy   [n] uint16: token of the shard, ascending inside a feature
    <folder>/00003.codes.npy       [n] float32: its code, != 0
    <folder>/00003.offsets.npy     [n_features + 1] int64: where each feature's entries start; written last

A shard is the same tokens whatever the batch size, so an interrupted pass continues at its first missing shard.
Memory: one shard while writing; while reading, BLOCK_ENTRIES entries or, if larger, those of one feature
(14 bytes an active token).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from sae_core.feature_selection import consecutive
from sae_core.store import atomic

SHARD_TOKENS = 65_536
BLOCK_ENTRIES = 4_000_000


@dataclass(frozen=True)
class FeatureCodes:
    """Where a feature is active: positions [n] int64 ascending in the table tokens, codes [n] float32."""

    feature: int
    positions: np.ndarray
    codes: np.ndarray


def signed(positive: FeatureCodes, negative: FeatureCodes) -> FeatureCodes:
    """Two sides of a direction, never active together, as one feature with the sign of the side."""
    positions = np.concatenate([positive.positions, negative.positions])
    order = np.argsort(positions, kind="stable")
    return FeatureCodes(positive.feature, positions[order], np.concatenate([positive.codes, -negative.codes])[order])


def above_zero(found: FeatureCodes) -> FeatureCodes:
    """The entries of the positive side."""
    above = found.codes > 0
    return found if above.all() else FeatureCodes(found.feature, found.positions[above], found.codes[above])


class CodeIndex:
    """The index in `folder` of a dictionary of n_features over n_tokens tokens in whole contexts of `context`."""

    def __init__(self, folder: Path, n_features: int, n_tokens: int, context: int) -> None:
        self.folder, self.n_features, self.n_tokens = folder, n_features, n_tokens
        self.shard_tokens = max(1, SHARD_TOKENS // context) * context
        self.n_shards = -(-n_tokens // self.shard_tokens)

    def missing(self) -> list[int]:
        """Shards that are not written yet."""
        return [shard for shard in range(self.n_shards) if not self._path(shard, "offsets").exists()]

    def write(self, shard: int, tokens: np.ndarray, features: np.ndarray, codes: np.ndarray) -> None:
        """Write the entries of a shard: for each, its token counted from the shard's first, its feature, its code."""
        shape = (self.shard_tokens, self.n_features)
        columns = sparse.coo_array((codes.astype(np.float32), (tokens, features)), shape=shape).tocsc()
        columns.sort_indices()
        self._save(shard, "positions", columns.indices.astype(np.uint16))
        self._save(shard, "codes", columns.data)
        self._save(shard, "offsets", columns.indptr.astype(np.int64))

    def counts(self) -> np.ndarray:
        """Active tokens of each feature, [n_features] int64."""
        return sum((np.diff(offsets) for offsets in self._offsets), np.zeros(self.n_features, np.int64))

    def features(self, start: int = 0, stop: int | None = None) -> Iterator[FeatureCodes]:
        """The entries of features start .. stop-1 in order, silent ones included."""
        stop = self.n_features if stop is None else stop
        for first, last in self._blocks(start, stop):
            yield from self._block(first, last)

    def chosen(self, features: np.ndarray) -> Iterator[FeatureCodes]:
        """The entries of these ascending features, silent ones included."""
        for start, stop in consecutive(features):
            yield from self.features(start, stop)

    def active(self, n_tokens: int) -> sparse.csc_array:
        """Which features are active on about the first n_tokens tokens (whole shards): [tokens, n_features] of 1."""
        shards = range(min(self.n_shards, -(-n_tokens // self.shard_tokens)))
        return sparse.vstack([self._ones(shard) for shard in shards], format="csc")

    # ---- files

    @cached_property
    def _offsets(self) -> list[np.ndarray]:
        return [np.load(self._path(shard, "offsets")) for shard in range(self.n_shards)]

    def _ones(self, shard: int) -> sparse.csc_array:
        positions = np.load(self._path(shard, "positions")).astype(np.int32)
        ones = np.ones(len(positions), np.int32)
        return sparse.csc_array((ones, positions, self._offsets[shard]), shape=(self.shard_tokens, self.n_features))

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        while start < stop:
            total = np.cumsum(self.counts()[start:stop])
            size = max(1, int(np.searchsorted(total, BLOCK_ENTRIES, side="right")))
            yield start, start + size
            start += size

    def _block(self, first: int, last: int) -> Iterator[FeatureCodes]:
        shards = [self._slice(shard, first, last) for shard in range(self.n_shards)]
        for feature in range(first, last):
            i = feature - first
            spans = [slice(offsets[i], offsets[i + 1]) for offsets, _, _ in shards]
            positions = [shard[1][span] for shard, span in zip(shards, spans, strict=True)]
            codes = [shard[2][span] for shard, span in zip(shards, spans, strict=True)]
            yield FeatureCodes(feature, np.concatenate(positions), np.concatenate(codes))

    def _slice(self, shard: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each feature's entries start, and all positions and codes, of features first .. last-1 of a shard."""
        offsets = self._offsets[shard][first : last + 1]
        here = slice(offsets[0], offsets[-1])
        positions = np.load(self._path(shard, "positions"), mmap_mode="r")[here].astype(np.int64)
        codes = np.load(self._path(shard, "codes"), mmap_mode="r")[here]
        return offsets - offsets[0], positions + shard * self.shard_tokens, np.asarray(codes)

    def _path(self, shard: int, part: str) -> Path:
        return self.folder / f"{shard:05d}.{part}.npy"

    def _save(self, shard: int, part: str, values: np.ndarray) -> None:
        with atomic(self._path(shard, part)) as temporary, temporary.open("wb") as file:
            np.save(file, values)
