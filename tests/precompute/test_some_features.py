"""Steps asked for some features: more can be added later, and the tables end as if all had been asked for at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from precompute import contexts, edges, effects, features
from precompute.__main__ import main
from precompute.paper import rules
from sae_core.errors import FeatureError, SpecError, TableError
from sae_core.schemas import TABLES
from sae_core.store import RunStore
from sae_core.table_making import MAKES, made, owners
from tests.precompute.tiny_run import BATCH, tiny_run

STEPS = (contexts, effects, edges)


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effects, "MOST_FEATURES_AT_ONCE", 8)
        patch.setattr(edges, "FEATURES_AT_ONCE", 8)
        yield


def run_step(step: ModuleType, store: RunStore, **asked: str) -> None:
    step.run(store, step.Args(device="cpu", batch=BATCH, **asked))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """All features asked for at once."""
    store = tiny_run(tmp_path_factory.mktemp("whole") / "run", density=0.2)
    for step in (features, *STEPS, rules):
        run_step(step, store)
    return store


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    run = tiny_run(tmp_path / "run", density=0.2)
    run_step(features, run)
    return run


def assert_same_rows(found: pd.DataFrame, expected: pd.DataFrame, table: str) -> None:
    """Equal up to the last bits, which the number of windows read at once may change."""
    assert len(found) == len(expected) > 0
    if table == "logit_effects":  # ordered by the change, which may be a tie
        found, expected = (f.sort_values(["feature", "token_id"], ignore_index=True) for f in (found, expected))
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("step", STEPS)
def test_features_asked_for_in_three_goes_are_as_if_at_once(step: ModuleType, store: RunStore, whole: RunStore) -> None:
    asked = np.zeros(0, np.int64)
    for text, new in (("5,17,1", [1, 5, 17]), ("0-9", range(10)), ("0-3,20-31 and alive", [0, 2, 3, *range(20, 32)])):
        run_step(step, store, features=text)
        asked = np.union1d(asked, list(new))
        for entry in owners(store, step.STEP):
            found = made(store, step.STEP, entry)
            assert found.state == "partial" and found.features.tolist() == asked.tolist()
            for table in MAKES[step.STEP]:
                expected = whole.read(table, entry.id)
                assert_same_rows(store.read(table, entry.id), expected[expected["feature"].isin(asked)], table)
        assert step.state(store) == "partial"
    run_step(step, store)
    assert step.state(store) == "ready"
    for entry in owners(store, step.STEP):
        for table in MAKES[step.STEP]:
            assert_same_rows(store.read(table, entry.id), whole.read(table, entry.id), table)
            assert store.table_info(table, entry.id) == whole.table_info(table, entry.id)


def test_the_windows_of_added_contexts_are_added(store: RunStore, whole: RunStore) -> None:
    run_step(contexts, store, features="3")
    few = store.read("windows")
    run_step(contexts, store, features="4-9")
    more = store.read("windows")
    assert set(few["window"]) < set(more["window"])
    referred = set().union(*(store.read("contexts", d.id)["window"] for d in store.main_dictionaries))
    assert set(more["window"]) == referred
    run_step(contexts, store)
    pd.testing.assert_frame_equal(store.read("windows"), whole.read("windows"))


def test_what_is_there_is_not_computed_again(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run_step(effects, store, features="2-6")
    monkeypatch.setattr(effects, "code_indexes", lambda *_: pytest.fail("nothing to do"))
    run_step(effects, store, features="3,5")


def test_rows_of_another_dictionary_are_not_added_to(store: RunStore) -> None:
    entry = store.main_dictionaries[0]
    run_step(effects, store, features="2-6", only=entry.id)
    before = store.table_info("logit_effects", entry.id)
    rows = store.read_arrow("logit_effects", entry.id)
    old = store.provenance(entry.id, **{**before.settings, "seed": 99})
    store.write_sorted("logit_effects", [rows], entry.id, old)
    assert effects.state(store) == "stale" and not len(made(store, "effects", entry).features)
    run_step(effects, store, features="3", only=entry.id)
    assert set(store.read("logit_effects", entry.id)["feature"]) == {3}


def test_a_kill_while_adding_keeps_what_was_there(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = store.main_dictionaries[0]
    run_step(effects, store, features="0-7", only=entry.id)
    before = store.read("logit_effects", entry.id)
    calls: list[int] = []
    original = effects.block_tables

    def stops(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(effects, "block_tables", stops)
        with pytest.raises(KeyboardInterrupt):
            run_step(effects, store, only=entry.id)
    pd.testing.assert_frame_equal(store.read("logit_effects", entry.id), before)
    done: list[np.ndarray] = []
    monkeypatch.setattr(effects, "block_tables", lambda *args: done.append(args[2]) or original(*args))
    run_step(effects, store, only=entry.id)
    assert [block.tolist() for block in done] == [list(range(16, 24)), list(range(24, 32))]
    assert made(store, "effects", entry).state == "ready"


def test_codes_go_once_every_table_has_what_it_was_asked_for(store: RunStore) -> None:
    assert (store.folder / "scratch" / "codes").exists()
    from precompute import neighbours

    run_step(neighbours, store)
    for step in STEPS:
        run_step(step, store, features="0-3")
    assert not (store.folder / "scratch" / "codes").exists()


def test_bad_selections_are_refused_before_any_work(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "code_indexes", lambda *_: pytest.fail("no work"))
    with pytest.raises(SpecError):
        run_step(effects, store, features="alive or dense")
    with pytest.raises(FeatureError):
        run_step(effects, store, features="0-100000")
    store.table_path("features", store.main_dictionaries[0].id).unlink()
    with pytest.raises(TableError):
        run_step(effects, store, features="alive")


def test_list_says_how_far_it_is(store: RunStore, capsys: pytest.CaptureFixture) -> None:
    run_step(effects, store, features="0-9")
    assert main(["list", "--run", str(store.folder)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("effects"))
    total = sum(d.n_features for d in store.main_dictionaries)
    assert "partial" in line and f"(30 of {total} features)" in line


def test_rules_are_added_too(store: RunStore, whole: RunStore) -> None:
    for text in ("3,5", "0-9", "all"):
        run_step(rules, store, features=text)
        for entry in store.dictionaries:
            found, expected = store.read("scores", entry.id), whole.read("scores", entry.id)
            expected = expected[expected["feature"].isin(found["feature"])]
            pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))
        assert rules.state(store) == ("ready" if text == "all" else "partial")
    assert set(found["feature"]) == set(range(store.dictionaries[-1].n_features))
    assert found.columns.tolist() == TABLES["scores"].column_names
    with pytest.raises(SpecError, match="as-published"):
        run_step(rules, store, features="3", setting="as-published")
