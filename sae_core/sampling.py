"""Uniform draws that do not depend on the order of the work, so that a resumed step draws the same."""

from __future__ import annotations

import numpy as np


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


def one_per_bin(values: np.ndarray, low: float, high: float, n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of one value drawn uniformly from each of n_bins equal bins of [low, high] that holds any, by bin.

    values: [n], all in [low, high]. Paper Sec. 5.3: contexts between half of the maximum and the maximum.
    """
    share = (values.astype(np.float64) - low) / (high - low)
    bins = np.clip((share * n_bins).astype(np.int64), 0, n_bins - 1)
    order = rng.permutation(len(values))
    _, first = np.unique(bins[order], return_index=True)
    return order[first]
