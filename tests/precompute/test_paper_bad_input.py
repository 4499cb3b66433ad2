"""`paper` as a whole on a run on which much cannot be had: sentences, no traceback, and the rest goes on."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from precompute import __main__ as command
from precompute import features, metrics
from precompute.common import load_entry
from precompute.paper import PAPER_STEPS, baselines
from sae_core.dictionaries import save_dictionary
from sae_core.specs import Site
from sae_core.store import DictionaryEntry, RunStore
from tests.precompute.tiny_run import BATCH, CONTEXT, tiny_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Eight contexts, a tokenizer that splits all names, one dictionary with no live feature, one with alpha 0."""
    run = tiny_run(tmp_path_factory.mktemp("bad") / "run", n_contexts=8, density=0.3)
    first = load_entry(run, run.headline(0))
    dead = replace(first, b_enc=torch.full_like(first.b_enc, -1e6), spec=replace(first.spec, alpha=0.5))
    free = replace(first, spec=replace(first.spec, alpha=0.0))
    for made in (dead, free):
        save_dictionary(made, run.dictionary_folder(made.spec.id), {})
        entry = DictionaryEntry(made.spec.id, made.spec, made.n_features, made.hash, "sweep")
        run.update_manifest(dictionaries=(*run.dictionaries, entry))
    metrics.run(run, metrics.Args(metric_tokens=CONTEXT, device="cpu", batch=BATCH))
    features.run(run, features.Args(device="cpu", batch=BATCH))
    return run


@pytest.fixture
def constant_coordinate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinate of layer 1 that never changes."""
    plain = baselines.Fitter._vectors

    def vectors(self: baselines.Fitter, site: Site) -> torch.Tensor:
        x = plain(self, site)
        x[:, 3] = 1.0 if site.layer == 1 else x[:, 3]
        return x

    monkeypatch.setattr(baselines.Fitter, "_vectors", vectors)


def test_every_step_ends_in_a_table_or_a_sentence(
    store: RunStore, constant_coordinate: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("SAE_EXPLAINER_MODEL", "SAE_SIMULATOR_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    steps = {name: step for name, step in PAPER_STEPS.items() if name != "toy"}  # needs no run, and takes long
    monkeypatch.setattr(command, "PAPER_STEPS", steps)
    assert command.main(["paper", "--run", str(store.folder)]) == 0
    told = capsys.readouterr()
    said = told.out + told.err
    assert "Traceback" not in said
    assert [f"== {name}:" in told.out for name in steps] == [True] * len(steps)

    assert "no ica for blocks.1.hook_resid_post: Expected activations that vary in every coordinate" in said
    assert "ioi left out: Expected a tokenizer that keeps at least" in said
    assert "published left out: Expected tokens for at least one batch" in said
    run = RunStore.open(store.folder)
    kinds = {(entry.spec.site.layer, entry.spec.kind) for entry in run.dictionaries}
    assert {(1, "pca"), (1, "random"), (0, "ica"), (0, "pca_topk")} <= kinds and (1, "ica") not in kinds
    skipped = [run.read("scores", entry.id) for entry in run.dictionaries]
    assert all(len(rows) == 2 * entry.n_features for rows, entry in zip(skipped, run.dictionaries, strict=True))
    assert pd.concat(skipped)["skipped"].all() and "no feature is active often enough for a rule" in said
    assert run.table_state("across_layers", run.headline(0).id) == "ready"
