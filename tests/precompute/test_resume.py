"""Steps that are stopped in the middle continue where they were and end with equal tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from precompute import contexts, edges, effects, features, harvest, neighbours
from sae_core import code_index, context_rows, edge_rows, removal
from sae_core.store import RunStore
from sae_core.table_making import MAKES
from tests.precompute.tiny_run import BATCH, CONTEXT, tiny_run

STEPS = (features, contexts, effects, edges, neighbours)


class Killed(Exception):
    """Stands for the kill."""


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """Several shards and several blocks even in a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_index, "SHARD_TOKENS", 2 * BATCH * CONTEXT)
        patch.setattr(effects, "MOST_FEATURES_AT_ONCE", 8)
        patch.setattr(edges, "FEATURES_AT_ONCE", 8)
        yield


def run_step(step: ModuleType, store: RunStore) -> None:
    step.run(store, step.Args(device="cpu", batch=BATCH))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run of which no step was interrupted."""
    store = tiny_run(tmp_path_factory.mktemp("whole") / "run")
    for step in STEPS:
        run_step(step, store)
    return store


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, calls: int) -> list[int]:
    """Let the function raise Killed at that call; returns a list that grows with every call."""
    original: Callable = getattr(owner, name)
    made: list[int] = []

    def counted(*args, **kwargs):
        made.append(len(made))
        if len(made) == calls:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return made


def assert_equal_tables(step: ModuleType, found: RunStore, expected: RunStore) -> None:
    for table in MAKES[step.STEP]:
        for entry in found.main_dictionaries:
            if found.table_path(table, entry.id).exists() or expected.table_path(table, entry.id).exists():
                pd.testing.assert_frame_equal(found.read(table, entry.id), expected.read(table, entry.id))


@pytest.mark.parametrize(
    ("step", "owner", "name", "calls", "left"),
    [
        (features, harvest, "harvest", 3, 2),
        (features, features, "histogram_table", 40, None),
        (contexts, context_rows, "context_table", 40, None),
        (effects, removal, "read_windows", 7, None),
        (edges, edge_rows, "edges", 3, 2),
        (neighbours, neighbours, "cofiring", 2, 2),
    ],
)
def test_a_stopped_step_continues_and_ends_with_equal_tables(
    tmp_path: Path,
    whole: RunStore,
    monkeypatch: pytest.MonkeyPatch,
    step: ModuleType,
    owner: object,
    name: str,
    calls: int,
    left: int | None,
) -> None:
    store = tiny_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_at(patch, owner, name, calls)
        with pytest.raises(Killed):
            run_step(step, store)
    assert step.state(store) in ("missing", "partial")
    with monkeypatch.context() as patch:
        made = fail_at(patch, owner, name, 10**9)
        run_step(step, RunStore.open(store.folder))
    assert left is None or len(made) == left
    assert step.state(store) == "ready"
    assert_equal_tables(step, store, whole)


def test_half_written_files_of_a_kill_do_no_harm(tmp_path: Path, whole: RunStore) -> None:
    store = tiny_run(tmp_path / "run")
    folder = store.scratch("codes") / store.main_dictionaries[0].id
    folder.mkdir()
    (folder / "00000.offsets.npy").write_bytes(b"of another time, without the stamp of this run")
    run_step(features, store)
    assert_equal_tables(features, store, whole)


def test_blocks_made_from_another_dictionary_are_thrown_away(
    tmp_path: Path, whole: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_at(patch, removal, "read_windows", 3)
        with pytest.raises(Killed):
            run_step(effects, store)
    stamp = store.scratch("effects") / store.main_dictionaries[0].id / "made_from.json"
    stamp.write_text(stamp.read_text().replace(store.main_dictionaries[0].hash, "another"))
    for part in stamp.parent.glob("*.arrow"):
        part.write_bytes(b"rows of another dictionary")
    run_step(effects, store)
    assert_equal_tables(effects, store, whole)


def test_codes_are_kept_until_the_last_table_is_made(tmp_path: Path, whole: RunStore) -> None:
    assert not (whole.folder / "scratch" / "codes").exists()
    store = tiny_run(tmp_path / "run")
    run_step(features, store)
    assert (store.folder / "scratch" / "codes").exists()
