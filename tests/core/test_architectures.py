"""Every architecture and variant against Hugging Face, TransformerBridge hooks and brute force; the others refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from sae_core.causal_tree import edited_target, parent_layer
from sae_core.errors import ModelError
from sae_core.generation import Intervention, continuation
from sae_core.intervention import FeatureEdit, apply_edits, clean_run
from sae_core.ioi.patching import last_resid
from sae_core.language_model import LanguageModel, load_language_model
from sae_core.specs import SITE_HOOKS, ModelSpec, Site
from tests.tiny_model import random_dictionary, tiny_gpt2_folder, tiny_llama_folder, tiny_model_folder

IDS = torch.randint(0, 260, (3, 24), generator=torch.Generator().manual_seed(1))
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
VARIANTS: dict[str, tuple[Callable[..., Path], dict]] = {
    "sequential": (tiny_model_folder, {"use_parallel_residual": False}),
    "full rotary": (tiny_model_folder, {"rotary_pct": 1.0}),
    "relu and another eps": (tiny_model_folder, {"hidden_act": "relu", "layer_norm_eps": 0.05}),
    "no attention bias": (tiny_model_folder, {"attention_bias": False}),
    "linear rope": (tiny_model_folder, {"rope_parameters": LINEAR, "use_parallel_residual": False}),
    "gpt2": (tiny_gpt2_folder, {}),
    "llama": (tiny_llama_folder, {}),
    "llama, its MLP 2.5 d wide": (tiny_llama_folder, {"intermediate_size": 80}),
    "llama with biases": (tiny_llama_folder, {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write, settings = VARIANTS[request.param]
    return write(tmp_path_factory.mktemp("variant"), **settings)


@pytest.fixture(scope="module")
def variant(path: Path) -> LanguageModel:
    return load_language_model(ModelSpec(str(path)), "cpu")


@pytest.fixture(scope="module")
def oracle(path: Path, variant: LanguageModel) -> TransformerBridge:
    if not getattr(variant.config, "attention_bias", True) and variant.parallel:
        pytest.skip("TransformerBridge cannot split queries, keys and values without biases")
    return TransformerBridge.boot_transformers(str(path), device="cpu")


@pytest.fixture(scope="module")
def logits(path: Path) -> torch.Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(path)(IDS).logits


def sites_of(model: LanguageModel, layer: int) -> list[Site]:
    """Sites whose changes are additions to the residual stream: those of a layer, and the embedding."""
    names = [name for name in SITE_HOOKS if model.parallel or name != "attn_out"]
    return [site for name in names for site in Site.each([layer], name)]


@pytest.mark.parametrize("layer", [-1, 0, 2])
def test_prefix_then_suffix_is_the_whole_model(variant: LanguageModel, logits: torch.Tensor, layer: int) -> None:
    assert_close(variant.suffix(variant.prefix(IDS, layer), layer), logits, rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", SITE_HOOKS)
def test_sites_equal_the_bridges_hooks(variant: LanguageModel, oracle: TransformerBridge, name: str) -> None:
    sites = Site.each(range(3), name)
    _, cache = oracle.run_with_cache(IDS, names_filter=[site.hook for site in sites])
    found = variant.sites(IDS, sites)
    for site in sites:
        assert_close(found[site], cache[site.hook], rtol=1e-4, atol=5e-5)


def test_an_addition_at_a_site_is_one_to_resid_post(variant: LanguageModel, oracle: TransformerBridge) -> None:
    for site in sites_of(variant, 1):
        delta = torch.randn(3, 24, variant.width(site), generator=torch.Generator().manual_seed(2))
        expected = oracle.run_with_hooks(IDS, fwd_hooks=[(site.hook, lambda x, hook, delta=delta: x + delta)])
        found = variant.suffix(variant.prefix(IDS, site.layer) + variant.to_resid(delta, site), site.layer)
        assert_close(found, expected, rtol=0, atol=5e-5)


def test_attn_out_of_a_sequential_block_is_read_but_not_edited(
    variant: LanguageModel, oracle: TransformerBridge
) -> None:
    site = Site(1, "attn_out")
    delta = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(2))
    if variant.parallel:
        assert variant.check_edit(site) == site
        return
    with pytest.raises(ModelError, match="the MLP of the same block reads"):
        variant.to_resid(delta, site)
    hooked = oracle.run_with_hooks(IDS, fwd_hooks=[(site.hook, lambda x, hook: x + delta)])
    added = variant.suffix(variant.prefix(IDS, 1) + delta, 1)
    assert (hooked - added).abs().max() > 0.01  # what it would have got wrong


def test_removing_a_feature_equals_the_same_hook(variant: LanguageModel, oracle: TransformerBridge) -> None:
    for site in sites_of(variant, 0):
        dictionary = random_dictionary(site, width=variant.width(site))
        clean = clean_run(variant, dictionary, IDS[0])
        feature = int(clean.codes.ne(0).sum(0).argmax())

        def hook(x, hook, dictionary=dictionary, feature=feature):
            return x - dictionary.encode(x)[..., feature, None] * dictionary.W_dec[feature]

        expected = oracle.run_with_hooks(IDS[:1], fwd_hooks=[(site.hook, hook)])[0].log_softmax(-1)
        found = apply_edits(variant, dictionary, clean, [FeatureEdit(feature)])
        assert_close(found.edited_logprobs, expected, rtol=0, atol=1e-4)
        assert (found.edited_logprobs - found.clean_logprobs).abs().max() > 0.01


def test_cheap_edges_equal_running_the_block_for_each_parent(variant: LanguageModel) -> None:
    parent, child = random_dictionary(Site(0)), random_dictionary(Site(1), seed=1)
    layer = parent_layer(variant, parent, child)
    for ids in IDS:
        resid = variant.prefix(ids[None], 0)[0]
        found = edited_target(layer, resid)
        codes = parent.encode(resid)
        removed = [resid - codes[:, [j]] * parent.W_dec[j] for j in found.parents]
        expected = variant.blocks(torch.stack([resid, *removed]), 1, 2)[:, -1]
        assert len(removed) > 5
        assert_close(found.resid, expected, rtol=1e-4, atol=3e-5)


def test_the_last_block_for_one_query_equals_all_of_it(variant: LanguageModel) -> None:
    resid, last = variant.prefix(IDS, 0), torch.tensor([5, 23, 11])
    expected = variant.blocks(resid, 1, 3)[torch.arange(3), last]
    assert_close(last_resid(variant, resid, 0, last), expected, rtol=0, atol=3e-5)


def test_greedy_continuation_equals_plain_passes(variant: LanguageModel, path: Path) -> None:
    plain, ids = AutoModelForCausalLM.from_pretrained(path), IDS[0].tolist()
    with torch.inference_mode():
        for _ in range(4):
            ids.append(int(plain(torch.tensor([ids])).logits[0, -1, : variant.n_tokens].argmax()))
    assert continuation(variant, IDS[0].tolist(), 4) == ids[24:]


def test_direct_logits_hold_the_last_norm_fixed(variant: LanguageModel) -> None:
    resid, f = variant.prefix(IDS, 2)[0, 5], torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    norm, denominator = variant.final_norm, variant.norm_denominator(resid)
    shift = 0 if norm.shift is None else norm.shift
    assert_close(norm.numerator(resid) / denominator + shift, norm(resid), rtol=0, atol=1e-5)
    frozen = norm.numerator(resid + f[0]) / denominator + shift
    assert_close(variant.direct_logits(f, denominator)[0], (frozen - norm(resid)) @ variant.W_U.T, rtol=0, atol=1e-4)


def test_centred_where_it_has_an_exact_meaning(variant: LanguageModel) -> None:
    for name in ("resid_post", "mlp_out", "attn_out"):
        site = Site(1, name, "centred")
        if variant.final_norm.centres:
            found = variant.sites(IDS, [site, Site(1, name), Site(1)])
            moved = found[Site(1)] - found[Site(1, name)] + found[site]
            assert_close(found[site].mean(-1), torch.zeros(3, 24), rtol=0, atol=1e-6)
            assert_close(variant.suffix(moved, 1), variant.suffix(found[Site(1)], 1), rtol=0, atol=1e-4)
        else:
            with pytest.raises(ModelError, match="RMSNorm.*space raw"):
                variant.sites(IDS, [site])
    embedding, raw = Site(-1, "embed", "centred"), Site(-1, "embed")
    if variant.final_norm.centres:
        found = variant.sites(IDS, [embedding, raw])
        assert_close(found[embedding].mean(-1), torch.zeros(3, 24), rtol=0, atol=1e-6)
        assert_close(variant.suffix(found[embedding], -1), variant.suffix(found[raw], -1), rtol=0, atol=1e-4)
    with pytest.raises(ModelError, match="neurons.*space raw"):
        variant.sites(IDS, [Site(1, "mlp_post", "centred")])


def test_later_tokens_never_reach_earlier_ones(variant: LanguageModel) -> None:
    other = IDS.clone()
    other[:, 10:] = 5
    assert torch.equal(variant.prefix(IDS, 2)[:, :10], variant.prefix(other, 2)[:, :10])


def test_form_is_part_of_the_hash(tmp_path: Path) -> None:
    parallel = load_language_model(ModelSpec(str(tiny_model_folder(tmp_path / "model"))), "cpu")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_parallel_residual": False}))
    assert load_language_model(ModelSpec(str(tmp_path / "model")), "cpu").hash != parallel.hash


def test_what_enters_block_0_is_read_with_its_positions_and_edited(path: Path, variant: LanguageModel) -> None:
    """The oracle: a hook on the Hugging Face model's first block reads and changes what enters it."""
    model = AutoModelForCausalLM.from_pretrained(path)
    block = next(module for name, module in model.named_modules() if name.endswith((".layers.0", ".h.0")))
    site, entered = Site(-1, "embed"), []
    dictionary = random_dictionary(site, tied=False)
    clean = clean_run(variant, dictionary, IDS[0])
    feature = int(clean.codes.ne(0).sum(0).argmax())

    def hook(module, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        entered.append(x)
        code = torch.relu((x - dictionary.b_dec) @ dictionary.W_enc[:, feature] + dictionary.b_enc[feature])
        x = x - code[..., None] * dictionary.W_dec[feature]
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    block.register_forward_pre_hook(hook, with_kwargs=True)
    with torch.inference_mode():
        expected = model(IDS[:1]).logits[0].log_softmax(-1)
    assert_close(variant.sites(IDS[:1], [site])[site], entered[0])
    found = apply_edits(variant, dictionary, clean, [FeatureEdit(feature)])
    assert_close(found.edited_logprobs, expected, rtol=0, atol=1e-4)
    assert (found.edited_logprobs - found.clean_logprobs).abs().max() > 0.01
    longer = continuation(variant, IDS[0].tolist(), 3, intervention=Intervention(dictionary, (FeatureEdit(feature),)))
    ids = IDS[0].tolist()
    with torch.inference_mode():
        for _ in range(3):  # the hook is still there, and edits every token anew
            ids.append(int(model(torch.tensor([ids])).logits[0, -1, : variant.n_tokens].argmax()))
    assert longer == ids[24:]


def test_an_end_of_text_token_that_only_the_config_names(tmp_path: Path) -> None:
    folder = tiny_gpt2_folder(tmp_path)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    model = load_language_model(ModelSpec(str(folder)), "cpu")
    assert (model.eos_id, model.tokenizer.eos_token) == (0, "<|endoftext|>")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    with pytest.raises(ModelError, match="end-of-text"):
        load_language_model(ModelSpec(str(folder)), "cpu")


def test_pieces_of_a_sentencepiece_vocabulary_are_readable(tmp_path: Path) -> None:
    pieces = ["<s>", "▁the", "é", "<0x0A>", "▁", "th"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    folder = tiny_llama_folder(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<s>").save_pretrained(folder)
    model = load_language_model(ModelSpec(str(folder)), "cpu")
    assert model.token_strings() == ["<s>", "␣the", "é", "↵", "␣", "th"]


# ---- refused by a sentence


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (MistralConfig(), "Found mistral"),
        (GPTJConfig(), "Found gptj"),
        (GPT2Config(scale_attn_by_inverse_layer_idx=True), "another scale"),
        (GPT2Config(scale_attn_weights=False), "another scale"),
        (GPT2Config(add_cross_attention=True), "cross-attention"),
        (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "rope_type dynamic"),
    ],
)
def test_other_forms_are_refused_by_name(tmp_path: Path, config, found: str) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=found):
        load_language_model(ModelSpec(str(tmp_path)), "cpu")
