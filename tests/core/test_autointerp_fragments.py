"""Fragments against dense brute force."""

from __future__ import annotations

import numpy as np
import pytest

from sae_core.autointerp.fragments import (
    AS_PUBLISHED,
    CORRECTED,
    active_fragments,
    fragment_pool,
    fragments_at,
    judged,
    on_scale,
    select,
)
from sae_core.code_index import FeatureCodes
from sae_core.contexts import TokenText

WINDOW, N_WINDOWS = 8, 120


def text() -> TokenText:
    ids = np.random.default_rng(1).integers(0, 50, WINDOW * N_WINDOWS)
    return TokenText(ids, 2 * WINDOW, WINDOW)


def feature(share: float = 0.1, n_windows: int = N_WINDOWS, signed: bool = False) -> tuple[FeatureCodes, np.ndarray]:
    """A feature and its dense codes [windows, window]; active only in the first n_windows."""
    rng = np.random.default_rng(2)
    dense = rng.exponential(size=(N_WINDOWS, WINDOW)) * (rng.random((N_WINDOWS, WINDOW)) < share)
    dense = dense.astype(np.float32) * (np.where(rng.random(dense.shape) < 0.5, 1, -1) if signed else 1)
    dense[n_windows:] = 0
    flat = dense.ravel().astype(np.float32)
    return FeatureCodes(3, flat.nonzero()[0], flat[flat != 0]), dense


def ranking(dense: np.ndarray, pool: np.ndarray) -> list[int]:
    strongest = {int(w): float(dense[w][dense[w] != 0].max()) for w in pool if dense[w].any()}
    return sorted(strongest, key=lambda w: (-strongest[w], w))


ALL = np.arange(N_WINDOWS)


@pytest.mark.parametrize("pool", [ALL, np.arange(0, N_WINDOWS, 3)])
def test_active_fragments_are_ranked_by_their_largest_code(pool: np.ndarray) -> None:
    found, dense = feature()
    assert active_fragments(found, pool, WINDOW).tolist() == ranking(dense, pool)


@pytest.mark.parametrize("signed", [False, True])
def test_fragments_hold_tokens_and_codes(signed: bool) -> None:
    found, dense = feature(signed=signed)
    shown = fragments_at(found, np.array([7, 2, 119]), text())
    assert (shown.activations == dense[[7, 2, 119]]).all()
    assert (shown.token_ids == text().token_ids.reshape(-1, WINDOW)[[7, 2, 119]]).all()


def test_the_twenty_strongest_are_split_as_the_authors_do() -> None:
    found, dense = feature()
    chosen, ranked = select(found, ALL, text(), 0, CORRECTED), ranking(dense, ALL)
    assert chosen.explained.windows.tolist() == [ranked[i] for i in (0, 4, 8, 12, 16)]
    assert chosen.top.windows.tolist() == [ranked[i] for i in (2, 6, 10, 14, 18)]
    for part in (chosen.explained, chosen.top, chosen.random):
        assert (part.activations == dense[part.windows]).all()


def test_drawn_fragments_have_activity_and_are_new_only_as_corrected() -> None:
    found, dense = feature(0.5, 20)
    drawn = {setting: [] for setting in (CORRECTED, AS_PUBLISHED)}
    for setting, windows in drawn.items():
        for seed in range(40):
            chosen = select(found, ALL, text(), seed, setting)
            strong = {*chosen.explained.windows, *chosen.top.windows}
            windows.append(len(strong & set(chosen.random.windows.tolist())))
            assert len(set(chosen.random.windows)) == 5 and dense[chosen.random.windows].any(1).all()
    assert set(drawn[CORRECTED]) == {0}
    # 10 of the 20 with activity are strong ones, so half of those drawn as published are.
    assert np.mean(drawn[AS_PUBLISHED]) == pytest.approx(2.5, abs=0.6)


def test_drawn_fragments_are_uniform() -> None:
    found, dense = feature()
    others = set(ranking(dense, ALL))
    counts = np.zeros(N_WINDOWS)
    for seed in range(400):
        counts[select(found, ALL, text(), seed, AS_PUBLISHED).random.windows] += 1
    expected = 400 * 5 / len(others)
    assert set(counts.nonzero()[0].tolist()) == others
    assert ((counts[sorted(others)] - expected) ** 2 / expected).sum() < 1.5 * len(others)


@pytest.mark.parametrize(("n_windows", "skipped"), [(19, True), (20, False)])
def test_fewer_than_twenty_fragments_are_skipped(n_windows: int, skipped: bool) -> None:
    found, _ = feature(0.9, n_windows)
    assert (select(found, ALL, text(), 0, CORRECTED) is None) == skipped


def test_a_dead_feature_is_skipped() -> None:
    dead = FeatureCodes(0, np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert select(dead, ALL, text(), 0, CORRECTED) is None


def test_judged_fragments_span_the_range_and_leave_out_those_explained() -> None:
    found, dense = feature(0.06)
    chosen, ranked = select(found, ALL, text(), 0, CORRECTED), ranking(dense, ALL)
    active, silent = judged(found, ALL, text(), 0, chosen.explained.windows)
    assert len(active) == len(silent) == 20
    assert dense[active.windows].any(1).all() and not dense[silent.windows].any()
    left = [w for w in ranked if w not in set(chosen.explained.windows.tolist())]
    tenths = [left.index(w) * 10 // len(left) for w in active.windows]
    assert np.bincount(tenths, minlength=10).tolist() == [2] * 10
    assert len(set(active.windows.tolist())) == 20


def test_a_dense_feature_has_as_few_active_as_silent_ones() -> None:
    found, dense = feature(1.0, N_WINDOWS - 3)
    active, silent = judged(found, ALL, text(), 0, np.zeros(0, np.int64))
    assert len(active) == len(silent) == 3


def test_the_pool_is_the_same_for_all_as_corrected_and_one_per_document_as_published() -> None:
    documents = np.repeat(np.arange(30), 4)
    corrected = fragment_pool(documents, 0)
    assert corrected.tolist() == ALL.tolist()
    one, two = (fragment_pool(documents, 0, name) for name in ("one", "two"))
    for pool in (one, two):
        assert documents[pool].tolist() == list(range(30))
    assert one.tolist() != two.tolist() and one.tolist() == fragment_pool(documents, 0, "one").tolist()


def test_the_scale_is_floored_and_capped() -> None:
    values = np.array([-1.0, 0.0, 0.09, 0.1, 0.99, 1.0, 5.0])
    assert on_scale(values, 1.0).tolist() == [0, 0, 0, 1, 9, 10, 10]
    assert on_scale(np.array([-2.0, -1.0]), -1.0).tolist() == [0, 0]
