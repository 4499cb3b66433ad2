"""Figures of the Patching page: curves against number and size of the edit, KL by position, predictions, changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures import kinds
from app.figures.axes import KEY_ABOVE, MARGIN, ROW_HEIGHT, numbered, safe
from app.figures.paper_indirect_objects import COUNTS, NONE_AT
from app.palette import Palette

AXES = {"n_patched": "features patched", "magnitude": "mean norm of the edit over all positions"}
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}


@dataclass(frozen=True)
class Line:
    """One curve: the dictionary in words, its kind, and n_patched, kl (nats), magnitude; all patched comes last."""

    name: str
    kind: str
    frame: pd.DataFrame


def curves(lines: Sequence[Line], axis: str, here: tuple[int, float, float], colours: Palette) -> tuple[go.Figure, str]:
    """KL(patched || target) at the last token against a column of AXES, with floors and what is chosen now.

    lines: the dictionary that is patched, then one to compare with. here: features chosen, their KL and magnitude.
    """
    figure = go.Figure(layout=go.Layout(height=340, margin={**MARGIN, "t": 34}, legend=LEGEND))
    for place, line in enumerate(lines):
        look = {"color": kinds.colour(line.kind, colours), "dash": "dash" if place else "solid"}
        figure.add_traces([_floor(line, axis, look["color"]), _line(line, axis, look, place == 0)])
    n, kl, magnitude = here
    figure.add_scatter(
        x=[max(n, NONE_AT) if axis == "n_patched" else magnitude], y=[kl], mode="markers", name="chosen now",
        marker={"color": colours.chosen, "size": 12, "symbol": "diamond", "line": {"color": colours.text, "width": 1}},
        hovertemplate=f"chosen now: {n} features<br>KL %{{y:.4g}} nats<br>edit norm {magnitude:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(dragmode=False, clickmode="event+select")
    figure.update_xaxes(title=AXES[axis], **(_counts(lines) if axis == "n_patched" else {"rangemode": "tozero"}))
    figure.update_yaxes(title="KL(patched ‖ target), nats", rangemode="tozero")
    return figure, _curves_sentence(lines, axis)


def _x(line: Line, axis: str) -> list[float]:
    return line.frame[axis].clip(lower=NONE_AT if axis == "n_patched" else 0).tolist()


def _line(line: Line, axis: str, look: dict[str, str], clickable: bool) -> go.Scatter:
    name, n = safe(line.name), int(line.frame["n_patched"].iloc[-1])
    return go.Scatter(
        x=_x(line, axis), y=line.frame["kl"].tolist(), mode="lines+markers", name=name, line={**look, "width": 2},
        marker={"size": 5}, unselected={"marker": {"opacity": 1}},
        customdata=[[n, m, clickable] for n, m in line.frame[["n_patched", "magnitude"]].itertuples(index=False)],
        hovertemplate=f"<b>{name}</b><br>%{{customdata[0]}} of {n} patched<br>KL %{{y:.4g}} nats<br>"
        "edit norm %{customdata[1]:.3g}<extra></extra>",
    )  # fmt: skip


def _floor(line: Line, axis: str, colour: str) -> go.Scatter:
    """A dotted line at the KL with everything patched, over the width of the curve."""
    x, floor = _x(line, axis), float(line.frame["kl"].iloc[-1])
    # Several points, so that the pointer finds one anywhere along the line.
    along = np.linspace(min(x), max(x), 24) if axis == "magnitude" else np.geomspace(min(x), max(x), 24)
    return go.Scatter(
        x=along.tolist(), y=[floor] * len(along), mode="lines", showlegend=False,
        line={"color": colour, "dash": "dot", "width": 1.5},
        hovertemplate=f"<b>{safe(line.name)}</b><br>all patched: %{{y:.4g}} nats are left<extra></extra>",
    )  # fmt: skip


def _counts(lines: Sequence[Line]) -> dict:
    """Ticks of a logarithmic axis that begins at 0."""
    most = max(int(line.frame["n_patched"].iloc[-1]) for line in lines)
    ticks = [n for n in COUNTS if n <= most]
    return {"type": "log", "tickvals": [NONE_AT, *ticks], "ticktext": ["0", *map(str, ticks)]}


def _curves_sentence(lines: Sequence[Line], axis: str) -> str:
    first = lines[0].frame
    start, floor, n = float(first["kl"].iloc[0]), float(first["kl"].iloc[-1]), int(first["n_patched"].iloc[-1])
    what = (
        "The first features of the order patched together. Click a point to patch as many."
        if axis == "n_patched"
        else "The same curves against how large the edit is: further left and lower is better."
    )
    return (
        f"{what} From {start:.3g} nats with none to {floor:.3g} with all {n} (dotted: the floor; what is left there is "
        "reconstruction error, which stays that of the base sentence)."
    )


def gap_by_position(
    before: np.ndarray, after: np.ndarray, tokens: Sequence[str], chosen: int, colours: Palette
) -> tuple[go.Figure, str]:
    """KL to the target run at every position, without patches (marks) and with (bars), in nats. Bars can be clicked."""
    positions = list(range(len(tokens)))
    text = [safe(t) for t in tokens]
    edges = [colours.text if p == chosen else "rgba(0,0,0,0)" for p in positions]
    figure = go.Figure(layout=go.Layout(height=310, margin={**MARGIN, "t": 34}, legend=LEGEND, bargap=0.2))
    figure.add_bar(
        x=positions, y=after.tolist(), name="patched", unselected={"marker": {"opacity": 1}}, text=text,
        textposition="none", marker={"color": colours.edited, "line": {"color": edges, "width": 2.5}},
        hovertemplate="after %{text} · position %{x}<br>KL(patched ‖ target) %{y:.4f} nats<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=positions, y=before.tolist(), name="base", mode="markers", text=text,
        marker={"color": colours.clean, "symbol": "line-ew-open", "size": 16, "line": {"width": 3}},
        hovertemplate="after %{text} · position %{x}<br>KL(base ‖ target) %{y:.4f} nats<extra></extra>",
    )  # fmt: skip
    figure.update_layout(clickmode="event+select", dragmode=False)
    figure.update_xaxes(**numbered(tokens), title="both runs have read up to this token of the target")
    figure.update_yaxes(title="KL to the target, nats", rangemode="tozero")
    nearer, off = int((after < before).sum()), int((before > 0).sum())
    sentence = (
        "How far the prediction after each token is from the target run's: bars with the patches, dashes without. "
        f"The patches bring {nearer} of the {off} positions that differ nearer. Click a bar to read that position."
    )
    return figure, sentence


RUNS = {"base": "circle", "patched": "square", "target": "diamond-open"}


def next_tokens(shown: pd.DataFrame, position: int, after: str, colours: Palette) -> tuple[go.Figure, str]:
    """Probabilities of next tokens in the three runs, one row a token.

    shown: token, and base_p, patched_p, target_p with the logits beside them; rows in the order to be drawn.
    """
    rows, colour = list(range(len(shown))), {"base": colours.clean, "patched": colours.edited, "target": colours.text}
    figure = go.Figure(layout=go.Layout(height=120 + ROW_HEIGHT * max(len(rows), 3), margin={**MARGIN, "t": 34}))
    for name, symbol in RUNS.items():
        line = {"width": 2 if name == "target" else 0}
        figure.add_scatter(
            x=shown[f"{name}_p"].tolist(), y=rows, name=name, mode="markers", text=[safe(t) for t in shown["token"]],
            marker={"color": colour[name], "symbol": symbol, "size": 11, "line": line},
            customdata=shown[f"{name}_logit"].tolist(),
            hovertemplate=f"%{{text}}<br>{name}: %{{x:.2%}}, logit %{{customdata:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(tickvals=rows, ticktext=[safe(t, 16) for t in shown["token"]], autorange="reversed")
    most = float(shown[[f"{name}_p" for name in RUNS]].to_numpy().max())
    figure.update_xaxes(title="probability of the next token", tickformat="~p", range=[-0.03 * most, 1.05 * most])
    figure.update_layout(legend=LEGEND)
    sentence = (
        f"The likeliest next tokens of any of the three runs after {after} (position {position}). Patching works where "
        "the square moves from the dot to the open diamond."
    )
    return figure, sentence


def changes(
    values: np.ndarray, names: Sequence[str], tokens: Sequence[str], chosen: Sequence[bool], colours: Palette
) -> tuple[go.Figure, str]:
    """Heat map of target minus base activation; values [features, t]. Chosen rows are bold."""
    most = float(np.abs(values).max(initial=0.0)) or 1.0
    labels = [f"<b>{safe(n, 30)}</b>" if on else safe(n, 30) for n, on in zip(names, chosen, strict=True)]
    rows = list(range(len(labels)))
    heat = go.Heatmap(
        z=np.where(values == 0, np.nan, values), x=list(range(len(tokens))), y=rows, xgap=1, ygap=1,
        colorscale=[[0, colours.lowered], [0.5, colours.background], [1, colours.raised]], zmin=-most, zmax=most,
        customdata=[[f"{label}<br>{safe(t)} · position {p}" for p, t in enumerate(tokens)] for label in labels],
        hovertemplate="%{customdata}<br>change %{z:+.3f}<extra></extra>", hoverongaps=False,
        colorbar={**KEY_ABOVE, "title": {"text": "activation, target − base", "side": "top", "font": {"size": 12}}},
    )  # fmt: skip
    figure = go.Figure(heat, go.Layout(height=160 + ROW_HEIGHT * max(len(rows), 3), margin=MARGIN, dragmode=False))
    figure.update_xaxes(**numbered(tokens), title="token of the target, with its position", showgrid=False)
    figure.update_yaxes(tickvals=rows, ticktext=labels, range=[len(rows) - 0.5, -0.5], showgrid=False)
    sentence = (
        "Each row is a feature, in the order above, each column a token: blue where the target sentence makes it fire "
        "more, vermilion where less, empty where both runs agree. Bold: patched."
    )
    return figure, sentence
