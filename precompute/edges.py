"""Step `edges`: which features of the previous layer each headline feature depends on (paper Sec. 5.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from precompute.common import bar, load_entry, load_model
from precompute.harvest import HarvestArgs, code_indexes, release_codes, table_text
from precompute.tables import Parts, parent_of, step_state, waiting
from sae_core.causal_tree import Contexts, edges, table_rows
from sae_core.code_index import CodeIndex, FeatureCodes
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.language_model import LanguageModel
from sae_core.sampling import feature_rng, one_per_bin
from sae_core.schemas import CAUSAL_EDGES, TREE_CONTEXTS, TREE_MIN_CONTEXTS
from sae_core.store import DictionaryEntry, RunStore, to_arrow

STEP = "edges"
state = partial(step_state, step=STEP)
FEATURES_AT_ONCE = 32


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Causal edges between the headline dictionaries of adjacent layers."""


def run(store: RunStore, args: Args) -> None:
    """Write causal_edges of every headline dictionary above layer 0, in blocks of features that survive a kill."""
    entries = waiting(store, STEP)
    if not entries:
        return
    indexes = code_indexes(store, entries, args.device, args.batch)
    model, text = load_model(store, args.device), table_text(store)
    for entry in entries:
        _write_edges(store, entry, indexes[entry.id], model, text)
    store.clear_scratch(STEP)
    release_codes(store)


def _write_edges(
    store: RunStore, entry: DictionaryEntry, index: CodeIndex, model: LanguageModel, text: TokenText
) -> None:
    parent_entry = parent_of(store, entry)
    parent, child = (load_entry(store, each, model.device) for each in (parent_entry, entry))
    parts = Parts(store, STEP, entry)
    blocks = range(0, entry.n_features, FEATURES_AT_ONCE)
    left = [block for block in blocks if not parts.done(block)]
    for block in bar(left, f"edges of {entry.id}", len(blocks), "block", len(blocks) - len(left)):
        features = index.features(block, min(block + FEATURES_AT_ONCE, entry.n_features))
        contexts = sample_contexts(features, text, store.manifest.spec.seed)
        parts.write(block, _edge_table(model, parent, child, contexts, parent_entry.id))
    parts.merge(blocks)


def _edge_table(
    model: LanguageModel, parent: Dictionary, child: Dictionary, contexts: Contexts, parent_id: str
) -> pa.Table:
    if not len(contexts.targets):
        return CAUSAL_EDGES.arrow.empty_table()
    rows = table_rows(edges(model, parent, child, contexts), parent_id)
    return to_arrow(rows, CAUSAL_EDGES).cast(CAUSAL_EDGES.arrow)


def sample_contexts(features: Iterable[FeatureCodes], text: TokenText, seed: int) -> Contexts:
    """One context from each of TREE_CONTEXTS equal bins of [M/2, M], M the feature's largest code.

    A context is the target's window up to the target token. Features with fewer than TREE_MIN_CONTEXTS have none.
    """
    chosen = [(found.feature, target_positions(found, seed)) for found in features]
    chosen = [(feature, positions) for feature, positions in chosen if len(positions) >= TREE_MIN_CONTEXTS]
    targets = np.repeat([feature for feature, _ in chosen], [len(positions) for _, positions in chosen])
    positions = np.concatenate([positions for _, positions in chosen] or [[]]).astype(np.int64)
    lengths = positions % text.window + 1
    ids = text.token_ids.reshape(-1, text.window)[positions // text.window].astype(np.int64)
    return Contexts(torch.from_numpy(ids), torch.from_numpy(lengths), torch.from_numpy(targets.astype(np.int64)))


def target_positions(found: FeatureCodes, seed: int) -> np.ndarray:
    """Positions drawn uniformly, one from each bin of [M/2, M] that holds any, weakest bin first."""
    if not len(found.codes):
        return found.positions
    largest = float(found.codes.max())
    strong = np.flatnonzero(found.codes >= largest / 2)
    rng = feature_rng(seed, found.feature)
    return found.positions[strong[one_per_bin(found.codes[strong], largest / 2, largest, TREE_CONTEXTS, rng)]]
