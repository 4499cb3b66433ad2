"""The hook-free passes against Hugging Face and TransformerBridge; loading refuses what it would get wrong."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXForCausalLM

from sae_core.errors import InputError, ModelError
from sae_core.language_model import LanguageModel, choose_device, load_language_model
from sae_core.language_model.loading import choose_dtype, weight_files
from sae_core.specs import SITE_HOOKS, ModelSpec, Site
from tests.tiny_model import PADDED_ROWS, tiny_model_folder

IDS = torch.randint(0, 260, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return GPTNeoXForCausalLM.from_pretrained(folder)(IDS).logits


@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_prefix_then_suffix_is_the_whole_model(model: LanguageModel, logits: torch.Tensor, layer: int) -> None:
    assert_close(model.suffix(model.prefix(IDS, layer), layer), logits, rtol=0, atol=1e-5)


def test_suffix_unembeds_only_the_positions_asked_for(model: LanguageModel, logits: torch.Tensor) -> None:
    found = model.suffix(model.prefix(IDS, 1), 1, positions=[3, 23])
    assert_close(found, logits[:, [3, 23]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SITE_HOOKS)
def test_sites_equal_the_bridges_hooks(model: LanguageModel, bridge: TransformerBridge, name: str) -> None:
    sites = Site.each(range(3), name)
    _, cache = bridge.run_with_cache(IDS, names_filter=[site.hook for site in sites])
    found = model.sites(IDS, sites)
    for site in sites:
        assert found[site].shape[-1] == model.width(site)
        assert_close(found[site], cache[site.hook], rtol=1e-4, atol=3e-5)


def test_centred_space_has_no_mean_and_reads_the_same_prediction(model: LanguageModel) -> None:
    raw, centred = Site(2), Site(2, space="centred")
    found = model.sites(IDS, [raw, centred])
    assert_close(found[centred], found[raw] - found[raw].mean(-1, keepdim=True))
    assert_close(model.unembed(found[centred]), model.unembed(found[raw]), rtol=0, atol=1e-4)


def test_sites_stop_after_the_last_block_needed(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[int] = []
    block = model._block
    monkeypatch.setattr(model, "_block", lambda layer, x, past: run.append(layer) or block(layer, x, past))
    model.sites(IDS, [Site(1, "mlp_out"), Site(0)])
    assert run == [0, 1]


def test_an_addition_at_any_site_is_one_to_resid_post(model: LanguageModel, bridge: TransformerBridge) -> None:
    for site in (site for name in SITE_HOOKS for site in Site.each([1], name)):
        delta = torch.randn(3, 24, model.width(site), generator=torch.Generator().manual_seed(2))
        expected = bridge.run_with_hooks(IDS, fwd_hooks=[(site.hook, lambda x, hook, delta=delta: x + delta)])
        found = model.suffix(model.prefix(IDS, site.layer) + model.to_resid(delta, site), site.layer)
        assert_close(found, expected, rtol=0, atol=2e-5)


def test_later_tokens_never_reach_earlier_ones(model: LanguageModel) -> None:
    other = IDS.clone()
    other[:, 10:] = 5
    assert torch.equal(model.prefix(IDS, 2)[:, :10], model.prefix(other, 2)[:, :10])


def test_kept_keys_and_values_continue_a_run(model: LanguageModel, logits: torch.Tensor) -> None:
    resid, kept = model.prefix(IDS, 0), {}
    model.blocks(resid[:, :9], 1, 3, keep=kept)
    for step in (slice(9, 10), slice(10, 24)):
        past = dict(kept)
        last = model.blocks(resid[:, step], 1, 3, past=past, keep=kept)
        assert_close(model.unembed(last), logits[:, step], rtol=0, atol=1e-5)


def test_direct_logits_are_the_last_norm_held_fixed(model: LanguageModel) -> None:
    """Moving the residual by f with the denominator held fixed moves the logits by `direct_logits`."""
    resid = model.prefix(IDS, 2)[0, 5]
    f = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    norm, denominator = model.hf_model.gpt_neox.final_layer_norm, model.norm_denominator(resid)
    moved = resid + f[0]
    frozen = norm.weight * (moved - moved.mean()) / denominator + norm.bias
    expected = frozen @ model.W_U.T - model.unembed(resid)
    assert_close(model.direct_logits(f, denominator)[0], expected, rtol=0, atol=1e-5)


def test_threads_read_bit_identical_numbers(model: LanguageModel) -> None:
    batches = [torch.randint(0, 260, (2, 20), generator=torch.Generator().manual_seed(s)) for s in range(24)]

    def read(ids: torch.Tensor) -> torch.Tensor:
        return model.suffix(model.prefix(ids, 1), 1)

    alone = [read(ids) for ids in batches]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(read, batches))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_tokenizer_and_the_padded_rows(model: LanguageModel) -> None:
    assert model.d_vocab == model.n_tokens + PADDED_ROWS
    ids = model.encode(" the cat’s\n")
    assert model.tokenizer.decode(ids) == " the cat’s\n"
    strings = model.token_strings()
    assert len(strings) == model.n_tokens == len(set(strings))
    assert strings[ids[0]] == "␣the" and strings[ids[-1]] == "↵"
    assert model.encode("") == []


@pytest.mark.parametrize("length", [0, 65])
def test_no_token_or_too_many_are_refused(model: LanguageModel, length: int) -> None:
    with pytest.raises(InputError, match=f"1 to 64 tokens. Found {length} tokens"):
        model.prefix(torch.zeros(1, length, dtype=torch.long), 0)


def test_a_layer_the_model_lacks_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ModelError, match="0 to 2.*Found 3"):
        model.sites(IDS, [Site(3)])


def test_the_hash_follows_the_numbers_not_the_files(folder: Path, model: LanguageModel, tmp_path: Path) -> None:
    again = tmp_path / "sharded"
    GPTNeoXForCausalLM.from_pretrained(folder).save_pretrained(again, max_shard_size="40KB")
    shutil.copy(folder / "tokenizer.json", again), shutil.copy(folder / "tokenizer_config.json", again)
    assert len(list(again.glob("*.safetensors"))) > 1
    assert load_language_model(ModelSpec(str(again)), "cpu").hash == model.hash
    other = load_language_model(ModelSpec(str(tiny_model_folder(tmp_path / "other", seed=1))), "cpu")
    assert other.hash != model.hash


# ---- folders that must be refused


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_language_model(ModelSpec(str(folder)), "cpu")
    return str(caught.value)


def test_a_folder_without_weights(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    assert "Expected the weights" in refusal(broken)


class Payload:
    """Executes code when a pickle of it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_holds_code_is_not_executed(broken: Path, tmp_path: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    torch.save(tensors | {"more": Payload(tmp_path / "executed")}, broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    assert "holds more than tensors" in refusal(broken)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("head", ["embed_out.weight", "lm_head.weight"])
@pytest.mark.parametrize("as_bin", [False, True])
def test_old_and_new_names_of_the_unembedding(broken: Path, model: LanguageModel, head: str, as_bin: bool) -> None:
    path = broken / "model.safetensors"
    tensors = load_file(path)
    old = next(name for name in tensors if name in ("embed_out.weight", "lm_head.weight"))
    tensors[head] = tensors.pop(old)
    path.unlink()
    if as_bin:
        torch.save(tensors, broken / "pytorch_model.bin")
    else:
        save_file(tensors, path, metadata={"format": "pt"})
    assert load_language_model(ModelSpec(str(broken)), "cpu").hash == model.hash


def test_a_shard_that_is_missing_or_cut_short(folder: Path, broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    GPTNeoXForCausalLM.from_pretrained(folder).save_pretrained(broken, max_shard_size="40KB")
    shards = sorted(broken.glob("model-*.safetensors"))
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-100])
    assert f"{shards[1].name}, which is not whole" in refusal(broken)
    shards[1].unlink()
    assert f"no {shards[1].name} (1 of {len(shards)} files missing)" in refusal(broken)
    shards[1].write_bytes(whole)
    (broken / "model.safetensors.index.json").write_text('{"weight_map": ')
    assert "Expected the weights" in refusal(broken)


@pytest.mark.parametrize("kept", [slice(-1000), slice(0), slice(4)])
@pytest.mark.parametrize("as_bin", [False, True])
def test_truncated_weights(broken: Path, kept: slice, as_bin: bool) -> None:
    path = broken / "model.safetensors"
    if as_bin:
        torch.save(load_file(path), broken / "pytorch_model.bin")
        path.unlink()
        path = broken / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[kept] if kept.stop else b"")
    assert f"{path.name}, which is not whole" in refusal(broken)


