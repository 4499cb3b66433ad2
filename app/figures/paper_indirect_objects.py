"""Figures 3 and 17 of the paper: how near patching the first features of an order brings one run to another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures import kinds
from app.figures.axes import MARGIN
from app.figures.paper_dictionaries import TITLE_SIZE
from app.palette import Palette, rgba
from sae_core.specs import format_alpha

AXES = {"features": "features patched", "magnitude": "mean edit magnitude"}
"""What the horizontal axis of a panel counts."""
NONE_AT = 0.5  # where no patched feature at all is drawn on the logarithmic axis
COUNTS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000)
PANELS_A_ROW = 3


def series_name(method: str, alpha: float) -> str:
    """A curve in words: `SAE (alpha 3.2e-2)`, `PCA`, `non-negative PCA`."""
    if method == "sae":
        return f"SAE (alpha {format_alpha(alpha)})"
    return {"pca": "PCA", "pca_nonneg": "non-negative PCA"}.get(method, method)


def patching_panels(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Figure 3: KL against patched features, and against edit magnitude, of one layer and order.

    frame: rows of `patching` with the columns alpha and n_features of their dictionary.
    """
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, axis in enumerate(AXES, 1):
        _draw(figure, frame, axis, (1, column), colours, legend=column == 1)
        _x_axis(figure, frame, axis, (1, column), titled=True)
    figure.update_yaxes(title="KL(patched || target), nats", row=1, col=1)
    return _finished(figure, 430), _sentence(frame, "Left: by number of patched features. Right: by edit magnitude")


