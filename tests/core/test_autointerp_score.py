"""The score against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, pearsonr

from sae_core.autointerp.score import RANDOM_ONLY, TOP_AND_RANDOM, mean_interval, score, scores_by_scheme

RNG = np.random.default_rng(0)


def pair(noise: float, n: int = 5, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    true = RNG.exponential(size=(n, 64)) * (RNG.random((n, 64)) < 0.2) * scale
    return true, true + noise * scale * RNG.standard_normal(true.shape)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_the_score_is_pearsons_r_over_all_tokens(scale: float) -> None:
    top, random = pair(0.3, scale=3 * scale), pair(0.3, scale=scale)
    found = scores_by_scheme(top, random)
    both = [np.concatenate([a, b]).ravel() for a, b in zip(top, random, strict=True)]
    assert found[TOP_AND_RANDOM].score == pytest.approx(pearsonr(*both).statistic)
    assert found[RANDOM_ONLY].score == pytest.approx(pearsonr(random[0].ravel(), random[1].ravel()).statistic)
    assert (found[TOP_AND_RANDOM].n_fragments, found[RANDOM_ONLY].n_fragments) == (10, 5)


def test_signed_activations_enter_as_they_are() -> None:
    true = RNG.standard_normal((5, 64))
    assert score([true], [-true]).score == pytest.approx(-1)
    assert score([true], [np.maximum(true, 0)]).score == pytest.approx(pearsonr(true.ravel(), true.ravel().clip(0))[0])


def test_the_interval_is_the_bootstrap_of_whole_fragments() -> None:
    true, said = pair(0.5, n=12)
    found = score([true], [said])

    def r(rows: np.ndarray) -> float:
        return pearsonr(true[rows].ravel(), said[rows].ravel()).statistic

    wanted = bootstrap((np.arange(12),), r, n_resamples=2000, method="percentile", vectorized=False, rng=RNG)
    assert found.lower == pytest.approx(wanted.confidence_interval.low, abs=0.02)
    assert found.upper == pytest.approx(wanted.confidence_interval.high, abs=0.02)
    assert found.lower < found.score < found.upper


def test_each_sort_keeps_its_size_when_resampled() -> None:
    """Strong fragments all right and drawn ones all zero: the mix is the same in every draw, so r hardly moves."""
    strong = np.tile(np.r_[np.ones(8), np.zeros(56)], (5, 1))
    silent = np.zeros((5, 64))
    found = score([strong, silent], [strong, silent])
    assert (found.lower, found.score, found.upper) == pytest.approx((1, 1, 1))


def test_what_never_varies() -> None:
    true, _ = pair(0)
    assert score([np.full((5, 64), 0.3)], [true]) is None
    constant = score([true], [np.full((5, 64), 0.1)])
    assert (constant.score, constant.lower, constant.upper) == (0, 0, 0)
    # Draws of constant fragments among varying ones are 0, not the quotient of rounding errors.
    mixed = np.vstack([np.full((4, 64), 0.1), true[:1]])
    found = score([mixed], [mixed])
    assert found.score == pytest.approx(1) and found.lower == 0 and found.upper == pytest.approx(1)


def test_random_predictions_score_about_zero() -> None:
    found = [score([pair(0)[0]], [RNG.integers(0, 11, (5, 64))]).score for _ in range(200)]
    assert abs(np.mean(found)) < 0.02


def test_the_mean_over_features_has_the_authors_interval() -> None:
    values = np.array([0.1, 0.4, 0.3, 0.2])
    mean, lower, upper = mean_interval(values)
    half = 1.96 * np.std(values, ddof=1) / 2
    assert (mean, lower, upper) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    assert np.isnan(mean_interval(values[:1])[1]) and np.isnan(mean_interval(values[:0])).all()
