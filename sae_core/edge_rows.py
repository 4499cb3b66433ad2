"""Rows of `causal_edges`: the contexts sampled for each feature, and its edges from the layer before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import torch

from sae_core.causal_tree import Contexts, edges, table_rows
from sae_core.code_index import FeatureCodes
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.language_model import LanguageModel
from sae_core.sampling import at_indices, equal_bins, feature_rng, one_per_bin
from sae_core.schemas import CAUSAL_EDGES, TREE_CONTEXTS, TREE_MIN_CONTEXTS
from sae_core.store import to_arrow


def edge_table(
    model: LanguageModel, parent: Dictionary, child: Dictionary, contexts: Contexts, parent_id: str
) -> pa.Table:
    """Rows of the targets of the contexts, by feature, then parent."""
    if not len(contexts.targets):
        return CAUSAL_EDGES.arrow.empty_table()
    rows = table_rows(edges(model, parent, child, contexts), parent_id)
    return to_arrow(rows, CAUSAL_EDGES).cast(CAUSAL_EDGES.arrow)


def sample_contexts(features: Iterable[FeatureCodes], text: TokenText, seed: int) -> Contexts:
    """One context from each of TREE_CONTEXTS equal bins of [M/2, M], M the feature's largest code.

    A context is the target's window up to the target token, which counts in that window. Features with fewer than
    TREE_MIN_CONTEXTS have none.
    """
    chosen = [(found.feature, target_positions(found, text, seed)) for found in features]
    chosen = [(feature, positions) for feature, positions in chosen if len(positions) >= TREE_MIN_CONTEXTS]
    targets = np.repeat([feature for feature, _ in chosen], [len(positions) for _, positions in chosen])
    positions = np.concatenate([positions for _, positions in chosen] or [[]]).astype(np.int64)
    lengths = positions % text.window + 1
    ids = text.token_ids.reshape(-1, text.window)[positions // text.window].astype(np.int64)
    tensors = (torch.from_numpy(values) for values in (ids, lengths, targets.astype(np.int64)))
    return Contexts(*tensors, text.first)


def target_positions(found: FeatureCodes, text: TokenText, seed: int) -> np.ndarray:
    """Positions drawn uniformly, one from each bin of [M/2, M] that holds any, weakest bin first."""
    if not len(found.codes):
        return found.positions
    largest = float(found.codes.max())

    def bins() -> Iterator[np.ndarray]:
        strong = (part.codes for part in _strong(found, text, largest / 2))
        return (equal_bins(codes, largest / 2, largest, TREE_CONTEXTS) for codes in strong)

    chosen = one_per_bin(bins, feature_rng(seed, found.feature))
    return at_indices((part.positions for part in _strong(found, text, largest / 2)), chosen)


def _strong(found: FeatureCodes, text: TokenText, least: float) -> Iterator[FeatureCodes]:
    """The entries of at least this code at positions that count, a part at a time."""
    for part in found.parts():
        strong = part.part(np.flatnonzero(part.codes >= least))
        yield strong.part(np.flatnonzero(strong.positions % text.window >= text.first)) if text.first else strong
