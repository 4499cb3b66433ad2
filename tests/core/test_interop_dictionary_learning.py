"""dictionary_learning's classes against their formulae, and the traps that loaders of its files fell into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_core.errors import DictionaryError
from sae_core.interop import dictionary_learning
from sae_core.interop.foreign import Foreign, with_threshold
from tests.foreign_files import WIDTH, F, as_dictionary, check, draw, largest, parts, write_ae, x

RESID = {"trainer": {"submodule_name": "resid_post_layer_3", "lm_name": "EleutherAI/pythia-70m-deduped"}}


def linear(bias: str | None) -> dict[str, Tensor]:
    """encoder.weight [F, d], encoder.bias, decoder.weight [d, F] and a bias of the given name."""
    p = parts()
    state = {"encoder.weight": p["W_enc"].T.contiguous(), "encoder.bias": p["b_enc"],
             "decoder.weight": p["W_dec"].T.contiguous()}  # fmt: skip
    return state | ({bias: p["b_dec"]} if bias else {})


def load(folder: Path, state: dict, config: dict | None = None) -> Foreign:
    return dictionary_learning.load(write_ae(folder, state, config))[0]


def encoded(state: dict, shift: Tensor | float = 0.0) -> Tensor:
    return torch.relu((x() - shift) @ state["encoder.weight"].T + state["encoder.bias"])


def decoded(state: dict, codes: Tensor, bias: str) -> Tensor:
    return codes @ state["decoder.weight"].T + state[bias]


def test_autoencoder(tmp_path: Path) -> None:
    state = linear("bias")
    codes = encoded(state, state["bias"])
    found = load(tmp_path, state, RESID)
    dictionary = check(found, codes, decoded(state, codes, "bias"))
    assert (found.architecture, dictionary.site.hook) == ("AutoEncoder", "blocks.3.hook_resid_post")
    assert found.model_name == "EleutherAI/pythia-70m-deduped"


def test_trap_autoencoder_new_has_a_bias_that_is_not_subtracted(tmp_path: Path) -> None:
    state = linear("decoder.bias")
    codes = encoded(state)
    found = load(tmp_path, state, RESID)
    assert not check(found, codes, decoded(state, codes, "decoder.bias")).apply_b_dec_to_input
    assert found.architecture == "AutoEncoderNew"


def test_gated(tmp_path: Path) -> None:
    state = linear("decoder_bias") | {n: draw(F, seed=i) for i, n in enumerate(("r_mag", "gate_bias", "mag_bias"), 7)}
    u = (x() - state["decoder_bias"]) @ state["encoder.weight"].T
    codes = (u + state["gate_bias"] > 0) * torch.relu(state["r_mag"].exp() * u + state["mag_bias"])
    del state["encoder.bias"]
    assert load(tmp_path, state).architecture == "GatedAutoEncoder"
    check(load(tmp_path, state), codes, decoded(state, codes, "decoder_bias"))


def topk_state(threshold: float) -> dict[str, Tensor]:
    return linear("b_dec") | {"k": torch.tensor(4, dtype=torch.int32), "threshold": torch.tensor(threshold)}


def named(form: str) -> dict:
    return {"trainer": {**RESID["trainer"], "dict_class": form}}


def test_topk_and_its_other_form(tmp_path: Path) -> None:
    state = topk_state(1.25)
    dense = encoded(state, state["b_dec"])
    found = load(tmp_path, state, named("AutoEncoderTopK"))
    codes = largest(dense, 4)
    check(found, codes, decoded(state, codes, "b_dec"))
    other = dense * (dense > 1.25)
    check(with_threshold(found, found.stored_threshold, "asked"), other, decoded(state, other, "b_dec"))


def test_trap_batchtopk_threshold_is_kept(tmp_path: Path) -> None:
    state = topk_state(1.25)
    dense = encoded(state, state["b_dec"])
    codes = dense * (dense > 1.25)
    found = load(tmp_path, state, named("BatchTopKSAE"))
    assert check(found, codes, decoded(state, codes, "b_dec")).architecture == "jumprelu"
    assert found.expected_k == 4
    # Without a configuration the threshold tells: -1 was never set, so it is not BatchTopK's.
    assert load(tmp_path / "a", state).architecture == "BatchTopKSAE"
    assert load(tmp_path / "b", topk_state(-1.0)).architecture == "AutoEncoderTopK"


def test_batchtopk_without_a_threshold_counts_every_positive_code_and_says_so(tmp_path: Path) -> None:
    state = topk_state(-1.0)
    codes = encoded(state, state["b_dec"])
    found = load(tmp_path, state, named("BatchTopKSAE"))
    check(found, codes, decoded(state, codes, "b_dec"))
    assert "not set" in found.notes[0]


def test_trap_matryoshka_and_jumprelu_have_other_names(tmp_path: Path) -> None:
    p = parts()
    h = torch.relu((x() - p["b_dec"]) @ p["W_enc"] + p["b_enc"])
    codes = h * (h > 0.75)
    more = {"k": torch.tensor(4), "threshold": torch.tensor(0.75), "group_sizes": torch.tensor([8, 12])}
    found = load(tmp_path / "m", p | more, named("MatryoshkaBatchTopKSAE"))
    check(found, codes, codes @ p["W_dec"] + p["b_dec"])
    assert found.architecture == "MatryoshkaBatchTopKSAE"

    threshold = draw(F, seed=3).abs()
    h = x() @ p["W_enc"] + p["b_enc"]
    codes = torch.relu(h * (h > threshold))
    found = load(tmp_path / "j", p | {"threshold": threshold}, named("JumpReluAutoEncoder"))
    check(found, codes, codes @ p["W_dec"] + p["b_dec"])
    assert not as_dictionary(found).apply_b_dec_to_input


def test_trap_the_decoder_is_never_rescaled_silently(tmp_path: Path) -> None:
    """AutoEncoder.from_pretrained normalises the decoder and scales codes by default; the file's own units are kept."""
    state = linear("bias")
    found = load(tmp_path, state, RESID)
    assert torch.equal(as_dictionary(found).W_dec, state["decoder.weight"].T)
    norms = state["decoder.weight"].norm(dim=0)
    told = found.facts()["decoder_norm"]
    assert (told["min"], told["max"]) == pytest.approx((norms.min().item(), norms.max().item()))
    theirs = encoded(state, state["bias"]) * norms  # the codes after normalising
    ours = as_dictionary(found).encode(x())
    torch.testing.assert_close(ours * as_dictionary(found).W_dec.norm(dim=1), theirs, atol=1e-4, rtol=1e-5)


