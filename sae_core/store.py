"""RunStore: the one reader and writer of a run folder, and the only user of pyarrow.parquet.

    run/manifest.json                           what the run is, its dictionaries, what each step cost
    run/model/                                  a Hugging Face folder, when the model travels with the run
    run/corpus/                                 token windows (sae_core.corpus)
    run/dictionaries/<id>/                      SAELens folders
    run/tables/<table>/<dictionary>.parquet     one file per dictionary
    run/tables/<table>.parquet                  run-wide tables
    run/scratch/                                work in progress of steps that can resume; removed when they end

Every file is written under a temporary name and then renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sae_core.errors import DictionaryError, FeatureError, MissingTable, RunError, SaeError, StorageError, TableError
from sae_core.rounding import round_column
from sae_core.schemas import MADE_BY, TABLES, Column, Table
from sae_core.specs import DictionarySpec, ModelSpec, RunSpec, Spec

MANIFEST_FORMAT = 1
MAX_ROW_GROUPS = 1024
_FOOTER = b"sae_explorer"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class DictionaryEntry(Spec):
    """A dictionary as the manifest lists it.

    `role` is `main` (all tables), `sweep` (metrics and weights), `baseline` (the same, to compare with, and kept by
    `prune`) or `grid` (metrics, scores, sides and factors only: no weights). `imported`: where one
    trained elsewhere came from, and what its health check said; its folder's metadata has the rest.
    """

    id: str
    spec: DictionarySpec = field(metadata={"spec": DictionarySpec})
    n_features: int
    hash: str
    role: str = "main"
    headline: bool = False
    imported: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest(Spec):
    """What a run is. `model` and `corpus` hold facts measured when they were prepared (names, sizes, hashes).

    `tables`: patterns of the ids of dictionaries that get all tables although the rule of `metrics` leaves them out.
    """

    name: str
    spec: RunSpec = field(metadata={"spec": RunSpec})
    created: str = ""
    description: str = ""
    miniature: bool = False
    model: dict = field(default_factory=dict)
    corpus: dict = field(default_factory=dict)
    dictionaries: tuple[DictionaryEntry, ...] = ()
    headline_rule: str = ""
    tables: tuple[str, ...] = ()
    steps: dict = field(default_factory=dict)
    format: int = MANIFEST_FORMAT


@dataclass(frozen=True)
class Provenance(Spec):
    """What a table was made from. A reader refuses a table whose hashes are not the run's."""

    model: str
    corpus: str
    dictionary: str = ""
    settings: dict = field(default_factory=dict)


