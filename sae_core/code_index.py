"""The codes of one dictionary over the table tokens, by feature: an inverted index on disk.

One pass of the model writes it; histograms, contexts, effects, edges and neighbours then read single features.

    <folder>/00003.positions.npy   [n] uint16: token of the shard, ascending inside a feature
    <folder>/00003.codes.npy       [n] float32: its code, != 0
    <folder>/00003.offsets.npy     [n_features + 1] int64: where each feature's entries start; written last

A shard is the same tokens whatever the batch size, so an interrupted pass continues at its first missing shard.
Memory does not grow with the tokens. Writing: one batch of entries, the rest lies in files. Reading: BLOCK_ENTRIES
entries; a feature with more of them lies in files without a name in the folder, mapped into memory (12 bytes an
active token on disk), so whoever reads features should go through it by `parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from sae_core.code_shards import ShardWriter, mapped, part_path
from sae_core.feature_selection import consecutive

SHARD_TOKENS = 65_536
BLOCK_ENTRIES = 2**22
PART_ENTRIES = 2**20
PARTS = {"positions": np.uint16, "codes": np.float32, "offsets": np.int64}
_LENGTH_AT = 8  # of an .npy file of version 1: two bytes with the length of the header after them

Room = Callable[[int], tuple[np.ndarray, np.ndarray]]  # n -> unset positions [n] int64 and codes [n] float32


@dataclass(frozen=True)
class FeatureCodes:
    """Where a feature is active: positions [n] int64 ascending in the table tokens, codes [n] float32."""

    feature: int
    positions: np.ndarray
    codes: np.ndarray

    def part(self, entries: slice | np.ndarray) -> FeatureCodes:
        """Some of its entries; a slice copies nothing."""
        return FeatureCodes(self.feature, self.positions[entries], self.codes[entries])

    def parts(self, window: int = 1) -> Iterator[FeatureCodes]:
        """Its entries in order, about PART_ENTRIES at a time and no window of the text in two parts.

        One part, without any, for a silent feature.
        """
        start, n = 0, len(self.positions)
        while start + PART_ENTRIES < n:
            ends = (
                self.positions[start + PART_ENTRIES] // window * window,
                (self.positions[start] // window + 1) * window,
            )
            stop = int(np.searchsorted(self.positions, max(ends)))
            yield self.part(slice(start, stop))
            start = stop
        if start < n or not n:
            yield self.part(slice(start, n))

    def windows(self, window: int) -> np.ndarray:
        """The windows of the text with activity, ascending."""
        found = (part.positions // window for part in self.parts(window))
        return np.concatenate([each[np.flatnonzero(np.diff(each, prepend=-1))] for each in found])


def joined(parts: Sequence[FeatureCodes]) -> FeatureCodes:
    """Consecutive parts of a feature as one."""
    positions, codes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("positions", "codes"))
    return FeatureCodes(parts[0].feature, positions, codes)


def in_memory(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for n entries: positions int64 and codes float32, not yet set."""
    return np.empty(n, np.int64), np.empty(n, np.float32)


def signed(positive: FeatureCodes, negative: FeatureCodes, room: Room = in_memory) -> FeatureCodes:
    """Two sides of a direction, never active together, as one feature with the sign of the side."""
    positions, codes = room(len(positive.positions) + len(negative.positions))
    done = stop = 0
    while done < len(positions):
        start, stop = stop, stop + PART_ENTRIES
        above, below = (_between(side, start, stop) for side in (positive, negative))
        found = np.concatenate([above.positions, below.positions])
        order, here = np.argsort(found, kind="stable"), slice(done, done + len(found))
        positions[here] = found[order]
        codes[here] = np.concatenate([above.codes, -below.codes])[order]
        done = here.stop
    return FeatureCodes(positive.feature, positions, codes)


def _between(found: FeatureCodes, start: int, stop: int) -> FeatureCodes:
    """Its entries at positions start .. stop-1."""
    return found.part(slice(*np.searchsorted(found.positions, (start, stop))))


def above_zero(found: FeatureCodes) -> FeatureCodes:
    """The entries of the positive side."""
    above = found.codes > 0
    return found if above.all() else found.part(above)


