"""Dictionaries that standardise each activation before they read it, against SAELens' formulae written out again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sae_core.causal_tree import edited_target, parent_layer, relative_drops
from sae_core.corpus import load_windows
from sae_core.dictionaries import Dictionary, load_dictionary, save_dictionary, weights_hash
from sae_core.errors import DictionaryError
from sae_core.generation import Intervention, continuation
from sae_core.interop import health, saelens
from sae_core.interop.foreign import input_scaled, norm_scaled, with_threshold
from sae_core.intervention import (
    OPERATIONS,
    FeatureEdit,
    apply_edits,
    clean_run,
    edited_delta,
    falls_back_to_remove,
)
from sae_core.k_ensemble import KEnsemble
from sae_core.language_model import LanguageModel, load_language_model
from sae_core.metrics import measure
from sae_core.reproduction import transformer_lens_code
from sae_core.specs import DictionarySpec, ModelSpec, Site, TrainSpec
from sae_core.toy_data import TOY_SITE, ToyData, measure_on
from tests.foreign_files import WIDTH, F, as_dictionary, draw, largest, parts, write_saelens, x
from tests.tiny_model import random_dictionary

IDS = torch.randint(1, 260, (18,), generator=torch.Generator().manual_seed(4))
OTHER = torch.randint(1, 260, (18,), generator=torch.Generator().manual_seed(5))
LAYER_NORM, NORM = SETTINGS = ("layer_norm", "constant_norm_rescale")
SIGMA_IS = {LAYER_NORM: "standard deviation", NORM: "norm / sqrt(width)"}
both = pytest.mark.parametrize("setting", SETTINGS)
FORMS = {"standard": {}, "jumprelu": {"threshold": draw(F, seed=9).abs()}, "topk": {"k": 4}}


def standardising(setting: str = LAYER_NORM, **form: object) -> Dictionary:
    return Dictionary(Site(1), **parts(), normalize_activations=setting, **form)


def of_model(setting: str, layer: int = 1, seed: int = 0) -> Dictionary:
    """One for the tiny model, active on about a quarter of the tokens."""
    made = random_dictionary(Site(layer), seed=seed, tied=False)
    return replace(made, b_enc=made.b_enc + 0.3, normalize_activations=setting)


Decode = Callable[[Tensor], Tensor]


def in_saelens(d: Dictionary, rows: Tensor) -> tuple[Tensor, Decode]:
    """SAELens' activations of rows, and its decoder as it is after them, for a relu."""
    if d.normalize_activations == NORM:
        coefficient = rows.shape[-1] ** 0.5 / rows.norm(dim=-1, keepdim=True)
        acts = torch.relu((rows * coefficient - d.b_dec) @ d.W_enc + d.b_enc)
        return acts, lambda changed: (changed @ d.W_dec + d.b_dec) / coefficient
    mu = rows.mean(dim=-1, keepdim=True)
    centred = rows - mu
    std = centred.std(dim=-1, keepdim=True)
    acts = torch.relu((centred / (std + 1e-5) - d.b_dec) @ d.W_enc + d.b_enc)
    return acts, lambda changed: (changed @ d.W_dec + d.b_dec) * std + mu


def sigma(rows: Tensor, setting: str = LAYER_NORM) -> Tensor:
    return rows.std(dim=-1, keepdim=True) if setting == LAYER_NORM else rows.square().mean(-1, keepdim=True).sqrt()


# ---- the formula


