"""Uniform draws that do not depend on the order of the work, so that a resumed step draws the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

PERMUTED = 2**21
"""Entries whose random order is held in memory; of more, a number is drawn for each bin: as uniform, other entries."""


def feature_rng(seed: int, feature: int) -> np.random.Generator:
    """The random numbers of one feature."""
    return np.random.default_rng([seed, feature])


def window_priorities(n_windows: int, seed: int) -> np.ndarray:
    """A random rank for every window, [n_windows]; shared by all features."""
    return np.random.default_rng([seed, n_windows]).permutation(n_windows)


def lowest_priority(windows: np.ndarray, priorities: np.ndarray, n: int) -> np.ndarray:
    """The n of `windows` with the lowest rank, ascending: a uniform draw without replacement.

    As all features share the ranks, their draws overlap as much as they can, and so does the work on them.
    """
    if len(windows) <= n:
        return windows
    return np.sort(windows[np.argpartition(priorities[windows], n - 1)[:n]])


def draw(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """At most `size` of 0 .. n-1, uniformly and without replacement, in random order."""
    return rng.choice(n, min(n, size), replace=False)


def equal_bins(values: np.ndarray, low: float, high: float, n_bins: int) -> np.ndarray:
    """The bin of each of `values`, all in [low, high], out of n_bins equal ones, [n] uint8."""
    share = (values.astype(np.float64) - low) / (high - low)
    return np.clip((share * n_bins).astype(np.int64), 0, n_bins - 1).astype(np.uint8)


def one_per_bin(parts: Callable[[], Iterator[np.ndarray]], rng: np.random.Generator) -> np.ndarray:
    """Indices of one entry drawn uniformly from each bin that holds any, by bin.

    parts: called for a pass over the bins of all entries, [n] uint8 in parts. Memory: at most that of PERMUTED entries.
    Paper Sec. 5.3: contexts between half of the maximum and the maximum.
    """
    counts = sum((np.bincount(part, minlength=256) for part in parts()), np.zeros(256, np.int64))
    if counts.sum() > PERMUTED:
        filled = np.flatnonzero(counts)
        return _numbered(parts(), filled, rng.integers(0, counts[filled]))
    bins = np.concatenate([np.zeros(0, np.uint8), *parts()])
    order = rng.permutation(len(bins))
    _, first = np.unique(bins[order], return_index=True)
    return order[first]


def _numbered(parts: Iterator[np.ndarray], bins: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The index, in all parts together, of the entry with a number (from 0) among those of its bin, for each bin."""
    found, left, done = np.zeros(len(bins), np.int64), numbers.copy(), 0
    for part in parts:
        for k, bin in enumerate(bins):
            here = np.flatnonzero(part == bin)
            if 0 <= left[k] < len(here):
                found[k] = done + here[left[k]]
            left[k] -= len(here)
        done += len(part)
    return found


def at_indices(parts: Iterator[np.ndarray], indices: np.ndarray) -> np.ndarray:
    """The values with these indices of all parts together."""
    found, done = np.zeros(len(indices), np.int64), 0
    for part in parts:
        here = (indices >= done) & (indices < done + len(part))
        found[here] = part[indices[here] - done]
        done += len(part)
    return found
