"""Dictionaries that standardise what they read, from SAELens' and mlsae's files to finished tables, and out again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from precompute.__main__ import main
from precompute.common import load_model
from precompute.steps import STEPS
from sae_core.corpus import load_windows
from sae_core.dictionaries import load_dictionary, read_metadata
from sae_core.interop import health
from sae_core.specs import Site
from sae_core.store import RunStore
from tests.foreign_files import parts, write_saelens
from tests.precompute.prepared_run import prepared_run

WIDTH, F, K = 16, 24, 4
IDS = ("L0-resid_post-saelens-r1.5-ln", "L1-resid_post-saelens-r1.5-ln", "L2-resid_post-mlsae-r1.5-k4-ml")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("foreign")
    for layer in (0, 1):
        hook = f"blocks.{layer}.hook_resid_post"
        config = {"hook_name": hook, "d_in": WIDTH, "d_sae": F, "normalize_activations": "layer_norm"}
        write_saelens(top / "ln" / hook, config, parts(layer, WIDTH, F))
    p = parts(2, WIDTH, F)
    tensors = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T, "pre_encoder_bias": p["b_dec"]}
    (top / "ml").mkdir()
    save_file({name: t.contiguous() for name, t in tensors.items()}, top / "ml" / "model.safetensors")
    (top / "ml" / "config.json").write_text(json.dumps({"k": K, "layers": [2]}))  # standardize is mlsae's default
    return top


def imported(run: Path, *arguments: str) -> int:
    return main(["import", "--run", str(run), "--health-tokens", "128", "--device", "cpu", *arguments])


@pytest.fixture(scope="module")
def store(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = prepared_run(tmp_path_factory.mktemp("prepared"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "SPLICED_TOKENS", 64)
        assert imported(run, "--from", f"saelens:{folders / 'ln'}", f"mlsae:{folders / 'ml'}") == 0
    return RunStore.open(run)


def acts_and_deviation(x: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """What the files' own projects call the activations of x [n, width], and the deviation of each x [n, 1]."""
    p = parts(layer, WIDTH, F)
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    pre = ((x - mean) / (std + 1e-5) - p["b_dec"]) @ p["W_enc"] + (p["b_enc"] if layer < 2 else 0)
    if layer < 2:
        return torch.relu(pre), std
    values, indices = pre.topk(K)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu()), std


def test_tables_hold_codes_in_the_units_of_the_activation(store: RunStore) -> None:
    assert tuple(entry.id for entry in store.dictionaries) == IDS
    assert {name: step.state(store) for name, step in STEPS.items()} == dict.fromkeys(STEPS, "ready")
    spec, model = store.manifest.spec, load_model(store, "cpu")
    tokens = load_windows(store.folder, "train").tokens[: spec.table_tokens // spec.context].astype(np.int64)
    for layer, id in enumerate(IDS):
        x = model.sites(torch.from_numpy(tokens), [Site(layer)])[Site(layer)].flatten(0, 1)
        acts, std = acts_and_deviation(x, layer)
        found = store.read("features", id)
        assert np.abs(found["n_active"].to_numpy() - (acts > 0).sum(0).numpy()).max() <= 2  # rounding at 0
        want = (std * acts).max(0).values.numpy()
        assert found["max_activation"].to_numpy() == pytest.approx(want, rel=2e-3) and (want > 1).any()
        assert not np.allclose(want, acts.max(0).values.numpy(), rtol=0.05)
        notes = read_metadata(store.dictionary_folder(id))["imported"]["notes"]
        assert any("times the standard deviation of the token's activation" in note for note in notes)


def test_out_again_it_is_the_same_folder(store: RunStore, tmp_path: Path, folders: Path) -> None:
    assert main(["export", "--run", str(store.folder), "--dictionary", IDS[1], "--to", f"saelens:{tmp_path}/out"]) == 0
    written = next((tmp_path / "out").rglob("cfg.json")).parent
    first = load_file(folders / "ln" / "blocks.1.hook_resid_post" / "sae_weights.safetensors")
    assert json.loads((written / "cfg.json").read_text())["normalize_activations"] == "layer_norm"
    assert_close(load_file(written / "sae_weights.safetensors"), first, rtol=0, atol=0)
    assert load_dictionary(written).hash == store.dictionary(IDS[1]).hash


def test_a_scale_is_refused_in_words(store: RunStore, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"saelens:{folders / 'ln' / 'blocks.0.hook_resid_post'}"
    assert imported(store.folder, "--from", place, "--scale", "2", "--only-import") == 2
    assert "which standardises them" in capsys.readouterr().err
