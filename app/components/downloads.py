"""Download buttons: a frame as CSV or Parquet, a feature as a report, a tree as a graph. Made when they are clicked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.trees import Growth
from sae_core.interop.circuit_graph import Prompt, graph_text
from sae_core.interop.export_tables import csv_text, parquet_bytes
from sae_core.interop.report_html import report
from sae_core.store import RunStore
from sae_core.tree_growth import Node

TITLES = {"csv": "CSV", "parquet": "Parquet"}
ICON = ":material/download:"
MIME = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def frame_buttons(what: str, make: Callable[[], pd.DataFrame], name: str, key: str, help: str | None = None) -> None:
    """Two buttons side by side. what: title; make: the frame; name: of the file, without its ending; key: unique."""
    with st.container(horizontal=True):
        for format, title in TITLES.items():
            _frame_button(f"{what} ({title})" if what else title, make, name, format, key, help)


def table_buttons(tables: Mapping[str, Callable[[], pd.DataFrame]], name: str) -> None:
    """A choice of the format, and one button a table; name: how the names of the files begin."""
    format = st.segmented_control("Tables as", TITLES, default="csv", required=True, format_func=TITLES.get)
    with st.container(horizontal=True):
        for table, make in tables.items():
            _frame_button(table, make, f"{name}-{table}", format, f"table-{table}")


def _frame_button(
    title: str, make: Callable[[], pd.DataFrame], name: str, format: str, key: str, help: str | None = None
) -> None:
    written = {"csv": csv_text, "parquet": parquet_bytes}[format]
    st.download_button(
        title, lambda: written(make()), f"{name}.{format}", MIME[format], key=f"{key}-{format}", icon=ICON, help=help,
        on_click="ignore",
    )  # fmt: skip


def report_button(run: RunStore, root: Node, growth: Growth | None = None, place: DeltaGenerator | None = None) -> None:
    """The feature as one HTML file that opens without Python."""
    (place or st).download_button(
        "HTML report", lambda: report(run, [root], growth), f"{root[0]}-{root[1]}.html", "text/html",
        key="html-report", icon=":material/description:", on_click="ignore",
        help="Numbers, histogram, contexts, effects and causes in one file that opens without Python and network",
    )  # fmt: skip


def graph_button(
    run: RunStore, root: Node, nodes: pd.DataFrame, links: pd.DataFrame, growth: Growth, prompt: Prompt | None = None
) -> None:
    """The tree as a circuit-tracer graph."""
    st.download_button(
        "Circuit graph (JSON)", lambda: graph_text(run, root, nodes, links, growth, prompt),
        f"{root[0]}-{root[1]}-graph.json", "application/json", key="circuit-graph", icon=":material/account_tree:",
        on_click="ignore",
        help="For circuit-tracer's viewer and Neuronpedia's graph page; weights are relative drops, no attributions",
    )  # fmt: skip
