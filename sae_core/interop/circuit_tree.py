"""Causal trees put together from the stored edges of a run. Light."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from sae_core.store import DictionaryEntry, RunStore
from sae_core.tree_growth import EDGE_COLUMNS, Node, grow


@dataclass(frozen=True)
class Growth:
    """How far a tree is grown: layers back, parents a node, and the smallest |relative drop| of an edge."""

    depth: int = 3
    branching: int = 3
    threshold: float = 0.05


def has_parents(store: RunStore, entry: DictionaryEntry) -> bool:
    """Whether edges into features of this dictionary are measured: headline dictionaries above another one only."""
    return entry.headline and store.headline(entry.spec.site.layer - 1) is not None


def stored_edges(store: RunStore, dictionary: str, feature: int) -> pd.DataFrame:
    """Edges into a feature from the table `causal_edges`; none where the layer has no parents.

    Raises TableError if the table should be there and is not.
    """
    if not has_parents(store, store.dictionary(dictionary)):
        return pd.DataFrame(columns=list(EDGE_COLUMNS))
    return store.read("causal_edges", dictionary, key=feature, columns=list(EDGE_COLUMNS))


def stored_tree(store: RunStore, root: Node, growth: Growth) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nodes and links of the tree on the corpus (sae_core.tree_growth)."""
    return grow(
        lambda d, f: stored_edges(store, d, f), root, growth.depth, growth.branching, growth.threshold
    )  # fmt: skip
