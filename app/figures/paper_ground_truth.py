"""Figures of ground truth: known directions against price and size, and F1 of known factors by kind of dictionary."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import MARGIN, safe
from app.figures.kinds import marker, rank
from app.palette import Palette, mix
from sae_core.results import kind_name

MEASURES = {
    "mmcs": "MMCS (mean largest cosine)",
    "mmcs_weighted": "MMCS weighted by frequency",
    "n_found": "directions found (cosine > 0.9)",
    "n_dead": "dead features",
    "l0": "L0 (active features a sample)",
    "fvu": "FVU",
}
SHORT = {
    "mmcs": "MMCS", "mmcs_weighted": "Weighted MMCS", "n_found": "Found", "n_dead": "Dead", "l0": "L0", "fvu": "FVU",
}  # fmt: skip
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "title": None}
ROW = 30
SPREAD = 0.62


def toy_map(toy: pd.DataFrame, measure: str, colours: Palette) -> tuple[go.Figure, str]:
    """A measure by price and size as a map. toy: coefficient, size and the measure, one row a cell."""
    grid = toy.pivot(index="size", columns="coefficient", values=measure)
    weak = mix(colours.activation, colours.background, 0.08)
    figure = go.Figure(layout={"height": 340, "margin": MARGIN, "dragmode": False})
    figure.add_heatmap(
        z=grid.to_numpy().tolist(),
        x=[f"{c:g}" for c in grid.columns],
        y=[f"{s:,}" for s in grid.index],
        text=[[_short(value) for value in row] for row in grid.to_numpy()],
        texttemplate="%{text}",
        colorscale=[[0, weak], [1, colours.activation]],
        colorbar={"thickness": 10},
        xgap=2,
        ygap=2,
        hovertemplate="coefficient %{x}, %{y} features<br>" + MEASURES[measure] + " %{z:.4g}<extra></extra>",
    )
    figure.update_xaxes(title="coefficient (alpha × features)", type="category")
    figure.update_yaxes(title="features of the dictionary", type="category")
    return figure, (
        f"Each cell is a dictionary trained on data made of {int(toy['n_ground_truth'].iloc[0]):,} known directions in "
        f"{int(toy['width'].iloc[0]):,} coordinates; stronger colour: more {MEASURES[measure]}."
    )


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def toy_lines(toy: pd.DataFrame, measure: str, colours: Palette) -> tuple[go.Figure, str]:
    """The same as lines, one a size; larger dictionaries darker. toy: as `toy_map`, with true_l0 and n_ground_truth."""
    figure = go.Figure(layout={"height": 340, "margin": MARGIN, "dragmode": False, "legend": LEGEND})
    sizes = sorted(toy["size"].unique())
    for place, size in enumerate(sizes):
        part = toy[toy["size"] == size].sort_values("coefficient")
        hue = mix(colours.tokens[0], colours.background, 0.3 + 0.7 * (place + 1) / len(sizes))
        figure.add_scatter(
            x=part["coefficient"].tolist(), y=part[measure].tolist(), mode="lines+markers", name=f"{size:,} features",
            line={"color": hue, "width": 2}, marker={"color": hue, "size": 7}, customdata=part["n_seeds"].tolist(),
            hovertemplate="coefficient %{x:g}: %{y:.4g}<br>n = %{customdata} seeds<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    target = {"l0": "true_l0", "n_found": "n_ground_truth"}.get(measure)
    if target:
        figure.add_hline(y=float(toy[target].iloc[0]), line={"dash": "dot", "width": 1.5, "color": colours.clean})
    ticks = sorted(toy["coefficient"].unique())
    figure.update_xaxes(title="coefficient (alpha × features), log scale", type="log", tickvals=ticks,
                        ticktext=[f"{c:g}" for c in ticks])  # fmt: skip
    figure.update_yaxes(title=MEASURES[measure], rangemode="tozero")
    return figure, "The same numbers as lines." + (" Dotted: its true value in the data." if target else "")


def f1_by_layer(figure: go.Figure) -> tuple[go.Figure, str]:
    """Mean scores by layer (paper_interpretability.means_by_layer) made to say F1 over factor values."""
    figure.update_yaxes(title="mean F1 over factor values")
    figure.update_traces(
        hovertemplate="layer %{customdata[0]}: mean F1 %{y:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]"
        "<br>n = %{customdata[3]:,} factor values<br>%{customdata[5]}"
    )
    return figure, (
        "Higher: for a known property of tokens, some feature of the dictionary tells better which tokens have it. "
        "Bars: 95% interval of the mean over factor values, 1.96 sd / √n."
    )


def f1_dots(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """F1 with its interval, one line for each name, kinds beside each other; a mark where yes everywhere would be.

    frame: name, kind, f1, lower, upper, n, yes; with id and feature points can be clicked (customdata [id, feature]).
    """
    best = frame.groupby("name")["f1"].max().sort_values()
    rows = {name: place for place, name in enumerate(best.index)}
    kinds = sorted(frame["kind"].unique(), key=rank)
    figure = go.Figure(layout={"height": 130 + ROW * max(len(rows), 3), "margin": MARGIN, "dragmode": False})
    yes = frame.drop_duplicates("name")
    figure.add_scatter(
        x=yes["yes"].tolist(), y=yes["name"].map(rows).tolist(), mode="markers", name="yes everywhere",
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": colours.clean}},
        hovertemplate="answering yes everywhere: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    for place, kind in enumerate(kinds):
        part = frame[frame["kind"] == kind]
        y = part["name"].map(rows) - SPREAD * ((place + 0.5) / len(kinds) - 0.5)
        figure.add_trace(_dots(part, y, kind, colours))
    labels = [safe(str(name), 28) for name in rows]
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=labels, range=[-0.6, len(rows) - 0.4], zeroline=False)
    figure.update_xaxes(title="F1 on the second half of the labelled text", range=[0, 1.02])
    figure.update_layout(legend=LEGEND, hovermode="closest")
    return figure, (
        "Further right is better. Bars are 95% intervals; the grey stroke is what answering yes for every token would "
        "give. Feature, sign and threshold were chosen on the first half of the text."
    )


def _dots(part: pd.DataFrame, y: pd.Series, kind: str, colours: Palette) -> go.Scatter:
    spans = {"array": part["upper"] - part["f1"], "arrayminus": part["f1"] - part["lower"]}
    spans = {name: np.nan_to_num(values.to_numpy(float)).tolist() for name, values in spans.items()}
    known = part.reindex(columns=["id", "feature"]).to_numpy(dtype=object)
    where = [f"<br>feature {feature} of {id}" if isinstance(id, str) else "" for id, feature in known]
    ends = zip(part["name"], part["lower"], part["upper"], part["n"], where, strict=True)
    texts = [f"{safe(str(n))}<br>[{a:.3f}, {b:.3f}], n = {count:,}{at}" for n, a, b, count, at in ends]
    return go.Scatter(
        x=part["f1"].tolist(), y=y.tolist(), mode="markers", name=kind_name(kind), marker=marker(kind, colours, 8),
        error_x={"type": "data", "symmetric": False, **spans, "thickness": 1.2, "width": 0},
        customdata=known.tolist(), text=texts,
        hovertemplate="%{text}<br>F1 %{x:.3f}<extra>%{fullData.name}</extra>",
    )  # fmt: skip
