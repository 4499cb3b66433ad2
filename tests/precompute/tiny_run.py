"""A tiny finished run up to its dictionaries: random model, random text, random tied dictionaries of known density."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precompute.common import load_entry, load_model
from sae_core.corpus import TextDocument, load_windows, tokenise_to
from sae_core.dictionaries import Dictionary, save_dictionary
from sae_core.language_model import LanguageModel
from sae_core.specs import CorpusSpec, DictionarySpec, ModelSpec, RunSpec, Site
from sae_core.store import DictionaryEntry, Manifest, RunStore
from tests.tiny_model import tiny_model_folder

CONTEXT, WINDOW, BATCH = 32, 16, 4
WORDS = ("the", " the", " a", " cat", " in", "'s", ".", " dog", "\n", " if", "(x)", "é", " then", " on", ",")


def tiny_run(
    folder: Path, n_contexts: int = 30, density: float = 0.1, ratio: float = 1.0, skip_first: bool = False
) -> RunStore:
    """Three layers of d_model 32; headline dictionaries of layers 0 and 1 and one of the MLP's neurons of layer 1."""
    spec = RunSpec(ModelSpec("tiny"), CorpusSpec("miniature"), n_contexts * CONTEXT, 64, CONTEXT, WINDOW, seed=3)
    spec = replace(spec, skip_first=skip_first)
    store = RunStore.create(folder, Manifest("tiny", spec))
    tiny_model_folder(folder / "model", n_ctx=CONTEXT)
    model = load_model(store, "cpu")
    facts = _write_corpus(store, model, n_contexts)
    store.update_manifest(model={"hash": model.hash, "n_layers": model.n_layers}, corpus=facts)
    sites = [Site(0), Site(1), Site(1, "mlp_post")]
    store.update_manifest(dictionaries=tuple(_add_dictionary(store, model, site, density, ratio) for site in sites))
    _write_vocabulary(store, model)
    return store


def _write_corpus(store: RunStore, model: LanguageModel, n_contexts: int) -> dict:
    rng = np.random.default_rng(0)
    documents = (
        TextDocument("".join(rng.choice(WORDS, 40)), f"source {i % 3}", lambda offsets: {"kind": _kinds(offsets)})
        for i in range(10_000)
    )
    return tokenise_to(
        store.folder / "corpus",
        documents,
        model.tokenizer,
        train_tokens=n_contexts * CONTEXT,
        held_out_tokens=CONTEXT,
        context=CONTEXT,
        window=WINDOW,
    )


def _kinds(offsets: list[tuple[int, int]]) -> list[str]:
    return ["start" if first < 9 else "long" if last - first > 1 else "" for first, last in offsets]


def _add_dictionary(store: RunStore, model: LanguageModel, site: Site, density: float, ratio: float) -> DictionaryEntry:
    """Random unit directions, each with the threshold that gives it about a share of the tokens; feature 1 is dead."""
    generator = torch.Generator().manual_seed(site.layer)
    spec = DictionarySpec(site, "tied", ratio, 1e-3)
    n, width = spec.n_features(model.width(site)), model.width(site)
    directions = torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=1)
    ids = torch.from_numpy(load_windows(store.folder, "train").tokens.astype(np.int64))
    pre = model.sites(ids, [site])[site].flatten(0, 1) @ directions.T
    shares = density * 2 * torch.rand(n, generator=generator)
    bias = -torch.stack([pre[:, i].quantile(1 - share) for i, share in enumerate(shares.tolist())])
    bias[1] = -1e6
    dictionary = Dictionary(site, directions.T.contiguous(), bias, directions, torch.zeros(width), spec)
    save_dictionary(dictionary, store.dictionary_folder(spec.id), {})
    return DictionaryEntry(spec.id, spec, n, dictionary.hash, "main", headline=site.name == "resid_post")


def _write_vocabulary(store: RunStore, model: LanguageModel) -> None:
    tokens = model.token_strings()
    store.write_table("vocabulary", pd.DataFrame({"token_id": range(len(tokens)), "token": tokens, "count": 0}))


def dense_codes(store: RunStore, id: str) -> tuple[np.ndarray, np.ndarray]:
    """Brute force: the token ids [n] of the table tokens and all their codes [n, F].

    In batches of BATCH, as the tests' steps: another batch size can change the last bit, and so the bin, of a code.
    """
    model, dictionary = load_model(store, "cpu"), load_entry(store, store.dictionary(id))
    spec, site = store.manifest.spec, dictionary.site
    tokens = np.array(load_windows(store.folder, "train").tokens[: spec.table_tokens // spec.context], np.int64)
    batches = torch.from_numpy(tokens).split(BATCH)
    codes = [dictionary.encode(model.sites(batch, [site])[site]).flatten(0, 1) for batch in batches]
    return tokens.ravel(), torch.cat(codes).numpy()