class CodeIndex:
    """The index in `folder` of a dictionary of n_features over n_tokens tokens in whole contexts of `context`."""

    def __init__(self, folder: Path, n_features: int, n_tokens: int, context: int) -> None:
        self.folder, self.n_features, self.n_tokens = folder, n_features, n_tokens
        self.shard_tokens = max(1, SHARD_TOKENS // context) * context
        self.n_shards = -(-n_tokens // self.shard_tokens)

    def missing(self) -> list[int]:
        """Shards that are not written yet."""
        return [shard for shard in range(self.n_shards) if not part_path(self.folder, shard, "offsets").exists()]

    def write(self, shard: int, tokens: np.ndarray, features: np.ndarray, codes: np.ndarray) -> None:
        """Write the entries of a shard: for each, its token counted from the shard's first, its feature, its code."""
        writer = self.writer(shard)
        writer.add(tokens, features, codes)
        writer.close()

    def writer(self, shard: int) -> ShardWriter:
        """Takes the entries of a shard a batch of tokens at a time; the shard is there once it is closed."""
        return ShardWriter(self.folder, shard, self.shard_tokens, self.n_features)

    def counts(self) -> np.ndarray:
        """Active tokens of each feature, [n_features] int64."""
        return self._counts.copy()

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

    def room(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Room for n entries; of more than BLOCK_ENTRIES, in files that go when the arrays do."""
        if n <= BLOCK_ENTRIES:
            return in_memory(n)
        return mapped(self.folder, np.int64, n), mapped(self.folder, np.float32, n)

    # ---- files

    @cached_property
    def _counts(self) -> np.ndarray:
        none = np.zeros(self.n_features, np.int64)
        return sum((np.diff(self._read(shard, "offsets")) for shard in range(self.n_shards)), none)

    def _ones(self, shard: int) -> sparse.csc_array:
        positions, offsets = self._read(shard, "positions").astype(np.int32), self._read(shard, "offsets")
        ones = np.ones(len(positions), np.int32)
        return sparse.csc_array((ones, positions, offsets), shape=(self.shard_tokens, self.n_features))

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Features of BLOCK_ENTRIES entries, or one; so few that where they start in every shard is no more either."""
        most = max(1, BLOCK_ENTRIES // max(1, self.n_shards))
        while start < stop:
            total = np.cumsum(self._counts[start : min(stop, start + most)])
            size = max(1, int(np.searchsorted(total, BLOCK_ENTRIES, side="right")))
            yield start, start + size
            start += size

    def _block(self, first: int, last: int) -> Iterator[FeatureCodes]:
        if last - first == 1:
            yield self._one(first)
            return
        shards = [self._slice(shard, first, last) for shard in range(self.n_shards)]
        for feature in range(first, last):
            i = feature - first
            spans = [slice(offsets[i], offsets[i + 1]) for offsets, _, _ in shards]
            starts = np.repeat(np.arange(self.n_shards) * self.shard_tokens, [span.stop - span.start for span in spans])
            positions = [shard[1][span] for shard, span in zip(shards, spans, strict=True)]
            codes = [shard[2][span] for shard, span in zip(shards, spans, strict=True)]
            yield FeatureCodes(feature, starts + np.concatenate(positions), np.concatenate(codes))

    def _one(self, feature: int) -> FeatureCodes:
        """The entries of one feature, a shard at a time."""
        positions, codes = self.room(int(self._counts[feature]))
        done = 0
        for shard in range(self.n_shards):
            _, found, values = self._slice(shard, feature, feature + 1)
            here = slice(done, done + len(found))
            positions[here], codes[here] = found, values
            positions[here] += shard * self.shard_tokens
            done = here.stop
        return FeatureCodes(feature, positions, codes)

    def _slice(self, shard: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each feature's entries start, and all positions and codes, of features first .. last-1 of a shard."""
        offsets = self._read(shard, "offsets", first, last + 1)
        positions, codes = (self._read(shard, part, offsets[0], offsets[-1]) for part in ("positions", "codes"))
        return offsets - offsets[0], positions, codes

    def _read(self, shard: int, part: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Entries start .. stop-1 of a file, read and not mapped, so that they take memory only while in use.

        Of the header only its length is read: numpy parses the whole of it, and blocks are read ten thousand times.
        """
        dtype = np.dtype(PARTS[part])
        with open(part_path(self.folder, shard, part), "rb", buffering=0) as file:
            file.seek(_LENGTH_AT)
            header = _LENGTH_AT + 2 + int.from_bytes(file.read(2), "little")
            file.seek(header + int(start) * dtype.itemsize)
            return np.fromfile(file, dtype, -1 if stop is None else int(stop) - int(start))
