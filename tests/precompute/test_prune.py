"""Pruning leaves the metrics of what it turns into grid dictionaries, and everything of the rest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from precompute import metrics, prune, train
from precompute.paper.states import with_weights
from sae_core.dictionaries import save_dictionary
from sae_core.errors import DictionaryError, SpecError
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.precompute.tiny_run import tiny_run
from tests.tiny_model import random_dictionary

MEASURE = metrics.Args(metric_tokens=32, device="cpu", batch=4)
MAIN = ["L0-resid_post-tied-r1-a1e-3", "L1-resid_post-tied-r1-a1e-3"]
SWEEP = [f"L{layer}-resid_post-tied-r1-a2e-3" for layer in (0, 1)]
CONTROL = ["L0-resid_post-tied-r1-a0", "L1-resid_post-tied-r1-a0"]
GONE = ["L1-mlp_post-tied-r1-a1e-3", "L1-resid_post-batchtopk-r1-k3", "L1-resid_post-tied-r1-a2e-3-t300k",
        "L1-resid_post-tied-r2-a0", "L1-resid_post-tied-r2-a1e-3"]  # fmt: skip
TWINS = ["L0-resid_post-tied-r1-a1e-3-seed1", "L1-resid_post-random-r2"]


def add(store: RunStore, spec: DictionarySpec, role: str) -> None:
    """A random dictionary in the manifest and on disk."""
    found = replace(random_dictionary(spec.site, n_features=spec.n_features(32)), spec=spec)
    save_dictionary(found, store.dictionary_folder(spec.id), train.made_from(store))
    train.add(store, [DictionaryEntry(spec.id, spec, found.n_features, found.hash, role)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two headline dictionaries, and beside them a bit of everything; all measured, all with one more table."""
    store = tiny_run(tmp_path_factory.mktemp("made") / "run", n_contexts=2)
    for layer in (0, 1):
        for alpha in (0.0, 2e-3):
            add(store, DictionarySpec(Site(layer), "tied", 1.0, alpha), "sweep")
    for spec in (
        DictionarySpec(Site(1), "tied", 2.0, 1e-3),
        DictionarySpec(Site(1), "tied", 2.0, 0.0),
        DictionarySpec(Site(1), "batchtopk", 1.0, k=3),
        DictionarySpec(Site(1), "tied", 1.0, 2e-3, variant="t300k"),
    ):
        add(store, spec, "sweep")
    add(store, DictionarySpec(Site(0), "tied", 1.0, 1e-3, variant="seed1"), "baseline")
    add(store, DictionarySpec(Site(1), "random", 2.0), "baseline")
    metrics.run(store, MEASURE)
    roles = {id: "main" for id in MAIN} | {id: "sweep" for id in (*SWEEP, *CONTROL, *GONE)}
    entries = (replace(e, role=roles.get(e.id, e.role), headline=e.id in MAIN) for e in store.dictionaries)
    store.update_manifest(dictionaries=tuple(entries))
    for entry in store.dictionaries:
        edges = pd.DataFrame({"feature": [0], "relation": "same", "rank": 0, "other_dictionary": "x", "other": 1})
        store.write_table("neighbours", edges.assign(similarity=0.5), entry.id)
    return store.folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> RunStore:
    return RunStore.open(shutil.copytree(made, tmp_path / "run"))


def pruned(store: RunStore, keep: str = "none", *grid: str) -> RunStore:
    prune.run(prune.Args(store.folder, keep, grid))
    return RunStore.open(store.folder)


def of_role(store: RunStore, role: str) -> set[str]:
    return {entry.id for entry in store.dictionaries if entry.role == role}


def folders(path: Path) -> set[str]:
    return {found.name.removesuffix(".parquet") for found in path.iterdir()}


