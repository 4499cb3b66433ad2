"""Layout that holds on narrow screens: columns that stack, rows of numbers that wrap."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

STACK_BELOW = 1100  # pixels of the window; Streamlit's own limit of 640 forgets the sidebar


def stacking_columns(spec: int | Sequence[float], key: str, gap: str = "large") -> list[DeltaGenerator]:
    """`st.columns` that stand below each other in windows narrower than STACK_BELOW pixels. key: unique on the page."""
    return st.container(key=f"stack-{key}").columns(spec, gap=gap)


def metric_row(metrics: Sequence[tuple[str, str, str]]) -> None:
    """Numbers side by side, as many in a line as there is room for: title, text, explanation."""
    with st.container(horizontal=True, gap="small"):
        for title, text, explanation in metrics:
            st.metric(title, text, help=explanation, width=118)
