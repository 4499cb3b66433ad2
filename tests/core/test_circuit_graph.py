"""Causal trees as circuit-tracer graphs: every field, on a hand-made tree and on stored edges."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from sae_core.annotations import Annotations
from sae_core.interop.circuit_graph import FEATURE_TYPE, Prompt, graph, graph_text, pair, strengths
from sae_core.interop.circuit_tree import Growth, has_parents, stored_edges, stored_tree
from sae_core.store import RunStore
from sae_core.tree_growth import LINK_COLUMNS
from tests.synthetic_run import write_synthetic_run

NODE_FIELDS = (
    "node_id feature layer ctx_idx feature_type token_prob is_target_logit run_idx reverse_ctx_idx jsNodeId clerp "
    "influence activation"
)
GROWTH = Growth(3, 3, 0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_synthetic_run(tmp_path_factory.mktemp("graph") / "run", 24, 3, n_windows=60, sweep=(2e-4,))


@pytest.fixture(scope="module")
def ids(store: RunStore) -> list[str]:
    return [store.headline(layer).id for layer in range(3)]


def link(child: tuple[str, int], parent: tuple[str, int], drop: float) -> dict:
    return dict(zip(LINK_COLUMNS, (*child, *parent, drop, 0.01, 20, 0.5), strict=True))


def hand_made(ids: list[str]) -> tuple[tuple[str, int], pd.DataFrame, pd.DataFrame]:
    """5 at the root; 1 and 2 below it; 7 below both, over 2 the stronger."""
    a, b, c = ids
    root = (c, 5)
    links = [link(root, (b, 1), 0.5), link(root, (b, 2), -0.8), link((b, 1), (a, 7), 0.9), link((b, 2), (a, 7), 2.5)]
    nodes = [(c, 5, 0), (b, 1, 1), (b, 2, 1), (a, 7, 2)]
    return root, pd.DataFrame(nodes, columns=["dictionary", "feature", "depth"]), pd.DataFrame(links)


def test_nodes_and_links_of_a_hand_made_tree(store: RunStore, ids: list[str]) -> None:
    root, nodes, links = hand_made(ids)
    found = graph(store, root, nodes, links, GROWTH)
    assert [n["node_id"] for n in found["nodes"]] == ["2_5_1", "1_1_1", "1_2_1", "0_7_1"]
    assert [n["layer"] for n in found["nodes"]] == ["2", "1", "1", "0"]
    assert all(set(n) == set(NODE_FIELDS.split()) and n["feature_type"] == FEATURE_TYPE for n in found["nodes"])
    assert [n["influence"] for n in found["nodes"]] == pytest.approx([0, 0.5, 0.2, 0.2])
    assert [(e["source"], e["target"], e["weight"]) for e in found["links"]] == [
        ("1_1_1", "2_5_1", 0.5), ("1_2_1", "2_5_1", -0.8), ("0_7_1", "1_1_1", 0.9), ("0_7_1", "1_2_1", 2.5),
    ]  # fmt: skip
    assert found["qParams"]["clickedId"] == "2_5_1" and found["qParams"]["linkType"] == "both"


def test_metadata_says_what_the_weights_are(store: RunStore, ids: list[str]) -> None:
    root, nodes, links = hand_made(ids)
    on_corpus = graph(store, root, nodes, links, GROWTH)["metadata"]
    assert {"slug", "scan", "transcoder_list", "prompt_tokens", "prompt", "node_threshold"} <= set(on_corpus)
    assert on_corpus["slug"] == "synthetic-l2-5" and on_corpus["scan"] == "synthetic"
    assert on_corpus["prompt_tokens"] == ["(tokens before)", "(target token)"]
    assert on_corpus["prompt"] == "(mean over 20 contexts of the corpus)"
    assert "relative drop" in on_corpus["info"]["weights"] and "no direct attribution" in on_corpus["info"]["weights"]
    assert "no single prompt" in on_corpus["info"]["population"]
    assert {k: v["id"] for k, v in on_corpus["info"]["dictionaries"].items()} == {str(i): ids[i] for i in range(3)}
    prompt = Prompt(("␣the", "␣cat", "␣sat"), 1)
    live = graph(store, root, nodes, links, GROWTH, prompt)
    assert live["metadata"]["prompt"] == "␣the␣cat␣sat" and live["metadata"]["info"]["population"].startswith(
        "Measured"
    )
    assert {n["ctx_idx"] for n in live["nodes"]} == {1} and {n["reverse_ctx_idx"] for n in live["nodes"]} == {1}


@pytest.mark.parametrize("prompt", [None, Prompt(("␣a",), 0), Prompt(("␣a", "␣b"), 1)])
def test_the_viewer_keeps_every_feature(store: RunStore, ids: list[str], prompt: Prompt | None) -> None:
    """It deletes those that stand in more than two thirds of the columns (util-cg.js)."""
    found = graph(store, *hand_made(ids), GROWTH, prompt)
    names = Counter(n["jsNodeId"].split("-")[0] for n in found["nodes"])
    assert max(names.values()) <= len(found["metadata"]["prompt_tokens"]) * 2 / 3
    assert all(
        n["ctx_idx"] + n["reverse_ctx_idx"] + 1 == len(found["metadata"]["prompt_tokens"]) for n in found["nodes"]
    )


def test_labels_are_data_and_stay_as_they_are(store: RunStore, ids: list[str]) -> None:
    root, nodes, links = hand_made(ids)
    Annotations(store).put(ids[2], 5, '<b>"x"</b>')
    found = json.loads(graph_text(store, root, nodes, links, GROWTH))
    assert found["nodes"][0]["clerp"] == '#5 own: <b>"x"</b>'


def test_pairs_of_layer_and_feature_are_all_different() -> None:
    assert len({pair(x, y) for x in range(40) for y in range(300)}) == 40 * 300 and pair(0, 0) == 0


def test_strength_is_the_best_path_by_brute_force(ids: list[str]) -> None:
    root, _, links = hand_made(ids)
    parents = {}
    for row in links.itertuples():
        parents.setdefault((row.parent_dictionary, row.parent), []).append(row)

    def best(node: tuple[str, int]) -> float:
        if node == root:
            return 1.0
        return max(min(abs(r.relative_drop), 1) * best((r.child_dictionary, r.child)) for r in parents.get(node, []))

    found = strengths(root, links)
    assert {node: found[node] for node in parents} == pytest.approx({node: best(node) for node in parents})


def test_a_stored_tree_makes_a_graph_without_loose_ends(store: RunStore, ids: list[str]) -> None:
    growth = Growth(3, 2, 0.0)
    feature = int(store.read("causal_edges", ids[2])["feature"].iloc[0])
    nodes, links = stored_tree(store, (ids[2], feature), growth)
    found = graph(store, (ids[2], feature), nodes, links, growth)
    known = {n["node_id"] for n in found["nodes"]}
    assert len(known) == len(nodes) > 3 and {e[end] for e in found["links"] for end in ("source", "target")} <= known
    assert len(found["links"]) == len(links)


def test_edges_exist_between_headline_dictionaries_only(store: RunStore, ids: list[str]) -> None:
    sweep = next(d for d in store.dictionaries if d.role == "sweep")
    assert [has_parents(store, store.dictionary(id)) for id in [*ids, sweep.id]] == [False, True, True, False]
    assert stored_edges(store, ids[0], 0).empty and stored_edges(store, sweep.id, 0).empty


def test_a_tree_without_links_is_a_single_node(store: RunStore, ids: list[str], tmp_path: Path) -> None:
    nodes, links = stored_tree(store, (ids[0], 3), GROWTH)
    found = graph(store, (ids[0], 3), nodes, links, GROWTH)
    assert len(found["nodes"]) == 1 and found["links"] == []
