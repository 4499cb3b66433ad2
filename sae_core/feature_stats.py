"""One feature's statistics over the table tokens, and the strongest features of every token. Pure numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import PART_ENTRIES
from sae_core.schemas import FEATURES_PER_TOKEN

POSITION_SHARE = 0.9
OUTLIER_SHARE = 0.5


@dataclass(frozen=True)
class Moments:
    """Of a feature's code over all tokens, zeros included. The uncentred forms are the authors' (paper App. A)."""

    mean: float
    variance: float
    skew_uncentred: float
    kurtosis_uncentred: float
    skew: float
    kurtosis: float


def moments(codes: np.ndarray, n_tokens: int) -> Moments:
    """E[c], E[(c - mean)^2], E[c^3] / var^1.5, E[c^4] / var^2, and the same two of c - mean; 0 where var is 0.

    codes: [n] the codes != 0 of n_tokens tokens.
    """

    def total(power: int, around: float = 0.0) -> float:
        return float(sum(((codes[each].astype(np.float64) - around) ** power).sum() for each in _spans(codes)))

    silent = n_tokens - len(codes)
    mean = total(1) / n_tokens

    def centred(power: int) -> float:
        return (total(power, mean) + silent * (-mean) ** power) / n_tokens

    variance = centred(2)
    if variance == 0:
        return Moments(float(mean), 0.0, 0.0, 0.0, 0.0, 0.0)
    third, fourth = total(3) / n_tokens, total(4) / n_tokens
    scale3, scale4 = variance**1.5, variance**2
    return Moments(float(mean), variance, third / scale3, fourth / scale4, centred(3) / scale3, centred(4) / scale4)


def _spans(values: np.ndarray) -> Iterator[slice]:
    return (slice(start, start + PART_ENTRIES) for start in range(0, len(values), PART_ENTRIES))


def entropy(counts: np.ndarray) -> float:
    """-sum p log2 p in bits, p = counts / sum of counts; 0 if there is none."""
    p = counts[counts > 0] / max(1, counts.sum())
    return float(-(p * np.log2(p)).sum()) + 0.0


def is_position_only(positions: np.ndarray, codes: np.ndarray, context: int) -> bool:
    """Whether at least 90 % of the activity mass lies on one position of the context."""
    mass = np.zeros(context)
    for each in _spans(codes):
        mass += np.bincount(positions[each] % context, np.abs(codes[each].astype(np.float64)), context)
    return bool(mass.sum() > 0 and mass.max() >= POSITION_SHARE * mass.sum())


def is_outlier_direction(directions: np.ndarray) -> np.ndarray:
    """Whether over half of the squared norm of each direction [n_features, d] lies on one coordinate; [n_features]."""
    squares = np.asarray(directions, np.float64) ** 2
    return squares.max(1) > OUTLIER_SHARE * squares.sum(1)


class StrongestFeatures:
    """For every token the features with the largest summed code on it, kept while features go by in order."""

    def __init__(self, n_token_ids: int, keep: int = FEATURES_PER_TOKEN) -> None:
        self.sums = np.zeros((n_token_ids, keep))
        self.counts = np.zeros((n_token_ids, keep), np.int64)
        self.features = np.full((n_token_ids, keep), -1, np.int32)

    def add(self, feature: int, counts: np.ndarray, sums: np.ndarray) -> None:
        """counts, sums: [n_token_ids] active positions and summed code of the feature on each token."""
        tokens = np.flatnonzero(sums)
        tokens = tokens[sums[tokens] > self.sums[tokens].min(1)]
        weakest = self.sums[tokens].argmin(1)
        self.sums[tokens, weakest] = sums[tokens]
        self.counts[tokens, weakest] = counts[tokens]
        self.features[tokens, weakest] = feature

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """token_id, feature, count and summed code, sorted by token and feature."""
        tokens, slots = np.nonzero(self.features >= 0)
        features = self.features[tokens, slots]
        order = np.lexsort((features, tokens))
        tokens, slots = tokens[order], slots[order]
        return tokens, features[order], self.counts[tokens, slots], self.sums[tokens, slots]
