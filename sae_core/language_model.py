"""A GPT-NeoX language model without hooks: prefix, blocks, sites, suffix.

Every method is a pure function of its arguments over read-only weights, so one model serves many threads. Causality
never depends on a library default: `attend` masks each query from the keys that come after it.

With x the residual entering a block, Pythia's blocks are parallel:

    resid_post = x + attn_out(LN1(x)) + mlp_out(LN2(x))

so a change of attn_out, mlp_out or an MLP neuron is an addition to resid_post (`to_resid`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, GPTNeoXForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from sae_core.errors import InputError, ModelError
from sae_core.specs import ModelSpec, Site
from sae_core.tokens import readable, token_bytes

KeysValues = tuple[Tensor, Tensor]  # each [b, heads, t, d_head], keys already rotated
Positions = slice | Sequence[int] | Tensor
T = TypeVar("T")


class LanguageModel:
    """Weights, tokenizer and the partial forward passes. `resid` is always resid_post of a layer; -1: embeddings."""

    def __init__(self, hf_model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.hf_model = hf_model.eval().requires_grad_(False)
        config = self.config = hf_model.config
        self.d_model: int = config.hidden_size
        self.d_mlp: int = config.intermediate_size
        self.n_layers: int = config.num_hidden_layers
        self.n_heads: int = config.num_attention_heads
        self.d_head: int = self.d_model // self.n_heads
        self.n_ctx: int = config.max_position_embeddings
        self.n_tokens: int = len(tokenizer)
        self.layers = hf_model.gpt_neox.layers
        self.W_U: Tensor = hf_model.lm_head.weight
        self.d_vocab: int = self.W_U.shape[0]
        self.eos_id: int = _eos(tokenizer, name)
        self.device = self.W_U.device
        self.cos, self.sin = self._rotary()
        self.mask = torch.ones(self.n_ctx, self.n_ctx, dtype=torch.bool, device=self.device).tril()
        self._check_sizes()

    def _rotary(self) -> tuple[Tensor, Tensor]:
        rotary = self.hf_model.gpt_neox.rotary_emb
        cos, sin = rotary(self.W_U, torch.arange(self.n_ctx, device=self.device)[None])
        return cos[0], sin[0]

    def _check_sizes(self) -> None:
        if self.n_tokens > self.d_vocab:
            raise ModelError(
                f"a tokenizer of at most {self.d_vocab} tokens for {self.name}",
                f"{self.n_tokens} tokens",
                "Put the tokenizer that belongs to the model into its folder",
            )

    # ---- text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any special token added."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def token_strings(self) -> list[str]:
        """Every token made readable (`sae_core.tokens`), by id; [n_tokens]."""
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(self.n_tokens)))
        return [readable(token_bytes(piece or "")) for piece in pieces]

    @cached_property
    def hash(self) -> str:
        """sha256 over the architecture and, sorted by name, every tensor: the same however files are laid out."""
        digest = hashlib.sha256(json.dumps(_architecture(self.config), sort_keys=True).encode())
        for name, tensor in sorted(self.hf_model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    # ---- parts of a block

    def query_keys_values(self, layer: int, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, of the residual entering `layer`.

        x: [b, t, d]; positions: where in the context its t vectors stand. Each result: [b, heads, t, d_head].
        """
        block = self.layers[layer]
        qkv = block.attention.query_key_value(block.input_layernorm(x))
        q, k, v = qkv.view(*x.shape[:2], self.n_heads, 3 * self.d_head).transpose(1, 2).chunk(3, dim=-1)
        return self.rotate(q, positions), self.rotate(k, positions), v

    def rotate(self, x: Tensor, positions: Positions) -> Tensor:
        """Rotary embedding of queries or keys x [..., t, d_head] that stand at `positions` [t]."""
        cos, sin = self.cos[positions], self.sin[positions]
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """attn_out [b, t, d] of queries [b, h, t, d_head], the last t of the keys' positions, masked causally."""
        t, n = q.shape[2], k.shape[2]
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[n - t : n, :n])
        return self.layers[layer].attention.dense(z.transpose(1, 2).flatten(2))

    def mlp_post(self, layer: int, x: Tensor) -> Tensor:
        """The MLP's hidden activations [..., 4d] of the residual x [..., d] entering the block."""
        block = self.layers[layer]
        return block.mlp.act(block.mlp.dense_h_to_4h(block.post_attention_layernorm(x)))

    def mlp_out(self, layer: int, mlp_post: Tensor) -> Tensor:
        """mlp_out [..., d] of the hidden activations [..., 4d]."""
        return self.layers[layer].mlp.dense_4h_to_h(mlp_post)

    def _block(self, layer: int, x: Tensor, past: KeysValues | None) -> tuple[dict[str, Tensor], KeysValues]:
        start = 0 if past is None else past[0].shape[2]
        q, k, v = self.query_keys_values(layer, x, slice(start, start + x.shape[1]))
        if past is not None:
            k, v = (torch.cat([old.expand(len(x), -1, -1, -1), new], 2) for old, new in zip(past, (k, v), strict=True))
        attn_out = self.attend(layer, q, k, v)
        mlp_post = self.mlp_post(layer, x)
        mlp_out = self.mlp_out(layer, mlp_post)
        resid_post = mlp_out + attn_out + x
        return {"resid_post": resid_post, "attn_out": attn_out, "mlp_out": mlp_out, "mlp_post": mlp_post}, (k, v)

    # ---- partial forward passes

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [b, t, d] of ids [b, t]. Raises InputError for no token or more than n_ctx tokens."""
        n = ids.shape[-1]
        if not 0 < n <= self.n_ctx:
            raise InputError(f"1 to {self.n_ctx} tokens", f"{n} tokens", "Shorten the text, or type at least a letter")
        return self.hf_model.gpt_neox.embed_in(ids.to(self.device))

    @torch.inference_mode()
    def walk(
        self,
        resid: Tensor,
        start: int,
        stop: int,
        past: Mapping[int, KeysValues] | None = None,
        keep: dict[int, KeysValues] | None = None,
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Run blocks start .. stop-1 on the residual [b, t, d] that enters; yield layer, {site name: activations}.

        past: keys and values, by block, of the positions before resid's first (batch of 1 or b).
        keep: if given, is filled with the keys and values of all positions, to serve as `past` later.
        """
        for layer in range(start, stop):
            parts, keys_values = self._block(layer, resid, None if past is None else past[layer])
            resid = parts["resid_post"]
            if keep is not None:
                keep[layer] = keys_values
            yield layer, parts

    def blocks(
        self,
        resid: Tensor,
        start: int,
        stop: int,
        past: Mapping[int, KeysValues] | None = None,
        keep: dict[int, KeysValues] | None = None,
    ) -> Tensor:
        """The residual [b, t, d] after blocks start .. stop-1; arguments as for `walk`."""
        for _, parts in self.walk(resid, start, stop, past, keep):
            resid = parts["resid_post"]
        return resid

    def prefix(self, ids: Tensor, layer: int) -> Tensor:
        """resid_post [b, t, d] of `layer` for ids [b, t]; layer -1: the embeddings."""
        return self.blocks(self.embed(ids), 0, layer + 1)

    def sites(self, ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Activations [b, t, width] at each site, in one pass that stops after the last block needed."""
        return self.sites_after(self.embed(ids), -1, sites)

    def sites_after(self, resid: Tensor, layer: int, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """The same from resid_post [b, t, d] of `layer`; every site lies in a later layer."""
        stop = 1 + max((self.check_layer(site.layer) for site in sites), default=layer)
        found: dict[Site, Tensor] = {}
        for current, parts in self.walk(resid, layer + 1, stop):
            found |= {site: in_space(parts[site.name], site.space) for site in sites if site.layer == current}
        return found

    def suffix(self, resid: Tensor, layer: int, positions: Positions | None = None) -> Tensor:
        """Logits [b, t | p, d_vocab] from resid_post [b, t, d] of `layer`; unembedded only at `positions`."""
        resid = self.blocks(resid, layer + 1, self.n_layers)
        return self.unembed(resid if positions is None else resid[:, positions])

    @torch.inference_mode()
    def unembed(self, resid: Tensor) -> Tensor:
        """Logits [..., d_vocab] of the last block's resid_post [..., d]: final LayerNorm, then W_U."""
        return self.hf_model.lm_head(self.hf_model.gpt_neox.final_layer_norm(resid))

    @torch.inference_mode()
    def to_resid(self, delta: Tensor, site: Site) -> Tensor:
        """A change [..., width] at a site as the change [..., d] of its layer's resid_post (parallel blocks)."""
        W_out = self.layers[site.layer].mlp.dense_4h_to_h.weight
        return F.linear(delta.to(W_out.dtype), W_out) if site.name == "mlp_post" else delta

    @torch.inference_mode()
    def norm_denominator(self, resid: Tensor) -> Tensor:
        """sqrt(var + eps) [...] that the final LayerNorm divides the last block's resid_post [..., d] by."""
        norm = self.hf_model.gpt_neox.final_layer_norm
        return (resid.var(-1, correction=0) + norm.eps).sqrt()

    @torch.inference_mode()
    def direct_logits(self, directions: Tensor, denominator: Tensor | float) -> Tensor:
        """W_U (gamma * (f - mean f)) / denominator: logit change when f is added to the last residual.

        directions: [n, d]; denominator: a number or [n, 1], the mean of `norm_denominator`. Returns [n, d_vocab].
        """
        gain = self.hf_model.gpt_neox.final_layer_norm.weight
        return F.linear(gain * (directions - directions.mean(-1, keepdim=True)), self.W_U) / denominator

    def check_layer(self, layer: int) -> int:
        """The layer itself. Raises ModelError if the model has no such layer."""
        if not 0 <= layer < self.n_layers:
            raise ModelError(f"a layer from 0 to {self.n_layers - 1} of {self.name}", str(layer), "Choose one of these")
        return layer


def in_space(x: Tensor, space: str) -> Tensor:
    """`raw`: x itself; `centred`: x minus its mean over the last axis."""
    return x - x.mean(-1, keepdim=True) if space == "centred" else x


# ---- loading


def load_language_model(spec: ModelSpec, device: str = "auto") -> LanguageModel:
    """Load a GPT-NeoX model (Pythia) from a hub id or a folder; weights from safetensors only.

    Raises ModelError for another architecture, missing or truncated weights, a missing tokenizer, no network.
    """
    source = {"revision": spec.revision or "main", "local_files_only": Path(spec.name).is_dir()}
    config = _read("config.json", spec, lambda: AutoConfig.from_pretrained(spec.name, **source))
    _check_architecture(config, spec.name)
    weights = {"config": config, "dtype": getattr(torch, spec.dtype), "use_safetensors": True, **source}
    hf_model = _read("weights", spec, lambda: _whole(GPTNeoXForCausalLM.from_pretrained, spec.name, weights))
    # Not AutoTokenizer: where tokenizer.json is missing it makes an empty tokenizer and goes on.
    tokenizer = _read("tokenizer", spec, lambda: PreTrainedTokenizerFast.from_pretrained(spec.name, **source))
    return LanguageModel(hf_model.to(choose_device(device)), tokenizer, spec.name)


def choose_device(device: str) -> torch.device:
    """`auto` is a GPU where there is one, else the CPU. Raises ModelError for a device this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        found = f"{device!r} ({_first_line(error)})"
        raise ModelError("a device of this machine", found, "Use the device auto") from None


def _whole(load: Callable, name: str, settings: dict[str, Any]) -> GPTNeoXForCausalLM:
    """Transformers draws missing tensors at random and goes on; that must not pass for a loaded model."""
    model, info = load(name, output_loading_info=True, **settings)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"weights without {missing[0]} ({len(missing)} tensors missing)")
    return model


def _read(part: str, spec: ModelSpec, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the {part} of a GPT-NeoX model, as save_pretrained writes it (config.json, model.safetensors, "
            f"tokenizer.json), in the folder or under the hub id {spec.name!r}",
            _first_line(error),
            "Check the name; a hub id needs the network or a filled cache; weights must be in safetensors form",
        ) from None


def _check_architecture(config: PreTrainedConfig, name: str) -> None:
    fix = "Use a Pythia model; other architectures would give wrong numbers here and are refused"
    if config.model_type != "gpt_neox":
        raise ModelError(f"an architecture gpt_neox for {name}", f"{config.model_type}", fix)
    if not config.use_parallel_residual:
        raise ModelError(f"parallel residual blocks in {name}", "use_parallel_residual false", fix)
    if config.rope_parameters["rope_type"] != "default":
        raise ModelError(f"plain rotary positions in {name}", f"rope_type {config.rope_parameters['rope_type']}", fix)


def _architecture(config: PreTrainedConfig) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    return {name: getattr(config, name) for name in (*names, "hidden_act", "layer_norm_eps", "rope_parameters")}


def _eos(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError(f"a tokenizer with an end-of-text token for {name}", "none", "Set eos_token in its folder")
    return tokenizer.eos_token_id


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
