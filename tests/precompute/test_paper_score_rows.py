"""Rows of several explainers in one table: each replaces its own and leaves the others alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from precompute.paper.score_rows import merge_scores, scores_state
from sae_core.errors import TableError
from sae_core.store import DictionaryEntry, RunStore
from tests.precompute.tiny_run import tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return tiny_run(tmp_path_factory.mktemp("rows") / "run")


@pytest.fixture
def store(run: RunStore) -> RunStore:
    for path in (run.folder / "tables").rglob("scores/*.parquet"):
        path.unlink()
    return run


def rows(explainer: str, features: list[int], score: float = 0.5, setting: str = "corrected") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "feature": features,
            "explainer": explainer,
            "scheme": "random_only",
            "setting": setting,
            "simulator": "rule",
            "kind": "token",
            "explanation": "é",
            "score": score,
            "lower": 0.0,
            "upper": 1.0,
            "n_fragments": 5,
            "skipped": False,
        }
    )


def merge(store: RunStore, frame: pd.DataFrame, **settings: object) -> DictionaryEntry:
    entry = store.main_dictionaries[0]
    merge_scores(store, entry, frame, store.provenance(entry.id, **settings))
    return entry


def held(store: RunStore, entry: DictionaryEntry) -> list[tuple]:
    found = store.read("scores", entry.id)
    return list(zip(found["feature"], found["explainer"], found["setting"], found["score"], strict=True))


def test_explainers_and_settings_live_side_by_side_sorted(store: RunStore) -> None:
    merge(store, rows("rule", [3, 1]), seed=1)
    merge(store, rows("gpt", [1], 0.25), seed=2)
    entry = merge(store, rows("rule", [1], 0.75, "as-published"), seed=3)
    assert held(store, entry) == [
        (1, "gpt", "corrected", 0.25),
        (1, "rule", "as-published", 0.75),
        (1, "rule", "corrected", 0.5),
        (3, "rule", "corrected", 0.5),
    ]
    assert store.table_info("scores", entry.id).settings == {
        "rule, corrected": {"seed": 1},
        "gpt, corrected": {"seed": 2},
        "rule, as-published": {"seed": 3},
    }


def test_new_rows_replace_all_old_ones_of_their_explainer(store: RunStore) -> None:
    merge(store, rows("rule", [1, 2, 3]))
    merge(store, rows("gpt", [2]))
    entry = merge(store, rows("rule", [5], 0.25), seed=9)
    assert held(store, entry) == [(2, "gpt", "corrected", 0.5), (5, "rule", "corrected", 0.25)]


def test_the_state_is_that_of_one_explainer(store: RunStore) -> None:
    entry = store.main_dictionaries[0]
    made_from = store.provenance(entry.id, seed=1, names=("a",))
    assert scores_state(store, entry, "rule", "corrected", made_from) == "missing"
    merge_scores(store, entry, rows("rule", [1]), made_from)
    assert scores_state(store, entry, "rule", "corrected", made_from) == "ready"
    assert scores_state(store, entry, "rule", "as-published", made_from) == "missing"
    assert scores_state(store, entry, "gpt", "corrected", made_from) == "missing"
    assert scores_state(store, entry, "rule", "corrected", store.provenance(entry.id, seed=2)) == "stale"


def test_rows_of_another_dictionary_are_dropped(store: RunStore) -> None:
    first, *others = store.dictionaries
    merge(store, rows("rule", [1]))
    changed = RunStore(store.folder, replace(store.manifest, dictionaries=(replace(first, hash="x"), *others)))
    made_from = changed.provenance(first.id)
    assert scores_state(changed, changed.dictionaries[0], "rule", "corrected", made_from) == "stale"
    entry = merge(changed, rows("gpt", [2]))
    assert held(changed, entry) == [(2, "gpt", "corrected", 0.5)]
    assert list(changed.table_info("scores", entry.id).settings) == ["gpt, corrected"]


def test_a_damaged_table_is_written_anew(store: RunStore) -> None:
    path: Path = store.table_path("scores", store.main_dictionaries[0].id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PAR1 no")
    entry = merge(store, rows("rule", [1]))
    assert len(held(store, entry)) == 1


def test_wrong_rows_are_refused_and_change_nothing(store: RunStore) -> None:
    entry = merge(store, rows("rule", [1]))
    for bad in (rows("rule", []), rows("rule", [2]).drop(columns="score"), rows("rule", [2]).assign(score=None)):
        with pytest.raises(TableError):
            merge(store, bad)
    assert held(store, entry) == [(1, "rule", "corrected", 0.5)]
