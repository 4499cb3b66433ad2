"""Causal tree: which features of earlier layers make a feature fire, on the corpus or on one sentence."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app import links, names, state, trees
from app.components import compute_now
from app.components.downloads import frame_buttons, graph_button, report_button
from app.components.plots import clicked, note, show_plot
from app.figures import tree
from app.trees import Growth
from sae_core.errors import TableError, UnfinishedRun
from sae_core.interop.circuit_graph import Prompt
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import parent_of
from sae_core.tree_growth import Node

MODES = {"stored": "On the corpus", "live": "On your own sentence"}
DROP_HELP = "(a − a′) / a: the share of the child's activation that goes when the parent is removed at all positions."
TABLE = {
    "child_name": st.column_config.TextColumn("child", width=195),
    "parent_name": st.column_config.TextColumn("parent", width=195),
    "relative_drop": st.column_config.NumberColumn("relative drop", format="%+.1f%%", help=DROP_HELP),
    "stderr": st.column_config.NumberColumn("standard error", format="%.1f%%", help="over contexts"),
    "n_contexts": st.column_config.NumberColumn("contexts", help="contexts averaged, those with a silent parent too"),
    "cosine": st.column_config.NumberColumn(format="%.2f", help="of the two decoder directions"),
    "live_drop": st.column_config.NumberColumn("here", format="%+.1f%%", help=DROP_HELP),
    "stored_drop": st.column_config.NumberColumn("on the corpus", format="%+.1f%%", help="the stored relative drop"),
    "mark": st.column_config.TextColumn("seen", help="here, on the corpus, or both with the same sign"),
}
IN_PERCENT = ("relative_drop", "stderr", "live_drop", "stored_drop")


def main() -> None:
    """The page, top to bottom."""
    run = state.store()
    st.title("Causal tree")
    st.caption(
        "Which features of the layers before make a feature fire: remove a parent, and see how much of the child goes."
    )
    entry, feature = choose_root(run)
    growth = choose_growth()
    mode = st.segmented_control(
        "Measured", MODES, **links.bound("mode", "stored", options=MODES), format_func=MODES.get, required=True
    )
    draw = draw_stored if mode == "stored" else draw_live
    draw(run, entry, feature, growth)


def choose_root(run: RunStore) -> tuple[DictionaryEntry, int]:
    """The root: one of the headline dictionaries and a feature of it."""
    entries = {d.id: d for d in run.main_dictionaries}
    default = last_headline(run).id
    where, which, say, go = st.columns([6, 4, 5, 3], vertical_alignment="bottom")
    bound = links.bound("dictionary", default, options=entries, drops=("feature",))
    id = where.selectbox("Dictionary of the root", entries, **bound, format_func=lambda id: _entry_name(entries[id]))
    entry = entries[id]
    bound = links.bound("feature", first_feature(run, entry), int)
    run.check_feature(id, st.session_state["feature"])
    feature = which.number_input("Feature", 0, entry.n_features - 1, **bound)
    with say:
        note(names.feature_names(run, id, [feature])[feature])
    links.link("Feature page", "feature", go, ":material/insights:", dictionary=id, feature=feature)
    return entry, feature


def _entry_name(entry: DictionaryEntry) -> str:
    return entry.spec.site.title + ("" if entry.headline else f" · {entry.id}")


def last_headline(run: RunStore) -> DictionaryEntry:
    """The headline dictionary of the last layer that has one. Raises RunError if the run has none."""
    headline = [d for d in run.main_dictionaries if d.headline]
    if not headline:
        raise UnfinishedRun(
            "headline residual dictionaries, which causal edges join",
            "none in this run",
            f"Make them: python -m precompute metrics --run {run.folder}",
        )
    return max(headline, key=lambda d: d.spec.site.layer)


def first_feature(run: RunStore, entry: DictionaryEntry) -> int:
    """What the page opens with: a feature that has a tree, if the table is there."""
    try:
        return 0 if trees.why_no_parents(run, entry) else trees.liveliest(run, entry.id)
    except TableError:
        return 0


def choose_growth() -> Growth:
    """Depth, branching and threshold."""
    depth, branching, threshold = st.columns(3)
    return Growth(
        depth.slider("Depth", 1, 5, **links.bound("depth", 3, int, range(1, 6)), help="layers back from the root"),
        branching.slider("Parents a node", 1, 8, **links.bound("branching", 3, int, range(1, 9)), help="the strongest"),
        threshold.slider(
            "Threshold", 0, 50, **links.bound("threshold", 5, int, range(51)), format="%d%%", help=DROP_HELP
        )
        / 100,
    )


def draw_stored(run: RunStore, entry: DictionaryEntry, feature: int, growth: Growth) -> None:
    """The tree averaged over contexts of the corpus."""
    nodes, edges = trees.stored_tree(run, (entry.id, feature), growth)
    left = trees.not_computed(run, nodes, growth.depth)
    if left:
        offer_tree(run, (entry.id, feature), growth, left)
    if edges.empty and (entry.id, feature) in left:
        return
    if edges.empty:
        found = trees.stored_edges(run, entry.id, feature)
        st.info(trees.why_empty(run, entry, found, growth.threshold))
        return
    key = f"tree-{entry.id}-{feature}"
    show_tree("Tree on the corpus", nodes, edges, key)
    edge_table(nodes, edges, ["child_name", "parent_name", "relative_drop", "stderr", "n_contexts", "cosine"])
    with st.container(horizontal=True):
        graph_button(run, (entry.id, feature), nodes, edges, growth)
        report_button(run, (entry.id, feature), growth)


def offer_tree(run: RunStore, root: Node, growth: Growth, left: list[Node]) -> None:
    """Say which edges of the tree are not computed yet, and compute them on a click."""
    target = "this feature" if root in left else f"{len(left)} features of this tree"
    children = [run.dictionary(id) for id in sorted({id for id, _ in left})]
    both = [entry for child in children for entry in (child, parent_of(run, child))]
    compute = partial(trees.compute_tree, run, root, growth)
    compute_now.offer(run, "edges", f"The edges into {target} are", both, compute, "compute-tree")


def draw_live(run: RunStore, entry: DictionaryEntry, feature: int, growth: Growth) -> None:
    """The tree on one typed sentence, beside the stored one."""
    if not entry.headline:
        st.info(trees.why_no_parents(run, entry))
        return
    with st.spinner("Loading torch"):
        from app import live, live_effects
        from app.components import live_text
    text, where = st.columns([3, 2], gap="large")
    with text:
        lines = live_text.typed_sentences(run, entry)
    with where:
        sentence = live_text.choose_sentence(lines)
        position = choose_target(live.firing(run, sentence), sentence.tokens, entry.id, feature)
    if position is None:
        st.info("This feature does not fire on this sentence. Type one on which it does, or choose another root.")
        return
    root = (entry.id, feature)
    nodes, here = live_effects.tree(run, sentence, position, root, growth)
    stored_nodes, there = trees.stored_tree(run, root, growth)
    edges = trees.compare(run, here, there, growth.threshold)
    both = pd.concat([trees.named(run, nodes), stored_nodes]).drop_duplicates(
        ["dictionary", "feature"], ignore_index=True
    )
    if edges.empty:
        st.info("No parent passes the threshold on this sentence, nor on the corpus. Lower the threshold.")
        return
    key = f"live-tree-{entry.id}-{feature}"
    show_tree("Tree on this sentence", both, edges, key)
    agree = (edges["mark"] == "both").sum()
    note(
        f"{agree} of the {len(here)} edges measured here are on the corpus too, with the same sign (solid); dashed "
        "edges only here; dotted ones only in the stored tree, drawn with their stored strength."
    )
    edge_table(both, edges, ["child_name", "parent_name", "live_drop", "stored_drop", "mark", "cosine"])
    graph_button(run, root, nodes, here, growth, Prompt(sentence.tokens, position))


def choose_target(fires: pd.DataFrame, tokens: tuple[str, ...], dictionary: str, feature: int) -> int | None:
    """The token at which the root is read: one on which it fires, at first where it is strongest."""
    own = fires[(fires["dictionary"] == dictionary) & (fires["feature"] == feature)]
    if own.empty:
        return None
    activation = dict(zip(own["position"], own["activation"], strict=True))
    bound = links.bound("position", int(own.loc[own["activation"].idxmax(), "position"]), int, activation)
    return st.selectbox(
        "Target token",
        activation,
        **bound,
        help="Tokens on which the root fires, with its activation",
        format_func=lambda p: f"{p} · {tokens[p]}  ({activation[p]:.2f})",
    )


def show_tree(title: str, nodes: pd.DataFrame, edges: pd.DataFrame, key: str) -> None:
    """The tree as a figure; a click on a node walks there."""
    drawn = tree.causal_tree(nodes, edges, state.colours())
    show_plot(title, drawn, key, None, lambda: _walk(key), tree.least_width(nodes))


def edge_table(nodes: pd.DataFrame, edges: pd.DataFrame, columns: list[str]) -> None:
    """The edges as numbers, to read and to download."""
    shown = trees.named_links(nodes, edges)
    percent = {name: 100 * shown[name] for name in IN_PERCENT if name in columns}
    st.dataframe(shown[columns].assign(**percent), column_config=TABLE, hide_index=True, key="edges")
    frame_buttons("Edges", lambda: shown, "causal_tree", "edges-file")


def _walk(key: str) -> None:
    point = clicked(key)
    if point and point.get("customdata"):
        dictionary, feature = point["customdata"]
        st.query_params.pop("position", None)
        st.query_params["dictionary"] = dictionary
        st.query_params["feature"] = str(int(feature))


with st.container(key="live"):  # named so that the style sheet can let its columns wrap on a narrow screen
    main()