def patching_layers(frame: pd.DataFrame, axis: str, colours: Palette) -> tuple[go.Figure, str]:
    """Figure 17: the curves of every layer, one panel each. frame: as for `patching_panels`, with layer."""
    layers = sorted(frame["layer"].unique())
    rows, columns = -(-len(layers) // PANELS_A_ROW), min(PANELS_A_ROW, len(layers))
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=[f"layer {layer}" for layer in layers],
        horizontal_spacing=0.07, vertical_spacing=0.3 / max(2, rows),
    )  # fmt: skip
    shown: set[str] = set()
    for place, layer in enumerate(layers):
        cell, part = (place // columns + 1, place % columns + 1), frame[frame["layer"] == layer]
        _draw(figure, part, axis, cell, colours, legend=True, shown=shown)
        _x_axis(figure, part, axis, cell, titled=place >= len(layers) - columns, counts=COUNTS[::2])
        figure.update_yaxes(title="KL, nats" if cell[1] == 1 else None, row=cell[0], col=cell[1])
    return _finished(figure, 70 + 230 * rows), _sentence(frame, f"One panel a layer, by {AXES[axis]}")


def curves(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The curves of one layer by name, in the order of the legend: SAEs by falling alpha, then PCA."""
    ordered = frame.assign(rank=frame["method"].map({"sae": 0, "pca": 1, "pca_nonneg": 2}))
    ordered = ordered.sort_values(["rank", "alpha", "n_patched"], ascending=[True, False, True], kind="stable")
    groups = ordered.groupby(["dictionary", "method"], sort=False)
    return [(series_name(method, part["alpha"].iloc[0]), part) for (_, method), part in groups]


# ---- drawing


def _draw(
    figure: go.Figure, frame: pd.DataFrame, axis: str, cell: tuple[int, int], colours: Palette, legend: bool,
    shown: set[str] | None = None,
) -> None:  # fmt: skip
    """Every curve of one layer into a panel; a name is put into the legend once."""
    shown = set() if shown is None else shown
    alphas = sorted(frame.loc[frame["method"] == "sae", "alpha"].unique())
    for name, part in curves(frame):
        look = _look(part, alphas, colours)
        traces = [*_band(part, axis, look), _floor(part, axis, look), _line(part, name, axis, look)]
        for trace in traces:
            trace.update(legendgroup=name, showlegend=False)
        traces[-1].showlegend = legend and name not in shown
        shown.add(name)
        for trace in traces:
            figure.add_trace(trace, row=cell[0], col=cell[1])


def _look(part: pd.DataFrame, alphas: Sequence[float], colours: Palette) -> dict[str, str]:
    """SAEs are fainter the smaller their alpha, and dashed at 0; PCA has its colour, dash-dotted side by side."""
    method, alpha = part["method"].iloc[0], part["alpha"].iloc[0]
    if method != "sae":
        return {"color": kinds.colour("pca", colours), "dash": "dashdot" if method == "pca_nonneg" else "solid"}
    priced = [a for a in alphas if a > 0]
    if alpha == 0:
        return {"color": kinds.shade("tied", 0, len(priced) + 1, colours), "dash": "dash"}
    return {"color": kinds.shade("tied", priced.index(alpha), len(priced), colours), "dash": "solid"}


def _x(part: pd.DataFrame, axis: str) -> list[float]:
    if axis == "magnitude":
        return part["mean_magnitude"].tolist()
    return part["n_patched"].clip(lower=NONE_AT).tolist()


def _line(part: pd.DataFrame, name: str, axis: str, look: dict[str, str]) -> go.Scatter:
    columns = ["n_patched", "n_differing", "n_features", "lower", "upper", "n_pairs", "mean_magnitude", "dictionary"]
    return go.Scatter(
        x=_x(part, axis), y=part["mean_kl"].tolist(), mode="lines", name=name, line={**look, "width": 2.2},
        customdata=part[columns].to_numpy(dtype=object),
        hovertemplate=(
            f"<b>{name}</b><br>%{{customdata[0]}} of %{{customdata[1]}} differing features patched "
            "(the dictionary has %{customdata[2]:,})<br>KL %{y:.3g} nats (95%: %{customdata[3]:.3g} to "
            "%{customdata[4]:.3g}, n = %{customdata[5]} pairs)<br>mean edit magnitude %{customdata[6]:.3g}"
            "<br>%{customdata[7]}<extra></extra>"
        ),
    )  # fmt: skip


def _band(part: pd.DataFrame, axis: str, look: dict[str, str]) -> list[go.Scatter]:
    x, low, high = _x(part, axis), part["lower"].tolist(), part["upper"].tolist()
    return [
        go.Scatter(
            x=x + x[::-1], y=high + low[::-1], fill="toself", fillcolor=rgba(look["color"], 0.13), mode="lines",
            line={"width": 0}, hoverinfo="skip",
        )
    ]  # fmt: skip


def _floor(part: pd.DataFrame, axis: str, look: dict[str, str]) -> go.Scatter:
    """A dotted line at the KL with everything patched, from the first point of the curve to its last."""
    x, floor = _x(part, axis), float(part["kl_floor"].iloc[0])
    # Several points, so that the pointer finds one anywhere along the line.
    name = series_name(part["method"].iloc[0], part["alpha"].iloc[0])
    along = np.geomspace(*sorted((x[0], x[-1])), 24) if axis == "features" else np.linspace(min(x), max(x), 24)
    return go.Scatter(
        x=along.tolist(), y=[floor] * len(along), mode="lines",
        line={"color": look["color"], "dash": "dot", "width": 1},
        hovertemplate=f"<b>{name}</b>, floor %{{y:.3g}} nats<br>all features patched: what is left is reconstruction "
        "error<extra></extra>",
    )  # fmt: skip


def _x_axis(
    figure: go.Figure, frame: pd.DataFrame, axis: str, cell: tuple[int, int], titled: bool,
    counts: Sequence[int] = COUNTS,
) -> None:  # fmt: skip
    settings: dict = {"title": AXES[axis] if titled else None}
    if axis == "features":
        ticks = [n for n in counts if n <= frame["n_patched"].max()]
        settings |= {"type": "log", "tickvals": [NONE_AT, *ticks], "ticktext": ["0", *map(str, ticks)], "tickangle": 0}
    figure.update_xaxes(**settings, row=cell[0], col=cell[1])


def _finished(figure: go.Figure, height: int) -> go.Figure:
    legend = {"orientation": "h", "yanchor": "top", "y": -70 / (height - 110), "x": 0}
    layout = {"height": height, "margin": {**MARGIN, "t": 28}, "dragmode": False, "hovermode": "closest"}
    figure.update_layout(**layout, legend=legend)
    figure.update_yaxes(rangemode="tozero")
    figure.update_annotations(font_size=TITLE_SIZE)
    return figure


def _sentence(frame: pd.DataFrame, panels: str) -> str:
    return (
        f"{panels}. Lower and further left is better: fewer or smaller edits bring the run nearer to its target. "
        f"Bands: 95% interval over {int(frame['n_pairs'].min())} pairs. Dotted: the floor, all features patched."
    )
