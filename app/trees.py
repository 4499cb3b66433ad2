"""Causal trees as the pages need them: grown from the stored edges, named, and compared with a live one. Light."""

from __future__ import annotations

import numpy as np
import pandas as pd

from app import computed, names
from sae_core.interop.circuit_tree import Growth as Growth
from sae_core.schemas import TREE_MIN_CONTEXTS
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import held
from sae_core.tree_growth import EDGE_COLUMNS, Node, grow

LINK = ["child_dictionary", "child", "parent_dictionary", "parent"]
SURE_DROP = 0.05


def stored_edges(run: RunStore, dictionary: str, feature: int) -> pd.DataFrame:
    """Edges into a feature from `causal_edges`; none where the layer has no parents, or they are not computed yet."""
    entry = run.dictionary(dictionary)
    found = None if why_no_parents(run, entry) else computed.rows(run, "causal_edges", entry, int(feature))
    return pd.DataFrame(columns=list(EDGE_COLUMNS)) if found is None else found[list(EDGE_COLUMNS)]


def not_computed(run: RunStore, nodes: pd.DataFrame, depth: int) -> list[Node]:
    """Nodes of a tree (dictionary, feature, depth) above its last layer whose edges are not computed yet."""
    inner = nodes[nodes["depth"] < depth]
    keys = [(row.dictionary, int(row.feature)) for row in inner.itertuples()]
    return [key for key in keys if not _known(run, *key)]


def _known(run: RunStore, dictionary: str, feature: int) -> bool:
    entry = run.dictionary(dictionary)
    return bool(why_no_parents(run, entry)) or computed.rows(run, "causal_edges", entry, feature) is not None


def compute_tree(run: RunStore, root: Node, growth: Growth, tell: computed.Tell) -> None:
    """Compute the edges that the tree of `root` lacks, one layer after the other. Raises as app.computed."""
    while left := not_computed(run, stored_tree(run, root, growth)[0], growth.depth):
        computed.compute_edges(run, left, tell)


def why_no_parents(run: RunStore, entry: DictionaryEntry) -> str:
    """Why no feature of a dictionary can have parents; empty if they can."""
    layer = entry.spec.site.layer
    if not entry.headline:
        return "Edges are measured between the headline residual dictionaries only, one for each layer."
    if run.headline(layer - 1) is None:
        return f"Layer {layer} is the first with a headline dictionary, so there is no layer before it to look at."
    return ""


def why_empty(run: RunStore, entry: DictionaryEntry, edges: pd.DataFrame, threshold: float) -> str:
    """One sentence on why the tree of a feature with these edges has no links."""
    reason = why_no_parents(run, entry)
    if reason:
        return reason
    parents = edges[edges["parent"] >= 0]
    if parents.empty:
        return (
            f"No edges were measured: that takes at least {TREE_MIN_CONTEXTS} contexts in which the feature reaches "
            "half of its maximum, and a parent that is active in one of them."
        )
    strongest = parents["relative_drop"].abs().max()
    return (
        f"Its strongest edge is {strongest:.2%}, below the threshold of {threshold:.0%}. Lower the threshold to see it."
    )


def stored_tree(run: RunStore, root: Node, growth: Growth) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nodes and links of the tree on the corpus, named for the figure."""
    nodes, links = grow(lambda d, f: stored_edges(run, d, f), root, growth.depth, growth.branching, growth.threshold)
    return named(run, nodes), links


def named(run: RunStore, nodes: pd.DataFrame) -> pd.DataFrame:
    """The nodes with the columns layer and name."""
    layers = {id: run.dictionary(id).spec.site.layer for id in nodes["dictionary"].unique()}
    return nodes.assign(layer=nodes["dictionary"].map(layers), name=names.full_names(run, nodes))


def named_links(nodes: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """The links with the columns child_name and parent_name, strongest first."""
    known = nodes.set_index(["dictionary", "feature"])["name"]
    order = links.reindex(links["relative_drop"].abs().sort_values(ascending=False, kind="stable").index)
    for end in ("child", "parent"):
        keys = pd.MultiIndex.from_arrays([order[f"{end}_dictionary"], order[end].astype("int64")])
        order = order.assign(**{f"{end}_name": known.reindex(keys).to_numpy()})
    return order.reset_index(drop=True)


def compare(run: RunStore, live: pd.DataFrame, stored: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Links of a live tree and of the stored one together, with the columns mark, live_drop and stored_drop.

    mark: `both` where the stored edge (any of those kept) passes the threshold with the same sign as the
    live one; `live only`; `stored only` for links of the stored tree that the live tree does not have: their
    relative_drop is the stored one and their live_drop missing.
    """
    on_corpus = pd.Series([_stored_drop(run, *row) for row in live[LINK].itertuples(index=False)], dtype="float64")
    agrees = (on_corpus.abs() >= threshold) & (np.sign(on_corpus) == np.sign(live["relative_drop"].to_numpy()))
    here = live.assign(
        live_drop=live["relative_drop"], stored_drop=on_corpus.to_numpy(), mark=np.where(agrees, "both", "live only")
    )
    known = set(live[LINK].itertuples(index=False, name=None))
    missing = [row not in known for row in stored[LINK].itertuples(index=False, name=None)]
    there = stored[missing].assign(mark="stored only", live_drop=np.nan, stored_drop=lambda f: f["relative_drop"])
    return pd.concat([part for part in (here, there) if len(part)] or [here], ignore_index=True)


def _stored_drop(run: RunStore, child_dictionary: str, child: int, parent_dictionary: str, parent: int) -> float:
    edges = stored_edges(run, child_dictionary, int(child))
    found = edges.loc[(edges["parent_dictionary"] == parent_dictionary) & (edges["parent"] == parent), "relative_drop"]
    return float(found.iloc[0]) if len(found) else np.nan


def liveliest(run: RunStore, dictionary: str, among: int = 64) -> int:
    """A feature to begin with: among the first, the one with most sure parents; 0 where none has edges.

    Sure: relative drop less twice its standard error above SURE_DROP. The single largest drop would be a poor guide:
    a child that is small on its few contexts can lose many times its own activation.
    """
    n, some = run.dictionary(dictionary).n_features, held(run, "causal_edges", dictionary)
    first = np.arange(n)[:among] if some is None else some[:among]
    columns = ["feature", "parent", "relative_drop", "stderr"]
    edges = run.read("causal_edges", dictionary, key=first.tolist(), columns=columns)
    edges = edges[edges["parent"] >= 0]
    sure = edges["relative_drop"] - 2 * edges["stderr"] > SURE_DROP
    return int(sure.groupby(edges["feature"]).sum().idxmax()) if len(edges) else 0
