"""A plot as pages show it: title, figure, and under it one sentence that says how to read it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import streamlit as st

CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}


def show_plot(
    title: str,
    drawn: tuple[go.Figure, str],
    key: str,
    help: str | None = None,
    on_select: Callable[[], None] | None = None,
) -> None:
    """Show what a function of app.figures returned. on_select runs when the reader clicks a bar or point."""
    figure, sentence = drawn
    if title:
        st.markdown(f"###### {title}", help=help)
    select: dict[str, Any] = {"on_select": on_select, "selection_mode": "points"} if on_select else {}
    st.plotly_chart(figure, key=key, config=CONFIG, width="stretch", **select)
    note(sentence)


def note(text: str) -> None:
    """A quiet sentence. Tokens in it show as they are: nothing is read as Markdown."""
    st.html(f"<p class='sae-note'>{html.escape(text)}</p>")


def clicked(key: str) -> dict[str, Any] | None:
    """The last point the reader chose in a plot, None if the choice was cleared."""
    state = st.session_state.get(key)
    points = state["selection"]["points"] if state else []
    return points[-1] if points else None
