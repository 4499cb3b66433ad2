"""The step published: trained by the authors' recipe, scored, measured and patched as published, and not twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from precompute import train
from precompute.paper import ioi, published
from precompute.paper.published import Args
from sae_core.baselines import Linear, linear_spec
from sae_core.dictionaries import read_metadata, save_dictionary
from sae_core.errors import DictionaryError
from sae_core.ioi.prompts import prompt_pairs
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from sae_core.store import DictionaryEntry, RunStore
from tests.precompute.test_paper_ioi import whole_words
from tests.precompute.test_paper_rules import few_fragments_do
from tests.precompute.tiny_run import BATCH, tiny_run

ARGS = Args(alphas=(8.6e-4,), device="cpu", batch=BATCH)
ID = "L0-resid_post-tied-r2-a8.6e-4-published"
PCA = "L0-resid_post-pca-r2"


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """Two contexts more than one batch of training; few pairs and thresholds of the patching."""
    few_fragments_do(monkeypatch)
    monkeypatch.setattr(ioi, "THRESHOLDS", {"corrected": 2, "as-published": 2})
    monkeypatch.setattr(ioi, "prompt_pairs", lambda encode, n, seed: prompt_pairs(encode, 2, seed))
    run = tiny_run(tmp_path_factory.mktemp("published") / "run", n_contexts=66, density=0.2)
    rows = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(4)))[0]
    made = Linear(rows, rows, torch.zeros(32), {}).dictionary(linear_spec(Site(0), "pca"))
    save_dictionary(made, run.dictionary_folder(made.spec.id), {})
    entry = DictionaryEntry(made.spec.id, made.spec, 64, made.hash, "baseline")
    run.update_manifest(dictionaries=(*run.dictionaries, entry))
    return run


def test_the_step(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "encode", whole_words)
    assert published.state(store) == "missing"
    published.run(store, ARGS)
    assert published.state(store) == "ready"
    made = store.dictionary(ID)
    assert (made.role, made.headline, made.n_features, made.spec.variant) == ("baseline", False, 64, "published")
    settings = read_metadata(store.dictionary_folder(ID))["train"]
    expected = {"tokens": 2048, "batch_size": 2048, "lr": 1e-3, "warmup_steps": 0, "frozen_bias_correction": True}
    assert expected.items() <= settings.items()

    for id, n in ((ID, 64), (PCA, 32)):
        found = store.read("scores", id)
        assert set(found["setting"]) == {"as-published"} and found["feature"].nunique() == n
    told = store.read("moments_scores")
    told = told[told["dictionary"] == ID]
    assert set(told["setting"]) == {"as-published"} and {"skew_uncentred", "kurtosis_uncentred"} < set(told["moment"])
    curves = store.read("patching")
    assert set(curves["dictionary"]) == {ID, PCA} and set(curves["setting"]) == {"as-published"}
    assert set(curves["method"]) == {"sae", "pca", "pca_nonneg"}

    for module, name in ((train.passes, "trained"), (ioi, "dictionary_rows"), (published, "code_indexes")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("nothing is left to do"))
    published.run(store, ARGS)


def test_a_part_that_cannot_be_done_spares_the_others(store: RunStore, capsys: pytest.CaptureFixture) -> None:
    """The tiny tokenizer splits all names, so there is no patching."""
    published.run(store, replace(ARGS, layer=1))
    assert "published: ioi left out" in capsys.readouterr().err
    id = "L1-resid_post-tied-r2-a8.6e-4-published"
    assert store.table_state("scores", id) == "ready" and store.table_state("patching") == "missing"
    assert published.state(store) == "partial"


def test_a_run_without_headlines_is_told_what_to_do(store: RunStore) -> None:
    store.update_manifest(dictionaries=tuple(replace(e, headline=False) for e in store.dictionaries))
    with pytest.raises(DictionaryError, match="precompute metrics"):
        published.run(store, ARGS)
