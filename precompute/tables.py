"""For which features of which dictionaries a step still has work to do; parts of its tables in progress."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sae_core.errors import DictionaryError
from sae_core.feature_selection import ALL, as_ranges, parse
from sae_core.schemas import TABLES
from sae_core.store import DictionaryEntry, Provenance, RunStore, atomic, storage_errors
from sae_core.table_making import MAKES, add_rows, made, owners, provenance


@dataclass(frozen=True)
class Work:
    """The features of a dictionary that a step has been asked for and does not have yet; ascending."""

    entry: DictionaryEntry
    features: np.ndarray


def waiting(store: RunStore, step: str, features: str = ALL, only: str = "") -> list[Work]:
    """The work that is left of a step for the features asked for, in dictionaries whose id contains `only`.

    Raises DictionaryError if the run has no main dictionary, SpecError for a selection that cannot be read.
    """
    if not store.main_dictionaries:
        fix = f"Make them: python -m precompute train --run {store.folder}, then metrics"
        raise DictionaryError("a main dictionary in this run", f"{len(store.dictionaries)} others", fix)
    selection = parse(features)
    chosen = [entry for entry in owners(store, step) if only in entry.id]
    works = [_work(store, step, entry, selection.of(store, entry.id)) for entry in chosen]
    return [work for work in works if len(work.features)]


def _work(store: RunStore, step: str, entry: DictionaryEntry, asked: np.ndarray) -> Work:
    return Work(entry, np.setdiff1d(asked, made(store, step, entry).features, assume_unique=True))


def fresh_folder(folder: Path, made_from: Provenance) -> Path:
    """A work folder for exactly these inputs: what is there stays if it was made from them, else it is emptied."""
    stamp, text = folder / "made_from.json", json.dumps(made_from.to_dict(), sort_keys=True)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != text:
        with storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        with atomic(stamp) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder


class Parts:
    """Finished blocks of features of a step's tables, kept until they are added to the tables."""

    def __init__(self, store: RunStore, step: str, work: Work) -> None:
        self.store, self.step, self.work = store, step, work
        self.made_from = provenance(store, step, work.entry)
        settings = {**self.made_from.settings, "features": as_ranges(work.features)}
        parts_of = store.provenance(work.entry.id, **settings)
        self.folder = fresh_folder(store.scratch(step) / work.entry.id, parts_of)

    def blocks(self, size: int) -> list[np.ndarray]:
        """The features of the work, `size` at a time."""
        return [self.work.features[i : i + size] for i in range(0, len(self.work.features), size)]

    def done(self, block: np.ndarray) -> bool:
        """Whether the block of these features is finished. The step's last table is written last."""
        return self._path(MAKES[self.step][-1], block).exists()

    def write(self, block: np.ndarray, *tables: pa.Table) -> None:
        """Keep the rows of one block, one Arrow table for each table of the step, in their order."""
        for name, table in zip(MAKES[self.step], tables, strict=True):
            with atomic(self._path(name, block)) as temporary, pa.OSFile(str(temporary), "wb") as file:
                with pa.ipc.new_file(file, TABLES[name].arrow) as writer:
                    writer.write_table(table)

    def merge(self, blocks: Sequence[np.ndarray]) -> None:
        """Add all blocks to the tables, then remove the parts."""
        parts = {name: self._read(name, blocks) for name in MAKES[self.step]}
        add_rows(self.store, self.step, self.work.entry, parts, self.work.features, self.made_from)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, table: str, blocks: Sequence[np.ndarray]) -> Iterator[pa.Table]:
        for block in blocks:
            with pa.OSFile(str(self._path(table, block)), "rb") as file:
                yield pa.ipc.open_file(file).read_all()

    def _path(self, table: str, block: np.ndarray) -> Path:
        return self.folder / f"{table}.{block[0]:07d}.{len(block)}.arrow"
