"""Writing one shard of a code index (sae_core.code_index) from batches of tokens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from scipy import sparse

from sae_core.store import atomic, storage_errors


def part_path(folder: Path, shard: int, part: str) -> Path:
    """The file of one part of a shard: positions, codes or offsets."""
    return folder / f"{shard:05d}.{part}.npy"


def reserve(file: IO[bytes], n_bytes: int) -> None:
    """Take the disk space of a file that will be mapped: without it, writing to the map would end the process."""
    if n_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)


def mapped(folder: Path, dtype: type, n: int) -> np.ndarray:
    """An array of n in a file without a name in `folder`, mapped into memory; the file goes when the array does."""
    size = n * np.dtype(dtype).itemsize
    with storage_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
        reserve(file, size)
        return np.memmap(file, dtype, "w+", shape=n)


class ShardWriter:
    """Entries of one shard on their way to its files.

    Batches of tokens are sorted by feature as they come and wait in a file; closing puts them in their places. Memory:
    one batch.
    """

    def __init__(self, folder: Path, shard: int, n_tokens: int, n_features: int) -> None:
        self.folder, self.shard, self.shape = folder, shard, (n_tokens, n_features)
        self.counts = np.zeros(n_features, np.int64)
        self.sizes: list[int] = []
        with storage_errors(folder):
            self.waiting = tempfile.TemporaryFile(dir=folder)

    def add(self, tokens: np.ndarray, features: np.ndarray, codes: np.ndarray) -> None:
        """More entries, of later tokens than all before: token counted from the shard's first, feature, code."""
        columns = sparse.coo_array((codes.astype(np.float32), (tokens, features)), shape=self.shape).tocsc()
        columns.sort_indices()
        counts = np.diff(columns.indptr).astype(np.int64)
        self.counts += counts
        self.sizes.append(columns.nnz)
        with storage_errors(self.folder):
            for part in (counts, columns.indices.astype(np.uint16), columns.data):
                part.tofile(self.waiting)

    def close(self) -> None:
        """Write the shard's files, `offsets` last."""
        offsets = np.r_[0, np.cumsum(self.counts)]
        n = int(offsets[-1])
        with self._new("positions", np.uint16, n) as positions, self._new("codes", np.float32, n) as codes:
            self._place(offsets[:-1].copy(), positions, codes)
        with self._new("offsets", np.int64, len(offsets)) as made:
            made[:] = offsets

    def _place(self, starts: np.ndarray, positions: np.ndarray, codes: np.ndarray) -> None:
        self.waiting.seek(0)
        with self.waiting as file:
            for size in self.sizes:
                counts = np.fromfile(file, np.int64, len(starts))
                places = np.arange(size) + np.repeat(starts - np.cumsum(counts) + counts, counts)
                positions[places] = np.fromfile(file, np.uint16, size)
                codes[places] = np.fromfile(file, np.float32, size)
                starts += counts

    @contextmanager
    def _new(self, part: str, dtype: type, n: int) -> Iterator[np.ndarray]:
        with atomic(part_path(self.folder, self.shard, part)) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", dtype, (n,))
            with temporary.open("r+b") as file:
                reserve(file, temporary.stat().st_size)
            yield array
