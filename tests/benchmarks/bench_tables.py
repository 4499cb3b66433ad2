"""The table steps on the miniature's shape (random weights), each against a plain floor measured in the same run.

harvest     codes of six dictionaries, indexed / the model's blocks alone on the same tokens
histograms  statistics, histogram and token counts of a feature / one sort of its codes
contexts    the windows of a feature / one sort of its codes
effects     removal of a feature / one plain forward pass, logits included, of the windows that show it active
"""

from __future__ import annotations

import resource
import tempfile
from itertools import count
from pathlib import Path

import numpy as np
import torch

from precompute.activation_files import from_model
from precompute.effects import block_tables
from precompute.features import FeatureTables
from precompute.harvest import harvest
from sae_core.code_index import CodeIndex
from sae_core.context_rows import context_table
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.effect_rows import EffectRows
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from tests.benchmarks.pythia_shape import MINIATURE, random_model, seconds, sparse_dictionary

N_FEATURES, CONTEXT, WINDOW, SHARDS, BATCH, LAYER = 512, 256, 64, 4, 16, 2
FEATURES_MEASURED = 16


def main() -> None:
    """Print each step's cost and its ratio to the floor."""
    model = random_model(MINIATURE)
    dictionaries = {f"L{layer}": sparse_dictionary(model, Site(layer), N_FEATURES) for layer in range(model.n_layers)}
    tokens = np.random.default_rng(0).integers(0, model.n_tokens, (SHARDS * 256, CONTEXT)).astype(np.uint16)
    bench_harvest(model, dictionaries, tokens[:BATCH])
    with tempfile.TemporaryDirectory() as folder:
        text = TokenText(tokens.reshape(-1), CONTEXT, WINDOW)
        name, dictionary = f"L{LAYER}", dictionaries[f"L{LAYER}"]
        index = CodeIndex(Path(folder), N_FEATURES, len(text.token_ids), CONTEXT)
        for shard in index.missing():
            writer = index.writer(shard)
            read = from_model(model, [dictionary.site], tokens)
            for _, found in harvest(read, {name: dictionary}, range(shard * 256, shard * 256 + 256), BATCH):
                writer.add(*found)
            writer.close()
        names = np.array([*model.token_strings(), "all others"], object)
        bench_features(index, text, names)
        bench_effects(EffectRows(model, dictionary, text, names, seed=0), index)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def bench_harvest(model: LanguageModel, dictionaries: dict[str, Dictionary], tokens: np.ndarray) -> None:
    """One batch of contexts through the model and six dictionaries."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    read = from_model(model, [dictionary.site for dictionary in dictionaries.values()], tokens)
    times = seconds(
        {
            "harvest": lambda: list(harvest(read, dictionaries, range(BATCH), BATCH)),
            "floor": lambda: model.prefix(ids, model.n_layers - 1),
        },
        rounds=5,
    )
    rate = tokens.size / times["harvest"]
    ratio = times["harvest"] / times["floor"]
    print(f"harvest: {rate:,.0f} tokens/s for 6 dictionaries, {ratio:.2f} x the blocks alone")


def bench_features(index: CodeIndex, text: TokenText, names: np.ndarray) -> None:
    """Statistics and contexts of the first features over all tokens of the index."""
    found = list(index.features(0, FEATURES_MEASURED))
    tables = FeatureTables(text, names, np.zeros(N_FEATURES, bool))
    times = seconds(
        {
            "histograms": lambda: list(tables.add(found)),
            "contexts": lambda: [context_table(feature, text, seed=0) for feature in found],
            "floor": lambda: [np.sort(feature.codes) for feature in found],
        },
        rounds=3,
    )
    n = np.mean([len(feature.codes) for feature in found])
    for name in ("histograms", "contexts"):
        each = 1e3 * times[name] / len(found)
        print(f"{name}: {each:.1f} ms a feature of {n:,.0f} active tokens, {times[name] / times['floor']:.0f} x a sort")


@torch.inference_mode()
def bench_effects(work: EffectRows, index: CodeIndex) -> None:
    """Both effect tables of some features; the floor runs one plain forward pass of as many windows."""
    blocks = (np.arange(start, start + FEATURES_MEASURED) for start in count(0, FEATURES_MEASURED))
    ids = torch.from_numpy(work.windows[:64].astype(np.int64))
    times = seconds(
        {
            "effects": lambda: block_tables(work, index, next(blocks)),
            "floor": lambda: [work.remover.model.hf_model(ids).logits.logsumexp(-1) for _ in range(FEATURES_MEASURED)],
        },
        rounds=3,
    )
    each = 1e3 * times["effects"] / FEATURES_MEASURED
    print(f"effects: {each:.0f} ms a feature, {times['effects'] / times['floor']:.2f} x a plain pass of its windows")


if __name__ == "__main__":
    main()
