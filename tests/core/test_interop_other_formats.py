"""sparsify, the authors' learned_dicts.pt and mlsae against their formulae, and the traps that loaders fell into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core.errors import DictionaryError
from sae_core.interop import learned_dicts, mlsae, sparsify
from sae_core.interop.learned_dicts import STAND_INS
from tests.foreign_files import WIDTH, F, as_dictionary, check, draw, largest, parts, write_sparsify, x

# ---- sparsify


def sparse_coder() -> dict[str, Tensor]:
    p = parts()
    return {"encoder.weight": p["W_enc"].T, "encoder.bias": p["b_enc"], "W_dec": p["W_dec"], "b_dec": p["b_dec"]}


CONFIG = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": F, "k": 4, "signed": False, "d_in": WIDTH}


def load_sparsify(folder: Path, config: dict, tensors: dict | None = None):
    return sparsify.load(write_sparsify(folder, config, tensors or sparse_coder()))[0]


@pytest.mark.parametrize("normalize_decoder", [True, False])
def test_trap_sparsify_decoder_is_not_transposed_and_b_dec_always_subtracted(
    tmp_path: Path, normalize_decoder: bool
) -> None:
    s = sparse_coder()
    codes = largest(torch.relu((x() - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"]), 4)
    found = load_sparsify(tmp_path / "layers.1", {**CONFIG, "normalize_decoder": normalize_decoder, "multi_topk": True})
    check(found, codes, codes @ s["W_dec"] + s["b_dec"])
    assert torch.equal(as_dictionary(found).W_dec, s["W_dec"]) and as_dictionary(found).apply_b_dec_to_input


def test_trap_sparsify_keeps_the_precision_of_its_file(tmp_path: Path) -> None:
    found = load_sparsify(tmp_path / "layers.1", CONFIG)
    assert torch.equal(as_dictionary(found).W_enc, sparse_coder()["encoder.weight"].T)  # not rounded to bfloat16


@pytest.mark.parametrize(
    ("hookpoint", "hook"),
    [
        ("layers.3", "blocks.3.hook_resid_post"),
        ("layers.3.mlp", "blocks.3.hook_mlp_out"),
        ("gpt_neox.layers.0.attention", "blocks.0.hook_attn_out"),
        ("embed_tokens", "hook_embed"),
        ("anything", ""),
    ],
)
def test_trap_sparsify_mlp_and_attention_are_places_of_their_own(tmp_path: Path, hookpoint: str, hook: str) -> None:
    assert load_sparsify(tmp_path / hookpoint, CONFIG).hook == hook


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transcode": True}, "a transcoder"),
        ({"skip_connection": True}, "a transcoder"),
        ({"activation": "groupmax"}, "groupmax"),
        ({"signed": True}, "signed"),
        ({"k": None}, "a whole number k"),
        ({"num_latents": 7}, "7 latents"),
        ({"num_latents": 0}, "192 latents"),  # 6 x 32
    ],
)
def test_other_sparse_coders_are_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DictionaryError, match=message):
        load_sparsify(tmp_path, {**CONFIG, **changes})


def test_skip_weights_of_sparsify_make_a_transcoder(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="a transcoder"):
        load_sparsify(tmp_path, CONFIG, sparse_coder() | {"W_skip": draw(WIDTH, WIDTH)})


# ---- learned_dicts.pt


def entry(name: str, **attributes: object) -> object:
    """An object as the authors' classes pickle it: its class by module and name, its attributes."""
    stand_in = next(c for c in STAND_INS if c.__name__ == name)
    found = stand_in()
    found.__dict__.update(attributes)
    return found


def write_sweep(file: Path, *entries: object, **options: object) -> Path:
    """Write as if the authors' modules were there: pickle looks classes up by module and name."""
    import sys
    import types

    file.parent.mkdir(parents=True, exist_ok=True)
    modules = {name: types.ModuleType(name) for name in {"autoencoders", *(c.__module__ for c in STAND_INS)}}
    for c in STAND_INS:
        setattr(modules[c.__module__], c.__name__, c)
    sys.modules.update(modules)
    try:
        torch.save(list(entries), file, **options)
    finally:
        for name in modules:
            del sys.modules[name]
    return file


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-8)