@both
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_codes_and_reconstructions_by_hand(form: str, subtract: bool, setting: str) -> None:
    """Number by number, in Python's own arithmetic."""
    d, inputs = standardising(setting, **FORMS[form], apply_b_dec_to_input=subtract), x(12)
    codes, own = d.encode(inputs), d.in_own_units(inputs, d.encode(inputs))
    hats = d.reconstruct(inputs, codes)
    for row, found, same, hat in zip(inputs.tolist(), codes, own, hats, strict=True):
        mu, n, eps = (sum(row) / WIDTH, WIDTH - 1, 1e-5) if setting == LAYER_NORM else (0, WIDTH, 0)
        deviation = math.sqrt(sum((v - mu) ** 2 for v in row) / n)
        z = [(v - mu) / (deviation + eps) - float(b) * subtract for v, b in zip(row, d.b_dec, strict=True)]
        pre = [sum(z[i] * float(d.W_enc[i, f]) for i in range(WIDTH)) + float(d.b_enc[f]) for f in range(F)]
        acts = [max(0.0, p) for p in pre]
        if form == "jumprelu":
            acts = [a if a > float(t) else 0.0 for a, t in zip(acts, d.threshold, strict=True)]
        if form == "topk":
            acts = [a if a in sorted(acts)[-4:] else 0.0 for a in acts]
        assert found.tolist() == pytest.approx([deviation * a for a in acts], rel=1e-4, abs=1e-5)
        assert same.tolist() == pytest.approx(acts, rel=1e-4, abs=1e-5)
        rebuilt = [sum(a * float(d.W_dec[f, i]) for f, a in enumerate(acts)) + float(d.b_dec[i]) for i in range(WIDTH)]
        assert hat.tolist() == pytest.approx([deviation * v + mu for v in rebuilt], rel=1e-4, abs=1e-4)
    assert 0 < (codes != 0).float().mean() < 1
    for feature in range(F):
        assert_close(d.code(inputs, feature), codes[:, feature])


def test_codes_of_any_multiple_of_an_activation_are_that_multiple() -> None:
    d = standardising()
    assert_close(d.encode(7 * x() + 3), 7 * d.encode(x()), rtol=1e-3, atol=1e-3)
    flat = torch.full((1, WIDTH), 2.5)  # no deviation to divide by
    assert d.encode(flat).eq(0).all() and torch.equal(d.reconstruct(flat, d.encode(flat)), flat)


def test_only_the_direction_of_an_activation_is_read_where_its_norm_is_rescaled() -> None:
    d = standardising(NORM)
    assert_close(d.encode(7 * x()), 7 * d.encode(x()), rtol=1e-5, atol=1e-4)
    assert_close(d.encode(1e-9 * x()), 1e-9 * d.encode(x()), rtol=1e-5, atol=1e-13)  # no eps beside the norm
    assert (d.encode(x() + 3) - d.encode(x())).abs().max() > 0.5  # the mean is kept


@both
@pytest.mark.parametrize("form", FORMS)
def test_an_activation_of_zeros_has_no_codes_and_is_reconstructed(form: str, setting: str) -> None:
    """Where SAELens divides 0 by 0 for its norm: codes, codes in its units and reconstruction are 0, beside others."""
    d, zeros = standardising(setting, **FORMS[form]), torch.stack([torch.zeros(WIDTH), x(1)[0]])
    codes = d.encode(zeros)
    for found in (codes, d.in_own_units(zeros, codes), d.reconstruct(zeros, codes)):
        assert found[0].eq(0).all() and found[1].ne(0).any() and found.isfinite().all()
    assert d.code(zeros, 0)[0] == 0 and d.pre_activations(zeros).isfinite().all()


def test_where_the_eps_stands() -> None:
    """Beside the deviation when dividing, not inside a root, and not when multiplying: small activations tell."""
    d, small = standardising(), 1e-5 * x()
    acts, decode = in_saelens(d, small)
    assert_close(d.encode(small), sigma(small) * acts, rtol=1e-4, atol=1e-9)
    assert_close(d.reconstruct(small, d.encode(small)), decode(acts), rtol=1e-4, atol=1e-9)
    assert (in_saelens(d, x())[0] - acts).abs().max() > 0.5  # where it matters


