"""Figures 6, 7 and 16 of the paper, and later forms of dictionaries in the same plane: points are dictionaries."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures import kinds
from app.figures.axes import FVU_AXIS, L0_AXIS, MARGIN
from app.palette import Palette
from sae_core.results import kind_name
from sae_core.specs import Site, format_alpha

HOVER = (
    "<b>%{customdata[0]}</b><br>L0 %{customdata[1]:.1f}, FVU %{customdata[2]:.3f}<br>"
    "%{customdata[3]:,} of %{customdata[4]:,} features alive (%{customdata[5]:.1%})<br>"
    "trained on %{customdata[6]:,} activation vectors%{customdata[7]}<br>"
    "measured on %{customdata[8]:,} held-out tokens<extra></extra>"
)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
"""Of the lines within one kind: the ratio, the length, ..., so that they are not told apart by shade alone."""
PANELS_A_ROW = 3
TITLE_SIZE = 13  # of a panel among others


def place_name(layer: int, site: str, kind: str = "") -> str:
    """`layer 2 · resid_post · SAE`."""
    return " · ".join([Site(layer, site).where, site, *([kind_name(kind)] if kind else [])])


def hover_data(frame: pd.DataFrame) -> list[list[object]]:
    """What HOVER shows of every dictionary. frame: `all_metrics`, with the text `training`."""
    training = frame["training"].where(frame["training"] == "", "<br>" + frame["training"])
    shown = frame.assign(share=frame["n_alive"] / frame["n_features"], training=training)
    columns = ["id", "l0", "fvu", "n_alive", "n_features", "share", "train_tokens", "training", "n_tokens"]
    return shown[columns].to_numpy(dtype=object).tolist()


def by_ratio(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Figure 6: FVU against L0 over alpha, a line for each ratio. frame: `all_metrics` of one place, with training."""
    names = {ratio: f"R = {ratio:g}" for ratio in sorted(frame["ratio"].unique())}
    return _tradeoff(_series(frame, "ratio", names, colours)), (
        "Each point is a dictionary, each line one ratio R of features to dimensions over alpha: left is sparser, "
        "lower explains more. A bump or knee would mark one right number of active features. Click a point to browse."
    )