def tied_oracle(e: object, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """LearnedDict.predict of TiedSAE: centre, encode, decode, uncentre."""
    t, rotation, s = e.center_trans, e.center_rot, e.center_scale
    y = torch.einsum("cu,bu->bc", rotation, inputs - t) * s
    encoder = unit(e.encoder) if e.norm_encoder else e.encoder
    codes = torch.relu(y @ encoder.T + e.encoder_bias)
    return codes, torch.einsum("cu,bc->bu", rotation, (codes @ unit(e.encoder)) / s) + t


@pytest.mark.parametrize("norm_encoder", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_tied_with_centring(tmp_path: Path, norm_encoder: bool, legacy: bool) -> None:
    rotation = torch.linalg.qr(draw(WIDTH, WIDTH))[0]
    e = entry(
        "TiedSAE", encoder=draw(F, WIDTH), encoder_bias=draw(F, seed=1), norm_encoder=norm_encoder, n_feats=F,
        activation_size=WIDTH, center_trans=draw(WIDTH), center_rot=rotation, center_scale=0.5 + draw(WIDTH).abs(),
    )  # fmt: skip
    file = tmp_path / "tied_residual_l2_r6" / "_63" / "learned_dicts.pt"
    write_sweep(file, (e, {"l1_alpha": 8.6e-4, "dict_size": F}), _use_new_zipfile_serialization=not legacy)
    found = learned_dicts.load(file)[0]
    check(found, *tied_oracle(e, x()))
    assert (found.hook, found.space, found.alpha) == ("blocks.2.hook_resid_post", "centred", 8.6e-4)
    assert found.settings["dict_size"] == F


def test_a_rotation_that_is_none_is_folded_as_it_is(tmp_path: Path) -> None:
    e = entry("TiedSAE", encoder=draw(F, WIDTH), encoder_bias=draw(F, seed=1), norm_encoder=True,
              center_trans=draw(WIDTH), center_rot=draw(WIDTH, WIDTH), center_scale=torch.ones(WIDTH))  # fmt: skip
    check(learned_dicts.load(write_sweep(tmp_path / "a.pt", (e, {})))[0], *tied_oracle(e, x()))


def test_old_files_lack_the_centring(tmp_path: Path) -> None:
    e = entry("TiedSAE", encoder=draw(F, WIDTH), encoder_bias=draw(F, seed=1), norm_encoder=True)
    found = learned_dicts.load(write_sweep(tmp_path / "learned_dicts.pt", (e, {})))[0]
    codes = torch.relu(x() @ unit(e.encoder).T + e.encoder_bias)
    assert check(found, codes, codes @ unit(e.encoder)).tied and found.hook == ""


def test_untied_and_a_sweep_with_classes_that_are_left_out(tmp_path: Path) -> None:
    e = entry("UntiedSAE", encoder=draw(F, WIDTH), decoder=draw(F, WIDTH, seed=3), encoder_bias=draw(F, seed=1))
    other = entry("RandomDict", encoder=draw(F, WIDTH), encoder_bias=torch.zeros(F))
    file = tmp_path / "untied_mlp_l1_r4" / "_7" / "learned_dicts.pt"
    found = learned_dicts.load(write_sweep(file, (e, {"l1_alpha": 1e-3}), (e, {"l1_alpha": 3e-3}), (other, {})))
    codes = torch.relu(x() @ e.encoder.T + e.encoder_bias)
    check(found[0], codes, codes @ unit(e.decoder))
    assert [f.alpha for f in found] == [1e-3, 3e-3] and "RandomDict" in found[0].notes[0]
    assert (found[0].hook, found[0].space) == ("blocks.1.mlp.hook_post", "raw")  # neurons have no mean to remove
    with pytest.raises(DictionaryError, match="only RandomDict"):
        learned_dicts.load(write_sweep(tmp_path / "r.pt", (other, {})))


@pytest.mark.parametrize(
    ("folder", "hook"),
    [
        ("tied_mlpout_l3_r4", "blocks.3.hook_mlp_out"),
        ("tied_attn_concat_l3_r4", "blocks.3.attn.hook_z"),  # refused later, as no site
        ("tied_attn_l3_r4", "blocks.3.hook_resid_post"),  # an oddity of the authors' own table
    ],
)
def test_places_of_the_authors_folders(tmp_path: Path, folder: str, hook: str) -> None:
    e = entry("TiedSAE", encoder=draw(F, WIDTH), encoder_bias=draw(F, seed=1), norm_encoder=True)
    found = learned_dicts.load(write_sweep(tmp_path / folder / "learned_dicts.pt", (e, {})))[0]
    assert found.hook == hook and bool(found.notes) == (folder == "tied_attn_l3_r4")
    assert learned_dicts.hook_of(Path("pythia-70m-deduped_r4_gpt_neox.layers.4.pt")) == "blocks.4.hook_resid_post"


def test_a_scale_of_0_cannot_be_undone(tmp_path: Path) -> None:
    e = entry("TiedSAE", encoder=draw(F, WIDTH), encoder_bias=draw(F, seed=1), center_scale=torch.zeros(WIDTH))
    with pytest.raises(DictionaryError, match="center_scale of 0"):
        learned_dicts.load(write_sweep(tmp_path / "z.pt", (e, {})))


# ---- mlsae


def write_mlsae(folder: Path, prefix: str = "", **changes: object) -> Path:
    p = parts()
    tensors = {"encoder.weight": p["W_enc"].T, "decoder.weight": p["W_dec"].T, "pre_encoder_bias": p["b_dec"]}
    folder.mkdir(exist_ok=True)
    save_file({prefix + name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    config = {"n_inputs": WIDTH, "n_latents": F, "k": 3, "standardize": False, "layers": [2], **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder / "model.safetensors"


@pytest.mark.parametrize("prefix", ["", "autoencoder."])
def test_mlsae(tmp_path: Path, prefix: str) -> None:
    p = parts()
    pre = (x() - p["b_dec"]) @ p["W_enc"]
    codes = torch.zeros_like(pre).scatter(-1, pre.topk(3).indices, pre.topk(3).values).relu()
    found = mlsae.load(write_mlsae(tmp_path, prefix))[0]
    check(found, codes, codes @ p["W_dec"] + p["b_dec"])
    assert found.hook == "blocks.2.hook_resid_post"
    assert mlsae.load(write_mlsae(tmp_path, layers=[0, 1, 2]))[0].hook == ""


@pytest.mark.parametrize("standardize", [True, None])  # None: not in the file, so mlsae's own default
def test_mlsae_that_standardises(tmp_path: Path, standardize: bool | None) -> None:
    """MLSAE.forward: standardize (std with n - 1, eps outside it), encode, decode, times std plus mean."""
    p = parts()
    found = mlsae.load(write_mlsae(tmp_path, standardize=standardize))[0]
    mean = x().mean(dim=-1, keepdim=True)
    std = (x() - mean).std(dim=-1, keepdim=True)
    latents = ((x() - mean) / (std + 1e-5) - p["b_dec"]) @ p["W_enc"]
    values, indices = latents.topk(3)
    sparse = torch.zeros_like(latents).scatter(-1, indices, values.relu())
    dictionary = as_dictionary(found)
    codes = dictionary.encode(x())
    torch.testing.assert_close(codes, std * sparse, atol=2e-5, rtol=1e-5)
    recons = (sparse @ p["W_dec"] + p["b_dec"]) * std + mean
    torch.testing.assert_close(dictionary.reconstruct(x(), codes), recons, atol=5e-5, rtol=1e-5)
    assert "mlsae's times the standard deviation" in found.notes[0]


@pytest.mark.parametrize("flag", ["lens", "tuned_lens"])
def test_mlsae_with_a_transformation_of_each_layer_is_refused(tmp_path: Path, flag: str) -> None:
    with pytest.raises(DictionaryError, match=f"{flag} true, a transformation"):
        mlsae.load(write_mlsae(tmp_path, **{flag: True}))
