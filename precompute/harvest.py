"""One pass of the model over the table tokens: the codes of all dictionaries asked for, as inverted indexes.

The indexes live in the run's scratch folder while some table still needs them. The pass continues after a kill at
the first shard that is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from precompute.activation_files import ActivationFiles, Activations, from_model
from precompute.common import bar, load_entry, load_model
from precompute.tables import fresh_folder
from precompute.workers import side_by_side
from sae_core.code_index import CodeIndex
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.feature_selection import ALL
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import CODES, MAKES, codes_made_from, made, owners, table_text

CODES_AT_ONCE = 2**25

Entries = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class HarvestArgs:
    """Settings of every step that reads codes."""

    device: str = "auto"
    """auto, cpu, cuda or mps"""
    batch: int = 16
    """contexts run through the model at once while harvesting"""


@dataclass(frozen=True)
class FeatureArgs(HarvestArgs):
    """Settings of the steps that can be asked for some features; more can be added later."""

    features: str = ALL
    """all; 3,17,40; 0-99; or a filter such as `alive and density<0.01`. What the tables hold already stays"""
    only: str = ""
    """part of a dictionary id, such as L2-: only these dictionaries, so that processes can share the work"""


def code_indexes(
    store: RunStore,
    entries: Sequence[DictionaryEntry],
    device: str = "auto",
    batch: int = 16,
    files: ActivationFiles | None = None,
) -> dict[str, CodeIndex]:
    """The code index of each dictionary, by id; what is missing is harvested with contexts in batches of `batch`.

    files: the activations of the text if they are there; else the model is loaded and run.
    """
    text = table_text(store)
    indexes = {entry.id: _open(store, entry, text) for entry in entries}
    if any(index.missing() for index in indexes.values()):
        sites = list(dict.fromkeys(entry.spec.site for entry in entries))
        model = None if files else load_model(store, device)
        read = files.of(sites) if files else from_model(model, sites, text.contexts)
        device = (files or model).device
        dictionaries = {entry.id: load_entry(store, entry, device) for entry in entries}
        write_indexes(read, dictionaries, indexes, text, batch, "codes of the table tokens")
    return indexes


def write_indexes(
    read: Activations,
    dictionaries: dict[str, Dictionary],
    indexes: dict[str, CodeIndex],
    text: TokenText,
    batch: int,
    what: str,
) -> None:
    """Write what is missing of each dictionary's index, several shards at a time; `what` stands at the bar."""
    missing = {id: set(index.missing()) for id, index in indexes.items()}

    def write(shard: int) -> None:
        wanted = {id: dictionaries[id] for id in indexes if shard in missing[id]}
        write_shard(read, wanted, indexes, shard, text, batch)

    shards = sorted(set().union(*missing.values()))
    device = next(iter(dictionaries.values())).device
    for _ in bar(side_by_side(write, shards, device), what, len(shards), "shard"):
        pass


def write_shard(
    read: Activations,
    dictionaries: dict[str, Dictionary],
    indexes: dict[str, CodeIndex],
    shard: int,
    text: TokenText,
    batch: int,
) -> None:
    """Write the codes of one shard to the index of each dictionary.

    Memory: the entries of one batch of contexts and one dictionary, however many dictionaries there are.
    """
    writers = {id: indexes[id].writer(shard) for id in dictionaries}
    size = next(iter(indexes.values())).shard_tokens // text.context
    contexts = range(shard * size, min((shard + 1) * size, len(text.contexts)))
    for id, found in harvest(read, dictionaries, contexts, batch, text.first):
        writers[id].add(*found)
    for writer in writers.values():
        writer.close()


def _open(store: RunStore, entry: DictionaryEntry, text: TokenText) -> CodeIndex:
    folder = fresh_folder(store.scratch(CODES) / entry.id, codes_made_from(store, entry, text))
    return CodeIndex(folder, entry.n_features, len(text.token_ids), text.context)


def harvest(
    read: Activations, dictionaries: dict[str, Dictionary], contexts: range, batch: int, first: int = 0
) -> Iterator[tuple[str, Entries]]:
    """Codes != 0 of each dictionary on some contexts of t tokens: token, feature and code, by token.

    Tokens are counted from the first of these contexts. They come by batches of contexts, and in each by dictionary.
    Positions before `first` are left out.
    """
    for start in contexts[::batch]:
        x = read(slice(start, min(start + batch, contexts.stop)))
        for id, dictionary in dictionaries.items():
            flat = x[dictionary.site].flatten(0, 1).to(dictionary.W_dec.dtype)
            length = x[dictionary.site].shape[1]
            parts = _sparse_codes(dictionary, flat, (start - contexts.start) * length)
            yield id, _from(first, length, *map(np.concatenate, zip(*parts, strict=True)))


def _from(first: int, context: int, *entries: np.ndarray) -> Entries:
    """The entries at position `first` of their context or later."""
    if not first:
        return entries
    counts = entries[0] % context >= first
    return tuple(part[counts] for part in entries)


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
        if not _needed(store, entry):
            shutil.rmtree(store.folder / "scratch" / CODES / entry.id, ignore_errors=True)


def release_codes(store: RunStore) -> None:
    """Remove the indexes once every table holds what it was asked for."""
    if not any(_needed(store, entry) for entry in store.main_dictionaries):
        store.clear_scratch(CODES)


def _needed(store: RunStore, entry: DictionaryEntry) -> bool:
    """Whether a table of the dictionary is still to be made; one of some features has what it was asked for."""
    steps = (step for step in MAKES if entry in owners(store, step))
    return any(made(store, step, entry).state in ("missing", "stale") for step in steps)
