"""Twins with another seed: trained like the original, matched one to one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from precompute import features, train
from precompute.common import load_entry
from precompute.paper import stability
from precompute.paper.stability import Args, share_found, stability_rows
from sae_core.dictionaries import read_metadata
from sae_core.errors import DictionaryError
from sae_core.store import RunStore
from tests.precompute.tiny_run import BATCH, tiny_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """One trained headline dictionary, and its twin."""
    run = tiny_run(tmp_path_factory.mktemp("stability") / "run")
    run.update_manifest(dictionaries=())
    train.run(run, train.Args(layers="1", ratio=1, alphas=(1e-3,), tokens=1920, batch_size=64, seed=4, device="cpu"))
    (entry,) = run.dictionaries
    run.update_manifest(dictionaries=(replace(entry, role="main", headline=True),))
    features.run(run, features.Args(device="cpu", batch=BATCH))
    assert stability.state(run) == "missing"
    stability.run(run, Args(device="cpu"))
    return run


def test_the_twin_differs_by_its_seed_only(store: RunStore) -> None:
    original, twin = sorted(store.dictionaries, key=lambda entry: entry.spec.variant)
    assert twin.id == f"{original.id}-seed5" and twin.hash != original.hash and not twin.headline
    first, second = (read_metadata(store.dictionary_folder(entry.id)) for entry in (original, twin))
    assert second["train"] == {**first["train"], "seed": 5}


def test_rows_equal_matching_by_hand(store: RunStore) -> None:
    original, twin = sorted(store.dictionaries, key=lambda entry: entry.spec.variant)
    own, theirs = (load_entry(store, entry).W_dec.numpy() for entry in (original, twin))
    found = store.read("stability", original.id)
    assert sorted(found["other"]) == list(range(twin.n_features)) and set(found["other_dictionary"]) == {twin.id}
    assert found["cosine"].to_numpy() == pytest.approx((own * theirs[found["other"]]).sum(1), abs=1e-5)
    assert found["best_cosine"].to_numpy() == pytest.approx((own @ theirs.T).max(1), abs=1e-5)
    assert (found["found"] == (found["cosine"] > 0.9)).all()
    assert (found["alive"] == (store.read("features", original.id)["n_active"] > 10)).all()


def test_ready_twins_are_neither_trained_nor_matched_again(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stability.state(store) == "ready"
    monkeypatch.setattr(stability, "train_twin", lambda *_: pytest.fail("nothing to do"))
    stability.run(store, Args(device="cpu"))
    original, twin = sorted(store.dictionaries, key=lambda entry: entry.spec.variant)
    changed = RunStore(store.folder, replace(store.manifest, dictionaries=(original, replace(twin, hash="x"))))
    assert stability.state(changed) == "stale"


def test_shuffled_features_are_all_found_again() -> None:
    own = np.random.default_rng(0).normal(size=(30, 8))
    order = np.random.default_rng(1).permutation(30)
    frame = stability_rows(own, own[order], "twin").assign(alive=True)
    assert share_found(frame) == 1 and (order[frame["other"]] == np.arange(30)).all()
    other = np.random.default_rng(2).normal(size=(30, 8))
    assert share_found(stability_rows(own, other, "twin").assign(alive=True)) < 0.5
    assert share_found(frame.assign(alive=False)) == 0


def test_a_dictionary_from_elsewhere_has_no_twin(tmp_path) -> None:
    run = tiny_run(tmp_path / "run", n_contexts=4)
    features.run(run, features.Args(device="cpu", batch=BATCH))
    with pytest.raises(DictionaryError, match="how .* was trained"):
        stability.run(run, Args(device="cpu"))
    none = RunStore(run.folder, replace(run.manifest, dictionaries=()))
    with pytest.raises(DictionaryError, match="headline"):
        stability.run(none, Args(device="cpu"))
