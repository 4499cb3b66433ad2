"""Draws are uniform, seeded, and independent of the order of the work."""

from __future__ import annotations

import numpy as np

from sae_core.sampling import draw, feature_rng, lowest_priority, one_per_bin, window_priorities


def test_lowest_priority_is_uniform_over_the_windows_of_a_feature() -> None:
    windows = np.arange(3, 60, 3)
    hits = np.zeros(60)
    for seed in range(3_000):
        hits[lowest_priority(windows, window_priorities(60, seed), 5)] += 1
    expected = 3_000 * 5 / len(windows)
    assert hits[windows].sum() == 3_000 * 5
    assert np.abs(hits[windows] - expected).max() < 5 * np.sqrt(expected)


def test_lowest_priority_keeps_all_of_few_and_never_repeats() -> None:
    priorities = window_priorities(100, 0)
    assert lowest_priority(np.array([4, 9]), priorities, 5).tolist() == [4, 9]
    chosen = lowest_priority(np.arange(100), priorities, 30)
    assert len(set(chosen.tolist())) == 30 and (np.diff(chosen) > 0).all()


def test_features_with_the_same_windows_draw_the_same_ones() -> None:
    priorities = window_priorities(1_000, 0)
    many, fewer = np.arange(1_000), np.arange(0, 1_000, 2)
    shared = set(lowest_priority(many, priorities, 64)) & set(lowest_priority(fewer, priorities, 64))
    assert len(shared) > 20  # independent draws would share about 8


def test_one_per_bin_takes_one_of_every_filled_bin() -> None:
    values = np.array([5.0, 5.1, 5.2, 7.6, 10.0])
    found = one_per_bin(values, 5.0, 10.0, 20, feature_rng(0, 0))
    assert len(found) == 3 and found[0] in (0, 1, 2) and found[1:].tolist() == [3, 4]
    firsts = [one_per_bin(values, 5.0, 10.0, 20, feature_rng(0, f))[0] for f in range(900)]
    assert np.bincount(firsts).min() > 220  # 300 each on average
    assert len(one_per_bin(np.zeros(0), 0.0, 0.0, 20, feature_rng(0, 0))) == 0


def test_draw_is_seeded_and_without_replacement() -> None:
    assert draw(10, 4, feature_rng(1, 2)).tolist() == draw(10, 4, feature_rng(1, 2)).tolist()
    assert sorted(draw(3, 9, feature_rng(0, 0)).tolist()) == [0, 1, 2]
