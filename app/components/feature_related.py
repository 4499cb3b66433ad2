"""The parts of the Feature page on other features: parents and children, nearest directions, what fires together."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app import computed, feature_parts, links, names, trees
from app.components import compute_now, layout, plots
from app.components.errors import show_errors
from app.components.tables import chosen_row, edge_columns
from app.glossary import explain
from sae_core.schemas import NEIGHBOURS, TREE_MIN_CONTEXTS, TREE_PARENTS
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import parent_of

RELATIONS = {
    "same": "same dictionary", "previous": "previous layer", "next": "next layer", "cofiring": "fires together",
}  # fmt: skip
SHOWN_EDGES = 12


def causes(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """Parents in the previous layer and children in the next, by relative drop."""
    st.subheader("Causes and consequences", help=explain("causal_edges", "relative_drop"))
    left, right = layout.stacking_columns(2, "causes")
    with left, show_errors(stop=False):
        st.markdown("###### Parents: removing them lowers this feature")
        show_parents(run, entry, feature)
    with right, show_errors(stop=False):
        st.markdown("###### Children: features of the next layer that name it as a parent")
        children = feature_parts.children(run, entry, feature)
        missing = f"No feature of a next layer has it among its {TREE_PARENTS} strongest parents."
        edge_table(run, children, "Child", f"children-{entry.id}-{feature}", missing)
    place = {"dictionary": entry.id, "feature": feature}
    links.link("Open the causal tree", "causal_tree", icon=":material/account_tree:", **place)


def show_parents(run: RunStore, entry: DictionaryEntry, feature: int) -> None:
    """The parents, or a button that computes them now."""
    parents = feature_parts.parents(run, entry, feature)
    if parents is None:
        compute = partial(computed.compute_edges, run, [(entry.id, feature)])
        pair = [entry, parent_of(run, entry)]
        compute_now.offer(run, "edges", "The edges into this feature are", pair, compute, "compute-edges")
        return
    too_few = f"Fewer than {TREE_MIN_CONTEXTS} contexts reach half its maximum, so no edges were measured."
    why_none = trees.why_no_parents(run, entry) or too_few
    edge_table(run, parents, "Parent", f"parents-{entry.id}-{feature}", why_none)
    if len(parents) and parents.attrs["rest"]:
        plots.note(parents.attrs["rest"])


def edge_table(run: RunStore, edges: pd.DataFrame, title: str, key: str, missing: str) -> None:
    """Edges as a table; a click opens the feature at the other end."""
    if edges.empty:
        plots.note(missing)
        return
    shown = edges.head(SHOWN_EDGES).reset_index(drop=True)
    shown = shown.assign(name=names.full_names(run, shown))
    columns = edge_columns(title)
    st.dataframe(shown, column_order=list(columns), column_config=columns, hide_index=True, key=key,
                 on_select="rerun", selection_mode="single-row")  # fmt: skip
    open_row(key, shown)


def open_row(key: str, frame: pd.DataFrame) -> None:
    """Open the feature of the row that was clicked."""
    row = chosen_row(key)
    if row is not None and row < len(frame):
        links.go("feature", dictionary=frame["dictionary"].iloc[row], feature=int(frame["feature"].iloc[row]))


def nearby(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """Nearest directions in this and the neighbouring layers, and features that fire together."""
    st.subheader("Near it", help=explain("neighbours", "similarity"))
    frame = run.read("neighbours", entry.id, key=feature)
    frame = frame.rename(columns={"feature": "self", "other_dictionary": "dictionary", "other": "feature"})
    present = [relation for relation in RELATIONS if (frame["relation"] == relation).any()]
    if not present:
        plots.note("No neighbours were stored for this feature.")
        return
    for first in range(0, len(present), 2):
        for column, relation in zip(
            layout.stacking_columns(2, f"near-{first}"), present[first : first + 2], strict=False
        ):
            with column:
                neighbour_table(run, frame[frame["relation"] == relation], relation, f"{relation}-{entry.id}-{feature}")
    plots.note(
        f"The {NEIGHBOURS} nearest by cosine of decoder directions; fires together: Jaccard index of active tokens. "
        "Choose a row to open it."
    )


def neighbour_table(run: RunStore, frame: pd.DataFrame, relation: str, key: str) -> None:
    """One relation as a small table."""
    shown = frame.sort_values("rank").reset_index(drop=True)
    shown = shown.assign(name=names.full_names(run, shown))
    number = "Jaccard" if relation == "cofiring" else "Cosine"
    config = st.column_config
    columns = {
        "similarity": config.NumberColumn(number, format="%.2f", width=70),
        "name": config.TextColumn(RELATIONS[relation].capitalize()),
    }
    st.dataframe(shown, column_order=list(columns), column_config=columns, hide_index=True, key=key,
                 height=250, on_select="rerun", selection_mode="single-row")  # fmt: skip
    open_row(key, shown)
