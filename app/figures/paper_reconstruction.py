"""What it costs the model to read a reconstruction instead of its residual stream (paper Sec. 6.2)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures import kinds
from app.figures.axes import L0_AXIS, MARGIN
from app.figures.paper_dictionaries import SYMBOLS
from app.palette import Palette

PERPLEXITY_TICKS = [n * 10**p for p in range(7) for n in (1, 2, 5)]
MEASURES = {"loss": "cross-entropy (nats a token)", "perplexity": "perplexity"}
HOVER = (
    "<b>%{customdata[0]}</b><br>perplexity %{customdata[1]:.3g}, untouched %{customdata[2]:.3g} "
    "(× %{customdata[3]:.3f})<br>loss %{customdata[4]:.3f} nats, untouched %{customdata[5]:.3f}, "
    "site set to 0 %{customdata[6]:.3f}<br>CE recovered %{customdata[7]:.1%}, FVU %{customdata[8]:.3f}, "
    "L0 %{customdata[9]:.1f}<br>n = %{customdata[10]:,} held-out tokens<extra></extra>"
)


def hover_data(frame: pd.DataFrame) -> list[list[object]]:
    """What HOVER shows of every dictionary. frame: `all_metrics`."""
    times = frame["perplexity_spliced"] / frame["perplexity_clean"]
    columns = [
        "id", "perplexity_spliced", "perplexity_clean", "times", "loss_spliced", "loss_clean", "loss_zero",
        "ce_recovered", "fvu", "l0", "n_tokens",
    ]  # fmt: skip
    return frame.assign(times=times)[columns].to_numpy(dtype=object).tolist()


def by_layer(frame: pd.DataFrame, measure: str, colours: Palette) -> tuple[go.Figure, str]:
    """Left: clean, spliced and zero by layer. Right: the share of the loss recovered.

    frame: `all_metrics` of one dictionary a layer. measure: a key of MEASURES.
    """
    frame = frame.sort_values("layer")
    figure = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.2)
    values = {name: levels(frame, measure, name) for name in ("clean", "spliced", "zero")}
    looks = {
        "clean": ("untouched", {"color": colours.clean, "symbol": "line-ew-open", "size": 16, "line": {"width": 2.5}}),
        "spliced": ("reconstruction", kinds.marker("tied", colours, 11)),
        "zero": (
            "site set to 0",
            {"color": colours.lowered, "symbol": "x-thin-open", "size": 10, "line": {"width": 2}},
        ),
    }
    for name, (label, marker) in looks.items():
        figure.add_scatter(
            x=frame["layer"].tolist(), y=values[name].tolist(), mode="markers", name=label, marker=marker,
            customdata=hover_data(frame), hovertemplate=HOVER, row=1, col=1,
        )  # fmt: skip
    figure.add_bar(
        x=frame["layer"].tolist(), y=frame["ce_recovered"].tolist(), marker_color=kinds.colour("tied", colours),
        customdata=hover_data(frame), hovertemplate=HOVER, showlegend=False, row=1, col=2,
    )  # fmt: skip
    figure.update_xaxes(title="layer", dtick=1)
    figure.update_yaxes(title=MEASURES[measure], row=1, col=1)
    if measure == "perplexity":
        figure.update_yaxes(type="log", dtick=1, row=1, col=1)
    figure.update_yaxes(title="CE recovered", tickformat=".0%", range=[0, 1.02], row=1, col=2)
    legend = {"orientation": "h", "y": -0.24, "x": 0}
    figure.update_layout(height=360, margin=MARGIN, dragmode=False, bargap=0.35, legend=legend)
    return figure, (
        "The model reads its own activations, their reconstruction, or nothing (the site set to 0 at all positions). "
        "CE recovered is how much of the way from nothing to untouched the reconstruction goes."
    )


def levels(frame: pd.DataFrame, measure: str, name: str) -> pd.Series:
    """Loss or perplexity, `clean`, `spliced` or `zero`; the perplexity with the site set to 0 is exp(loss_zero)."""
    loss = frame[f"loss_{name}"].astype(float)
    return loss if measure == "loss" else np.exp(loss)


def sweep(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Perplexity with the reconstruction against L0: a line for each layer, dotted the model untouched.

    frame: `all_metrics` of SAEs, swept over alpha.
    """
    figure = go.Figure(layout={"height": 400, "margin": MARGIN, "dragmode": False, "hovermode": "closest"})
    layers = sorted(frame["layer"].unique())
    for place, layer in enumerate(layers):
        part = frame[frame["layer"] == layer].sort_values("l0")
        colour = kinds.shade("tied", place, len(layers), colours)
        figure.add_scatter(
            x=part["l0"].tolist(), y=part["perplexity_spliced"].tolist(), mode="lines+markers", name=f"layer {layer}",
            marker={"color": colour, "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9},
            line={"color": colour, "width": 1.8}, customdata=hover_data(part), hovertemplate=HOVER,
        )  # fmt: skip
    clean, ends = float(frame["perplexity_clean"].median()), [frame["l0"].min(), frame["l0"].max()]
    figure.add_scatter(
        x=ends, y=[clean, clean], mode="lines", name="untouched", line={"color": colours.clean, "dash": "dot"},
        hovertemplate="untouched: perplexity %{y:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(**L0_AXIS)
    figure.update_yaxes(title="perplexity with the reconstruction", type="log",
                        tickvals=PERPLEXITY_TICKS, ticktext=[f"{tick:,}" for tick in PERPLEXITY_TICKS])  # fmt: skip
    return figure, (
        "Each point is a dictionary: the sparser (left), the more the model loses. The distance to the dotted line is "
        "what the reconstruction costs. Click a point to browse it."
    )
