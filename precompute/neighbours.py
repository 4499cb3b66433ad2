"""Step `neighbours`: nearest features by direction in the same and adjacent layers, and those that fire together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import sparse

from precompute.common import load_entry
from precompute.harvest import HarvestArgs, code_indexes, release_codes
from precompute.tables import waiting
from sae_core.code_index import CodeIndex
from sae_core.matching import unit_directions
from sae_core.schemas import NEIGHBOURS
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import provenance, step_state

STEP = "neighbours"
state = partial(step_state, step=STEP)
NUMBERS_AT_ONCE = 2**24
COFIRING_TOKENS = 200_000

Similarity = Callable[[int, int], np.ndarray]  # rows start .. stop-1 against all others, [stop - start, n_others]


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Neighbours of every feature of the main dictionaries."""


def run(store: RunStore, args: Args) -> None:
    """Write the neighbours of every main dictionary that lacks them."""
    entries = [work.entry for work in waiting(store, STEP)]
    if not entries:
        return
    indexes = code_indexes(store, entries, args.device, args.batch)
    for entry in entries:
        frames = [*direction_neighbours(store, entry), cofiring(entry, indexes[entry.id])]
        frame = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
        store.write_table("neighbours", frame, entry.id, provenance(store, STEP, entry))
    release_codes(store)


def direction_neighbours(store: RunStore, entry: DictionaryEntry) -> Iterator[pd.DataFrame]:
    """`same` for every dictionary, `previous` and `next` between the headline dictionaries of adjacent layers."""
    own = decoder_directions(store, entry)
    layer = entry.spec.site.layer
    others = {"same": entry}
    if entry.headline:
        others |= {"previous": store.headline(layer - 1), "next": store.headline(layer + 1)}
    for relation, other in others.items():
        if other is not None:
            theirs = own if other.id == entry.id else decoder_directions(store, other)
            found = nearest(cosines(own, theirs), len(own), len(theirs), exclude_self=relation == "same")
            yield neighbour_frame(relation, other.id, *found)


def decoder_directions(store: RunStore, entry: DictionaryEntry) -> np.ndarray:
    """Decoder directions of norm 1, [n_features, width] float32."""
    return unit_directions(load_entry(store, entry).W_dec.cpu().numpy())


def cosines(own: np.ndarray, theirs: np.ndarray) -> Similarity:
    """Cosine of the directions own [n, d] with theirs [m, d], both of norm 1."""
    return lambda start, stop: own[start:stop] @ theirs.T


def jaccard(active: sparse.csc_array) -> Similarity:
    """|A and B| / |A or B| of the tokens on which features are active; active: [tokens, n_features] of 1."""
    counts = np.asarray(active.sum(0)).ravel().astype(np.int64)
    by_token = active.tocsr()

    def rows(start: int, stop: int) -> np.ndarray:
        both = (active[:, start:stop].T @ by_token).toarray().astype(np.float64)
        return both / np.maximum(counts[start:stop, None] + counts - both, 1)

    return rows


def cofiring(entry: DictionaryEntry, index: CodeIndex) -> pd.DataFrame:
    """Features that fire together most, over about COFIRING_TOKENS tokens; only those that ever do."""
    n = entry.n_features
    features, ranks, others, similarity = nearest(jaccard(index.active(COFIRING_TOKENS)), n, n, exclude_self=True)
    ever = similarity > 0
    return neighbour_frame("cofiring", entry.id, features[ever], ranks[ever], others[ever], similarity[ever])


def nearest(
    similarity: Similarity, n: int, n_others: int, exclude_self: bool, keep: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Feature, rank, other and similarity of each feature's `keep` most similar others, in chunks of features."""
    size = max(1, NUMBERS_AT_ONCE // n_others)
    parts = []
    for start in range(0, n, size):
        found = similarity(start, min(start + size, n)).copy()
        own = np.arange(start, start + len(found))
        if exclude_self:
            found[own - start, own] = -np.inf
        others = np.argsort(-found, axis=1, kind="stable")[:, : min(keep, n_others - exclude_self)]
        features, ranks = np.repeat(own, others.shape[1]), np.tile(np.arange(others.shape[1]), len(own))
        parts.append((features, ranks, others.ravel(), np.take_along_axis(found, others, 1).ravel()))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def neighbour_frame(
    relation: str,
    other_dictionary: str,
    features: np.ndarray,
    ranks: np.ndarray,
    others: np.ndarray,
    similarity: np.ndarray,
) -> pd.DataFrame:
    """Rows of `neighbours` of one relation."""
    return pd.DataFrame(
        {
            "feature": features,
            "relation": relation,
            "rank": ranks,
            "other_dictionary": other_dictionary,
            "other": others,
            "similarity": similarity,
        }
    )
