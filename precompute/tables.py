"""Which tables a step writes, for which dictionaries, and what they are made from; parts of a table in progress."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sae_core.errors import DictionaryError
from sae_core.schemas import TABLES
from sae_core.store import DictionaryEntry, Provenance, RunStore, atomic, storage_errors

OTHER_TEXT = "all others"
MAKES = {
    "features": ("features", "token_histograms", "token_features"),
    "contexts": ("contexts",),
    "effects": ("logit_effects", "next_token_drops"),
    "edges": ("causal_edges",),
    "neighbours": ("neighbours",),
}


def token_names(store: RunStore) -> np.ndarray:
    """Readable token by id, [n_tokens + 1]; the last one, so also index -1, stands for all other tokens."""
    return np.array([*store.vocabulary(), OTHER_TEXT], dtype=object)


def parent_of(store: RunStore, entry: DictionaryEntry) -> DictionaryEntry | None:
    """The headline dictionary one layer below a headline dictionary: the parent side of its causal edges."""
    layer = entry.spec.site.layer
    return store.headline(layer - 1) if entry.headline and layer > 0 else None


def owners(store: RunStore, step: str) -> list[DictionaryEntry]:
    """The dictionaries a step writes tables for."""
    return [d for d in store.main_dictionaries if step != "edges" or parent_of(store, d) is not None]


def provenance(store: RunStore, step: str, entry: DictionaryEntry) -> Provenance:
    """What the tables of a step are made from, its settings and other dictionaries included."""
    spec, layer = store.manifest.spec, entry.spec.site.layer
    settings: dict[str, Any] = {"table_tokens": spec.table_tokens, "seed": spec.seed}
    others = {"edges": (layer - 1,), "neighbours": (layer - 1, layer + 1)}.get(step, ())
    if others and entry.headline:
        found = [store.headline(other) for other in others]
        settings["others"] = [d.hash if d else "" for d in found]
    return store.provenance(entry.id, **settings)


def states(store: RunStore, step: str, entry: DictionaryEntry) -> set[str]:
    """The states of a step's tables for one dictionary."""
    wanted = provenance(store, step, entry)
    return {store.table_state(table, entry.id, **wanted.settings) for table in MAKES[step]}


def waiting(store: RunStore, step: str) -> list[DictionaryEntry]:
    """The dictionaries for which a step still has work to do. Raises DictionaryError if the run has no main one."""
    if not store.main_dictionaries:
        fix = f"Make them: python -m precompute train --run {store.folder}, then metrics"
        raise DictionaryError("a main dictionary in this run", f"{len(store.dictionaries)} others", fix)
    return [entry for entry in owners(store, step) if states(store, step, entry) != {"ready"}]


def step_state(store: RunStore, step: str) -> str:
    """`ready`, `missing` (nothing made), `stale` (something made from other inputs) or `partial`."""
    if not store.main_dictionaries:
        return "missing"
    found = set().union(*(states(store, step, entry) for entry in owners(store, step)))
    if "stale" in found:
        return "stale"
    return "ready" if found <= {"ready"} else "missing" if found == {"missing"} else "partial"


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
    """Finished blocks of features of a step's tables, kept until the whole table is written."""

    def __init__(self, store: RunStore, step: str, entry: DictionaryEntry) -> None:
        self.store, self.entry = store, entry
        self.made_from = provenance(store, step, entry)
        self.tables = MAKES[step]
        self.folder = fresh_folder(store.scratch(step) / entry.id, self.made_from)

    def done(self, block: int) -> bool:
        """Whether the block starting at this feature is finished. The step's last table is written last."""
        return self._path(self.tables[-1], block).exists()

    def write(self, block: int, *tables: pa.Table) -> None:
        """Keep the rows of one block, one Arrow table for each table of the step, in their order."""
        for name, table in zip(self.tables, tables, strict=True):
            with atomic(self._path(name, block)) as temporary, pa.OSFile(str(temporary), "wb") as file:
                with pa.ipc.new_file(file, TABLES[name].arrow) as writer:
                    writer.write_table(table)

    def merge(self, blocks: Sequence[int]) -> None:
        """Write the whole tables from all blocks, then remove the parts."""
        for name in self.tables:
            self.store.write_sorted(name, self._read(name, blocks), self.entry.id, self.made_from)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, table: str, blocks: Sequence[int]) -> Iterator[pa.Table]:
        for block in blocks:
            with pa.OSFile(str(self._path(table, block)), "rb") as file:
                yield pa.ipc.open_file(file).read_all()

    def _path(self, table: str, block: int) -> Path:
        return self.folder / f"{table}.{block:07d}.arrow"
