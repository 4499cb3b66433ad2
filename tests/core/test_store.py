"""The store: what is written is read back exactly; what is wrong is refused in words; nothing is ever half-written."""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sae_core.errors import DictionaryError, FeatureError, RunError, SaeError, StorageError, TableError
from sae_core.schemas import TABLES
from sae_core.specs import CorpusSpec, DictionarySpec, ModelSpec, RunSpec, Site
from sae_core.store import DictionaryEntry, Manifest, RunStore, atomic

SPEC = DictionarySpec(Site(1), "tied", 4, 1e-3)
ENTRY = DictionaryEntry(SPEC.id, SPEC, 512, "hash-of-weights", headline=True)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    run = RunSpec(ModelSpec("tiny"), CorpusSpec("miniature"))
    manifest = Manifest("test", run, model={"hash": "m"}, corpus={"hash": "c"}, dictionaries=(ENTRY,))
    return RunStore.create(tmp_path / "run", manifest)


def edges(features: int = 512, rows: int = 3) -> pd.DataFrame:
    n = features * rows
    return pd.DataFrame(
        {
            "feature": np.repeat(np.arange(features), rows),
            "parent_dictionary": "L0",
            "parent": np.tile(np.arange(rows), features),
            "relative_drop": np.linspace(0, 1, n),
            "stderr": 0.1,
            "n_contexts": 20,
            "cosine": -0.5,
        }
    )


def test_round_trip_sorts_by_key_and_keeps_types(store: RunStore) -> None:
    frame = edges()
    store.write_table("causal_edges", frame.sample(frac=1, random_state=0), ENTRY.id)
    back = store.read("causal_edges", ENTRY.id)
    expected = TABLES["causal_edges"].arrow
    assert store.read_arrow("causal_edges", ENTRY.id).schema.equals(expected)
    pd.testing.assert_frame_equal(back, pa.Table.from_pandas(frame, expected, preserve_index=False).to_pandas())


def test_reading_keys_equals_filtering_everything(store: RunStore) -> None:
    store.write_table("causal_edges", edges(), ENTRY.id)
    whole = store.read("causal_edges", ENTRY.id)
    for wanted in (0, 511, [15, 16, 17], [500, 3], 9999):
        expected = whole[whole.feature.isin(np.atleast_1d(wanted))].reset_index(drop=True)
        pd.testing.assert_frame_equal(store.read("causal_edges", ENTRY.id, key=wanted), expected)
    columns = store.read("causal_edges", ENTRY.id, key=5, columns=["parent"])
    assert list(columns) == ["parent"] and list(columns.parent) == [0, 1, 2]


def test_small_row_groups_hold_whole_features(store: RunStore) -> None:
    store.write_table("causal_edges", edges(), ENTRY.id)
    import pyarrow.parquet as pq

    meta = pq.ParquetFile(store.table_path("causal_edges", ENTRY.id)).metadata
    assert meta.num_row_groups == 512 // 16
    assert all(meta.row_group(i).num_rows == 48 for i in range(meta.num_row_groups))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.drop(columns="cosine"),
        lambda f: f.assign(extra=1),
        lambda f: f.assign(cosine=np.where(f.index == 0, None, 1.0)),
        lambda f: f.assign(parent="not a number"),
    ],
)
def test_frames_that_do_not_fit_are_refused_and_nothing_is_written(store: RunStore, spoil) -> None:
    with pytest.raises(TableError):
        store.write_table("causal_edges", spoil(edges(4)), ENTRY.id)
    assert not list(store.folder.rglob("*.parquet*"))


