"""Grow a causal tree from edges, whoever provides them (the stored table or a live computation). Light.

1. The root is the only node of depth 0.
2. For each node of the current depth, take its edges, drop those with |relative_drop| below the threshold, and keep
   the `branching` strongest by |relative_drop|. Each kept edge is a link from parent to child.
3. A parent not yet in the tree becomes a node of the next depth; one that is there already only gains a link.
4. Go on with the new nodes until the depth is reached or there are none.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from sae_core.errors import InputError

Node = tuple[str, int]  # dictionary, feature
EDGE_COLUMNS = ("parent_dictionary", "parent", "relative_drop", "stderr", "n_contexts", "cosine")
NODE_COLUMNS = ("dictionary", "feature", "depth")
LINK_COLUMNS = ("child_dictionary", "child", *EDGE_COLUMNS)


def grow(
    edges_of: Callable[[str, int], pd.DataFrame],
    root: Node,
    depth: int = 3,
    branching: int = 3,
    threshold: float = 0.01,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nodes (dictionary, feature, depth) and links (child_dictionary, child, then the edge's columns).

    edges_of(dictionary, feature): rows with EDGE_COLUMNS, one a parent in the previous layer; rows with a negative
    parent (all weaker parents together) are never links. Raises InputError for a depth or branching below 1.
    """
    if depth < 1 or branching < 1 or threshold < 0:
        found = f"depth {depth}, branching {branching}, threshold {threshold}"
        raise InputError(
            "a depth and branching of at least 1 and a threshold of at least 0", found, "Choose larger ones"
        )
    depths: dict[Node, int] = {root: 0}
    links: list[dict] = []
    current = [root]
    for level in range(1, depth + 1):
        found = [link for node in current for link in _links(edges_of, node, branching, threshold)]
        links += found
        current = []
        for link in found:
            parent = (link["parent_dictionary"], int(link["parent"]))
            if parent not in depths:
                depths[parent] = level
                current.append(parent)
    nodes = pd.DataFrame([(*node, level) for node, level in depths.items()], columns=list(NODE_COLUMNS))
    return nodes, pd.DataFrame(links, columns=list(LINK_COLUMNS))


def _links(edges_of: Callable[[str, int], pd.DataFrame], node: Node, branching: int, threshold: float) -> list[dict]:
    kept = strongest(edges_of(*node), branching, threshold)[list(EDGE_COLUMNS)]
    return [{"child_dictionary": node[0], "child": node[1], **row} for row in kept.to_dict("records")]


def strongest(edges: pd.DataFrame, limit: int, threshold: float = 0.0) -> pd.DataFrame:
    """The edges of one child with |relative_drop| at or above the threshold, at most `limit`, strongest first."""
    strength = edges["relative_drop"].abs().where(edges["parent"] >= 0)
    order = strength[strength >= threshold].sort_values(ascending=False, kind="stable").index
    return edges.loc[order[:limit]]
