"""Pruning removes sweep dictionaries with everything of theirs, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from precompute import prune
from sae_core.errors import DictionaryError, SpecError
from sae_core.store import RunStore
from tests.precompute.tiny_run import tiny_run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Layer 0 main; the sweep holds layer 1's residual dictionary and the MLP's."""
    store = tiny_run(tmp_path / "run", n_contexts=2)
    first, *others = store.dictionaries
    store.update_manifest(dictionaries=(first, *(replace(e, role="sweep", headline=False) for e in others)))
    for entry in store.dictionaries:
        edges = pd.DataFrame({"feature": [0], "relation": "same", "rank": 0, "other_dictionary": "x", "other": 1})
        store.write_table("neighbours", edges.assign(similarity=0.5), entry.id)
    return store


@pytest.mark.parametrize(("keep", "left"), [("none", [0]), ("0", [0]), ("0-1", [0, 1]), ("1", [0, 1])])
def test_only_the_sweeps_asked_for_stay(store: RunStore, keep: str, left: list[int]) -> None:
    entries = store.dictionaries
    stays = [entries[i].id for i in left]
    prune.run(prune.Args(store.folder, keep))
    store = RunStore.open(store.folder)
    assert [e.id for e in store.dictionaries] == stays
    assert sorted(p.name for p in (store.folder / "dictionaries").iterdir()) == sorted(stays)
    assert sorted(p.stem for p in (store.folder / "tables" / "neighbours").iterdir()) == sorted(stays)


def test_bad_use_removes_nothing(store: RunStore) -> None:
    with pytest.raises(SpecError, match="layers"):
        prune.run(prune.Args(store.folder, "7"))
    store.update_manifest(dictionaries=tuple(replace(e, role="sweep", headline=False) for e in store.dictionaries))
    with pytest.raises(DictionaryError, match="metrics"):
        prune.run(prune.Args(store.folder))
    assert len(list((store.folder / "dictionaries").iterdir())) == 3
