"""Any table or view as CSV or Parquet, a block of rows at a time. Light.

CSV is UTF-8 with a header; lists are written as JSON, so that a cell stays one cell: `["␣the", "␣a"]`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sae_core.errors import InputError
from sae_core.schemas import TABLES
from sae_core.store import RunStore, atomic, write_parquet

FORMATS = ("csv", "parquet")


def table_blocks(
    store: RunStore, table: str, dictionary: str | None, features: np.ndarray | None = None
) -> Iterator[pa.Table]:
    """Blocks of a table; with features [n], only their rows.

    Raises InputError where features are asked for and the table is not by feature, TableError as reading does.
    """
    if features is not None and TABLES[table].key[0] != "feature":
        raise InputError("a table by feature", f"{table}, sorted by {TABLES[table].key[0]}", "Leave --features out")
    wanted = None if features is None else pa.array(np.asarray(features), pa.int32())
    for block in store.blocks(table, dictionary):
        yield block if wanted is None else block.filter(pc.is_in(block["feature"], value_set=wanted))


def write_file(path: Path, blocks: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write blocks to a .csv or .parquet file, atomically; the number of rows. Raises InputError for another ending."""
    format = path.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        raise InputError("a file that ends in .csv or .parquet", repr(path.name), "Name it so")
    counted = _Counted(blocks)
    plain = schema.remove_metadata()
    with atomic(path) as temporary:
        if format == "parquet":
            write_parquet(temporary, counted, plain)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                write_csv(file, counted, plain.names)
    return counted.rows


class _Counted:
    """Blocks, and how many rows went by."""

    def __init__(self, blocks: Iterable[pa.Table]) -> None:
        self.blocks, self.rows = blocks, 0

    def __iter__(self) -> Iterator[pa.Table]:
        for block in self.blocks:
            self.rows += len(block)
            yield block


def write_csv(file: TextIO, blocks: Iterable[pa.Table], names: list[str]) -> None:
    """Header, then the rows of every block."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for block in blocks:
        columns = [_cells(block[name]) for name in names]
        writer.writerows(zip(*columns, strict=True))


def _cells(column: pa.ChunkedArray) -> list:
    """Values as CSV shows them: numbers as short as they read back exactly, lists as JSON."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = column.combine_chunks()
        flat, ends = _cells(pa.chunked_array([values.flatten()])), np.cumsum(pc.list_value_length(values).to_numpy())
        starts = np.r_[0, ends[:-1]] if len(ends) else ends
        return [json.dumps(flat[a:b], ensure_ascii=False) for a, b in zip(starts, ends, strict=True)]
    if pa.types.is_floating(column.type):
        return [float(str(value)) for value in column.to_numpy()]
    return column.to_pylist()


# ---- frames of pages


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV."""
    file = io.StringIO()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    write_csv(file, [table], table.column_names)
    return file.getvalue()


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as a Parquet file."""
    file: BinaryIO = io.BytesIO()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    plain = table.replace_schema_metadata(None)
    write_parquet(file, [plain], plain.schema)
    return file.getvalue()  # type: ignore[attr-defined]