def test_missing_truncated_foreign_and_stale_tables_are_told_apart(store: RunStore) -> None:
    path = store.table_path("causal_edges", ENTRY.id)
    with pytest.raises(TableError, match="no L1"):
        store.read("causal_edges", ENTRY.id)
    assert store.table_state("causal_edges", ENTRY.id) == "missing"

    store.write_table("causal_edges", edges(64), ENTRY.id)
    assert store.table_state("causal_edges", ENTRY.id) == "ready"
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableError, match="cannot be read"):
        store.read("causal_edges", ENTRY.id)
    path.write_bytes(b"this is text, not Parquet")
    with pytest.raises(TableError, match="cannot be read"):
        store.read("causal_edges", ENTRY.id)
    assert store.table_state("causal_edges", ENTRY.id) == "stale"

    import pyarrow.parquet as pq

    pq.write_table(pa.table({"feature": [1]}), path)
    with pytest.raises(TableError, match="written by this project"):
        store.read("causal_edges", ENTRY.id)

    path.write_bytes(whole)
    store.update_manifest(dictionaries=(replace(ENTRY, hash="another"),))
    with pytest.raises(TableError, match="made from this run's dictionary"):
        store.read("causal_edges", ENTRY.id)
    assert store.table_state("causal_edges", ENTRY.id) == "stale"


def test_settings_count_for_being_up_to_date(store: RunStore) -> None:
    made = store.provenance(ENTRY.id, seed=1, bands=(1, 2))
    store.write_table("causal_edges", edges(4), ENTRY.id, made)
    assert store.table_state("causal_edges", ENTRY.id) == "ready"
    assert store.table_state("causal_edges", ENTRY.id, seed=1, bands=[1, 2]) == "ready"
    assert store.table_state("causal_edges", ENTRY.id, seed=2, bands=[1, 2]) == "stale"


def test_a_replaced_table_is_seen_at_once(store: RunStore) -> None:
    store.write_table("causal_edges", edges(4), ENTRY.id)
    assert len(store.read("causal_edges", ENTRY.id)) == 12
    store.write_table("causal_edges", edges(5), ENTRY.id)
    assert len(store.read("causal_edges", ENTRY.id)) == 15


def test_concurrent_readers_do_not_disturb_each_other(store: RunStore) -> None:
    store.write_table("causal_edges", edges(), ENTRY.id)
    wrong: list[int] = []

    def look(start: int) -> None:
        for feature in range(start, 512, 8):
            rows = store.read("causal_edges", ENTRY.id, key=feature)
            if list(rows.feature) != [feature] * 3:
                wrong.append(feature)

    threads = [threading.Thread(target=look, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_empty_table_can_be_written_and_read(store: RunStore) -> None:
    store.write_table("causal_edges", edges(1).head(0), ENTRY.id)
    assert len(store.read("causal_edges", ENTRY.id)) == 0
    assert len(store.read("causal_edges", ENTRY.id, key=3)) == 0


def test_manifest_round_trip_and_lookups(store: RunStore) -> None:
    again = RunStore.open(store.folder)
    assert again.manifest == store.manifest
    assert again.headline(1) == ENTRY and again.headline(2) is None
    assert again.check_feature(ENTRY.id, 511) == 511
    with pytest.raises(FeatureError):
        again.check_feature(ENTRY.id, 512)
    with pytest.raises(DictionaryError, match=SPEC.id):
        again.dictionary("L9")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 99}', '{"format": 1, "surprise": 2}'])
def test_bad_manifests_are_refused_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(SaeError):
        RunStore.open(tmp_path)


def test_no_run_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="python -m precompute"):
        RunStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "a/b", "", ".hidden", "a\0b"])
def test_names_cannot_leave_the_run(store: RunStore, name: str) -> None:
    with pytest.raises(SaeError):
        store.dictionary_folder(name)
    with pytest.raises(SaeError):
        store.read("causal_edges", name or "..")


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"old": True}))
    with pytest.raises(StorageError, match="no space left"):
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_full_disk_under_a_real_table_write(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_table("causal_edges", edges(4), ENTRY.id)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sae_core.store.pq.ParquetWriter.write_table", full)
    with pytest.raises(StorageError, match="Free some space"):
        store.write_table("causal_edges", edges(8), ENTRY.id)
    assert len(store.read("causal_edges", ENTRY.id)) == 12
    assert not list(store.folder.rglob("*.tmp"))
