"""One adapter an architecture: where its Hugging Face model keeps what `LanguageModel` computes with.

All of them are pre-norm decoders with causal attention over one residual stream; they differ in the norm, in how
queries, keys and values are laid out, in the MLP, in positions, and in whether a block's two halves are parallel:

    parallel (Pythia):  resid_post = x + attn_out(norm1(x)) + mlp_out(norm2(x))
    sequential:         resid_post = y + mlp_out(norm2(y)),  y = x + attn_out(norm1(x))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GPT2LMHeadModel,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from sae_core.errors import ModelError

STATIC_ROPES = ("default", "linear", "llama3")  # angles that do not depend on the length of the text
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class Norm:
    """gain * (x - mean x) / sqrt(mean (x - mean x)^2 + eps) + shift; an RMSNorm takes no mean away (`centres`)."""

    module: nn.Module
    eps: float
    centres: bool = True

    @property
    def shift(self) -> Tensor | None:
        return getattr(self.module, "bias", None)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., d] -> [..., d], as the model computes it."""
        return self.module(x)

    def numerator(self, x: Tensor) -> Tensor:
        """gain * (x - mean x), linear in x; [..., d] -> [..., d]."""
        return self.module.weight * self._deviation(x)

    def denominator(self, x: Tensor) -> Tensor:
        """sqrt(mean (x - mean x)^2 + eps); [..., d] -> [...]."""
        return (self._deviation(x).square().mean(-1) + self.eps).sqrt()

    def _deviation(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centres else x


class Block(Protocol):
    """The maps of one block. Heads are counted after keys and values that several queries share are repeated."""

    attention_norm: Norm
    mlp_norm: Norm

    def project(self, y: Tensor, bias: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of normalised y [..., d], each [..., heads, d_head]; linear in y without bias."""

    def attention_out(self, z: Tensor) -> Tensor:
        """attn_out [..., d] of what the heads give, [..., heads * d_head]."""

    def mlp_post(self, y: Tensor) -> Tensor:
        """Hidden activations [..., d_mlp] of normalised y [..., d]; of a gated MLP the gated product."""

    def mlp_out(self, post: Tensor) -> Tensor:
        """mlp_out [..., d] of hidden activations [..., d_mlp]."""

    @property
    def W_out(self) -> Tensor:
        """The linear part of `mlp_out`, [d, d_mlp]."""


@dataclass(frozen=True)
class Architecture:
    """The parts of one loaded model. `positions`: vectors [n_ctx, d] added to the embeddings, or None."""

    blocks: tuple[Block, ...]
    parallel: bool
    embedding: nn.Embedding
    final_norm: Norm
    n_heads: int
    d_head: int
    rotary: nn.Module | None = None
    positions: Tensor | None = None


@dataclass(frozen=True)
class Adapter:
    """How an architecture is loaded, what of its settings is refused, and what besides tensors makes a model."""

    model_class: type[PreTrainedModel]
    parts: Callable[[Any], Architecture]
    check: Callable[[PreTrainedConfig, str], None]
    facts: Callable[[PreTrainedConfig], dict[str, Any]]


def adapter_of(model_type: str, name: str) -> Adapter:
    """The adapter of an architecture. Raises ModelError naming those there are."""
    if model_type not in ADAPTERS:
        fix = "Use a model of one of these; any other would give wrong numbers here and is refused"
        raise ModelError(f"an architecture out of {', '.join(ADAPTERS)} for {name}", f"{model_type}", fix)
    return ADAPTERS[model_type]


def _refuse(expected: str, found: str) -> None:
    raise ModelError(expected, found, "Use another model; this one would give wrong numbers here and is refused")


def _layer_norm(module: nn.LayerNorm) -> Norm:
    return Norm(module, module.eps)


def _named(config: PreTrainedConfig, *names: str) -> dict[str, Any]:
    return {name: getattr(config, name) for name in (*SIZES, *names)}


def _check_rotary(config: PreTrainedConfig, name: str) -> None:
    rope = config.rope_parameters["rope_type"]
    if rope not in STATIC_ROPES:
        _refuse(f"rotary positions out of {', '.join(STATIC_ROPES)} in {name}", f"rope_type {rope}")


# ---- GPT-NeoX (Pythia)


class NeoXBlock:
    """Fused queries, keys and values, head by head; a plain MLP."""

    def __init__(self, layer: Any, n_heads: int) -> None:
        self.attention_norm = _layer_norm(layer.input_layernorm)
        self.mlp_norm = _layer_norm(layer.post_attention_layernorm)
        self.fused, self.attention_out = layer.attention.query_key_value, layer.attention.dense
        self.mlp, self.mlp_out = layer.mlp, layer.mlp.dense_4h_to_h
        self.n_heads = n_heads

    def project(self, y: Tensor, bias: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        fused = F.linear(y, self.fused.weight, self.fused.bias if bias else None)
        return fused.unflatten(-1, (self.n_heads, -1)).chunk(3, dim=-1)

    def mlp_post(self, y: Tensor) -> Tensor:
        return self.mlp.act(self.mlp.dense_h_to_4h(y))

    @property
    def W_out(self) -> Tensor:
        return self.mlp_out.weight


def _neox(model: GPTNeoXForCausalLM) -> Architecture:
    body, n_heads = model.gpt_neox, model.config.num_attention_heads
    return Architecture(
        blocks=tuple(NeoXBlock(layer, n_heads) for layer in body.layers),
        parallel=model.config.use_parallel_residual,
        embedding=body.embed_in,
        final_norm=_layer_norm(body.final_layer_norm),
        n_heads=n_heads,
        d_head=model.config.hidden_size // n_heads,
        rotary=body.rotary_emb,
    )


def _neox_facts(config: PreTrainedConfig) -> dict[str, Any]:
    # Only where it is not Pythia's own form: hashes of parallel models are older than the sequential ones.
    sequential = {} if config.use_parallel_residual else {"use_parallel_residual": False}
    return _named(config, "hidden_act", "layer_norm_eps", "rope_parameters") | sequential


# ---- GPT-2


class GPT2Block:
    """Fused queries, keys and values, one after the other; a plain MLP. Its weights are stored transposed."""

    def __init__(self, layer: Any, n_heads: int) -> None:
        self.attention_norm, self.mlp_norm = _layer_norm(layer.ln_1), _layer_norm(layer.ln_2)
        self.fused, self.attention_out = layer.attn.c_attn, layer.attn.c_proj
        self.mlp, self.mlp_out = layer.mlp, layer.mlp.c_proj
        self.n_heads = n_heads

    def project(self, y: Tensor, bias: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        fused = F.linear(y, self.fused.weight.T, self.fused.bias if bias else None)
        return tuple(part.unflatten(-1, (self.n_heads, -1)) for part in fused.chunk(3, dim=-1))

    def mlp_post(self, y: Tensor) -> Tensor:
        return self.mlp.act(self.mlp.c_fc(y))

    @property
    def W_out(self) -> Tensor:
        return self.mlp_out.weight.T


def _gpt2(model: GPT2LMHeadModel) -> Architecture:
    body, n_heads = model.transformer, model.config.num_attention_heads
    return Architecture(
        blocks=tuple(GPT2Block(layer, n_heads) for layer in body.h),
        parallel=False,
        embedding=body.wte,
        final_norm=_layer_norm(body.ln_f),
        n_heads=n_heads,
        d_head=model.config.hidden_size // n_heads,
        positions=body.wpe.weight,
    )


def _check_gpt2(config: PreTrainedConfig, name: str) -> None:
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        _refuse(f"attention scores divided by sqrt(d_head) in {name}", "another scale")
    if config.add_cross_attention:
        _refuse(f"a decoder alone in {name}", "cross-attention")


def _gpt2_facts(config: PreTrainedConfig) -> dict[str, Any]:
    return {"model_type": "gpt2"} | _named(config, "activation_function", "layer_norm_epsilon")


# ---- Llama


class LlamaBlock:
    """Keys and values shared by groups of queries; a gated MLP, whose hidden activations are act(gate) * up."""

    def __init__(self, layer: Any, d_head: int) -> None:
        self.attention_norm, self.mlp_norm = _rms_norm(layer.input_layernorm), _rms_norm(layer.post_attention_layernorm)
        attention = layer.self_attn
        self.projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.shared_by, self.d_head = attention.num_key_value_groups, d_head
        self.attention_out = attention.o_proj
        self.mlp, self.mlp_out = layer.mlp, layer.mlp.down_proj

    def project(self, y: Tensor, bias: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        found = (F.linear(y, map.weight, map.bias if bias else None) for map in self.projections)
        q, k, v = (part.unflatten(-1, (-1, self.d_head)) for part in found)
        return q, k.repeat_interleave(self.shared_by, dim=-2), v.repeat_interleave(self.shared_by, dim=-2)

    def mlp_post(self, y: Tensor) -> Tensor:
        return self.mlp.act_fn(self.mlp.gate_proj(y)) * self.mlp.up_proj(y)

    @property
    def W_out(self) -> Tensor:
        return self.mlp_out.weight


def _rms_norm(module: nn.Module) -> Norm:
    return Norm(module, module.variance_epsilon, centres=False)


def _llama(model: LlamaForCausalLM) -> Architecture:
    body, config = model.model, model.config
    return Architecture(
        blocks=tuple(LlamaBlock(layer, config.head_dim) for layer in body.layers),
        parallel=False,
        embedding=body.embed_tokens,
        final_norm=_rms_norm(body.norm),
        n_heads=config.num_attention_heads,
        d_head=config.head_dim,
        rotary=body.rotary_emb,
    )


def _llama_facts(config: PreTrainedConfig) -> dict[str, Any]:
    own = _named(config, "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_parameters")
    return {"model_type": "llama"} | own


ADAPTERS = {
    "gpt_neox": Adapter(GPTNeoXForCausalLM, _neox, _check_rotary, _neox_facts),
    "gpt2": Adapter(GPT2LMHeadModel, _gpt2, _check_gpt2, _gpt2_facts),
    "llama": Adapter(LlamaForCausalLM, _llama, _check_rotary, _llama_facts),
}
