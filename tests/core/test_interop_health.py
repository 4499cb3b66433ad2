"""The health check on the shipped miniature's dictionaries: right ones pass, each wrong one gets its own verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.corpus import load_windows
from sae_core.dictionaries import Dictionary, load_dictionary
from sae_core.interop import health
from sae_core.interop.health import Fit, Reading
from sae_core.k_ensemble import KEnsemble
from sae_core.language_model import LanguageModel, load_language_model
from sae_core.specs import DictionarySpec, ModelSpec, Site, TrainSpec

RESID, LAST = "L2-resid_post-tied-r4-a3.2e-2", "L5-resid_post-tied-r4-a1.3e-1"


@pytest.fixture(scope="module")
def run_folder(repository: Path) -> Path:
    return repository / "data" / "miniature"


@pytest.fixture(scope="module")
def model(run_folder: Path) -> LanguageModel:
    return load_language_model(ModelSpec(str(run_folder / "model")), "cpu")


@pytest.fixture(scope="module")
def load(run_folder: Path) -> Callable[[str], Dictionary]:
    return lambda id: load_dictionary(run_folder / "dictionaries" / id)


@pytest.fixture(scope="module")
def batches(run_folder: Path) -> list[torch.Tensor]:
    tokens = load_windows(run_folder, "held_out").tokens[:5]
    return list(torch.from_numpy(tokens.astype(np.int64)).split(1))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SPLICED_TOKENS", 64)


def times(dictionary: Dictionary, factor: float) -> Dictionary:
    """The same dictionary made for activations that are `factor` times as large."""
    return replace(dictionary, b_enc=factor * dictionary.b_enc, b_dec=factor * dictionary.b_dec)


@pytest.mark.parametrize("id", [RESID, LAST, "L2-attn_out-tied-r4-a8e-3", "L2-mlp_post-untied-r1-a1e-3"])
def test_right_ones_pass(id: str, model: LanguageModel, load: Callable, batches: list) -> None:
    found = health.check(model, load(id), batches)
    named = found.readings[0]
    assert found.fits, found.verdict
    assert found.verdict.startswith(f"fits {load(id).site.hook}, raw, FVU {named.fvu:.2f}")
    assert named.named and named.fvu == min(r.fvu for r in found.readings if r.space == "raw")
    assert named.ce_recovered > 0.5 and found.n_tokens == 5 * 256


def test_wrong_hook(model: LanguageModel, load: Callable, batches: list) -> None:
    found = health.check(model, replace(load(RESID), site=Site(3)), batches)
    assert not found.fits
    assert found.verdict.startswith("fits blocks.2.hook_resid_post, ")
    assert f"at the hook you named (blocks.3.hook_resid_post, raw) {found.readings[0].fvu:.2f}" in found.verdict


def test_wrong_space(model: LanguageModel, load: Callable, batches: list) -> None:
    """Only in the last layer of the miniature is the mean over d large enough to matter."""
    found = health.check(model, replace(load(LAST), site=Site(5, "resid_post", "centred")), batches)
    assert not found.fits
    assert found.verdict.startswith("fits blocks.5.hook_resid_post, raw, FVU 0.")
    assert "in the space you named (blocks.5.hook_resid_post, centred)" in found.verdict


def test_wrong_scale(model: LanguageModel, load: Callable, batches: list) -> None:
    found = health.check(model, times(load(RESID), 11.3), batches)
    assert not found.fits and "blocks.2.hook_resid_post, raw if activations are multiplied by" in found.verdict
    assert found.scale.value == pytest.approx(11.3, rel=0.3)
    assert found.scale.fvu < 0.4 < found.readings[0].fvu


def test_wrong_scale_the_other_way_is_told_by_its_codes(model: LanguageModel, load: Callable, batches: list) -> None:
    """Too large an input costs no FVU: only the biases that are not at rest, and the codes, tell."""
    found = health.check(model, times(load(RESID), 0.1), batches)
    assert not found.fits and "more sparsely" in found.verdict
    assert found.scale.value == pytest.approx(0.1, rel=0.5)


@pytest.fixture(scope="module")
def batchtopk(model: LanguageModel, run_folder: Path) -> Dictionary:
    """A BatchTopK dictionary with its threshold, trained for a few seconds: none is shipped."""
    site = Site(2)
    tokens = torch.from_numpy(load_windows(run_folder, "train").tokens[:24].astype(np.int64))
    x = model.sites(tokens, [site])[site][:, 1:].flatten(0, 1)
    settings = TrainSpec(tokens=150 * 512, batch_size=512, lr=2e-3, warmup_steps=10)
    ensemble = KEnsemble([DictionarySpec(site, "batchtopk", 2.0, k=16)], model.d_model, settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        ensemble.step(x[torch.randint(len(x), (512,), generator=generator)])
    return ensemble.dictionaries()[0]


def test_missing_threshold(model: LanguageModel, batchtopk: Dictionary, batches: list) -> None:
    right = health.check(model, batchtopk, batches, 16)
    assert right.fits, right.verdict
    lost = replace(batchtopk, threshold=None)
    found = health.check(model, lost, batches, 16)
    assert not found.fits and found.readings[0].l0 > 32
    assert found.verdict.startswith("a threshold seems to be missing: L0 is"), found.verdict
    assert "where training aimed at 16" in found.verdict and found.threshold.l0 == pytest.approx(16, rel=0.01)
    assert found.threshold.value == pytest.approx(batchtopk.threshold[0].item(), rel=0.2)
    # The threshold it names mends it.
    mended = replace(batchtopk, threshold=torch.full_like(lost.b_enc, found.threshold.value))
    assert health.check(model, mended, batches, 16).fits


def test_places_fit_the_width_and_the_layers(model: LanguageModel, load: Callable) -> None:
    names = {(site.hook, site.space) for site in health.places(load(LAST), model)}
    hooks = {"blocks.5.hook_resid_post", "blocks.4.hook_resid_post", "blocks.5.hook_mlp_out", "blocks.5.hook_attn_out"}
    assert names == {(hook, space) for hook in hooks for space in ("raw", "centred")}
    neurons = health.places(load("L2-mlp_post-untied-r1-a1e-3"), model)
    assert {(site.name, site.space) for site in neurons} == {("mlp_post", "raw")}
    assert {site.layer for site in neurons} == {1, 2, 3}
    first = {site.hook for site in health.places(replace(load(LAST), site=Site(0)), model)}
    assert "blocks.0.hook_resid_pre" in first
    embedding = [site.hook for site in health.places(replace(load(LAST), site=Site(-1, "embed")), model)]
    assert embedding == ["blocks.0.hook_resid_pre"] * 2 + ["blocks.0.hook_resid_post"] * 2


def test_scale_fit_by_brute_force(model: LanguageModel, load: Callable, batches: list) -> None:
    """at_scale's spread, FVU and L0, feature by feature."""
    dictionary = load(RESID)
    x = health.activations(model, dictionary.site, batches, 300)
    spread, fit = health.at_scale(dictionary, x, 1.5)
    codes = dictionary.encode(1.5 * x) / 1.5
    error = x - codes @ dictionary.W_dec
    means = []
    for j in range(512):
        on = codes[:, j] > 0
        if on.sum() > health.MIN_ACTIVE:
            means.append((error[on] @ dictionary.W_dec[j] / dictionary.W_dec[j].norm()).mean().item())
    low, high = np.quantile(means, [0.25, 0.75])
    assert spread == pytest.approx(high - low, rel=1e-3) and len(means) > health.MIN_ACTIVE
    assert fit.fvu == pytest.approx(float(error.square().sum() / (x - x.mean(0)).square().sum()), rel=1e-4)
    assert fit.l0 == pytest.approx((codes > 0).sum().item() / 300)