def test_codes_alone_are_not_enough() -> None:
    with pytest.raises(DictionaryError, match=r"codes only.*reconstruct\(x, codes\)"):
        standardising().decode(torch.zeros(1, F))
    plain = replace(standardising(), normalize_activations="none")
    assert torch.equal(plain.reconstruct(x(), plain.encode(x())), plain.decode(plain.encode(x())))
    with pytest.raises(
        DictionaryError, match="normalize_activations out of none, layer_norm, constant_norm_rescale.*'constant'"
    ):
        replace(plain, normalize_activations="constant")


def test_the_hash_tells_and_is_as_before_for_all_others() -> None:
    plain = replace(standardising(), normalize_activations="none")
    assert plain.hash == weights_hash(parts())
    assert standardising().hash == weights_hash(parts() | {"layer_norm": torch.tensor(1e-5)})
    assert len({plain.hash, *(standardising(setting).hash for setting in SETTINGS)}) == 3


@both
@pytest.mark.parametrize("form", FORMS)
def test_folder_round_trip(form: str, setting: str, tmp_path: Path) -> None:
    d = standardising(setting, **FORMS[form])
    save_dictionary(d, tmp_path, {})
    assert json.loads((tmp_path / "cfg.json").read_text())["normalize_activations"] == setting
    loaded = load_dictionary(tmp_path)
    assert loaded.hash == d.hash and loaded.to("cpu").standardises
    assert torch.equal(loaded.encode(x()), d.encode(x()))


# ---- import


def load(folder: Path, tensors: dict[str, Tensor], setting: str, **changes: object) -> saelens.Foreign:
    metadata = {"hook_name": "blocks.3.hook_mlp_out", "sae_lens_version": "6.54.12"}
    config = {"d_in": WIDTH, "d_sae": F, "normalize_activations": setting, "metadata": metadata, **changes}
    return saelens.load(write_saelens(folder, config, tensors))[0]


def check(found: saelens.Foreign, acts: Tensor, decoded: Tensor) -> None:
    """acts, decoded: SAELens' own, of the standardised activations."""
    d, setting = as_dictionary(found), found.normalize_activations
    std, mu = sigma(x(), setting), x().mean(-1, keepdim=True) * (setting == LAYER_NORM)
    assert_close(d.encode(x()), std * acts, atol=5e-5, rtol=1e-5)
    assert_close(d.reconstruct(x(), d.encode(x())), decoded * std + mu, atol=2e-4, rtol=1e-5)
    assert found.notes[-1].startswith(f"{setting}: ")
    assert f"SAELens' times the {SIGMA_IS[setting]} of the token's activation" in found.notes[-1]


def standard_input(b_dec: Tensor, setting: str) -> Tensor:
    if setting == NORM:
        return x() * WIDTH**0.5 / x().norm(dim=-1, keepdim=True) - b_dec
    return (x() - x().mean(-1, keepdim=True)) / (sigma(x()) + 1e-5) - b_dec


@both
def test_import_of_every_architecture(tmp_path: Path, setting: str) -> None:
    p = parts() | {name: draw(F, seed=i) for i, name in enumerate(("b_gate", "b_mag", "r_mag"), 20)}
    inputs = standard_input(p["b_dec"], setting)
    u, norm = inputs @ p["W_enc"], p["W_dec"].norm(dim=1)
    acts = torch.relu(u + p["b_enc"])
    check(load(tmp_path / "s", p, setting, architecture="standard"), acts, acts @ p["W_dec"] + p["b_dec"])
    scaled = load(tmp_path / "f", p | {"scaling_factor": norm}, setting, finetuning_scaling_factor=True)
    check(scaled, acts, (acts * norm) @ p["W_dec"] + p["b_dec"])
    top = largest(torch.relu((u + p["b_enc"]) * norm), 4)
    found = load(tmp_path / "t", p, setting, architecture="topk", k=4, rescale_acts_by_decoder_norm=True)
    check(found, top, (top / norm) @ p["W_dec"] + p["b_dec"])
    acts = (u + p["b_gate"] > 0) * torch.relu(inputs @ (p["W_enc"] * p["r_mag"].exp()) + p["b_mag"])
    check(load(tmp_path / "g", p, setting, architecture="gated"), acts, acts @ p["W_dec"] + p["b_dec"])