@pytest.mark.parametrize(("keep", "layers"), [("none", []), ("0", [0]), ("0-1", [0, 1]), ("1", [1])])
def test_only_the_sweeps_asked_for_keep_their_weights(store: RunStore, keep: str, layers: list[int]) -> None:
    stay = [SWEEP[layer] for layer in layers]
    everything = {entry.id for entry in store.dictionaries}
    store = pruned(store, keep)
    assert of_role(store, "grid") == {*GONE, *SWEEP} - {*stay}
    assert of_role(store, "main") == {*MAIN} and of_role(store, "sweep") == {*CONTROL, *stay}
    whole = {*MAIN, *CONTROL, *TWINS, *stay}
    assert folders(store.folder / "dictionaries") == folders(store.folder / "tables" / "neighbours") == whole
    assert {e.id for e in with_weights(store)} == whole
    assert folders(store.folder / "tables" / "metrics") == everything == {e.id for e in store.dictionaries}


def test_more_can_be_named(store: RunStore) -> None:
    store = pruned(store, "0-1", "L*-random-*", "*-seed1", CONTROL[0])
    assert of_role(store, "grid") == {*GONE, *TWINS, CONTROL[0]}
    assert of_role(store, "main") == {*MAIN}
    store = pruned(store, "0", "L*-tied-r1-*")
    assert of_role(store, "main") == {*MAIN} and {SWEEP[0], *CONTROL} <= of_role(store, "grid")


def test_everything_copes_with_grid_dictionaries(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = RunStore.open(store.folder).dictionary(GONE[0])
    settings = train.made_from(store)
    assert not train.is_there(store, gone.spec, settings | {"corpus_hash": "another"})
    before = metrics.state(store)
    store = pruned(store)
    assert metrics.state(store) == before == "ready"
    assert train.is_there(store, gone.spec, settings)
    monkeypatch.setattr(metrics, "load_model", lambda *args: pytest.fail("nothing is left to measure"))
    metrics.run(store, MEASURE)
    assert of_role(RunStore.open(store.folder), "grid") == {*GONE, *SWEEP}
    other_model = replace(store.manifest, model={**store.manifest.model, "hash": "another"})
    assert not train.is_there(RunStore(store.folder, other_model), gone.spec, settings)


def test_training_is_ready_beside_grid_dictionaries(store: RunStore) -> None:
    for id in MAIN:  # the tiny run does not note what its own dictionaries were made from
        found = train.load_dictionary(store.dictionary_folder(id))
        save_dictionary(found, store.dictionary_folder(id), train.made_from(store))
    assert train.state(pruned(store)) == "ready"


def test_pruning_again_finishes_what_was_stopped(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prune, "delete", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prune.run(prune.Args(store.folder))
    store = pruned(RunStore.open(store.folder))
    assert folders(store.folder / "dictionaries") == {*MAIN, *CONTROL, *TWINS}


def test_bad_use_removes_nothing(store: RunStore) -> None:
    before = folders(store.folder / "dictionaries")
    with pytest.raises(SpecError, match="layers"):
        pruned(store, "7")
    for pattern in ("L9-*", MAIN[0]):
        with pytest.raises(SpecError, match="not main"):
            pruned(store, "none", pattern)
    store.table_path("metrics", GONE[0]).unlink()
    with pytest.raises(DictionaryError, match=f"lose its weights.*{GONE[0]}.*precompute metrics"):
        pruned(store)
    store.update_manifest(dictionaries=tuple(replace(e, role="sweep", headline=False) for e in store.dictionaries))
    with pytest.raises(DictionaryError, match="main dictionaries"):
        pruned(store)
    assert folders(store.folder / "dictionaries") == before


def test_the_tables_that_the_paper_draws_stay(store: RunStore) -> None:
    paths = {name: store.table_path(name, GONE[0]) for name in (*prune.GRID_TABLES, "features")}
    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
        path.touch()
    pruned(store)
    assert {name for name, path in paths.items() if path.exists()} == {"metrics", "scores", "sides", "factors"}