# ---- the verdict alone

HERE = Reading("blocks.2.hook_resid_post", "raw", 0.2, 30.0, 0.9, True)
NO_SCALE, NO_THRESHOLD = Fit(1.0, 0.2, 30.0), Fit(0.0, 0.2, 30.0)


def judge(*readings: Reading, scale: Fit = NO_SCALE, threshold: Fit = NO_THRESHOLD, k: int | None = None):
    dictionary = Dictionary(Site(2), torch.zeros(8, 9), torch.zeros(9), torch.zeros(9, 8), torch.zeros(8))
    wide = replace(dictionary, W_dec=torch.zeros(9, 64), W_enc=torch.zeros(64, 9), b_dec=torch.zeros(64))
    return health.judge(readings, scale, threshold, wide, k)


def test_small_differences_do_not_count() -> None:
    other = replace(HERE, hook="blocks.1.hook_resid_post", fvu=0.19, named=False)
    assert judge(HERE, other)[0]
    assert judge(replace(HERE, fvu=0.02), replace(other, fvu=0.001))[0]  # both reconstruct


def test_nothing_fits() -> None:
    other = replace(HERE, hook="blocks.1.hook_resid_post", fvu=0.95, named=False)
    fits, words = judge(replace(HERE, fvu=1.4), other)
    assert not fits
    assert words == "fits none of the places tried: FVU 0.95 at best, 1.40 at blocks.2.hook_resid_post, raw"


def test_far_more_codes_than_training_aimed_at() -> None:
    assert judge(HERE, k=32)[0]
    fits, words = judge(replace(HERE, l0=210.0), k=32)
    assert not fits and "missing: L0 is 210 at blocks.2.hook_resid_post, raw, where training aimed at 32" in words
    fits, words = judge(replace(HERE, l0=70.0))
    assert not fits and "more than the 64 coordinates" in words


def test_the_explanation_that_mends_most_is_given() -> None:
    bad = replace(HERE, fvu=0.9)
    other = replace(HERE, hook="blocks.1.hook_resid_post", fvu=0.5, named=False)
    assert "multiplied by 10" in judge(bad, other, scale=Fit(10.0, 0.1, 30.0))[1]
    assert judge(bad, other, scale=Fit(10.0, 0.6, 30.0))[1].startswith("fits blocks.1")
    assert "threshold" in judge(bad, other, threshold=Fit(0.3, 0.2, 30.0))[1]