@both
def test_what_is_given_at_import(tmp_path: Path, setting: str) -> None:
    """A factor would change nothing, so it is refused; a threshold is in the units of the files' own activations."""
    found = load(tmp_path, parts(), setting)
    for scaling in (input_scaled, norm_scaled):
        with pytest.raises(DictionaryError, match="a factor of 2.0 .*which standardises them.*would change nothing"):
            scaling(found, 2.0, "given")
    acts = torch.relu(standard_input(parts()["b_dec"], setting) @ parts()["W_enc"] + parts()["b_enc"])
    kept = acts * (acts > 0.7)
    codes = as_dictionary(with_threshold(found, 0.7, "given")).encode(x())
    assert_close(codes, sigma(x(), setting) * kept, atol=5e-5, rtol=1e-5)
    assert (kept != acts).any()


# ---- in the model


def hooked(model: LanguageModel, change: Callable[[Tensor], Tensor], ids: Tensor = IDS) -> Tensor:
    """Oracle: log-probabilities [t, V] of the Hugging Face model, block 1's output [t, d] changed."""

    def hook(module: object, inputs: object, output: object) -> object:
        whole = output if isinstance(output, Tensor) else output[0]
        new = change(whole[0])[None]
        return new if isinstance(output, Tensor) else (new, *output[1:])

    handle = model.hf_model.gpt_neox.layers[1].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model.hf_model(ids[None]).logits[0].log_softmax(-1)
    finally:
        handle.remove()


def activation(model: LanguageModel, ids: Tensor) -> Tensor:
    return model.sites(ids[None], [Site(1)])[Site(1)][0]