def by_length(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Figure 7: FVU against L0 over alpha, a line for each training length. frame: as for `by_ratio`, with length."""
    names = {length: f"{length:,} vectors" for length in sorted(frame["length"].unique())}
    return _tradeoff(_series(frame, "length", names, colours)), (
        "Each line is a sweep over alpha trained on so many activation vectors. Where lines lie on each other, longer "
        "training no longer changes the trade-off."
    )


def by_kind(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """FVU against L0 of every form trained at one place, of one ratio. frame: as for `by_ratio`."""
    order = sorted(frame["kind"].unique(), key=kinds.rank)
    lines = [
        _line(frame[frame["kind"] == kind], kind_name(kind), kinds.marker(kind, colours), kinds.dash(kind))
        for kind in order
    ]
    return _tradeoff(lines), (
        "Each line is one form of dictionary over its price or number of active features. Lower at the same L0 is "
        "better. A frozen decoder never learns its directions: what it reaches needs no learnt directions."
    )


def _series(frame: pd.DataFrame, column: str, names: dict, colours: Palette) -> list[go.Scatter]:
    """A line for each value of a column, in shades of its kind."""
    kind = frame["kind"].iloc[0]
    lines = []
    for place, (value, name) in enumerate(names.items()):
        marker = kinds.marker(kind, colours) | {
            "color": kinds.shade(kind, place, len(names), colours), "symbol": SYMBOLS[place % len(SYMBOLS)],
        }  # fmt: skip
        lines.append(_line(frame[frame[column] == value], name, marker, "solid"))
    return lines


def _line(part: pd.DataFrame, name: str, marker: dict, dash: str) -> go.Scatter:
    part = part.sort_values("l0")
    return go.Scatter(
        x=part["l0"].tolist(), y=part["fvu"].tolist(), name=name, mode="lines+markers", marker=marker,
        line={"color": marker["color"], "dash": dash, "width": 1.8}, customdata=hover_data(part), hovertemplate=HOVER,
    )  # fmt: skip


def _tradeoff(lines: Sequence[go.Scatter]) -> go.Figure:
    figure = go.Figure(list(lines), layout={"height": 380, "margin": MARGIN, "dragmode": False, "hovermode": "closest"})
    figure.update_xaxes(**L0_AXIS)
    figure.update_yaxes(**FVU_AXIS)
    return figure.update_layout(showlegend=True)


# ---- Figure 16


def alive_panels(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Figure 16: share of live features against alpha, a panel for each layer, site and kind, a line for each ratio.

    frame: `all_metrics` of kinds that have an alpha, with training. Alpha 0 stands at the left end.
    """
    panels = list(frame.groupby(["layer", "site", "kind"], sort=False))
    rows, columns = -(-len(panels) // PANELS_A_ROW), min(PANELS_A_ROW, len(panels))
    titles = [place_name(*place).replace(" · ", "<br>", 1) for place, _ in panels]
    figure = make_subplots(
        rows=rows, cols=columns, shared_yaxes="all", subplot_titles=titles,
        horizontal_spacing=0.04, vertical_spacing=0.44 / max(2, rows),
    )  # fmt: skip
    ratios = sorted(frame["ratio"].unique())
    shown: set[tuple[str, float]] = set()
    for at, ((_, _, kind), part) in enumerate(panels):
        cell = {"row": at // columns + 1, "col": at % columns + 1}
        for trace in _alive_lines(part, kind, ratios, colours):
            trace.showlegend = trace.name not in shown
            shown.add(trace.name)
            figure.add_trace(trace, **cell)
        figure.update_xaxes(**_alpha_axis(part), title="alpha" if at >= len(panels) - columns else None, **cell)
        figure.update_yaxes(title="alive" if cell["col"] == 1 else None, **cell)
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%")
    height = 110 + 230 * rows
    legend = {"orientation": "h", "yanchor": "top", "y": -75 / (height - 150), "x": 0}
    figure.update_annotations(font_size=TITLE_SIZE, yshift=6)
    figure.update_layout(height=height, margin=MARGIN | {"t": 44}, dragmode=False, hovermode="closest", legend=legend)
    return figure, (
        "Share of features that are active on more than 10 held-out tokens; alpha 0 stands at the left end. The more "
        "tokens are looked at, the fewer features count as dead, so shares compare only within a run."
    )


def _alive_lines(part: pd.DataFrame, kind: str, ratios: Sequence[float], colours: Palette) -> list[go.Scatter]:
    lines = []
    for ratio, line in part.sort_values("alpha").groupby("ratio"):
        place = ratios.index(ratio)
        colour, name = kinds.shade(kind, place, len(ratios), colours), f"{kind_name(kind)}, R = {ratio:g}"
        lines.append(
            go.Scatter(
                x=line["alpha"].clip(lower=_zero(part)).tolist(),
                y=(line["n_alive"] / line["n_features"]).tolist(),
                name=name,
                legendgroup=name,
                mode="lines+markers",
                line={"color": colour, "width": 1.8},
                marker={"color": colour, "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
                customdata=hover_data(line),
                hovertemplate=HOVER,
            )  # fmt: skip
        )
    return lines


def _zero(part: pd.DataFrame) -> float:
    """Where alpha 0 is drawn on the logarithmic axis: below the smallest alpha there is (the authors do the same).

    Far enough that the two ticks do not run into each other in a narrow panel.
    """
    priced = part.loc[part["alpha"] > 0, "alpha"]
    return float(priced.min()) / 4 if len(priced) else 1e-4


def _alpha_axis(part: pd.DataFrame) -> dict[str, object]:
    """Logarithmic, with ticks at alpha 0 and at the smallest and largest other, which fit into narrow panels."""
    priced = sorted(part.loc[part["alpha"] > 0, "alpha"].unique())
    ticks = [(a, format_alpha(a)) for a in dict.fromkeys([*priced[:1], *priced[-1:]])]
    ticks = [(_zero(part), "0"), *ticks] if (part["alpha"] == 0).any() else ticks
    return {"type": "log", "tickvals": [v for v, _ in ticks], "ticktext": [t for _, t in ticks], "tickangle": 0}
