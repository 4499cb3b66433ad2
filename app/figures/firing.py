"""Which features fire on which token of a typed sentence: a grid of features by tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import KEY_ABOVE, MARGIN, ROW_HEIGHT, numbered, safe
from app.palette import Palette, mix

GRID_FEATURES = 24


def strongest(firing: pd.DataFrame, limit: int = GRID_FEATURES) -> list[int]:
    """Features of one dictionary by their largest activation in the sentence, strongest first.

    `firing` has the columns feature, position, activation.
    """
    peak = firing.groupby("feature")["activation"].max()
    return peak.sort_values(ascending=False, kind="stable").index[:limit].tolist()


def firing_grid(
    firing: pd.DataFrame, tokens: Sequence[str], names: Mapping[int, str], colours: Palette, chosen: Sequence[int] = ()
) -> tuple[go.Figure, str]:
    """Heat map of activation, one row a feature (strongest on top), one column a token. Cells can be clicked.

    firing: feature, position, activation (only active pairs). names: feature -> readable name.
    """
    rows = list(dict.fromkeys([*strongest(firing), *(f for f in chosen if f in set(firing["feature"]))]))
    shown = firing[firing["feature"].isin(rows)]
    labels = [_row_label(feature, names, feature in chosen) for feature in rows]
    figure = go.Figure(_cells(shown, rows, len(tokens), colours), _layout(len(rows)))
    figure.add_trace(_click_targets(shown, rows, tokens, labels))
    figure.update_xaxes(**numbered(tokens), title="token, with its position", showgrid=False, zeroline=False)
    figure.update_yaxes(
        showgrid=False,
        zeroline=False,
        tickvals=list(range(len(rows))),
        ticktext=labels,
        range=[len(rows) - 0.5, -0.5],
        title=None,
    )
    n_features = firing["feature"].nunique()
    shown_text = (
        "All features that fire"
        if n_features == len(rows)
        else f"The {len(rows)} strongest of the {n_features} features that fire"
    )
    sentence = (
        "Each row is a feature, each column a token; the fuller the colour of a cell, the stronger the activation. "
        f"{shown_text} are shown. Click a cell to add its feature to the edit."
    )
    return figure, sentence


def _row_label(feature: int, names: Mapping[int, str], chosen: bool) -> str:
    text = safe(names.get(feature, f"#{feature}"), 30)
    return f"<b>{text}</b>" if chosen else text


def _cells(shown: pd.DataFrame, rows: list[int], n_tokens: int, colours: Palette) -> go.Heatmap:
    values = np.full((len(rows), n_tokens), np.nan)
    values[[rows.index(f) for f in shown["feature"]], shown["position"]] = shown["activation"]
    return go.Heatmap(
        z=values,
        x=list(range(n_tokens)),
        y=list(range(len(rows))),
        colorscale=[[0, mix(colours.activation, colours.background, 0.12)], [1, colours.activation]],
        zmin=0,
        xgap=1,
        ygap=1,
        colorbar={**KEY_ABOVE, "title": {"text": "activation", "side": "top", "font": {"size": 12}}},
        hoverinfo="skip",
    )


def _click_targets(shown: pd.DataFrame, rows: list[int], tokens: Sequence[str], labels: list[str]) -> go.Scatter:
    # Heat-map cells send no selection event; an unseen marker on each active cell does.
    hidden = {"marker": {"opacity": 0}}
    return go.Scatter(
        x=shown["position"].tolist(),
        y=[rows.index(f) for f in shown["feature"]],
        mode="markers",
        marker={"size": 18, "symbol": "square", "opacity": 0},
        selected=hidden,
        unselected=hidden,
        customdata=shown[["feature", "position", "activation"]].to_numpy().tolist(),
        text=[
            f"{labels[rows.index(f)]}<br>{safe(tokens[p])} · position {p}"
            for f, p in zip(shown["feature"], shown["position"], strict=True)
        ],
        hovertemplate="%{text}<br>activation %{customdata[2]:.3f}<extra></extra>",
        showlegend=False,
    )


def _layout(n_rows: int) -> go.Layout:
    height = 160 + ROW_HEIGHT * max(n_rows, 3)
    return go.Layout(height=height, margin=MARGIN, clickmode="event+select", dragmode=False)
