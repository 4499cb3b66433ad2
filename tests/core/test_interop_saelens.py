"""SAELens folders of every version and architecture against SAELens' own formulae, and what must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sae_core.errors import DictionaryError, SpecError
from sae_core.interop import saelens
from sae_core.interop.foreign import site_of
from sae_core.intervention import falls_back_to_remove, to_threshold
from sae_core.specs import Site
from tests.foreign_files import WIDTH, F, as_dictionary, check, draw, largest, parts, write_saelens, x

HOOK = "blocks.3.hook_mlp_out"


def new_config(architecture: str = "standard", **more: object) -> dict:
    """cfg.json as SAELens 6 writes it."""
    metadata = {"hook_name": HOOK, "model_name": "pythia-70m-deduped", "prepend_bos": True, "context_size": 128,
                "sae_lens_version": "6.54.12"}  # fmt: skip
    return {
        "d_in": WIDTH, "d_sae": F, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none", "metadata": metadata,
        "architecture": architecture, **more,
    }  # fmt: skip


def load(folder: Path, config: dict, tensors: dict):
    return saelens.load(write_saelens(folder, config, tensors))[0]


def relu_codes(p: dict, inputs: torch.Tensor) -> torch.Tensor:
    return torch.relu((inputs - p["b_dec"]) @ p["W_enc"] + p["b_enc"])


@pytest.mark.parametrize("subtract", [True, False])
def test_standard(tmp_path: Path, subtract: bool) -> None:
    p = parts()
    found = load(tmp_path, new_config(apply_b_dec_to_input=subtract), p)
    codes = torch.relu((x() - p["b_dec"] * subtract) @ p["W_enc"] + p["b_enc"])
    dictionary = check(found, codes, codes @ p["W_dec"] + p["b_dec"])
    assert (dictionary.site.hook, found.model_name) == (HOOK, "pythia-70m-deduped")
    assert found.settings["prepend_bos"] is True and found.settings["context_size"] == 128
    norms = p["W_dec"].norm(dim=1)
    assert found.facts()["decoder_norm"]["max"] == pytest.approx(norms.max().item())  # kept, and told


def test_old_flat_config(tmp_path: Path) -> None:
    p = {name: tensor.half() for name, tensor in parts().items()}
    config = {
        "hook_point": "blocks.4.hook_resid_post", "hook_point_head_index": None, "activation_fn_str": "relu",
        "d_in": WIDTH, "d_sae": F, "model_name": "pythia-70m-deduped", "normalize_activations": False,
    }  # fmt: skip
    whole = {name: tensor.float() for name, tensor in p.items()}
    codes = relu_codes(whole, x())
    dictionary = check(load(tmp_path, config, p), codes, codes @ whole["W_dec"] + whole["b_dec"])
    assert dictionary.site.hook == "blocks.4.hook_resid_post" and dictionary.b_dec.dtype == torch.float32


def test_jumprelu_also_with_thresholds_below_0(tmp_path: Path) -> None:
    p = parts() | {"threshold": draw(F, seed=9)}
    h = (x() - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    codes = torch.relu(h) * (h > p["threshold"])
    check(load(tmp_path, new_config("jumprelu"), p), codes, codes @ p["W_dec"] + p["b_dec"])
    logged = {name: p[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")} | {"log_threshold": draw(F, seed=9)}
    codes = torch.relu(h) * (h > draw(F, seed=9).exp())
    check(load(tmp_path / "log", new_config("jumprelu"), logged), codes, codes @ p["W_dec"] + p["b_dec"])


def test_gated(tmp_path: Path) -> None:
    p = parts() | {name: draw(F, seed=i) for i, name in enumerate(("b_gate", "b_mag", "r_mag"), 20)}
    inputs = x() - p["b_dec"]
    gate = (inputs @ p["W_enc"] + p["b_gate"] > 0).float()
    codes = gate * torch.relu(inputs @ (p["W_enc"] * p["r_mag"].exp()) + p["b_mag"])
    del p["b_enc"]
    found = load(tmp_path, new_config("gated"), p)
    assert check(found, codes, codes @ p["W_dec"] + p["b_dec"]).architecture == "jumprelu"
    assert found.architecture == "gated" and "equal jumprelu" in found.notes[0]


def test_removal_to_the_threshold_of_a_gated_dictionary_ends_at_its_gate(tmp_path: Path) -> None:
    """Moving x against d by what to_threshold says brings the gate, or the magnitude if that ends first, to 0."""
    p = parts() | {name: draw(F, seed=i) for i, name in enumerate(("b_gate", "b_mag", "r_mag"), 20)}
    del p["b_enc"]
    dictionary, inputs, checked = as_dictionary(load(tmp_path, new_config("gated"), p)), x(), 0
    for feature in range(F):
        if falls_back_to_remove(dictionary, feature):
            continue
        codes = dictionary.encode(inputs)[:, feature]
        on = codes > 0
        moved = inputs[on] + (to_threshold(dictionary, feature, codes) - codes)[on, None] * p["W_dec"][feature]
        u = (moved - p["b_dec"]) @ p["W_enc"][:, feature]
        gate, magnitude = u + p["b_gate"][feature], u * p["r_mag"][feature].exp() + p["b_mag"][feature]
        torch.testing.assert_close(torch.minimum(gate, magnitude), torch.zeros(int(on.sum())), atol=1e-3, rtol=0)
        checked += int(on.sum())
    assert checked > 100


@pytest.mark.parametrize("rescale", [False, True])
def test_topk(tmp_path: Path, rescale: bool) -> None:
    p = parts()
    norm = p["W_dec"].norm(dim=1) if rescale else torch.ones(F)
    h = (x() - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    codes = largest(torch.relu(h * norm), 4)
    found = load(tmp_path, new_config("topk", k=4, rescale_acts_by_decoder_norm=rescale), p)
    check(found, codes, (codes / norm) @ p["W_dec"] + p["b_dec"])
    assert found.expected_k == 4


def test_topk_as_old_saelens_wrote_it(tmp_path: Path) -> None:
    p = parts()
    config = {"hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "d_in": WIDTH}
    codes = largest(relu_codes(p, x()), 3)
    check(load(tmp_path, config, p), codes, codes @ p["W_dec"] + p["b_dec"])


def test_finetuning_scaling_factor(tmp_path: Path) -> None:
    p, factor = parts(), 1 + draw(F, seed=3).abs()
    config = {"hook_point": HOOK, "finetuning_scaling_factor": True}
    codes = relu_codes(p, x())
    check(load(tmp_path, config, p | {"scaling_factor": factor}), codes, (codes * factor) @ p["W_dec"] + p["b_dec"])


def test_a_stored_scale_of_the_input_is_folded(tmp_path: Path) -> None:
    p = parts()
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 3.5}))
    found = load(tmp_path, new_config(normalize_activations="expected_average_only_in"), p)
    codes = relu_codes(p, 3.5 * x())
    check(found, codes, (codes @ p["W_dec"] + p["b_dec"]) / 3.5)
    bare = load(tmp_path / "bare", new_config(normalize_activations="expected_average_only_in"), p)
    check(bare, relu_codes(p, x()), relu_codes(p, x()) @ p["W_dec"] + p["b_dec"])  # as SAELens: none to apply
    assert "does not name" in bare.notes[0]
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": "a"}))
    with pytest.raises(DictionaryError, match="a factor above 0 .*'a'"):
        load(tmp_path, new_config(normalize_activations="expected_average_only_in"), p)


# ---- whitening


def whitening(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """As SAELens keeps it, but inverse_matrix is no inverse of matrix, so that each has to be used in its place."""
    own = {"mean": draw(WIDTH, seed=40), "matrix": 0.5 * draw(WIDTH, WIDTH, seed=41),
           "inverse_matrix": 0.5 * draw(WIDTH, WIDTH, seed=42)} | changes  # fmt: skip
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def load_whitened(folder: Path, config: dict, p: dict, **changes: torch.Tensor | None):
    folder.mkdir(exist_ok=True)
    save_file(whitening(**changes), folder / "activation_whitening.safetensors")
    return load(folder, config | {"normalize_activations": "covariance_whitening"}, p)


def check_whitened(found, codes: torch.Tensor, decoded: torch.Tensor) -> None:
    """codes, decoded: of the whitened activations."""
    w = whitening()
    dictionary = check(found, codes, decoded @ w["inverse_matrix"] + w["mean"])
    assert not dictionary.standardises and not dictionary.apply_b_dec_to_input
    assert found.notes[-1].startswith("covariance_whitening: ") and "folded into the weights" in found.notes[-1]


@pytest.mark.parametrize("subtract", [True, False])
def test_whitening_is_folded_for_every_architecture(tmp_path: Path, subtract: bool) -> None:
    p = parts() | {name: draw(F, seed=i) for i, name in enumerate(("b_gate", "b_mag", "r_mag", "threshold"), 20)}
    w, common = whitening(), {"apply_b_dec_to_input": subtract}
    inputs = (x() - w["mean"]) @ w["matrix"] - p["b_dec"] * subtract
    u, norm = inputs @ p["W_enc"], p["W_dec"].norm(dim=1)
    h, codes = u + p["b_enc"], torch.relu(u + p["b_enc"])
    check_whitened(load_whitened(tmp_path / "s", new_config(**common), p), codes, codes @ p["W_dec"] + p["b_dec"])
    tuned = load_whitened(
        tmp_path / "f", new_config(**common, finetuning_scaling_factor=True), p | {"scaling_factor": norm}
    )
    check_whitened(tuned, codes, (codes * norm) @ p["W_dec"] + p["b_dec"])
    codes = torch.relu(h) * (h > p["threshold"])
    found = load_whitened(tmp_path / "j", new_config("jumprelu", **common), p)
    check_whitened(found, codes, codes @ p["W_dec"] + p["b_dec"])
    codes = (u + p["b_gate"] > 0) * torch.relu(inputs @ (p["W_enc"] * p["r_mag"].exp()) + p["b_mag"])
    check_whitened(
        load_whitened(tmp_path / "g", new_config("gated", **common), p), codes, codes @ p["W_dec"] + p["b_dec"]
    )
    codes = largest(torch.relu(h * norm), 4)  # norms of the decoder as it was before it is unwhitened
    found = load_whitened(tmp_path / "t", new_config("topk", k=4, rescale_acts_by_decoder_norm=True, **common), p)
    check_whitened(found, codes, (codes / norm) @ p["W_dec"] + p["b_dec"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "a tensor mean in .*activation_whitening.safetensors.*inverse_matrix, matrix"),
        ({"matrix": draw(WIDTH, WIDTH + 1)}, r"matrix of shape \[6, 6\] in .*activation_whitening.*\[6, 7\]"),
        ({"inverse_matrix": draw(WIDTH - 1, WIDTH - 1)}, r"inverse_matrix of shape \[6, 6\].*\[5, 5\]"),
        ({"mean": torch.zeros(1)}, r"mean of shape \[6\] in .*\[1\]"),
        ({"mean": torch.full((WIDTH,), torch.nan)}, "finite numbers in mean of .*activation_whitening"),
    ],
)
def test_a_whitening_that_does_not_fit_is_a_sentence(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DictionaryError, match=message):
        load_whitened(tmp_path, new_config(), parts(), **changes)


def test_whitening_beside_weights_that_do_not_fit_or_cut_short(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"W_enc of shape \[6, 20\].*\[5, 20\]"):
        load_whitened(tmp_path, new_config(), parts() | {"W_enc": draw(WIDTH - 1, F)})
    file = tmp_path / "activation_whitening.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DictionaryError, match="whole safetensors in .*activation_whitening"):
        load(tmp_path, new_config(normalize_activations="covariance_whitening"), parts())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "transcoder"}, "transcoder"),
        ({"architecture": "skip_transcoder"}, "transcoder"),
        ({"metadata": {"hook_name": HOOK, "hook_name_out": "blocks.3.hook_resid_post"}}, "a transcoder"),
        ({"architecture": "batchtopk"}, "architecture .*'batchtopk'.*for inference"),
        ({"architecture": "temporal"}, "architecture .*'temporal'"),
        ({"normalize_activations": "covariance_whitening"}, "no readable activation_whitening.safetensors.*folds"),
        (
            {"normalize_activations": "constant_scalar_rescale"},
            "none, expected_.*layer_norm.*'constant_scalar_rescale'",
        ),
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"reshape_activations": "hook_z"}, "reshaped heads"),
        ({"architecture": "topk"}, "a whole number k"),
        ({"architecture": "jumprelu"}, "a tensor threshold"),
    ],
)
def test_what_cannot_be_had_exactly_is_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DictionaryError, match=message):
        load(tmp_path, new_config() | changes, parts())


def test_skip_weights_make_a_transcoder(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="a transcoder"):
        load(tmp_path, new_config(), parts() | {"W_skip": draw(WIDTH, WIDTH)})


def test_shapes_and_numbers_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"b_enc of shape \[20\].*\[19\]"):
        as_dictionary(load(tmp_path, new_config(), parts() | {"b_enc": draw(F - 1)}))
    with pytest.raises(DictionaryError, match="finite numbers in W_enc"):
        as_dictionary(load(tmp_path, new_config(), parts() | {"W_enc": torch.full((WIDTH, F), torch.nan)}))


def test_broken_files_are_sentences(tmp_path: Path) -> None:
    file = write_saelens(tmp_path, new_config(), parts())
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DictionaryError, match="whole safetensors"):
        saelens.load(file)
    (tmp_path / "cfg.json").write_text("[1]")
    with pytest.raises(DictionaryError, match="a JSON object"):
        saelens.load(file)


def test_centred_writing_weights_mean_the_centred_space(tmp_path: Path) -> None:
    config = new_config()
    config["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    assert load(tmp_path, config, parts()).space == "centred"


def test_resid_pre_is_the_layer_before(tmp_path: Path) -> None:
    site, note = site_of("blocks.3.hook_resid_pre", "raw")
    assert site.hook == "blocks.2.hook_resid_post" and "same tensor" in note
    with pytest.raises(SpecError, match="hook_z"):
        site_of("blocks.0.attn.hook_z", "raw")
    assert site_of("blocks.0.hook_resid_pre", "centred", learned_positions=True) == (Site(-1, "embed", "centred"), "")


def test_the_embedding_module_alone_is_the_stream_only_without_learned_positions() -> None:
    site, note = site_of("hook_embed", "raw")
    assert site == Site(-1, "embed") and note == "hook_embed is the same tensor as blocks.0.hook_resid_pre"
    with pytest.raises(SpecError, match="embedding . positions.*hook_embed, the embedding alone"):
        site_of("hook_embed", "raw", learned_positions=True)
