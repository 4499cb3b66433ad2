"""Two-sided directions: the side that stands for a direction, and both sides as one signed feature, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import skew

from sae_core.code_index import FeatureCodes, above_zero, signed
from sae_core.signed import best_sides, n_as_published


def codes_of(feature: int, dense: np.ndarray) -> FeatureCodes:
    return FeatureCodes(feature, np.flatnonzero(dense), dense[dense != 0].astype(np.float32))


def test_the_best_side_is_the_one_a_centred_code_is_skewed_to() -> None:
    """Oracle: the sign of scipy's skew of the signed code, whose mean is 0."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.exponential(size=4000), -rng.exponential(size=4000), rng.gamma(3, size=4000)])
    x -= x.mean(1, keepdims=True)
    sides = np.concatenate([x.clip(min=0), (-x).clip(min=0)])
    best = best_sides((sides**3).mean(1))
    assert best.tolist() == [*(skew(x, axis=1) > 0), *(skew(x, axis=1) < 0)] == [True, False, True, False, True, False]


def test_one_side_of_every_direction_is_best_even_of_equals() -> None:
    assert best_sides(np.array([1.0, 0.0, 2.0, 3.0, 0.0, 2.0])).tolist() == [False, True, True, True, False, False]


def test_both_sides_as_one_feature() -> None:
    dense = np.array([0.0, 2.0, -1.0, 0.0, -3.0, 4.0])
    both = signed(codes_of(2, dense.clip(min=0)), codes_of(6, (-dense).clip(min=0)))
    assert both.feature == 2
    back = np.zeros(6)
    back[both.positions] = both.codes
    assert back.tolist() == dense.tolist() and (np.diff(both.positions) > 0).all()
    positive = above_zero(both)
    assert positive.positions.tolist() == [1, 5] and positive.codes.tolist() == [2.0, 4.0]
    assert above_zero(positive) is positive


@pytest.mark.parametrize(
    ("kind", "n", "expected"),
    [("tied", 512, 150), ("tied", 64, 64), ("pca", 256, 128), ("identity", 1024, 150), ("pca_topk", 256, 150)],
)
def test_features_as_published(kind: str, n: int, expected: int) -> None:
    assert n_as_published(kind, n) == expected
