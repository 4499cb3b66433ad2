"""The score of an explanation: correlation of predicted and true activations, with its interval (paper App. A)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TOP_AND_RANDOM, RANDOM_ONLY = "top_and_random", "random_only"
SCHEMES = (TOP_AND_RANDOM, RANDOM_ONLY)
RESAMPLES = 1000
ROUNDING = 1e-10


@dataclass(frozen=True)
class Score:
    """Pearson correlation over all tokens of `n_fragments` fragments, and its 95 % bootstrap interval."""

    score: float
    lower: float
    upper: float
    n_fragments: int


def score(true: Sequence[np.ndarray], predicted: Sequence[np.ndarray], seed: int = 0) -> Score | None:
    """Correlation over the tokens of all fragments together; None if the true activation never varies.

    true, predicted: one array [n, window] for each sort of fragment (strong ones, drawn ones). The interval is the
    2.5 and 97.5 % point over 1000 draws of fragments with replacement, as many of each sort as there are: tokens of
    a fragment hang together, so whole fragments are drawn. A prediction that never varies has a correlation of 0.
    """
    if np.ptp(np.concatenate(true)) == 0:
        return None
    sums = np.concatenate([_sums(x, y) for x, y in _centred(true, predicted)])
    drawn = _times_drawn(tuple(map(len, true)), seed) @ sums
    lower, upper = np.quantile(_correlation(drawn), (0.025, 0.975))
    return Score(float(_correlation(sums.sum(0))), float(lower), float(upper), len(sums))


def scores_by_scheme(
    top: tuple[np.ndarray, np.ndarray], random: tuple[np.ndarray, np.ndarray], seed: int = 0
) -> dict[str, Score | None]:
    """The score under each scheme from (true, predicted) activations [n, window] of strong and of drawn fragments."""
    both = tuple(zip(top, random, strict=True))
    return {TOP_AND_RANDOM: score(*both, seed), RANDOM_ONLY: score([random[0]], [random[1]], seed)}


def mean_interval(scores: np.ndarray) -> tuple[float, float, float]:
    """Mean and mean -+ 1.96 sd / sqrt(n), the authors' interval of a mean over features; all nan without scores."""
    if not len(scores):
        return (float("nan"),) * 3
    mean = float(np.mean(scores))
    half = 1.96 * float(np.std(scores, ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
    return mean, mean - half, mean + half


def _centred(true: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both less their mean over everything, in units of their range: sums of squares then keep their digits."""
    x_all, y_all = np.concatenate(true).astype(np.float64), np.concatenate(predicted).astype(np.float64)
    x_unit, y_unit = np.ptp(x_all), np.ptp(y_all) or 1.0
    return [((x - x_all.mean()) / x_unit, (y - y_all.mean()) / y_unit) for x, y in zip(true, predicted, strict=True)]


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """n, sum x, sum y, sum xx, sum yy, sum xy of each fragment; [fragments, 6]."""
    ones = np.ones_like(x)
    return np.stack([ones, x, y, x * x, y * y, x * y], axis=-1).sum(1)


@lru_cache(maxsize=4)
def _times_drawn(sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """How often each fragment is drawn, as many of each sort as there are: [draws, fragments]. The same for all."""
    rng = np.random.default_rng(seed)
    return np.concatenate([_multiplicities(rng.integers(n, size=(RESAMPLES, n)), n) for n in sizes], axis=1)


def _multiplicities(drawn: np.ndarray, n: int) -> np.ndarray:
    """How often each of 0 .. n-1 occurs in each row of drawn; [rows, n]."""
    rows = np.arange(len(drawn))[:, None] * n
    return np.bincount((drawn + rows).ravel(), minlength=len(drawn) * n).reshape(len(drawn), n).astype(np.float64)


def _correlation(totals: np.ndarray) -> np.ndarray:
    """Pearson correlation from sums [..., 6]; 0 where one side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(totals, -1, 0)
    spread_x, spread_y = xx - x * x / n, yy - y * y / n
    # A constant side leaves only rounding errors of its sum of squares.
    varies = (spread_x > ROUNDING * xx) & (spread_y > ROUNDING * yy)
    product = np.where(varies, spread_x * spread_y, 1.0)
    return np.where(varies, (xy - x * y / n) / np.sqrt(product), 0.0).clip(-1, 1)
