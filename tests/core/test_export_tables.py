"""Tables as CSV and Parquet: nothing lost, nothing added, whatever a cell holds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sae_core.errors import InputError, StorageError, TableError
from sae_core.interop.export_tables import csv_text, parquet_bytes, table_blocks, write_file
from sae_core.schemas import TABLES
from sae_core.store import RunStore
from tests.synthetic_run import write_synthetic_run

PER_DICTIONARY = ("features", "token_histograms", "token_features", "contexts", "logit_effects", "neighbours")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_synthetic_run(tmp_path_factory.mktemp("export") / "run", 40, 2, n_windows=120)


@pytest.fixture(scope="module")
def id(store: RunStore) -> str:
    return store.main_dictionaries[1].id


@pytest.mark.parametrize("table", [*PER_DICTIONARY, "windows", "vocabulary"])
def test_parquet_holds_the_same_rows(store: RunStore, id: str, tmp_path: Path, table: str) -> None:
    dictionary = id if TABLES[table].per_dictionary else None
    n = write_file(tmp_path / "t.parquet", table_blocks(store, table, dictionary), TABLES[table].arrow)
    wanted = store.read(table, dictionary)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), wanted)
    assert n == len(wanted) > 0 and [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("table", [*PER_DICTIONARY, "windows", "vocabulary"])
def test_csv_reads_back_exactly(store: RunStore, id: str, tmp_path: Path, table: str) -> None:
    """Read by the standard library's and pandas' own readers: floats bit for bit, lists as JSON, tokens as they are."""
    dictionary = id if TABLES[table].per_dictionary else None
    write_file(tmp_path / "t.csv", table_blocks(store, table, dictionary), TABLES[table].arrow)
    found = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, encoding="utf-8", dtype=str)
    wanted = store.read(table, dictionary)
    assert found.columns.tolist() == TABLES[table].column_names and len(found) == len(wanted)
    for column in TABLES[table].columns:
        read, given = found[column.name], wanted[column.name]
        if pa.types.is_list(column.type):
            cells = [np.asarray(json.loads(cell), dtype=value.dtype) for cell, value in zip(read, given, strict=True)]
            assert all(np.array_equal(a, b) for a, b in zip(cells, given, strict=True)), column.name
        elif pa.types.is_floating(column.type):
            assert np.array_equal(read.astype(float).to_numpy(given.dtype), given.to_numpy()), column.name
        else:
            assert read.tolist() == [str(value) for value in given], column.name


def test_filtered_features_only(store: RunStore, id: str, tmp_path: Path) -> None:
    wanted = np.array([3, 17, 39])
    n = write_file(tmp_path / "t.parquet", table_blocks(store, "contexts", id, wanted), TABLES["contexts"].arrow)
    found = pd.read_parquet(tmp_path / "t.parquet")
    assert n and sorted(found["feature"].unique()) == [f for f in wanted if len(store.read("contexts", id, key=int(f)))]
    assert len(found) == len(store.read("contexts", id, key=wanted.tolist()))
    assert (
        write_file(tmp_path / "e.csv", table_blocks(store, "features", id, wanted[:0]), TABLES["features"].arrow) == 0
    )
    with pytest.raises(InputError, match="a table by feature"):
        list(table_blocks(store, "token_features", id, wanted))


def test_a_table_goes_by_block_after_block(store: RunStore, id: str) -> None:
    """So memory holds one block, not the table."""
    blocks = list(table_blocks(store, "contexts", id))
    assert len(blocks) > 1 and sum(map(len, blocks)) == len(store.read("contexts", id))


def test_bad_targets_are_refused_and_leave_nothing(store: RunStore, id: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        write_file(tmp_path / "t.txt", table_blocks(store, "features", id), TABLES["features"].arrow)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_file(tmp_path / "file" / "t.csv", table_blocks(store, "features", id), TABLES["features"].arrow)
    with pytest.raises(TableError):
        write_file(tmp_path / "t.csv", table_blocks(store, "scores", id), TABLES["scores"].arrow)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_frames_of_pages() -> None:
    frame = pd.DataFrame({"token": ['a,"b"\n', "␣é"], "list": [["x", "y,"], []], "n": [1, 2], "p": [0.5, np.nan]})
    found = pd.read_csv(io.StringIO(csv_text(frame)))
    assert found["token"].tolist() == ['a,"b"\n', "␣é"] and found["list"].map(json.loads).tolist() == [["x", "y,"], []]
    assert found["p"].iloc[0] == 0.5 and np.isnan(found["p"].iloc[1])
    again = pd.read_parquet(io.BytesIO(parquet_bytes(frame)))
    assert again["n"].tolist() == [1, 2] and again["list"].map(list).tolist() == [["x", "y,"], []]
    assert csv_text(frame.iloc[:0]).strip() == "token,list,n,p"
