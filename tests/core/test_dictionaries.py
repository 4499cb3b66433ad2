"""Dictionaries: the formula, the SAELens folder, and every way a folder can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.dictionaries import Dictionary, load_dictionary, read_metadata, save_dictionary, weights_hash
from sae_core.errors import DictionaryError, SpecError
from sae_core.specs import DictionarySpec, Site

WIDTH, F = 4, 6
SITE = Site(2, "mlp_out")


def tied() -> Dictionary:
    rows = torch.nn.functional.normalize(torch.randn(F, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    spec = DictionarySpec(SITE, "tied", F / WIDTH, 8.6e-4)
    return Dictionary(SITE, rows.T, torch.linspace(-0.3, 0.1, F), rows, torch.zeros(WIDTH), spec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_dictionary(tied(), tmp_path / "d", {"model_name": "m", "context_size": 256})
    return tmp_path / "d"


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = {**load_file(folder / "sae_weights.safetensors"), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "sae_weights.safetensors")


def test_encode_and_decode_are_the_formula() -> None:
    dictionary, x = tied(), torch.randn(3, 2, WIDTH)
    codes = dictionary.encode(x)
    for i in range(3):
        for j in range(2):
            for f in range(F):
                pre = sum(x[i, j, k] * dictionary.W_dec[f, k] for k in range(WIDTH)) + dictionary.b_enc[f]
                assert codes[i, j, f].item() == pytest.approx(max(pre.item(), 0.0), abs=1e-5)
    expected = sum(codes[..., f, None] * dictionary.W_dec[f] for f in range(F))
    torch.testing.assert_close(dictionary.decode(codes), expected)
    assert dictionary.tied and (dictionary.n_features, dictionary.width) == (F, WIDTH)


def test_decoder_bias_follows_saelens() -> None:
    b_dec, x = torch.arange(4.0), torch.randn(5, WIDTH)
    dictionary = replace(tied(), b_dec=b_dec)
    torch.testing.assert_close(dictionary.encode(x), tied().encode(x - b_dec))
    torch.testing.assert_close(dictionary.decode(torch.zeros(1, F)), b_dec[None])
    free = replace(dictionary, apply_b_dec_to_input=False)
    torch.testing.assert_close(free.encode(x), tied().encode(x))


def test_wrong_width_is_a_sentence() -> None:
    with pytest.raises(DictionaryError, match="activations of width 4.*width 5"):
        tied().encode(torch.randn(2, 5))


def test_round_trip(folder: Path) -> None:
    loaded = load_dictionary(folder)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(loaded, name), getattr(tied(), name))
    assert (loaded.spec, loaded.site, loaded.tied, loaded.hash) == (tied().spec, SITE, True, tied().hash)
    assert read_metadata(folder)["context_size"] == 256
    assert not list(folder.glob("*.tmp"))


def test_the_folder_is_what_saelens_6_expects(folder: Path) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    wanted = {
        "architecture": "standard",
        "d_in": WIDTH,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    assert {k: v for k, v in config.items() if k != "metadata"} == wanted
    metadata = config["metadata"]
    assert metadata["hook_name"] == "blocks.2.hook_mlp_out" and metadata["model_name"] == "m"
    assert metadata["sae_lens_version"].startswith("6.") and metadata["prepend_bos"] is False
    shapes = {k: tuple(v.shape) for k, v in load_file(folder / "sae_weights.safetensors").items()}
    assert shapes == {"W_enc": (WIDTH, F), "b_enc": (F,), "W_dec": (F, WIDTH), "b_dec": (WIDTH,)}


def test_reads_a_flat_folder_of_old_saelens(tmp_path: Path) -> None:
    weights = {"W_enc": torch.randn(3, 7), "b_enc": torch.randn(7), "W_dec": torch.randn(7, 3), "b_dec": torch.randn(3)}
    save_file({k: v.half() for k, v in weights.items()}, tmp_path / "sae_weights.safetensors")
    config = {"hook_point": "blocks.4.hook_resid_post", "d_in": 3, "d_sae": 7, "activation_fn_str": "relu"}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    found = load_dictionary(tmp_path)
    assert found.site == Site(4) and found.spec is None and not found.tied
    x = torch.randn(2, 3)
    expected = torch.relu((x - weights["b_dec"].half()) @ weights["W_enc"].half().float() + weights["b_enc"].half())
    torch.testing.assert_close(found.encode(x), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gated"}, "architecture `standard`, `jumprelu`, `topk`.*'gated'"),
        ({"architecture": "jumprelu"}, r"the tensors .*'threshold'.*no \['threshold'\]"),
        ({"architecture": "topk"}, "a whole number k in .*None"),
        ({"architecture": "topk", "k": 7}, "a k from 1 to 6.*7"),
        (
            {"architecture": "topk", "k": 2, "rescale_acts_by_decoder_norm": True},
            "rescale_acts_by_decoder_norm `False`",
        ),
        ({"activation_fn_str": "topk"}, "activation_fn `relu`.*topk"),
        (
            {"normalize_activations": "covariance_whitening"},
            "normalize_activations `none`, `layer_norm`, `constant_norm_rescale`.*covariance_whitening",
        ),
        ({"normalize_activations": True}, "normalize_activations .*expected_average_only_in"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor `False`.*True"),
        ({"reshape_activations": "hook_z"}, "reshape_activations"),
        ({"d_in": 5}, r"W_enc of shape \[5, 6\].*\[4, 6\]"),
        ({"metadata": {}}, "a hook_name"),
    ],
)
def test_foreign_settings_are_refused(folder: Path, changes: dict, message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(DictionaryError, match=message):
        load_dictionary(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_dec": torch.zeros(F, WIDTH + 1)}, "W_dec of shape"),
        ({"b_enc": None}, "no \\['b_enc'\\]"),
        ({"W_enc": torch.full((WIDTH, F), torch.nan)}, "finite numbers in W_enc"),
    ],
)
def test_wrong_tensors_are_refused(folder: Path, changes: dict, message: str) -> None:
    edit_tensors(folder, **changes)
    with pytest.raises(DictionaryError, match=message):
        load_dictionary(folder)


def test_missing_truncated_and_foreign_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="no readable cfg.json"):
        load_dictionary(tmp_path / "nowhere")
    weights = folder / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DictionaryError, match="whole safetensors"):
        load_dictionary(folder)
    weights.unlink()
    with pytest.raises(DictionaryError, match="no readable sae_weights"):
        load_dictionary(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(DictionaryError, match="JSON in"):
        load_dictionary(folder)


def test_a_hook_without_a_site_is_refused(folder: Path) -> None:
    edit_config(folder, metadata={"hook_name": "blocks.0.attn.hook_z"})
    with pytest.raises(SpecError, match="hook_z"):
        load_dictionary(folder)


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="finite"):
        save_dictionary(replace(tied(), b_enc=torch.full((F,), torch.inf)), tmp_path / "d", {})
    assert not (tmp_path / "d").exists()


def test_hash_follows_the_weights_only() -> None:
    a, b = torch.randn(2, 3), torch.randn(3)
    assert weights_hash({"a": a, "b": b}) == weights_hash({"b": b.clone(), "a": a.clone()})
    assert weights_hash({"a": a, "b": b}) != weights_hash({"a": a + 1e-3, "b": b})
    assert weights_hash({"a": a}) != weights_hash({"a": a.reshape(3, 2)})


# ---- jumprelu and topk


def jumping() -> Dictionary:
    return replace(tied(), threshold=torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 5.0]), b_dec=0.1 * torch.arange(4.0))


def topk() -> Dictionary:
    return replace(tied(), k=2)


def test_jumprelu_keeps_what_is_above_its_threshold() -> None:
    dictionary, x = jumping(), 2 * torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1))
    pre, codes = dictionary.pre_activations(x), dictionary.encode(x)
    for row, kept in zip(pre.tolist(), codes.tolist(), strict=True):
        wanted = [p if p > max(t, 0) else 0 for p, t in zip(row, dictionary.threshold.tolist(), strict=True)]
        assert kept == pytest.approx(wanted)
    between = (pre > 0) & (pre <= dictionary.threshold)
    assert between.any() and (codes[between] == 0).all() and dictionary.architecture == "jumprelu"


def test_topk_by_brute_force() -> None:
    dictionary, x = topk(), torch.randn(3, 20, WIDTH, generator=torch.Generator().manual_seed(1))
    dense, codes = tied().encode(x).flatten(0, 1), dictionary.encode(x).flatten(0, 1)
    for row, kept in zip(dense.tolist(), codes.tolist(), strict=True):
        assert kept == [v if sorted(row, reverse=True).index(v) < 2 else 0.0 for v in row]
    assert dictionary.architecture == "topk" and codes.ne(0).sum(1).max() == 2


@pytest.mark.parametrize("make", [tied, jumping, topk])
def test_one_code_is_a_column_of_encode(make) -> None:
    dictionary, x = make(), torch.randn(3, 9, WIDTH, generator=torch.Generator().manual_seed(2))
    for feature in range(F):
        torch.testing.assert_close(dictionary.code(x, feature), dictionary.encode(x)[..., feature])


@pytest.mark.parametrize("make", [jumping, topk])
def test_other_architectures_survive_the_folder(make, tmp_path: Path) -> None:
    dictionary, x = make(), torch.randn(30, WIDTH)
    save_dictionary(dictionary, tmp_path, {})
    loaded = load_dictionary(tmp_path)
    torch.testing.assert_close(loaded.encode(x), dictionary.encode(x))
    assert loaded.hash == dictionary.hash != tied().hash
    config = json.loads((tmp_path / "cfg.json").read_text())
    own = {"k": 2, "rescale_acts_by_decoder_norm": False} if make is topk else {}
    general = {"d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations"}
    general |= {"reshape_activations", "metadata", "architecture"}
    assert config["architecture"] == dictionary.architecture and set(config) == general | set(own)
    assert own.items() <= config.items()
    assert ("threshold" in load_file(tmp_path / "sae_weights.safetensors")) == (make is jumping)


def test_topk_as_old_saelens_wrote_it(folder: Path) -> None:
    edit_config(folder, activation_fn_str="topk", activation_fn_kwargs={"k": 2})
    x = torch.randn(10, WIDTH)
    torch.testing.assert_close(load_dictionary(folder).encode(x), topk().encode(x))


def test_metadata_never_overrules_what_the_file_says_itself(folder: Path) -> None:
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    edit_config(folder, metadata={**metadata, "architecture": "gated", "normalize_activations": "layer_norm", "k": 2})
    assert load_dictionary(folder).hash == tied().hash


def test_centred_writing_weights_mean_the_centred_space(folder: Path) -> None:
    edit_config(folder, metadata={"hook_name": "blocks.2.hook_mlp_out",
                                  "model_from_pretrained_kwargs": {"center_writing_weights": True}})  # fmt: skip
    assert load_dictionary(folder).site == replace(SITE, space="centred")


def test_k_and_threshold_count_in_the_hash() -> None:
    assert len({tied().hash, topk().hash, replace(tied(), k=3).hash, jumping().hash}) == 4
    with pytest.raises(DictionaryError, match="a k from 1 to 6.*0"):
        replace(tied(), k=0)
