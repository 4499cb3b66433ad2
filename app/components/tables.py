"""How tables of features look everywhere: the same columns, titles, digits and tooltips."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.glossary import explain
from app.names import LABEL_HELP
from app.palette import Palette


def feature_columns(colours: Palette) -> dict[str, Any]:
    """Column settings for rows of the `features` table."""
    config = st.column_config
    return {
        "feature": config.NumberColumn("Feature", format="%d", help=explain("features", "feature"), width=65),
        "name": config.TextColumn("Label", help=LABEL_HELP, width=175),
        "sparkline": config.BarChartColumn(
            "Activations", y_min=0, color=colours.activation, width=95, help=explain("features", "sparkline")
        ),
        "top_tokens": config.ListColumn("Top tokens", help=explain("features", "top_tokens"), width=245),
        "density": config.NumberColumn("Density (%)", format="%.3g", help=explain("features", "density")),
        "max_activation": config.NumberColumn("Maximum", format="%.3g", help=explain("features", "max_activation")),
        "mean_active": config.NumberColumn("Mean active", format="%.3g", help=explain("features", "mean_active")),
        "entropy": config.NumberColumn("Entropy (bits)", format="%.2f", help=explain("features", "entropy")),
        "n_active": config.NumberColumn("Active tokens", format="localized", help=explain("features", "n_active")),
    }


def edge_columns(other: str) -> dict[str, Any]:
    """Column settings for causal edges; `other` titles the column of the feature at the other end."""
    config = st.column_config
    return {
        "name": config.TextColumn(other, width=240),
        "relative_drop": config.NumberColumn(
            "Relative drop", format="%+.3f", help=explain("causal_edges", "relative_drop")
        ),
        "stderr": config.NumberColumn("± s.e.", format="%.3f", help=explain("causal_edges", "stderr")),
        "cosine": config.NumberColumn("Cosine", format="%.2f", help=explain("causal_edges", "cosine")),
    }


def chosen_row(key: str) -> int | None:
    """Position of the row the reader clicked in a table with `on_select`, None without one."""
    state = st.session_state.get(key)
    rows = state["selection"]["rows"] if state else []
    return rows[0] if rows else None
