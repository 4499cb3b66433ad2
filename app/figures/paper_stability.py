"""Figures of stability: the share of features found again, by layer and by how common they are."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from app.components.numbers import digits
from app.figures.axes import MARGIN
from app.palette import Palette
from sae_core.schemas import FOUND_AGAIN


def found_again(layers: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Share of live features found again, one bar a layer. layers: layer, share, lower, upper, hits, n, id."""
    figure = go.Figure(layout={"height": 320, "margin": MARGIN, "dragmode": False, "bargap": 0.35})
    figure.add_bar(
        x=layers["layer"].tolist(),
        y=layers["share"].tolist(),
        marker_color=colours.tokens[0],
        error_y=_spans(layers, "share", "lower", "upper"),
        customdata=layers[["hits", "n", "lower", "upper", "id"]].to_numpy(dtype=object).tolist(),
        hovertemplate="layer %{x}: %{y:.1%} [%{customdata[2]:.1%}, %{customdata[3]:.1%}]<br>%{customdata[0]:,} of "
        "%{customdata[1]:,} live features<br>%{customdata[4]}<extra></extra>",
    )
    figure.update_xaxes(title="layer", tickvals=layers["layer"].tolist(), showgrid=False)
    figure.update_yaxes(title="share found again", tickformat=".0%", range=[0, 1.02])
    return figure, (
        "A live feature counts as found again if its one-to-one match in a dictionary trained with another seed has a "
        f"cosine above {FOUND_AGAIN}. Whiskers: Wilson's 95% interval over features of this one pair of seeds."
    )


def against_fifths(fifths: pd.DataFrame, what: str, colours: Palette) -> tuple[go.Figure, str]:
    """Mean matched cosine and share found in fifths of the features. fifths: from stability_claims.by_fifths."""
    figure = go.Figure(layout={"height": 320, "margin": MARGIN, "dragmode": False})
    ranges = [f"{digits(a, 2)} to<br>{digits(b, 2)}" for a, b in zip(fifths["low"], fifths["high"], strict=True)]
    series = (
        ("mean matched cosine", "mean", "lower", "upper", "circle", 0),
        ("share found again", "share", "share_lower", "share_upper", "square", 4),
    )
    for name, middle, low, high, symbol, place in series:
        hue = colours.tokens[place]
        figure.add_scatter(
            x=fifths["fifth"].tolist(),
            y=fifths[middle].tolist(),
            mode="lines+markers",
            name=name,
            line={"color": hue, "width": 2},
            marker={"color": hue, "symbol": symbol, "size": 9},
            error_y=_spans(fifths, middle, low, high),
            customdata=fifths[[low, high, "n"]].to_numpy().tolist(),
            hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>n = %{customdata[2]:,} features"
            "<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(
        title=f"{what} (fifths of the live features)", tickvals=fifths["fifth"].tolist(), ticktext=ranges
    )
    figure.update_yaxes(title="cosine, or share", range=[0, 1.02])
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    return figure, (
        f"Live features, ordered by {what} and cut into five equal parts. A rising line: those with more of it are "
        "found again more closely. Bars: 95% intervals."
    )


def _spans(frame: pd.DataFrame, middle: str, low: str, high: str) -> dict:
    up, down = (frame[high] - frame[middle]).tolist(), (frame[middle] - frame[low]).tolist()
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "width": 3}
