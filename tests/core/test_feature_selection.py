"""The grammar of `--features` against masks made by hand, what it refuses, and sets of features as ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sae_core.errors import FeatureError, SpecError, TableError
from sae_core.feature_selection import as_ranges, consecutive, from_ranges, parse
from sae_core.store import RunStore
from tests.synthetic_run import write_synthetic_run

N = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_synthetic_run(tmp_path_factory.mktemp("selection") / "run", N, 2, n_windows=100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", range(N)),
        ("3,17,39", [3, 17, 39]),
        (" 0-4 , 38 - 39", [0, 1, 2, 3, 4, 38, 39]),
        ("7", [7]),
        ("5-6,6-7", [5, 6, 7]),
    ],
)
def test_indices(store: RunStore, text: str, expected: list[int]) -> None:
    assert parse(text).of(store, store.main_dictionaries[0].id).tolist() == list(expected)


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        ("alive", lambda f: ~f.dead),
        ("not alive", lambda f: f.dead),
        ("alive and density<0.01", lambda f: ~f.dead & (f.density < 0.01)),
        ("alive and density < 1%", lambda f: ~f.dead & (f.density < 0.01)),
        ("0-9 and not dense and n_active>=1e3", lambda f: (f.feature < 10) & ~f.dense & (f.n_active >= 1000)),
        ("max_activation > 2.5", lambda f: f.max_activation.astype(float) > 2.5),
        ("n_active = 0", lambda f: f.n_active == 0),
    ],
)
def test_filters(store: RunStore, text: str, by_hand) -> None:
    id = store.main_dictionaries[1].id
    rows = store.read("features", id)
    assert parse(text).of(store, id).tolist() == rows["feature"][by_hand(rows)].tolist()


@pytest.mark.parametrize(
    "text",
    ["", "  ", "none", "3;4", "9-3", "1-2-3", "3,", "-3", "alive or dense", "alive and", "density<", "density<x",
     "density<0.01 dense", "feature<3", "top_tokens=3", "__import__('os')", "alive, dense", "not 3", "ALL", "1e3",
     "0-99999999999999999999", "density<0.01and alive", "not density<1"],
)  # fmt: skip
def test_everything_else_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(SpecError, match="features written all"):
        parse(text)


def test_features_that_do_not_exist_and_filters_without_their_table(store: RunStore, tmp_path: Path) -> None:
    id = store.main_dictionaries[0].id
    with pytest.raises(FeatureError, match=f"from 0 to {N - 1}"):
        parse(f"3,{N}").of(store, id)
    bare = RunStore(tmp_path, store.manifest)
    assert parse("3").of(bare, id).tolist() == [3]
    with pytest.raises(TableError, match="the table features"):
        parse("alive").of(bare, id)


def test_ranges_there_and_back() -> None:
    assert as_ranges([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10" and as_ranges([]) == ""
    rng = np.random.default_rng(0)
    for size in (0, 1, 5, 60, 200):
        features = np.sort(rng.choice(200, size, replace=False))
        np.testing.assert_array_equal(from_ranges(as_ranges(features)), features)
        spans = consecutive(features)
        assert [f for start, stop in spans for f in range(start, stop)] == features.tolist()
        assert all(a[1] < b[0] for a, b in zip(spans, spans[1:], strict=False))
    with pytest.raises(SpecError):
        from_ranges("alive")
