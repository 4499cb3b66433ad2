"""How alike two sets of directions are: one-to-one matches, and the mean of the largest cosines (MMCS). Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Matches:
    """For each direction its partner (-1 for none), their cosine, and the largest cosine with any; each [n]."""

    others: np.ndarray
    cosines: np.ndarray
    best: np.ndarray


def unit_directions(directions: np.ndarray) -> np.ndarray:
    """Rows of norm 1; rows of zeros stay so; [n, d]."""
    return directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)


def match_one_to_one(own: np.ndarray, theirs: np.ndarray) -> Matches:
    """The matching of own [n, d] with theirs [m, d] whose cosines have the largest sum; n > m leaves some without.

    Cubic in the number of directions: seconds for 4096.
    """
    cosines = unit_directions(own) @ unit_directions(theirs).T
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    others, matched = np.full(len(own), -1, np.int64), np.zeros(len(own))
    others[rows], matched[rows] = columns, cosines[rows, columns]
    return Matches(others, matched, cosines.max(1))


def largest_cosines(truth: np.ndarray, learned: np.ndarray) -> np.ndarray:
    """For every true direction [n, d] its largest (signed) cosine with a learned one [m, d]; [n]."""
    return (unit_directions(truth) @ unit_directions(learned).T).max(1)


def mmcs(truth: np.ndarray, learned: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean over the true directions of the largest cosine with a learned one; weights [n]: a weighted mean.

    Mean max cosine similarity of Sharkey et al. (2022), from the truth to what was learned.
    """
    return float(np.average(largest_cosines(truth, learned), weights=weights))
