"""The neighbours step against brute force over dense codes and decoder rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from precompute import neighbours
from precompute.common import load_entry
from precompute.neighbours import Args
from sae_core.store import DictionaryEntry, RunStore
from tests.precompute.tiny_run import BATCH, dense_codes, tiny_run


@pytest.fixture(scope="module", params=[2**24, 100])
def store(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> RunStore:
    """A run with its neighbours, computed at once and in chunks of a few features."""
    patch = pytest.MonkeyPatch()
    patch.setattr(neighbours, "NUMBERS_AT_ONCE", request.param)
    run = tiny_run(tmp_path_factory.mktemp("neighbours") / "run")
    neighbours.run(run, Args(device="cpu", batch=BATCH))
    patch.undo()
    return run


def cosine(store: RunStore, a: DictionaryEntry, b: DictionaryEntry) -> np.ndarray:
    own, theirs = (load_entry(store, entry).W_dec.double().numpy() for entry in (a, b))
    norms = np.linalg.norm(own, axis=1)[:, None] * np.linalg.norm(theirs, axis=1)
    return own @ theirs.T / norms


def check(table, relation: str, similarity: np.ndarray) -> None:
    rows = table[table["relation"] == relation]
    for feature in range(len(similarity)):
        found = rows[rows["feature"] == feature].sort_values("rank")
        best = np.sort(similarity[feature][np.isfinite(similarity[feature])])[::-1][:10]
        if relation == "cofiring":
            best = best[best > 0]
        np.testing.assert_allclose(found["similarity"], best, atol=1e-5)
        np.testing.assert_allclose(similarity[feature, found["other"].to_numpy()], found["similarity"], atol=1e-5)
        assert found["rank"].tolist() == list(range(len(best)))


def without_self(similarity: np.ndarray) -> np.ndarray:
    similarity = similarity.copy()
    np.fill_diagonal(similarity, -np.inf)
    return similarity


def test_directions_in_the_same_and_adjacent_layers(store: RunStore) -> None:
    first, second, neurons = store.main_dictionaries
    below, above = (store.read("neighbours", entry.id) for entry in (first, second))
    check(below, "same", without_self(cosine(store, first, first)))
    check(below, "next", cosine(store, first, second))
    check(above, "previous", cosine(store, second, first))
    assert set(below["relation"]) == {"same", "next", "cofiring"}
    assert set(above["relation"]) == {"same", "previous", "cofiring"}
    assert set(store.read("neighbours", neurons.id)["relation"]) == {"same", "cofiring"}
    assert set(below[below["relation"] == "next"]["other_dictionary"]) == {second.id}


def test_cofiring_is_the_jaccard_index_of_active_tokens(store: RunStore) -> None:
    for entry in store.main_dictionaries:
        active = dense_codes(store, entry.id)[1] != 0
        either = (active[:, :, None] | active[:, None, :]).sum(0)
        both = (active[:, :, None] & active[:, None, :]).sum(0)
        check(store.read("neighbours", entry.id), "cofiring", without_self(both / np.maximum(either, 1)))


def test_a_new_adjacent_headline_makes_it_stale(store: RunStore) -> None:
    first, second, neurons = store.dictionaries
    changed = (replace(first, hash="x"), second, neurons)
    moved = RunStore(store.folder, replace(store.manifest, dictionaries=changed))
    assert neighbours.state(store) == "ready" and neighbours.state(moved) == "stale"
