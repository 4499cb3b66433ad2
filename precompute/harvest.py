"""One pass of the model over the table tokens: the codes of all dictionaries asked for, as inverted indexes.

The indexes live in the run's scratch folder while some table still needs them. The pass continues after a kill at
the first shard that is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from precompute.common import bar, load_entry, load_model
from precompute.tables import MAKES, fresh_folder, owners, states
from sae_core.code_index import CodeIndex
from sae_core.contexts import TokenText
from sae_core.corpus import load_windows
from sae_core.dictionaries import Dictionary
from sae_core.language_model import LanguageModel
from sae_core.store import DictionaryEntry, RunStore

SCRATCH = "codes"
CODES_AT_ONCE = 2**25

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class HarvestArgs:
    """Settings of every step that reads codes."""

    device: str = "auto"
    """auto, cpu, cuda or mps"""
    batch: int = 16
    """contexts run through the model at once while harvesting"""


def table_text(store: RunStore) -> TokenText:
    """The table tokens of a run: the first `table_tokens` tokens of the training split, in whole contexts."""
    spec = store.manifest.spec
    contexts = load_windows(store.folder, "train").tokens[: max(1, spec.table_tokens // spec.context)]
    return TokenText(contexts.reshape(-1), spec.context, spec.window)


def code_indexes(
    store: RunStore, entries: Sequence[DictionaryEntry], device: str = "auto", batch: int = 16
) -> dict[str, CodeIndex]:
    """The code index of each dictionary, by id; what is missing is harvested with contexts in batches of `batch`."""
    text = table_text(store)
    indexes = {entry.id: _open(store, entry, text) for entry in entries}
    missing = {id: set(index.missing()) for id, index in indexes.items()}
    if any(missing.values()):
        model = load_model(store, device)
        dictionaries = {entry.id: load_entry(store, entry, model.device) for entry in entries}
        for shard in bar(sorted(set().union(*missing.values())), "codes of the table tokens", unit="shard"):
            wanted = {id: dictionaries[id] for id in indexes if shard in missing[id]}
            for id, found in harvest(model, wanted, shard_contexts(indexes[entries[0].id], shard, text), batch).items():
                indexes[id].write(shard, *found)
    return indexes


def _open(store: RunStore, entry: DictionaryEntry, text: TokenText) -> CodeIndex:
    made_from = store.provenance(entry.id, n_tokens=len(text.token_ids), context=text.context)
    folder = fresh_folder(store.scratch(SCRATCH) / entry.id, made_from)
    return CodeIndex(folder, entry.n_features, len(text.token_ids), text.context)


def shard_contexts(index: CodeIndex, shard: int, text: TokenText) -> np.ndarray:
    """The contexts of one shard, [n, context]."""
    start = shard * index.shard_tokens
    return text.token_ids[start : start + index.shard_tokens].reshape(-1, text.context)


def harvest(
    model: LanguageModel, dictionaries: dict[str, Dictionary], contexts: np.ndarray, batch: int
) -> dict[str, Entries]:
    """Codes != 0 of each dictionary on contexts [n, t]: token (row x t + position), feature and code, by token."""
    sites = list(dict.fromkeys(dictionary.site for dictionary in dictionaries.values()))
    found: dict[str, list[Entries]] = {id: [] for id in dictionaries}
    for start in range(0, len(contexts), batch):
        ids = torch.from_numpy(contexts[start : start + batch].astype(np.int64))
        x = model.sites(ids, sites)
        for id, dictionary in dictionaries.items():
            flat = x[dictionary.site].flatten(0, 1).to(dictionary.W_dec.dtype)
            found[id] += _sparse_codes(dictionary, flat, start * contexts.shape[1])
    return {id: tuple(np.concatenate(part) for part in zip(*parts, strict=True)) for id, parts in found.items()}


@torch.inference_mode()
def _sparse_codes(dictionary: Dictionary, x: torch.Tensor, first: int) -> list[Entries]:
    size = max(1, CODES_AT_ONCE // dictionary.n_features)
    return [_entries(dictionary.encode(x[i : i + size]), first + i) for i in range(0, len(x), size)]


def _entries(codes: torch.Tensor, first: int) -> Entries:
    """The entries != 0 of codes [n, F]. The row of a flat index is several times as fast as torch's nonzero."""
    flat, n_features = codes.float().cpu().numpy().reshape(-1), codes.shape[1]
    at = np.flatnonzero(flat != 0)
    tokens = at // n_features
    features = at - tokens * n_features
    return (tokens + first).astype(np.int32), features.astype(np.int32), flat[at]


def drop_codes(store: RunStore, entries: Sequence[DictionaryEntry]) -> None:
    """Remove the indexes of these dictionaries unless a table of theirs is still to be made of them.

    Those of all others stay: another process may be reading them.
    """
    for entry in entries:
        waiting = (step for step in MAKES if entry in owners(store, step) and states(store, step, entry) != {"ready"})
        if next(waiting, None) is None:
            shutil.rmtree(store.folder / "scratch" / SCRATCH / entry.id, ignore_errors=True)


def release_codes(store: RunStore) -> None:
    """Remove the indexes once no table needs them any more."""
    if all(states(store, step, entry) == {"ready"} for step in MAKES for entry in owners(store, step)):
        store.clear_scratch(SCRATCH)