def test_trap_an_interrupted_run_is_not_a_state_dict(tmp_path: Path) -> None:
    state = linear("bias")
    saved = {"step": 10, "ae": state, "optimizer": {"state": {}}, "config": RESID["trainer"], "norm_factor": 2.5}
    scaled = state | {"encoder.bias": 2.5 * state["encoder.bias"], "bias": 2.5 * state["bias"]}
    codes = encoded(scaled, scaled["bias"])
    found = load(tmp_path, saved)
    check(found, codes, decoded(scaled, codes, "bias"))
    assert found.hook == "blocks.3.hook_resid_post" and "2.5" in found.notes[0]


@pytest.mark.parametrize(
    ("folder", "config", "hook"),
    [
        ("resid_out_layer3/10_32768", None, "blocks.3.hook_resid_post"),  # of Marks: the output of layer 3
        ("attn_out_layer2/10_32768", None, "blocks.2.hook_attn_out"),
        ("mlp_out_layer0/10_32768", None, "blocks.0.hook_mlp_out"),
        ("embed/10_32768", None, "hook_embed"),
        ("resid_post_layer_4/trainer_7", None, "blocks.4.hook_resid_post"),
        ("somewhere", {"trainer": {"submodule_name": "mlp_out_layer_5"}}, "blocks.5.hook_mlp_out"),
        ("somewhere", {"submodule_name": "resid_post_layer_1"}, "blocks.1.hook_resid_post"),  # flat, as old ones
        ("somewhere", {"trainer": {"submodule_name": "gpt_neox.layers.2.mlp"}}, "blocks.2.hook_mlp_out"),
        ("somewhere", {"trainer": {"submodule_name": "resid_post_layer_2"}, "buffer": {"io": "in"}},
         "blocks.2.hook_resid_pre"),
        ("somewhere", {"trainer": {"layer": 3}}, ""),
    ],
)  # fmt: skip
def test_trap_not_everything_reads_the_residual_stream(tmp_path: Path, folder: str, config: dict, hook: str) -> None:
    assert load(tmp_path / folder, linear("bias"), config).hook == hook


def test_a_checkpoint_finds_its_configuration_above(tmp_path: Path) -> None:
    write_ae(tmp_path, linear("bias"), RESID)
    (tmp_path / "checkpoints").mkdir()
    torch.save(linear("bias"), tmp_path / "checkpoints" / "ae_10.pt")
    found = dictionary_learning.load(tmp_path / "checkpoints" / "ae_10.pt")[0]
    assert found.hook == "blocks.3.hook_resid_post"


def test_foreign_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="a CrossCoder"):
        load(tmp_path, linear("bias"), named("CrossCoder"))
    with pytest.raises(DictionaryError, match="a transcoder"):
        load(tmp_path / "t", linear("bias"), {**RESID, "buffer": {"io": "in_and_out"}})
    with pytest.raises(DictionaryError, match="an autoencoder of dictionary_learning"):
        load(tmp_path / "e", {"encoder.weight": draw(F, WIDTH)})
    with pytest.raises(DictionaryError, match="a state dict"):
        load(tmp_path / "n", {"a": 3})
