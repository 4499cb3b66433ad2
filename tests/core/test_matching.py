"""Matches and MMCS against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from sae_core.matching import largest_cosines, match_one_to_one, mmcs


@pytest.fixture
def directions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 3)), rng.normal(size=(5, 3))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_the_matching_has_the_largest_sum_of_all_permutations(directions: tuple) -> None:
    own, theirs = directions
    found = match_one_to_one(own, theirs)
    totals = {p: sum(cosine(own[i], theirs[j]) for i, j in enumerate(p)) for p in permutations(range(5))}
    best = max(totals, key=totals.get)
    assert found.others.tolist() == list(best)
    assert found.cosines == pytest.approx([cosine(own[i], theirs[j]) for i, j in enumerate(best)])
    assert found.best == pytest.approx([max(cosine(a, b) for b in theirs) for a in own])


def test_shuffled_directions_are_all_found(directions: tuple) -> None:
    own, _ = directions
    order = np.array([3, 1, 4, 0, 2])
    found = match_one_to_one(own, 7 * own[order])
    assert (order[found.others] == np.arange(5)).all() and found.cosines == pytest.approx(np.ones(5))


def test_more_than_there_are_partners_leaves_some_without(directions: tuple) -> None:
    own, theirs = directions
    found = match_one_to_one(own, theirs[:3])
    assert sorted(found.others) == [-1, -1, 0, 1, 2] and (found.cosines[found.others < 0] == 0).all()
    assert len(match_one_to_one(own[:2], theirs).others) == 2


def test_mmcs_is_the_mean_of_the_largest_cosines(directions: tuple) -> None:
    truth, learned = directions
    best = [max(cosine(a, b) for b in learned) for a in truth]
    weights = np.array([5.0, 1.0, 0.0, 2.0, 2.0])
    assert largest_cosines(truth, learned) == pytest.approx(best)
    assert mmcs(truth, learned) == pytest.approx(np.mean(best))
    assert mmcs(truth, learned, weights) == pytest.approx((weights * best).sum() / 10)
    assert mmcs(truth, np.zeros((2, 3))) == 0
