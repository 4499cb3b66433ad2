"""The harvest holds the entries of one batch of one dictionary, not those of a shard of all of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from precompute.activation_files import from_model
from precompute.common import load_entry, load_model
from precompute.harvest import code_indexes, write_shard
from sae_core.code_index import CodeIndex
from sae_core.store import RunStore
from sae_core.table_making import table_text
from tests.precompute.tiny_run import BATCH, dense_codes, tiny_run

ENTRY_BYTES = 12  # as it comes from the model: token and feature int32, code float32


def peak(store: RunStore, n: int, folder: Path) -> tuple[int, int]:
    """Most bytes in use while n copies of a dictionary are harvested, and the entries of one."""
    model, text, entry = load_model(store, "cpu"), table_text(store), store.dictionaries[0]
    dictionary = load_entry(store, entry)
    indexes = {}
    for i in range(n):
        (folder / f"{n}-{i}").mkdir()
        indexes[str(i)] = CodeIndex(folder / f"{n}-{i}", entry.n_features, len(text.token_ids), text.context)
    read = from_model(model, [dictionary.site], text.contexts)
    tracemalloc.start()
    write_shard(read, dict.fromkeys(indexes, dictionary), indexes, 0, text, BATCH)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most, int(indexes["0"].counts().sum())


def test_memory_grows_neither_with_the_dictionaries_nor_with_the_shard(tmp_path: Path) -> None:
    store = tiny_run(tmp_path / "run", n_contexts=400, density=0.4)
    peak(store, 2, tmp_path)  # what is made once
    (one, n_entries), (many, _) = peak(store, 1, tmp_path), peak(store, 7, tmp_path)
    shard = n_entries * ENTRY_BYTES
    assert one < shard / 2 and many - one < shard / 2


def test_what_the_harvest_writes_are_the_codes(tmp_path: Path) -> None:
    """Oracle: all codes at once, dense."""
    store = tiny_run(tmp_path / "run")
    for id, index in code_indexes(store, store.dictionaries, "cpu", BATCH).items():
        _, codes = dense_codes(store, id)
        for found in index.features():
            positions = codes[:, found.feature].nonzero()[0]
            assert np.array_equal(found.positions, positions)
            assert np.array_equal(found.codes, codes[positions, found.feature])
        assert not [path for path in index.folder.iterdir() if ".tmp" in path.name]
