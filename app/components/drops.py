"""How far removing a feature lowers the token that really came next: of the Feature page, and of Figure 4."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from app import links, state
from app.components import plots
from app.figures.histograms import drop_histogram
from app.glossary import explain


def show_drops(drops: pd.DataFrame, key: str, populations: Mapping[str, str]) -> None:
    """Histogram of `next_token_drops` at one population of positions, chosen out of `populations`; the first at first.

    key: of the choice in the address.
    """
    st.markdown("###### Drops of the true next token", help=explain("next_token_drops", "count"))
    options = list(populations)
    population = st.segmented_control(
        "Positions", options, format_func=populations.get, required=True, label_visibility="collapsed",
        **links.bound(key, options[0], options=options),
    )  # fmt: skip
    shown = drops[drops["population"] == population]
    if shown.empty:
        plots.note("No drop above 0.1 nats: removing the feature hardly touches the token that really comes next.")
        return
    plots.show_plot("", drop_histogram(shown, state.colours(), False), f"{key}-{population}")
