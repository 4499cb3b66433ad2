"""Directions with two sides: dictionaries in which feature i and feature d + i are the two sides of direction i.

Light: no torch. The paper's figures let PCA and ICA keep the sign: one feature a direction, positive and negative.
A feature that is shown, explained and ranked has one side. Which of the two stands for its direction is a choice that
the authors left to chance; here it is the side with the heavier tail.
"""

from __future__ import annotations

import numpy as np

from sae_core.schemas import FEATURES_AS_PUBLISHED
from sae_core.specs import LINEAR_KINDS

SIGNED_KINDS = ("pca", "ica")
"""Kinds whose features the paper's figures take with their sign."""


def best_sides(third_moments: np.ndarray) -> np.ndarray:
    """Of each direction, the side with the larger third moment, the positive one of equal sides; [2d] of bool.

    third_moments: [2d], mean cube of every one-sided code over all tokens, positive sides first. The third moment of
    the signed code is the difference of the two, so the chosen side is the one to which it is skewed.
    """
    positive, negative = np.split(np.asarray(third_moments, np.float64), 2)
    return np.concatenate([positive >= negative, positive < negative])


def n_as_published(kind: str, n_features: int) -> int:
    """How many features the paper scores: the first 150, of directions with two sides positive ones only."""
    return min(FEATURES_AS_PUBLISHED, n_features // 2 if kind in LINEAR_KINDS else n_features)
