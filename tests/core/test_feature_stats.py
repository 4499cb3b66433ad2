"""Moments, entropy and flags against scipy and dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sae_core.feature_stats import StrongestFeatures, entropy, is_outlier_direction, is_position_only, moments


def sparse_codes(n_tokens: int, n_active: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dense = np.zeros(n_tokens)
    dense[rng.choice(n_tokens, n_active, replace=False)] = rng.exponential(size=n_active)
    return dense


@pytest.mark.parametrize("n_active", [1, 37, 1_000])
def test_moments_of_the_active_codes_are_those_of_the_dense_array(n_active: int) -> None:
    dense = sparse_codes(1_000, n_active)
    found = moments(dense[dense != 0], len(dense))
    assert found.mean == pytest.approx(dense.mean())
    assert found.variance == pytest.approx(dense.var())
    assert found.skew == pytest.approx(stats.skew(dense))
    assert found.kurtosis == pytest.approx(stats.kurtosis(dense, fisher=False))
    assert found.skew_uncentred == pytest.approx((dense**3).mean() / dense.var() ** 1.5)
    assert found.kurtosis_uncentred == pytest.approx((dense**4).mean() / dense.var() ** 2)


def test_a_silent_feature_has_zero_moments() -> None:
    assert set(vars(moments(np.zeros(0), 100)).values()) == {0.0}


def test_entropy_is_in_bits() -> None:
    assert entropy(np.array([5, 5, 0, 5, 5])) == 2.0
    assert entropy(np.array([7, 0])) == 0.0
    counts = np.random.default_rng(0).integers(0, 9, 50)
    assert entropy(counts) == pytest.approx(stats.entropy(counts, base=2))
    assert entropy(np.zeros(4)) == 0.0


def test_position_only_needs_nine_tenths_of_the_mass_on_one_position() -> None:
    positions = np.array([0, 8, 16, 3])  # position 0 of three contexts of 8, position 3 of one
    assert is_position_only(positions, np.array([3.0, 3.0, 3.0, 1.0]), 8)
    assert not is_position_only(positions, np.array([3.0, 3.0, 3.0, 1.1]), 8)
    assert not is_position_only(np.zeros(0, np.int64), np.zeros(0), 8)


def test_outlier_direction_needs_over_half_of_the_squared_norm_on_one_coordinate() -> None:
    directions = np.array([[0.8, 0.6, 0.0], [0.6, 0.6, 0.5], [0.0, -2.0, 0.1]])
    assert is_outlier_direction(directions).tolist() == [True, False, True]


def test_strongest_features_of_each_token_equal_a_full_sort() -> None:
    rng = np.random.default_rng(1)
    sums = rng.exponential(size=(60, 15)) * (rng.random((60, 15)) < 0.5)  # features x tokens
    counts = (sums > 0) * rng.integers(1, 9, sums.shape)
    kept = StrongestFeatures(15, keep=7)
    for feature in range(60):
        kept.add(feature, counts[feature], sums[feature])
    expected = []
    for token in range(15):
        best = sorted(np.argsort(-sums[:, token])[:7])
        expected += [(token, f, counts[f, token], sums[f, token]) for f in best if sums[f, token] > 0]
    assert [tuple(row) for row in zip(*kept.rows(), strict=True)] == expected