def test_missing_tensors_are_not_drawn_at_random(broken: Path) -> None:
    path = broken / "model.safetensors"
    tensors = load_file(path)
    del tensors["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert "layers.1.mlp.dense_h_to_4h.weight" in refusal(broken)


def test_weights_of_another_shape(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    assert "Expected the weights" in refusal(broken)


def test_no_config_and_no_tokenizer(broken: Path) -> None:
    for file in broken.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer.json" in refusal(broken)
    (broken / "tokenizer.json").write_text("{}")
    assert "Expected the tokenizer" in refusal(broken)
    (broken / "config.json").unlink()
    assert "Expected the config.json" in refusal(broken)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "bert"}'])
def test_a_config_that_is_none(broken: Path, text: str) -> None:
    (broken / "config.json").write_text(text)
    assert "Expected" in refusal(broken)


def test_a_device_this_machine_lacks() -> None:
    with pytest.raises(ModelError, match="'warp'"):
        choose_device("warp")


def test_dtype_asked_for_and_chosen(folder: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_language_model(ModelSpec(str(folder), dtype="bfloat16"), "cpu").dtype == torch.bfloat16
    assert load_language_model(ModelSpec(str(folder), dtype="auto"), "cpu").dtype == torch.float32
    weights = weight_files(folder, "tiny")
    n_bytes = 4 * sum(p.numel() for p in model.hf_model.parameters())
    assert weights.float32_bytes() == n_bytes
    for free, chosen in ((2 * n_bytes, torch.float32), (2 * n_bytes - 1, torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert choose_dtype("auto", weights, torch.device("cuda")) == chosen
        assert choose_dtype("float16", weights, torch.device("cuda")) == torch.float16


def test_the_device_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, chosen in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device("auto").type == chosen
