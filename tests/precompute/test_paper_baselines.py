"""The step `baselines` on a tiny run: what it lists, skips and reports, and that other steps take it as any other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from precompute import features, metrics, train
from precompute.common import load_entry, load_model
from precompute.paper import baselines
from precompute.paper.reinitialised import make_reinitialised
from sae_core.corpus import load_windows
from sae_core.dictionaries import read_metadata
from sae_core.ensemble import Ensemble
from sae_core.errors import DictionaryError, SpecError
from sae_core.specs import COMPARISON_KINDS, TrainSpec
from sae_core.store import RunStore
from tests.precompute.tiny_run import tiny_run

ARGS = baselines.Args(layers="1", tokens=800, ica_vectors=600, device="cpu", batch=4)
MEASURE = metrics.Args(64, "cpu", 4)
D = 32


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with metrics, whose headline dictionaries say how they were trained."""
    store = tiny_run(tmp_path_factory.mktemp("fresh") / "run")
    settings = train.Args(
        layers="0,1", alphas=(1e-3,), ratio=1, tokens=960, batch_size=96, warmup_steps=2, device="cpu"
    )
    store.update_manifest(dictionaries=())
    train.run(store, settings)
    metrics.run(store, MEASURE)
    return store.folder


@pytest.fixture(scope="module")
def fitted(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(fresh, tmp_path_factory.mktemp("fitted") / "run")
    baselines.run(RunStore.open(folder), ARGS)
    return folder


@pytest.fixture
def store(fitted: Path, tmp_path: Path) -> RunStore:
    return RunStore.open(shutil.copytree(fitted, tmp_path / "run"))


def comparison(store: RunStore) -> dict[str, str]:
    return {e.id: e.role for e in store.dictionaries if e.spec.is_comparison}


def test_every_kind_is_listed_as_a_baseline(store: RunStore) -> None:
    k = max(1, round(float(store.read("metrics", store.headline(1).id)["l0"].iloc[0])))
    kinds = ("identity-r2", "random-r2", "pca-r2", "ica-r2", f"pca_topk-r2-k{k}", f"ica_topk-r2-k{k}")
    frozen = tuple(f"frozen-r1-a{alpha}" for alpha in ("5e-4", "1e-3", "2e-3"))
    wanted = {f"L1-resid_post-{kind}" for kind in (*kinds, *frozen)}
    assert comparison(store) == dict.fromkeys(wanted, "baseline")
    for id in wanted:
        entry = store.dictionary(id)
        found = load_entry(store, entry)
        assert (found.hash, found.n_features, found.spec) == (entry.hash, entry.n_features, entry.spec)
    assert train.state(store) == "ready"


def test_pca_is_that_of_the_training_text(store: RunStore) -> None:
    """Oracle: numpy's SVD of the activations of all training contexts, which 960 asked tokens would be."""
    baselines.run(store, replace(ARGS, kinds="pca", tokens=10**9))
    entry = next(e for e in store.dictionaries if e.spec.kind == "pca")
    model, found = load_model(store, "cpu"), load_entry(store, entry)
    ids = torch.from_numpy(load_windows(store.folder, "train").tokens.astype(np.int64))
    x = model.sites(ids, [entry.spec.site])[entry.spec.site].flatten(0, 1).double().numpy()
    np.testing.assert_allclose(found.b_dec, x.mean(0), atol=1e-5)
    _, _, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    cosines = np.abs((found.W_dec[:D].double().numpy() * rows).sum(1))
    assert cosines[:10] == pytest.approx([1.0] * 10, abs=1e-4)
    assert read_metadata(store.dictionary_folder(entry.id))["found"]["n_vectors"] == len(x)


def test_ica_says_how_it_went(store: RunStore) -> None:
    facts = read_metadata(store.dictionary_folder("L1-resid_post-ica-r2"))
    assert facts["train_tokens"] == facts["found"]["n_vectors"] == 576  # 18 whole contexts of at most 600 vectors
    assert isinstance(facts["found"]["converged"], bool) and facts["found"]["n_iter"] <= 200


def test_the_frozen_decoder_is_not_trained(store: RunStore) -> None:
    entry = store.dictionary("L1-resid_post-frozen-r1-a1e-3")
    start = Ensemble([entry.spec], D, TrainSpec(seed=0)).dictionaries()[0]
    found = load_entry(store, entry)
    assert torch.equal(found.W_dec, start.W_dec) and not torch.equal(found.W_enc, start.W_enc)


def test_what_is_there_is_skipped(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (baselines, train):
        monkeypatch.setattr(module, "load_model", lambda *args: pytest.fail("nothing is left to fit"))
    baselines.run(store, ARGS)


def test_state_tells_missing_partial_ready_and_stale(store: RunStore, fresh: Path) -> None:
    assert baselines.state(RunStore.open(fresh)) == "missing"
    assert baselines.state(store) == "partial"
    baselines.run(store, replace(ARGS, layers="0"))
    assert baselines.state(store) == "ready"
    store.update_manifest(model={**store.manifest.model, "hash": "another"})
    assert baselines.state(store) == "stale"


def test_metrics_keep_roles_and_measure_them(store: RunStore) -> None:
    before = {e.id: (e.role, e.headline) for e in store.dictionaries}
    metrics.run(store, MEASURE)
    assert {e.id: (e.role, e.headline) for e in store.dictionaries} == before
    values = {id: store.read("metrics", id).iloc[0] for id in comparison(store)}
    assert values["L1-resid_post-identity-r2"]["fvu"] < 1e-9 and values["L1-resid_post-pca-r2"]["fvu"] < 1e-9
    assert values["L1-resid_post-identity-r2"]["l0"] == pytest.approx(D)
    topk = next(v for id, v in values.items() if "pca_topk" in id)
    assert topk["l0"] <= store.dictionary(topk["dictionary"]).spec.k and 0 < topk["fvu"] < 1


def test_tables_on_request_as_for_any_dictionary(store: RunStore) -> None:
    baselines.run(store, replace(ARGS, tables="identity"))
    metrics.run(store, MEASURE)
    id = "L1-resid_post-identity-r2"
    assert store.dictionary(id).role == "main" and not store.dictionary(id).headline
    features.run(store, features.Args("cpu", 4))
    shares = store.read("features", id)["density"].to_numpy()
    # A coordinate is above 0, below 0, or (hardly ever) 0: its two sides share the tokens.
    assert shares[:D] + shares[D:] == pytest.approx(np.ones(D), abs=0.01)


def test_a_fit_that_fails_is_a_sentence_and_the_rest_goes_on(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    store = RunStore.open(shutil.copytree(fresh, tmp_path / "run"))
    vectors = baselines.Fitter._vectors

    def still(self, site):
        x = vectors(self, site)
        x[:, 3] = 1.0
        return x

    monkeypatch.setattr(baselines.Fitter, "_vectors", still)
    baselines.run(store, replace(ARGS, kinds="ica,ica_topk,pca,identity"))
    assert {e.spec.kind for e in store.dictionaries} == {"tied", "pca", "identity"}
    said = capsys.readouterr()
    assert "no ica for blocks.1.hook_resid_post" in said.out + said.err
    assert "1 of 32 coordinates constant" in said.out + said.err
    assert baselines.state(store) == "partial"


def test_the_control_run_has_another_model_and_the_same_text(fresh: Path, tmp_path: Path) -> None:
    store = RunStore.open(fresh)
    settings = [baselines.like(store, store.headline(1), "cpu")]
    other = make_reinitialised(store, tmp_path / "control", 0, settings)
    assert other.manifest.corpus == store.manifest.corpus
    assert other.manifest.model["hash"] != store.manifest.model["hash"]
    assert other.headline(1) is not None and metrics.state(other) == "ready" and train.state(other) == "ready"
    assert other.vocabulary().tolist() == store.vocabulary().tolist()
    old, new = (load_model(each, "cpu").hf_model.state_dict() for each in (store, other))
    for name, tensor in old.items():
        assert not torch.equal(new[name], tensor) or tensor.std() == 0, name
        torch.testing.assert_close(new[name].mean(), tensor.mean(), rtol=0, atol=1.0 * float(tensor.std()) + 1e-6)
    large = old["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"], new["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    assert large[1].std() == pytest.approx(float(large[0].std()), rel=0.05)
    assert make_reinitialised(store, tmp_path / "control", 0, settings).dictionaries == other.dictionaries


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kinds": "nmf"}, SpecError, "kinds out of.*nmf"),
        ({"layers": "2"}, DictionaryError, "headline dictionaries in the layers 2"),
        ({"layers": "9"}, SpecError, "layers from 0 to 2"),
        ({"sites": "resid_mid", "kinds": "identity"}, SpecError, "a site out of"),
    ],
)
def test_bad_settings_are_sentences(store: RunStore, changes: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        baselines.run(store, replace(ARGS, **changes))


def test_all_kinds_are_made_by_default() -> None:
    assert baselines.Args().kinds.split(",") == list(COMPARISON_KINDS)
