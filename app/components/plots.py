"""A plot as pages show it: title, figure, and under it one sentence that says how to read it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import state

CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}


def show_plot(
    title: str,
    drawn: tuple[go.Figure, str],
    key: str,
    help: str | None = None,
    on_select: Callable[[], None] | None = None,
    least_width: int = 0,
) -> None:
    """Show what a function of app.figures returned. on_select runs when the reader clicks a bar or point.

    least_width: pixels below which the figure is not squeezed; where there is less room, it scrolls sideways.
    """
    figure, sentence = drawn
    if title:
        st.markdown(f"###### {title}", help=help)
    select: dict[str, Any] = {"on_select": on_select, "selection_mode": "points"} if on_select else {}
    darken_axes(figure, state.colours().text)
    place = scrolling(key, least_width) if least_width else st
    place.plotly_chart(figure, key=key, config=CONFIG, width="stretch", **select)
    note(sentence)


def darken_axes(figure: go.Figure, colour: str) -> None:
    """Write the axes and scales in the colour of the text: Streamlit's grey is too faint on white (contrast 3.7)."""
    look = {"tickfont": {"color": colour}, "title_font_color": colour}
    figure.update_xaxes(look)
    figure.update_yaxes(look)
    figure.update_traces(colorbar=look, selector={"type": "heatmap"})


def scrolling(key: str, least_width: int) -> DeltaGenerator:
    """A container whose content is at least so many pixels wide, and scrolls sideways where there is less room."""
    name = re.sub(r"[^a-z0-9-]", "-", f"wide-{least_width}-{key}".lower())
    box = st.container(key=name)
    # The style sheet lets what is named wide scroll; how wide each must be is known only here.
    box.html(f"<style>.st-key-{name} > [data-testid='stElementContainer'] {{min-width:{least_width}px}}</style>")
    return box


def note(text: str) -> None:
    """A quiet sentence. Tokens in it show as they are: nothing is read as Markdown."""
    st.html(f"<p class='sae-note'>{html.escape(text)}</p>")


def clicked(key: str) -> dict[str, Any] | None:
    """The last point the reader chose in a plot, None if the choice was cleared."""
    state = st.session_state.get(key)
    points = state["selection"]["points"] if state else []
    return points[-1] if points else None
