"""Randomly initialised models of a real shape, and dictionaries with a chosen L0, for the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from sae_core.dictionaries import Dictionary
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from tests.tiny_model import tiny_tokenizer

PYTHIA_70M = {"hidden_size": 512, "num_attention_heads": 8, "vocab_size": 50304, "max_position_embeddings": 2048}
MINIATURE = {"hidden_size": 128, "num_attention_heads": 2, "vocab_size": 4096, "max_position_embeddings": 256}


def random_model(shape: dict[str, int]) -> LanguageModel:
    """Six layers, parallel residual, 25 % rotary, untied embeddings, as Pythia-70M has them."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(num_hidden_layers=6, intermediate_size=4 * shape["hidden_size"], rotary_pct=0.25, **shape)
    return LanguageModel(GPTNeoXForCausalLM(config), tiny_tokenizer(), "random")


def sparse_dictionary(model: LanguageModel, site: Site, n_features: int, l0: int = 30) -> Dictionary:
    """Random tied directions whose biases let each feature be active on l0 / n_features of random tokens."""
    generator = torch.Generator().manual_seed(site.layer)
    rows = torch.randn(n_features, model.d_model, generator=generator)
    W_dec = rows / rows.norm(dim=1, keepdim=True)
    ids = torch.randint(0, model.n_tokens, (64, 64), generator=generator)
    x = model.sites(ids, [site])[site].flatten(0, 1).clone()
    b_enc = -(x @ W_dec.T).quantile(1 - l0 / n_features, dim=0)
    return Dictionary(site, W_dec.T.contiguous(), b_enc, W_dec, torch.zeros(model.d_model))


def seconds(runs: Mapping[str, Callable[[], object]], rounds: int = 9) -> dict[str, float]:
    """Shortest wall time of each call. They take turns, so that a busy machine slows all of them alike."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: min(found) for name, found in times.items()}
