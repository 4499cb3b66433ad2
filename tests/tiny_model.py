"""A tiny random GPT-NeoX, GPT-2 or Llama with a byte-level tokenizer (a Hugging Face folder); random dictionaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from sae_core.dictionaries import Dictionary
from sae_core.specs import Site
from sae_core.tokens import byte_of_symbol

EOS = "<|endoftext|>"
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("i", "n"), ("Ġ", "in"), ("'", "s"), ("a", "t"))
PADDED_ROWS = 11
COMMON = {"vocab_size": 1 + 256 + len(MERGES) + PADDED_ROWS, "bos_token_id": 0, "eos_token_id": 0}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: id 0 is the end of text, then the 256 bytes, then a few merges such as ` the`."""
    pieces = [EOS, *sorted(byte_of_symbol()), *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, bos_token=EOS)


def tiny_model_folder(
    path: Path, d_model: int = 32, n_layers: int = 3, n_heads: int = 4, n_ctx: int = 64, seed: int = 0, **settings: Any
) -> Path:
    """Write a GPT-NeoX to `path` and return it; settings: of its configuration, in place of Pythia's.

    Weights are drawn three times wider than at a usual start, so that attention and predictions are far from
    uniform; biases and norm gains are random too, so that nothing is right only because it is 0 or 1.
    The unembedding has PADDED_ROWS rows more than the tokenizer has tokens, as Pythia's has.
    """
    config = GPTNeoXConfig(
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=4 * d_model,
        max_position_embeddings=n_ctx,
        **{"rotary_pct": 0.5, "use_parallel_residual": True, **COMMON, **settings},
    )
    return _write(path, GPTNeoXForCausalLM(config), seed)


def tiny_gpt2_folder(path: Path, **settings: Any) -> Path:
    """The same for a GPT-2: sequential blocks, positions in the embeddings, the unembedding tied to them."""
    shape = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return _write(path, GPT2LMHeadModel(GPT2Config(**{**shape, **COMMON, **settings})), 0)


def tiny_llama_folder(path: Path, **settings: Any) -> Path:
    """The same for a Llama: RMSNorm, a gated MLP of 4 d, keys and values shared by two heads each, heads of width 6."""
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"intermediate_size": 128, "head_dim": 6, "max_position_embeddings": 64}
    return _write(path, LlamaForCausalLM(LlamaConfig(**{**shape, **COMMON, **settings})), 0)


def _write(path: Path, model: PreTrainedModel, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name or ".ln_" in name
            centre = 1.0 if norm and name.endswith("weight") else 0.0
            width = 0.2 if parameter.ndim == 1 else 2.0 * parameter.shape[-1] ** -0.5
            parameter.copy_(centre + width * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return Path(path)


def random_dictionary(
    site: Site, d_model: int = 32, n_features: int = 48, seed: int = 0, tied: bool = True, width: int | None = None
) -> Dictionary:
    """Unit decoder rows; encoder biases below 0, so that about a quarter of the features are active on a token.

    width: that of the site; by default d_model, and 4 d_model for the MLP's neurons.

    The untied one has an encoder of its own and a decoder bias that is also subtracted from the input.
    """
    generator = torch.Generator().manual_seed(seed)
    width = width or (4 * d_model if site.name == "mlp_post" else d_model)
    rows = torch.randn(n_features, width, generator=generator)
    W_dec = rows / rows.norm(dim=1, keepdim=True)
    W_enc = W_dec.T.clone()
    b_dec = torch.zeros(width)
    if not tied:
        W_enc = W_enc + 0.3 * torch.randn(W_enc.shape, generator=generator) / W_enc.shape[0] ** 0.5
        b_dec = 0.3 * torch.randn(b_dec.shape, generator=generator)
    b_enc = -0.7 - torch.rand(n_features, generator=generator)
    return Dictionary(site, W_enc, b_enc, W_dec, b_dec)
