"""Draws are uniform, seeded, and independent of the order of the work."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sae_core import code_index, sampling
from sae_core.code_index import FeatureCodes
from sae_core.effect_rows import EffectRows
from sae_core.sampling import (
    at_indices,
    draw,
    equal_bins,
    feature_rng,
    lowest_priority,
    one_per_bin,
    window_priorities,
)
from sae_core.schemas import EFFECT_WINDOWS


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


def test_windows_drawn_part_by_part_are_those_of_all_at_once(monkeypatch) -> None:
    monkeypatch.setattr(code_index, "PART_ENTRIES", 50)
    rng = np.random.default_rng(0)
    for n_active in (0, 3, 40, 900):
        positions = np.sort(rng.choice(16_000, n_active, replace=False))
        found = FeatureCodes(0, positions, np.ones(n_active, np.float32))
        rows = SimpleNamespace(text=SimpleNamespace(window=16), priorities=window_priorities(1_000, 0))
        expected = lowest_priority(np.unique(positions // 16), rows.priorities, EFFECT_WINDOWS)
        assert EffectRows.drawn_windows(rows, found).tolist() == expected.tolist()


def test_features_with_the_same_windows_draw_the_same_ones() -> None:
    priorities = window_priorities(1_000, 0)
    many, fewer = np.arange(1_000), np.arange(0, 1_000, 2)
    shared = set(lowest_priority(many, priorities, 64)) & set(lowest_priority(fewer, priorities, 64))
    assert len(shared) > 20  # independent draws would share about 8


def drawn(values: np.ndarray, seed: int, size: int = 1000) -> np.ndarray:
    """One of each of 20 bins of [5, 10], the values given `size` at a time."""
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return one_per_bin(lambda: (equal_bins(part, 5.0, 10.0, 20) for part in parts), feature_rng(0, seed))


@pytest.mark.parametrize("permuted", [sampling.PERMUTED, 2])
def test_one_per_bin_takes_one_of_every_filled_bin(monkeypatch: pytest.MonkeyPatch, permuted: int) -> None:
    monkeypatch.setattr(sampling, "PERMUTED", permuted)
    values = np.array([5.0, 5.1, 5.2, 7.6, 10.0])
    for size in (1, 2, 9):
        found = drawn(values, 0, size)
        assert len(found) == 3 and found[0] in (0, 1, 2) and found[1:].tolist() == [3, 4]
        firsts = [drawn(values, f, size)[0] for f in range(900)]
        assert np.bincount(firsts).min() > 220  # 300 each on average
    assert len(drawn(np.zeros(0), 0)) == 0


def test_one_per_bin_takes_the_first_of_a_random_order() -> None:
    """The draw of all runs so far, whatever the parts."""
    values = 5 + 5 * np.random.default_rng(1).random(3_000) ** 4
    bins = np.minimum((values - 5) / 5 * 20, 19).astype(int)
    order = feature_rng(0, 7).permutation(len(values))
    wanted = [next(entry for entry in order if bins[entry] == bin) for bin in np.unique(bins)]
    assert drawn(values, 7).tolist() == drawn(values, 7, 17).tolist() == wanted


def test_values_at_indices_of_parts() -> None:
    values, indices = np.arange(100) ** 2, np.array([99, 0, 50, 49, 50])
    assert at_indices(iter(np.split(values, [10, 50, 50])), indices).tolist() == values[indices].tolist()


def test_draw_is_seeded_and_without_replacement() -> None:
    assert draw(10, 4, feature_rng(1, 2)).tolist() == draw(10, 4, feature_rng(1, 2)).tolist()
    assert sorted(draw(3, 9, feature_rng(0, 0)).tolist()) == [0, 1, 2]
