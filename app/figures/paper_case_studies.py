"""Figures of the case studies that no other page has: a residual coordinate, what is written, cosines across layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import MARGIN, safe
from app.figures.histograms import stacked
from app.palette import Palette

ROW = 25
BIN = 0.05


def coordinate_histogram(frame: pd.DataFrame, colours: Palette, log: bool) -> tuple[go.Figure, str]:
    """How often a residual coordinate takes which value, by token (paper Fig. 11).

    frame: rows of `basis_histograms` of one feature.
    """
    coordinate, component = int(frame["coordinate"].iloc[0]), float(frame["component"].iloc[0])
    side = "above 0" if component > 0 else "below 0, by size"
    figure = stacked(frame, colours, log)
    figure.update_xaxes(title=f"value of coordinate {coordinate} ({side})")
    figure.update_yaxes(title="tokens" + (" (log scale)" if log else ""))
    sentence = (
        f"Coordinate {coordinate} of the residual stream has the largest part in the feature's direction "
        f"({component:+.2f} of a norm of 1). Many colours mean that it stands for many things at once; the feature's "
        "own histogram is beside it."
    )
    return figure, sentence


def written(frame: pd.DataFrame, colours: Palette, unit: str) -> tuple[go.Figure, str]:
    """Logits that a direction writes, the largest at the top. frame: token, logit, in this order."""
    labels, rows = [safe(token, 16) for token in frame["token"]], list(range(len(frame)))
    figure = go.Figure(layout={"height": 90 + ROW * max(len(frame), 4), "margin": MARGIN, "dragmode": False})
    figure.add_bar(
        x=frame["logit"].tolist(),
        y=rows,
        orientation="h",
        marker_color=colours.raised,
        text=labels,
        textposition="none",
        hovertemplate="%{text}<br>%{x:+.3f} logits<extra></extra>",
    )
    figure.update_yaxes(tickvals=rows, ticktext=labels, autorange="reversed", tickfont={"family": "monospace"})
    figure.update_xaxes(title=f"logit written ({unit})", zeroline=True)
    sentence = (
        "The tokens whose logits the direction itself raises most, past all later layers; a long bar means that the "
        "feature asks for this token next."
    )
    return figure, sentence


def matched_cosines(pairs: pd.DataFrame, colours: Palette, column: str = "cosine") -> tuple[go.Figure, str]:
    """Histogram of cosines of matched features, one line for each pair of dictionaries.

    pairs: pair (name of the line) and the column, one row a feature.
    """
    low = min(0.0, float(np.floor(pairs[column].min() / BIN) * BIN))
    edges = np.linspace(low, 1, round((1 - low) / BIN) + 1)
    figure = go.Figure(layout={"height": 320, "margin": MARGIN, "dragmode": False, "hovermode": "closest"})
    for place, (name, part) in enumerate(pairs.groupby("pair", sort=False)):
        counts, _ = np.histogram(part[column], edges)
        figure.add_scatter(
            x=((edges[:-1] + edges[1:]) / 2).tolist(),
            y=(counts / len(part)).tolist(),
            name=safe(str(name)),
            mode="lines+markers",
            line={"color": colours.tokens[place % len(colours.tokens)], "width": 2},
            marker={"size": 5},
            customdata=[[int(c), len(part), a, b] for c, a, b in zip(counts, edges[:-1], edges[1:], strict=True)],
            hovertemplate="%{fullData.name}<br>cosine %{customdata[2]:.2f} to %{customdata[3]:.2f}<br>"
            "%{customdata[0]:,} of %{customdata[1]:,} features (%{y:.1%})<extra></extra>",
        )
    figure.update_xaxes(title="cosine of the two decoder directions")
    figure.update_yaxes(title="share of features", tickformat=".0%", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    sentence = (
        "Each feature is matched with one of the other dictionary so that the sum of cosines is largest. A hump at the "
        "right means that features are found there again; random directions of this width lie far left of 0.9."
    )
    return figure, sentence
