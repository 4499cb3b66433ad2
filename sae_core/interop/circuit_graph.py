"""A causal tree as a circuit-tracer graph (JSON), so that its viewer and Neuronpedia's graph page can show it. Light.

    nodes   one a feature: node_id LAYER_FEATURE_POSITION, layer as text, feature = pair(layer, feature)
    links   parent -> child, weight = relative drop (a - a')/a of the child when the parent is removed

A viewer takes weights for direct attributions; here they are measured shares, and `metadata.info` says so. A tree on
the corpus belongs to no prompt: its columns are the target token and what stands before it. circuit-tracer's viewer
drops a feature that stands in more than two thirds of the columns, so there are never fewer than two. Features get the
node type under which viewers draw features, whatever kind of dictionary they are from.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sae_core.interop.circuit_tree import Growth
from sae_core.interop.neuronpedia import model_id, source_set
from sae_core.names import feature_names
from sae_core.store import RunStore
from sae_core.tree_growth import Node

FEATURE_TYPE = "cross layer transcoder"
WEIGHTS = (
    "A weight is a relative drop (a - a')/a: the share of the child's activation that goes when the parent is removed "
    "at all positions by resid' = resid + (decode(edit(codes)) - decode(codes)). It is no direct attribution, and the "
    "weights into a node need not add up to 1."
)
ON_CORPUS = "Averages over contexts of the corpus that are cut at the target token; no single prompt."
INFLUENCE = (
    "influence = 1 - the largest product of |relative drop| (each at most 1) on a path to the root: "
    "0 at the root, smaller is stronger"
)


@dataclass(frozen=True)
class Prompt:
    """The sentence a tree was measured on: its tokens, and the position of the target."""

    tokens: Sequence[str]
    position: int


def graph(
    store: RunStore, root: Node, nodes: pd.DataFrame, links: pd.DataFrame, growth: Growth, prompt: Prompt | None = None
) -> dict[str, Any]:
    """The graph of a tree (nodes, links: as `tree_growth.grow` gives them); prompt: None for a tree on the corpus."""
    place = columns(prompt)
    ids = {node: node_id(store, node, place.position) for node in _pairs(nodes, "dictionary", "feature")}
    return {
        "metadata": metadata(store, root, links, growth, prompt, place),
        "qParams": {
            "pinnedIds": list(ids.values()), "supernodes": [], "linkType": "both", "clickedId": ids[root], "sg_pos": "",
        },
        "nodes": _nodes(store, root, nodes, links, place),
        "links": [
            {"source": ids[parent], "target": ids[child], "weight": float(weight)}
            for parent, child, weight in _edges(links)
        ],
    }  # fmt: skip


def graph_text(*arguments: Any, **named: Any) -> str:
    """`graph` as JSON text."""
    return json.dumps(graph(*arguments, **named), indent=1, ensure_ascii=False, allow_nan=False)


def slug(store: RunStore, root: Node) -> str:
    """`pythia-70m-deduped-l3-412`: a plain file name that a link can hold."""
    return f"{model_id(store)}-l{_layer(store, root)}-{root[1]}".lower()


def columns(prompt: Prompt | None) -> Prompt:
    """The tokens that become columns, at least two, and the column of the target."""
    if prompt is None:
        return Prompt(("(tokens before)", "(target token)"), 1)
    return prompt if len(prompt.tokens) > 1 else Prompt(("(start of the text)", *prompt.tokens), 1)


def corpus_prompt(links: pd.DataFrame) -> str:
    """What stands in the place of a prompt."""
    n = int(links["n_contexts"].max()) if len(links) else 0
    return f"(mean over {n} contexts of the corpus)"


def metadata(
    store: RunStore, root: Node, links: pd.DataFrame, growth: Growth, prompt: Prompt | None, place: Prompt
) -> dict[str, Any]:
    """What the graph is and how it was measured. All nodes of the tree are there, so node_threshold is 1."""
    return {
        "slug": slug(store, root),
        "scan": model_id(store),
        "transcoder_list": [],
        "prompt_tokens": [str(token) for token in place.tokens],
        "prompt": "".join(map(str, prompt.tokens)) if prompt else corpus_prompt(links),
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {
            "generator": "sae-feature-explorer",
            "weights": WEIGHTS,
            "population": "Measured on this prompt." if prompt else ON_CORPUS,
            "influence": INFLUENCE,
            "growth": {"depth": growth.depth, "branching": growth.branching, "threshold": growth.threshold},
            "dictionaries": _dictionaries(store, root, links),
        },
    }


def _dictionaries(store: RunStore, root: Node, links: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Which dictionary each layer's features are from."""
    ids = dict.fromkeys([root[0], *links["child_dictionary"], *links["parent_dictionary"]])
    entries = [store.dictionary(id) for id in ids]
    return {
        str(e.spec.site.layer): {"id": e.id, "hook": e.spec.site.hook, "hash": e.hash, "set": source_set(e)}
        for e in entries
    }


def _nodes(
    store: RunStore, root: Node, nodes: pd.DataFrame, links: pd.DataFrame, place: Prompt
) -> list[dict[str, Any]]:
    strength = strengths(root, links)
    names = {d: feature_names(store, d, part["feature"]) for d, part in nodes.groupby("dictionary")}
    return [
        {
            "node_id": node_id(store, node, place.position),
            "feature": pair(_layer(store, node), node[1]),
            "layer": str(_layer(store, node)),
            "ctx_idx": place.position,
            "feature_type": FEATURE_TYPE,
            "token_prob": 0.0,
            "is_target_logit": False,
            "run_idx": 0,
            "reverse_ctx_idx": len(place.tokens) - 1 - place.position,
            "jsNodeId": f"{_layer(store, node)}_{node[1]}-{place.position}",
            "clerp": names[node[0]][node[1]],
            "influence": 1 - strength[node],
            "activation": None,
        }
        for node in _pairs(nodes, "dictionary", "feature")
    ]


def strengths(root: Node, links: pd.DataFrame) -> dict[Node, float]:
    """Of each node, the largest product of min(|relative drop|, 1) over the links of a path to the root; root: 1."""
    found: dict[Node, float] = defaultdict(float, {root: 1.0})
    for _ in range(len(links) + 1):
        before = dict(found)
        for parent, child, weight in _edges(links):
            found[parent] = max(found[parent], found[child] * min(abs(weight), 1.0))
        if found == before:
            break
    return found


def pair(x: int, y: int) -> int:
    """Cantor's pairing: one number for a layer and a feature, by which viewers look a feature up."""
    return (x + y) * (x + y + 1) // 2 + y


def node_id(store: RunStore, node: Node, position: int) -> str:
    """`3_412_0`: unique, because a layer has one headline dictionary."""
    return f"{_layer(store, node)}_{node[1]}_{position}"


def _layer(store: RunStore, node: Node) -> int:
    return store.dictionary(node[0]).spec.site.layer


def _pairs(frame: pd.DataFrame, dictionary: str, feature: str) -> list[Node]:
    return [(d, int(f)) for d, f in zip(frame[dictionary], frame[feature], strict=True)]


def _edges(links: pd.DataFrame) -> list[tuple[Node, Node, float]]:
    parents, children = _pairs(links, "parent_dictionary", "parent"), _pairs(links, "child_dictionary", "child")
    return list(zip(parents, children, links["relative_drop"].astype(float), strict=True))
