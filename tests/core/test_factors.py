"""Detectors of known factors against brute force, for one-sided and signed codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_core.dictionaries import Dictionary
from sae_core.factors import (
    LEVELS,
    Detector,
    best_detectors,
    count_above,
    f1_interval,
    f1_table,
    properties,
    score_detectors,
)
from sae_core.specs import Site

N, T, D, V = 24, 10, 4, 3


class Linear:
    """Signed codes, as of PCA directions: x itself."""

    n_features = D

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x


def relu_dictionary() -> Dictionary:
    return Dictionary(Site(0), torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D))


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, T, D, generator=generator)
    noise = torch.randn(N, T, V, generator=generator)
    return x, x[..., :V] * torch.tensor([1.0, -1.0, 0.0]) + 0.5 * noise > 0.6


def passing(x: torch.Tensor, wanted: torch.Tensor):
    return lambda: [(x[i : i + 5], wanted[i : i + 5]) for i in range(0, len(x), 5)]


def f1_by_hand(says: np.ndarray, wanted: np.ndarray) -> float:
    right = sum(1 for a, b in zip(says, wanted, strict=True) if a and b)
    wrong = sum(1 for a, b in zip(says, wanted, strict=True) if a != b)
    return 2 * right / max(2 * right + wrong, 1)


@pytest.mark.parametrize("kind", ["relu", "signed"])
def test_the_best_detector_is_that_of_brute_force(kind: str, data: tuple) -> None:
    x, wanted = data
    dictionary = relu_dictionary() if kind == "relu" else Linear()
    counts = count_above(dictionary, passing(x, wanted))
    codes = dictionary.encode(x).reshape(-1, D).numpy()
    n_levels = len(LEVELS) * (2 if kind == "signed" else 1)
    assert counts.thresholds.shape == (n_levels, D) and counts.n == N * T
    for v, detector in enumerate(best_detectors(counts)):
        want = wanted[..., v].flatten().numpy()
        every = {
            (side, level, f): f1_by_hand((codes[:, f] > float(counts.thresholds[level, f])) == (side == 0), want)
            for side in (0, 1)
            for level in range(n_levels)
            for f in range(D)
        }
        table = f1_table(counts)[:, :, v]
        assert all(table[key] == pytest.approx(value) for key, value in every.items())
        assert detector.f1 == pytest.approx(max(every.values()))
        says = detector.says(torch.from_numpy(codes)).numpy()
        assert f1_by_hand(says, want) == pytest.approx(detector.f1)
        assert detector.threshold == float(counts.thresholds[detector.level, detector.feature])


def test_a_planted_signed_feature_is_found_on_its_negative_side(data: tuple) -> None:
    x, _ = data
    wanted = (x[..., 2] < -1.0)[..., None]
    (detector,) = best_detectors(count_above(Linear(), passing(x, wanted)))
    assert detector.feature == 2 and detector.sign == -1 and detector.threshold < -0.8


def test_scores_on_other_contexts_equal_brute_force(data: tuple) -> None:
    x, wanted = data
    detectors = best_detectors(count_above(relu_dictionary(), passing(x[:12], wanted[:12])))
    found = score_detectors(relu_dictionary(), detectors, passing(x[12:], wanted[12:]), seed=0)
    for v, (detector, f1) in enumerate(zip(detectors, found, strict=True)):
        says = ((x[12:, :, detector.feature].relu() > detector.threshold) == (detector.sign > 0)).flatten().numpy()
        want = wanted[12:, :, v].flatten().numpy()
        assert f1.f1 == pytest.approx(f1_by_hand(says, want)) and f1.n_positives == want.sum()
        assert f1.precision == pytest.approx(want[says].mean()) and f1.recall == pytest.approx(says[want].mean())
        assert f1.lower <= f1.f1 <= f1.upper


def test_the_interval_resamples_contexts() -> None:
    """Oracle: a plain loop of resampling; and equal contexts leave no doubt."""
    rng = np.random.default_rng(0)
    wanted, said = rng.integers(1, 20, 60), rng.integers(1, 20, 60)
    right = np.minimum(wanted, said) // 2
    found = f1_interval(np.stack([right, said, wanted]), seed=1)
    drawn = []
    for _ in range(2000):
        rows = rng.integers(60, size=60)
        drawn.append(2 * right[rows].sum() / (said[rows].sum() + wanted[rows].sum()))
    assert [found.lower, found.upper] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    same = f1_interval(np.array([[2] * 9, [3] * 9, [4] * 9]), seed=0)
    assert same.lower == same.upper == same.f1 == pytest.approx(4 / 7)


def test_a_dictionary_with_no_live_feature_says_yes_everywhere(data: tuple) -> None:
    x, wanted = data
    dead = Dictionary(Site(0), torch.eye(D), torch.full((D,), -1e6), torch.eye(D), torch.zeros(D))
    detectors = best_detectors(count_above(dead, passing(x, wanted)))
    assert {d.sign for d in detectors} == {-1}
    found = score_detectors(dead, detectors, passing(x, wanted), seed=0)
    for v, f1 in enumerate(found):
        share = float(wanted[..., v].float().mean())
        assert f1.f1 == pytest.approx(2 * share / (1 + share)) and f1.recall == 1


def test_properties_need_enough_tokens_in_both_halves() -> None:
    labels = {"kind": np.array([["a", "b", ""], ["a", "a", ""], ["a", "b", "b"], ["a", "c", "c"]])}
    found = properties(labels, fewest=1)
    assert found.names == [("kind", "a"), ("kind", "b")]
    assert (found.wanted[..., 1] == (labels["kind"] == "b")).all()
    none = properties(labels, fewest=5)
    assert none.names == [] and none.wanted.size == 0
    assert properties({}, fewest=1).names == []


def test_a_negative_sign_answers_at_or_below() -> None:
    says = Detector(1, -1, 0, 0.0, 0.0).says(torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
    assert says.tolist() == [True, False]
