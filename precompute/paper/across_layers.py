"""Step `across_layers`: do features of neighbouring layers point the same way? One-to-one matches (paper Sec. 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from precompute.common import load_entry
from precompute.paper.states import summary
from sae_core.errors import DictionaryError
from sae_core.matching import match_one_to_one
from sae_core.store import DictionaryEntry, RunStore

STEP = "across_layers"
TABLE = "across_layers"


@dataclass(frozen=True)
class Args:
    """Match the features of each headline dictionary with those of the next layer's."""


def run(store: RunStore, args: Args) -> None:
    """Write `across_layers` of every headline dictionary that has one in the next layer."""
    pairs = list(headline_pairs(store))
    if not pairs:
        fix = "Train more layers: python -m precompute train, then metrics"
        raise DictionaryError("headline dictionaries of two neighbouring layers", "none", fix)
    for entry, following in pairs:
        if _state(store, entry, following) != "ready":
            own, theirs = (load_entry(store, each).W_dec.numpy() for each in (entry, following))
            provenance = store.provenance(entry.id, others=[following.hash])
            store.write_table(TABLE, across_rows(own, theirs, following.id), entry.id, provenance)


def state(store: RunStore) -> str:
    """State of the tables of all pairs of neighbouring layers."""
    return summary({_state(store, *pair) for pair in headline_pairs(store)})


def headline_pairs(store: RunStore) -> Iterator[tuple[DictionaryEntry, DictionaryEntry]]:
    """Headline dictionaries of neighbouring layers, the lower one first."""
    for entry in store.dictionaries:
        following = store.headline(entry.spec.site.layer + 1)
        if entry.headline and following is not None:
            yield entry, following


def across_rows(own: np.ndarray, theirs: np.ndarray, other_dictionary: str) -> pd.DataFrame:
    """One-to-one matches as rows of a table; own [n, d], theirs [m, d]: decoder directions."""
    matches = match_one_to_one(own, theirs)
    return pd.DataFrame(
        {
            "feature": np.arange(len(own)),
            "other_dictionary": other_dictionary,
            "other": matches.others,
            "cosine": matches.cosines,
            "best_cosine": matches.best,
        }
    )


def _state(store: RunStore, entry: DictionaryEntry, following: DictionaryEntry) -> str:
    return store.table_state(TABLE, entry.id, others=[following.hash])