class RunStore:
    """A run folder. Opening is cheap; tables are read on demand, row groups of one feature at a time."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    # ---- opening and the manifest

    @classmethod
    def create(cls, folder: Path | str, manifest: Manifest) -> RunStore:
        """Start a run in a new or empty folder. Raises RunError if another run is already there."""
        folder = Path(folder)
        if (folder / "manifest.json").exists():
            raise RunError("a folder without a run", f"a manifest in {folder}", "Choose another --run folder")
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        store = cls(folder, manifest)
        store.save_manifest(manifest)
        return store

    @classmethod
    def open(cls, folder: Path | str) -> RunStore:
        """Open an existing run. Raises RunError with the command that makes one."""
        folder = Path(folder)
        path = folder / "manifest.json"
        fix = f"Make it with: python -m precompute all --run {folder} --model NAME --corpus SPEC"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError("a run folder with a manifest.json", f"no {path}", fix) from None
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            raise RunError("a readable manifest.json", f"{path}: {error}", fix) from None
        if not isinstance(values, dict) or values.get("format") != MANIFEST_FORMAT:
            found = f"format {values.get('format')!r}" if isinstance(values, dict) else type(values).__name__
            raise RunError(f"manifest format {MANIFEST_FORMAT}", f"{found} in {path}", fix)
        entries = values.pop("dictionaries", [])
        manifest = Manifest.from_dict(values)
        return cls(folder, replace(manifest, dictionaries=tuple(map(DictionaryEntry.from_dict, entries))))

    def save_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest atomically."""
        self.write_text("manifest.json", json.dumps(manifest.to_dict(), indent=1, ensure_ascii=False))
        self.manifest = manifest

    def reload(self) -> None:
        """Read the manifest again: a step running beside this one may have changed it."""
        self.manifest = RunStore.open(self.folder).manifest

    def update_manifest(self, **changes: Any) -> None:
        """Change some fields of the manifest and save it."""
        self.save_manifest(replace(self.manifest, **changes))

    @property
    def model_spec(self) -> ModelSpec:
        """What the run's model is loaded from, as it was when the run was made.

        The run's own `model/` folder if the model travels with it; else what was named, at the commit and in the dtype
        that were found then.
        """
        spec, facts = self.manifest.spec.model, self.manifest.model
        spec = replace(spec, dtype=facts.get("dtype", spec.dtype), revision=facts.get("commit") or spec.revision)
        shipped = self.folder / "model"
        return replace(spec, name=str(shipped), revision=None) if (shipped / "config.json").exists() else spec

    # ---- dictionaries

    @property
    def dictionaries(self) -> tuple[DictionaryEntry, ...]:
        return self.manifest.dictionaries

    @property
    def main_dictionaries(self) -> tuple[DictionaryEntry, ...]:
        """Those with full tables."""
        return tuple(d for d in self.dictionaries if d.role == "main")

    def dictionary(self, id: str) -> DictionaryEntry:
        """The entry of one dictionary. Raises DictionaryError naming those that exist."""
        for entry in self.dictionaries:
            if entry.id == id:
                return entry
        known = ", ".join(d.id for d in self.main_dictionaries) or "none yet"
        raise DictionaryError(f"a dictionary of this run ({known})", repr(id), "Choose one from the list")

    def headline(self, layer: int) -> DictionaryEntry | None:
        """The headline residual dictionary of a layer, or None where the run has none."""
        return next((d for d in self.dictionaries if d.headline and d.spec.site.layer == layer), None)

    def dictionary_folder(self, id: str) -> Path:
        """Folder of its weights. The id must be plain, so a link cannot leave the run."""
        return self.folder / "dictionaries" / _safe(id)

    def check_feature(self, id: str, feature: int) -> int:
        """The feature index itself, if the dictionary has it. Raises FeatureError otherwise."""
        n = self.dictionary(id).n_features
        if not 0 <= feature < n:
            raise FeatureError(f"a feature from 0 to {n - 1} of {id}", str(feature), "Choose one in this range")
        return feature

    # ---- provenance

    def provenance(self, dictionary: str | None = None, **settings: Any) -> Provenance:
        """What a table made now is made from."""
        entry_hash = self.dictionary(dictionary).hash if dictionary else ""
        hashes = self.manifest.model.get("hash", ""), self.manifest.corpus.get("hash", "")
        return Provenance(*hashes, entry_hash, settings)

    def table_state(self, table: str, dictionary: str | None = None, **settings: Any) -> str:
        """`missing`, `stale` (made from something else, or unreadable) or `ready`.

        With settings given, the table must have been made with the same ones.
        """
        try:
            info = self.table_info(table, dictionary)
        except TableError as error:
            return "missing" if isinstance(error, MissingTable) else "stale"
        wanted = self.provenance(dictionary, **settings)
        same = (info.model, info.corpus, info.dictionary) == (wanted.model, wanted.corpus, wanted.dictionary)
        return "ready" if same and (not settings or info.settings == wanted.to_dict()["settings"]) else "stale"

    def table_info(self, table: str, dictionary: str | None = None) -> Provenance:
        """Provenance in the footer of a table."""
        return _open(self.table_path(table, dictionary), _stamp(self.table_path(table, dictionary)), table).provenance

    # ---- paths

    def table_path(self, table: str, dictionary: str | None = None) -> Path:
        schema = TABLES[table]
        if schema.per_dictionary != (dictionary is not None):
            raise ValueError(f"{table} is {'not ' if dictionary else ''}kept per dictionary")
        if dictionary is None:
            return self.folder / "tables" / f"{table}.parquet"
        return self.folder / "tables" / table / f"{_safe(dictionary)}.parquet"

    def scratch(self, step: str) -> Path:
        """A folder for a step's work in progress; `clear_scratch` removes it."""
        path = self.folder / "scratch" / _safe(step)
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def clear_scratch(self, step: str) -> None:
        shutil.rmtree(self.folder / "scratch" / _safe(step), ignore_errors=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file of the run atomically."""
        with atomic(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    # ---- writing tables

    def write_table(
        self, table: str, frame: pd.DataFrame, dictionary: str | None = None, provenance: Provenance | None = None
    ) -> None:
        """Validate, sort by the key, and replace a whole table. Raises TableError for wrong columns or types."""
        schema = TABLES[table]
        arrow = to_arrow(frame.sort_values(list(schema.key), kind="stable"), schema)
        self.write_sorted(table, [arrow], dictionary, provenance)

    def write_sorted(
        self,
        table: str,
        blocks: Iterable[pa.Table],
        dictionary: str | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        """Stream blocks that are already sorted by the key (each feature whole inside one block) into a table.

        Columns whose schema names `bits` are rounded to them.
        """
        schema = TABLES[table]
        footer = json.dumps(
            {
                "table": table,
                "version": schema.version,
                "provenance": (provenance or self.provenance(dictionary)).to_dict(),
            }
        )
        arrow_schema = schema.arrow.with_metadata({_FOOTER: footer.encode()})
        group = self._keys_per_group(schema, dictionary)
        with atomic(self.table_path(table, dictionary)) as temporary:
            with pq.ParquetWriter(temporary, arrow_schema, **_encodings(schema)) as writer:
                for block in blocks:
                    for part in _row_groups(block, schema, group):
                        whole = _rounded(part.cast(arrow_schema), schema)
                        writer.write_table(whole, row_group_size=max(1, len(part)))

    def _keys_per_group(self, schema: Table, dictionary: str | None) -> int:
        n = self.dictionary(dictionary).n_features if dictionary else 0
        return max(schema.keys_per_group, -(-n // MAX_ROW_GROUPS))

    # ---- reading tables

    def read(
        self,
        table: str,
        dictionary: str | None = None,
        *,
        key: int | Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Rows of a table, all of them or those whose first key column is `key` (one value or several).

        Raises TableError if the table is missing, truncated, foreign, of another version, or was made from
        another dictionary, model or corpus than the run's.
        """
        return self.read_arrow(table, dictionary, key=key, columns=columns).to_pandas()

    def read_arrow(
        self,
        table: str,
        dictionary: str | None = None,
        *,
        key: int | Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """As `read`, without the conversion to pandas."""
        path = self.table_path(table, dictionary)
        file = _open(path, _stamp(path), table)
        self._refuse_stale(file, dictionary)
        try:
            return file.read(key, list(columns) if columns else None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(path, table, str(error)) from None

    def blocks(
        self, table: str, dictionary: str | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """A whole table, one row group after the other, so that memory does not grow with it. Raises as `read`."""
        path = self.table_path(table, dictionary)
        file = _open(path, _stamp(path), table)
        self._refuse_stale(file, dictionary)
        try:
            for group in range(file.file.num_row_groups):
                yield pq.ParquetFile(path, memory_map=True).read_row_group(group, list(columns) if columns else None)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(path, table, str(error)) from None

    def _refuse_stale(self, file: _TableFile, dictionary: str | None) -> None:
        now, made = self.provenance(dictionary), file.provenance
        for what in ("dictionary", "model", "corpus"):
            if getattr(now, what) != getattr(made, what):
                raise TableError(
                    f"{file.table.name} made from this run's {what} ({getattr(now, what)[:12] or 'none'})",
                    f"{file.path.name} made from {getattr(made, what)[:12] or 'none'}",
                    f"Make it again: {_command(self.folder, file.table.name)}",
                )

    def vocabulary(self) -> pd.Series:
        """Readable token by id."""
        frame = self.read("vocabulary", columns=["token_id", "token"])
        return frame.set_index("token_id")["token"]


# ---- one open Parquet file: its metadata is parsed once and kept while the file does not change


class _TableFile:
    def __init__(self, path: Path, table: Table) -> None:
        self.path, self.table = path, table
        # Memory-mapped whole: concurrent readers share no file position.
        self.file = pq.ParquetFile(path, memory_map=True)
        self.provenance = _check_footer(path, table, self.file.schema_arrow)
        self.first, self.last = self._key_ranges()

    def _key_ranges(self) -> tuple[np.ndarray, np.ndarray]:
        meta = self.file.metadata
        column = self.table.column_names.index(self.table.key[0])
        stats = [meta.row_group(i).column(column).statistics for i in range(meta.num_row_groups)]
        return np.array([s.min for s in stats]), np.array([s.max for s in stats])

    def read(self, key: int | Sequence[int] | None, columns: list[str] | None) -> pa.Table:
        reader = pq.ParquetFile(self.path, metadata=self.file.metadata, memory_map=True)
        if key is None:
            return reader.read(columns)
        keys = np.unique(np.atleast_1d(np.asarray(key)))
        name = self.table.key[0]
        wanted = columns if columns is None or name in columns else [*columns, name]
        groups = np.flatnonzero([((keys >= a) & (keys <= b)).any() for a, b in zip(self.first, self.last, strict=True)])
        found = reader.read_row_groups(groups.tolist(), wanted)
        mask = np.isin(found.column(name).to_numpy(), keys)
        found = found.filter(pa.array(mask))
        return found if wanted == columns else found.select(columns)


@lru_cache(maxsize=256)
def _open(path: Path, stamp: tuple[int, int], table: str) -> _TableFile:
    del stamp  # part of the cache key only: a replaced file is opened again
    try:
        return _TableFile(path, TABLES[table])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, table, str(error)) from None


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return stat.st_mtime_ns, stat.st_size


def _unreadable(path: Path, table: str, reason: str) -> TableError:
    run = path.parents[2] if TABLES[table].per_dictionary else path.parents[1]
    missing = not path.exists()
    found = f"no {path.name}" if missing else f"{path.name}, which cannot be read ({reason.splitlines()[0]})"
    error = MissingTable if missing else TableError
    return error(f"the table {table} at {path}", found, f"Make it: {_command(run, table)}")


def _command(run: Path, table: str) -> str:
    if table not in MADE_BY:
        return f"python -m precompute all --run {run} --model NAME --corpus SPEC   (table {table})"
    return f"python -m precompute {MADE_BY[table]} --run {run}   (table {table})"


def _check_footer(path: Path, table: Table, found: pa.Schema) -> Provenance:
    raw = (found.metadata or {}).get(_FOOTER)
    fix = f"Delete {path.name} and make it again: {_command(path.parent, table.name)}"
    if raw is None:
        raise TableError(f"a {table.name} table written by this project", f"{path.name} without its footer", fix)
    footer = json.loads(raw)
    if (footer["table"], footer["version"]) != (table.name, table.version):
        found_name = f"{footer['table']} version {footer['version']}"
        raise TableError(f"{table.name} version {table.version}", f"{found_name} in {path.name}", fix)
    if not found.equals(table.arrow, check_metadata=False):
        raise TableError(f"the columns {table.column_names}", f"{found.names} in {path.name}", fix)
    return Provenance.from_dict(footer["provenance"])


def to_arrow(frame: pd.DataFrame, table: Table) -> pa.Table:
    """Exact conversion: same columns, no nulls, no lossy cast. Raises TableError otherwise."""
    if set(frame.columns) != set(table.column_names):
        raise TableError(
            f"the columns {table.column_names} for {table.name}", f"{list(frame.columns)}", "Fix the step that made it"
        )
    try:
        arrow = pa.Table.from_pandas(frame[table.column_names], preserve_index=False, safe=False)
        arrow = arrow.cast(table.arrow)
        arrow.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        fix = "Fix the step that made it"
        raise TableError(f"values that fit the schema of {table.name}", str(error), fix) from None
    return arrow.replace_schema_metadata(None)


def write_parquet(target: Path | BinaryIO, blocks: Iterable[pa.Table], schema: pa.Schema) -> None:
    """A plain Parquet file of what is exported, for any reader: no footer of ours, blocks are written as they come."""
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for block in blocks:
            writer.write_table(block.cast(schema))


def _encodings(table: Table) -> dict[str, Any]:
    """Numbers split by byte (a fifth smaller under zstd, measured), text by dictionary."""
    types = {_leaf(c): c.type.value_type if pa.types.is_list(c.type) else c.type for c in table.columns}
    return {
        "compression": "zstd",
        "compression_level": table.level,
        "use_dictionary": [leaf for leaf, type in types.items() if pa.types.is_string(type)],
        "use_byte_stream_split": [
            leaf for leaf, type in types.items() if pa.types.is_integer(type) or pa.types.is_floating(type)
        ],
    }


def _leaf(column: Column) -> str:
    """Parquet's name of what a column holds; that of a list is not the column's own."""
    return f"{column.name}.list.element" if pa.types.is_list(column.type) else column.name


def _rounded(part: pa.Table, table: Table) -> pa.Table:
    for i, column in enumerate(table.columns):
        if column.bits is not None:
            part = part.set_column(i, part.schema.field(i), round_column(part.column(i), column.bits))
    return part


def _row_groups(block: pa.Table, table: Table, keys: int) -> Iterator[pa.Table]:
    if len(block) == 0:
        return
    first = block.column(table.key[0])
    if not pa.types.is_integer(first.type):
        yield block
        return
    # One-row-per-key tables are read whole or by page: larger groups, fewer of them.
    size = keys if len(table.key) > 1 else max(keys, 4096)
    group = first.to_numpy() // size
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(block)], strict=True):
        yield block.slice(start, stop - start)


# ---- safe files


def _safe(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name):
        raise RunError("a name of letters, digits and . _ + -", repr(name), "Use a name from the run's list")
    return name


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary path; it replaces `path` on success and vanishes on failure.

    Raises StorageError if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn operating-system failures while writing into StorageError."""
    try:
        yield
    except SaeError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on the disk" if full else str(error)
        fix = "Free some space and run the same command again; finished parts are kept" if full else "Check the folder"
        raise StorageError(f"to write {path}", reason, fix) from None
