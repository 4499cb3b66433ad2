"""Figures of a run as a whole: feature densities, and reconstruction against sparsity over the sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import FVU_AXIS, L0_AXIS, MARGIN
from app.palette import Palette
from sae_core.schemas import DENSE_ABOVE

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon", "pentagon")


def density_histogram(density: np.ndarray, colours: Palette) -> tuple[go.Figure, str]:
    """Number of features by log10 density, in quarter decades. density: share of the table tokens, [n_features]."""
    alive = density[density > 0]
    edges = np.arange(-7, 0.01, 0.25)
    counts, _ = np.histogram(np.log10(alive), bins=edges)
    filled = np.flatnonzero(counts)
    first = max(0, filled[0] - 1) if len(filled) else 0
    centres = (edges[:-1] + edges[1:]) / 2
    dense = centres > np.log10(DENSE_ABOVE)
    figure = go.Figure(layout={"height": 300, "margin": MARGIN, "bargap": 0.06, "dragmode": False})
    figure.add_bar(
        x=centres[first:].tolist(),
        y=counts[first:].tolist(),
        marker_color=[colours.muted if d else colours.activation for d in dense[first:]],
        text=[f"{10**a:.2g} to {10**b:.2g}" for a, b in zip(edges[first:-1], edges[first + 1 :], strict=True)],
        textposition="none",
        hovertemplate="active on %{text} of tokens<br>%{y:,} features<extra></extra>",
    )
    figure.add_vline(x=float(np.log10(DENSE_ABOVE)), line={"dash": "dot", "width": 1.5, "color": colours.clean})
    ticks = list(range(int(np.floor(edges[first])), 1))
    figure.update_xaxes(title="density (share of the table tokens on which a feature is active)",
                        tickvals=ticks, ticktext=[f"{10.0**t:g}" for t in ticks])  # fmt: skip
    figure.update_yaxes(title="features")
    n_dead, n_dense = int((density == 0).sum()), int((density > DENSE_ABOVE).sum())
    sentence = (
        f"Right is often active, left is rare. {n_dead:,} of {len(density):,} features are dead (never active, not "
        f"drawn); {n_dense:,} are dense, right of the dotted line: active on more than {DENSE_ABOVE:.0%} of tokens."
    )
    return figure, sentence


def fvu_against_l0(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Unexplained variance against active features a token; one line for each site, kind and ratio.

    frame: dictionary, group (name of the line), l0, fvu, headline.
    """
    figure = go.Figure(layout={"height": 300, "margin": MARGIN, "dragmode": False, "hovermode": "closest"})
    for place, (name, part) in enumerate(frame.groupby("group", sort=False)):
        figure.add_trace(_line(str(name), part.sort_values("l0"), place, colours))
    chosen = frame[frame["headline"]]
    figure.add_scatter(
        x=chosen["l0"].tolist(), y=chosen["fvu"].tolist(), mode="markers", name="headline", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 17, "color": colours.chosen, "line": {"width": 2}},
    )  # fmt: skip
    figure.update_xaxes(**L0_AXIS)
    figure.update_yaxes(**FVU_AXIS)
    sentence = (
        "Each point is a dictionary on held-out tokens: left is sparser, lower explains more, so down and left is "
        "better. Compare dictionaries at equal L0. Ringed: the headline dictionary of its layer."
    )
    return figure, sentence


def _line(name: str, part: pd.DataFrame, place: int, colours: Palette) -> go.Scatter:
    colour = colours.tokens[place % len(colours.tokens)]
    return go.Scatter(
        x=part["l0"].tolist(),
        y=part["fvu"].tolist(),
        mode="lines+markers",
        name=name,
        marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8, "color": colour},
        line={"color": colour, "width": 1.5},
        text=part["dictionary"].tolist(),
        hovertemplate="%{text}<br>L0 %{x:.1f}, FVU %{y:.3f}<extra></extra>",
    )