@both
@pytest.mark.parametrize("keep_error", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_edits_are_what_saelens_does_with_its_features(
    model: LanguageModel, operation: str, keep_error: bool, setting: str
) -> None:
    """Encode, change a feature, decode with the mean and deviation of the clean activation, add the error or not.

    Values are in the units of the activation: SAELens' times sigma.
    """
    d, value = of_model(setting), 1.3
    clean, patch = clean_run(model, d, IDS), clean_run(model, d, OTHER).codes
    feature = int((clean.codes > 0).float().mean(0).sub(0.5).abs().argmin())
    edit = FeatureEdit(feature, operation, value)

    def change(rows: Tensor) -> Tensor:
        acts, decode = in_saelens(d, rows)
        own, std = acts[:, feature], sigma(rows, setting)[:, 0]
        changed = acts.clone()
        changed[:, feature] = {
            "remove": 0 * own,
            "remove_to_threshold": 0 * own,
            "scale": own * value,
            "set": value / std,
            "add": own + value / std,
            "patch": patch[:, feature] / std,
        }[operation]
        return decode(changed) + (rows - decode(acts) if keep_error else 0)

    effect = apply_edits(model, d, clean, [edit], keep_error, patch_codes=patch)
    expected = hooked(model, change)
    assert (expected - effect.clean_logprobs).abs().max() > 0.01
    assert_close(effect.edited_logprobs, expected, rtol=1e-4, atol=1e-4)


@both
def test_removal_to_the_threshold_is_removal(model: LanguageModel, setting: str) -> None:
    """Moving x would change its mu and sigma, and so every pre-activation, not only along the feature."""
    d = of_model(setting)
    codes = d.encode(activation(model, IDS))
    feature = int(codes.gt(0).sum(0).argmax())
    deltas = [edited_delta(d, codes, [FeatureEdit(feature, each)]) for each in ("remove", "remove_to_threshold")]
    assert falls_back_to_remove(d, feature) and torch.equal(*deltas) and deltas[0].abs().max() > 0.01
    assert not falls_back_to_remove(replace(d, normalize_activations="none"), feature)


def spliced(d: Dictionary) -> Callable[[Tensor], Tensor]:
    def change(rows: Tensor) -> Tensor:
        acts, decode = in_saelens(d, rows)
        return decode(acts)

    return change


@both
def test_metrics_and_the_clean_run(model: LanguageModel, setting: str) -> None:
    d, rows = of_model(setting), activation(model, IDS)
    found = measure(model, [d], [IDS[None]])[0]
    error = rows - spliced(d)(rows)
    fvu = float(error.square().sum() / (rows - rows.mean(0)).square().sum())
    assert found.codes.fvu == pytest.approx(fvu, rel=1e-4)
    assert clean_run(model, d, IDS).fvu == pytest.approx(fvu, rel=1e-4)
    logprobs = hooked(model, spliced(d))
    loss = -logprobs[:-1].gather(-1, IDS[1:, None]).mean().item()
    assert found.losses.spliced == pytest.approx(loss, rel=1e-4) and abs(loss - found.losses.clean) > 0.01


@both
def test_a_continuation_without_the_error(model: LanguageModel, setting: str) -> None:
    """Each new token is the likeliest one of the whole sentence, x replaced by SAELens' reconstruction everywhere."""
    d, ids = of_model(setting), IDS.tolist()
    found = continuation(model, ids, 4, Intervention(d, (), keep_error=False))
    for _ in range(4):
        logprobs = hooked(model, spliced(d), torch.tensor(ids))
        ids.append(int(logprobs[-1, : model.n_tokens].argmax()))
    assert found == ids[len(IDS) :] != continuation(model, IDS.tolist(), 4)


@both
def test_causal_edges_between_two_of_them(model: LanguageModel, setting: str) -> None:
    """The parent's removal as SAELens does it, the child's code read anew from what comes out of the next block."""
    parent, child = of_model(setting), of_model(setting, 2, seed=2)
    resid = activation(model, IDS)
    target = edited_target(parent_layer(model, parent, child), resid)
    block = model.hf_model.gpt_neox.layers[2]
    last: list[Tensor] = []
    handle = block.register_forward_hook(
        lambda module, inputs, output: last.append((output if isinstance(output, Tensor) else output[0])[0, -1])
    )

    def without(feature: int) -> Callable[[Tensor], Tensor]:
        def change(rows: Tensor) -> Tensor:
            acts, decode = in_saelens(parent, rows)
            changed = acts.clone()
            changed[:, feature] = 0
            return decode(changed) + rows - decode(acts)

        return change

    try:
        for change in (lambda rows: rows, *(without(int(f)) for f in target.parents)):
            hooked(model, change)
    finally:
        handle.remove()
    codes = torch.stack([in_saelens(child, rows)[0] * sigma(rows, setting) for rows in last])
    feature = int(codes[0].argmax())
    expected = (codes[0, feature] - codes[1:, feature]) / codes[0, feature]
    found = relative_drops(child, feature, target)
    assert len(target.parents) > 5 and expected.abs().max() > 0.01
    assert_close(found, expected, rtol=1e-3, atol=1e-4)


@both
def test_toy_data_are_measured_with_reconstructions(setting: str) -> None:
    data = ToyData(width=WIDTH, n_ground_truth=12, active=3, batch_size=64)
    d = replace(standardising(setting), site=TOY_SITE)
    rows = torch.cat([batch[TOY_SITE] for batch in data.batches(0, 3)])
    error = (rows - spliced(d)(rows))[rows.any(1)]  # a sample of zeros has none, where SAELens' norm gives NaN
    fvu = float(error.square().sum() / (rows - rows.mean(0)).square().sum())
    assert measure_on(d, data, 0, 3).fvu == pytest.approx(fvu, rel=1e-4)


@both
def test_the_copied_script_does_what_saelens_does(
    model: LanguageModel, folder: Path, tmp_path: Path, setting: str
) -> None:
    d = of_model(setting)
    save_dictionary(d, tmp_path, {})
    feature = int(d.encode(activation(model, IDS)).gt(0).sum(0).argmax())
    edits, names = [FeatureEdit(feature, "scale", 4.0)], {}
    exec(transformer_lens_code(str(folder), str(tmp_path), d, "text", IDS.tolist(), edits, keep_error=False), names)

    def change(rows: Tensor) -> Tensor:
        acts, decode = in_saelens(d, rows)
        changed = acts.clone()
        changed[:, feature] *= 4
        return decode(changed)

    clean, edited = hooked(model, lambda rows: rows), hooked(model, change)
    expected = (clean.exp() * (clean - edited)).sum(-1)
    assert expected.max() > 0.01
    assert_close(names["kl"], expected, rtol=1e-3, atol=1e-5)
    zeros = torch.zeros(1, 2, d.width)
    codes = names["encode"](zeros)
    assert codes.eq(0).all() and names["reconstruct"](zeros, codes).eq(0).all()


# ---- the health check


def test_health_of_one_that_rescales_norms() -> None:
    """No scale of the input is better than another; a threshold is compared with SAELens' activations."""
    d = standardising(NORM)
    acts, decode = in_saelens(d, x())
    assert health.best_scale(d, x()).value == 1
    found = health.at_threshold(d, x(), d.encode(x()), 0.7)
    kept = acts * (acts > 0.7)
    fvu = float((x() - decode(kept)).square().sum() / (x() - x().mean(0)).square().sum())
    assert found.l0 == pytest.approx((kept > 0).sum().item() / len(x())) != (acts > 0).sum().item() / len(x())
    assert found.fvu == pytest.approx(fvu, rel=1e-4)


# ---- on one that was trained on standardised activations


@pytest.fixture(scope="module")
def miniature(repository: Path) -> LanguageModel:
    return load_language_model(ModelSpec(str(repository / "data" / "miniature" / "model")), "cpu")


@pytest.fixture(scope="module")
def trained(miniature: LanguageModel, repository: Path) -> Dictionary:
    site = Site(2)
    tokens = load_windows(repository / "data" / "miniature", "train").tokens[:24].astype(np.int64)
    rows = miniature.sites(torch.from_numpy(tokens), [site])[site][:, 1:].flatten(0, 1)
    rows = (rows - rows.mean(-1, keepdim=True)) / (sigma(rows) + 1e-5)
    settings = TrainSpec(tokens=150 * 512, batch_size=512, lr=2e-3, warmup_steps=10)
    ensemble = KEnsemble([DictionarySpec(site, "batchtopk", 2.0, k=16)], miniature.d_model, settings)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        ensemble.step(rows[torch.randint(len(rows), (512,), generator=generator)])
    return replace(ensemble.dictionaries()[0], normalize_activations="layer_norm")


def test_health(
    miniature: LanguageModel, trained: Dictionary, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SPLICED_TOKENS", 64)
    tokens = load_windows(repository / "data" / "miniature", "held_out").tokens[:5]
    batches = list(torch.from_numpy(tokens.astype(np.int64)).split(1))
    right = health.check(miniature, trained, batches, 16)
    assert right.fits, right.verdict
    assert right.scale.value == 1 and right.scale.fvu == pytest.approx(right.readings[0].fvu, abs=0.05)
    # The threshold that a loader lost is found in the dictionary's own units, in which import takes it.
    lost = replace(trained, threshold=None)
    found = health.check(miniature, lost, batches, 16)
    assert not found.fits and found.verdict.startswith("a threshold seems to be missing"), found.verdict
    assert found.threshold.value == pytest.approx(trained.threshold[0].item(), rel=0.2)
    mended = replace(lost, threshold=torch.full_like(lost.b_enc, found.threshold.value))
    assert health.check(miniature, mended, batches, 16).fits
    # Read as if it took activations as they are, it does not fit.
    assert not health.check(miniature, replace(trained, normalize_activations="none"), batches, 16).fits
