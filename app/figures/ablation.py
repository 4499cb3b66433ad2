"""Figures of the Ablate page: what an edit changes, per position, per token, by strength, and downstream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import MARGIN, ROW_HEIGHT, numbered, safe
from app.palette import Palette


def kl_by_position(kl: np.ndarray, tokens: Sequence[str], chosen: int, colours: Palette) -> tuple[go.Figure, str]:
    """KL(clean || edited) of the next-token distribution, one bar a position, in nats. Bars can be clicked."""
    positions = list(range(len(tokens)))
    lines = [colours.text if p == chosen else "rgba(0,0,0,0)" for p in positions]
    bars = go.Bar(
        x=positions,
        y=kl.tolist(),
        marker={"color": colours.edited, "line": {"color": lines, "width": 2.5}},
        unselected={"marker": {"opacity": 1}},
        text=[safe(t) for t in tokens],
        textposition="none",
        hovertemplate="after %{text} · position %{x}<br>KL %{y:.4f} nats<extra></extra>",
    )
    figure = go.Figure(bars, go.Layout(height=270, margin=MARGIN, clickmode="event+select", bargap=0.15))
    figure.update_layout(dragmode=False)
    figure.update_xaxes(**numbered(tokens), title="the edited model has read up to this token")
    figure.update_yaxes(title="KL, nats", rangemode="tozero")
    top = int(np.argmax(kl))
    sentence = (
        "How far the prediction after each token moves, KL(clean ‖ edited). "
        f"It moves most after {tokens[top]} (position {top}, "
        f"{kl[top]:.3g} nats); 0 means the edit changes nothing there. Click a bar to read that position below."
    )
    return figure, sentence


def changed_tokens(changes: pd.DataFrame, position: int, after: str, colours: Palette) -> tuple[go.Figure, str]:
    """Most lowered and most raised next tokens at one position, by change of log-probability.

    changes: token, clean_p, edited_p, change_logprob, change_logit; lowered rows are those below zero.
    """
    ordered = changes.sort_values("change_logprob", ascending=False, kind="stable")
    raised = ordered["change_logprob"] > 0
    bars = go.Bar(
        x=ordered["change_logprob"].tolist(),
        y=list(range(len(ordered))),
        orientation="h",
        marker_color=[colours.raised if up else colours.lowered for up in raised],
        customdata=ordered[["clean_p", "edited_p", "change_logit"]].to_numpy().tolist(),
        text=[safe(t) for t in ordered["token"]],
        textposition="none",
        hovertemplate="%{text}<br>%{x:+.3f} nats<br>probability %{customdata[0]:.2%} → %{customdata[1]:.2%}"
        "<br>logit %{customdata[2]:+.3f}<extra></extra>",
    )
    figure = go.Figure(bars, go.Layout(height=90 + ROW_HEIGHT * len(ordered), margin=MARGIN, bargap=0.2))
    figure.update_yaxes(
        tickvals=list(range(len(ordered))), ticktext=[safe(t, 16) for t in ordered["token"]], autorange="reversed"
    )
    figure.update_xaxes(title="change of log-probability (edited − clean), nats", zeroline=True)
    sentence = (
        f"Next tokens after {after} (position {position}) that the edit makes more likely (blue, right) and less "
        "likely (vermilion, left). A change of −0.69 nats halves a probability."
    )
    return figure, sentence


def dose_response(dose: pd.DataFrame, token: str, colours: Palette) -> tuple[go.Figure, str]:
    """KL and the change of one token's log-probability against the strength the features are scaled to.

    dose: strength (1 = untouched), kl (nats, at the chosen position), logprob (of `token` there).
    """
    clean = float(np.interp(1.0, dose["strength"], dose["logprob"]))
    change = dose["logprob"] - clean
    figure = go.Figure(layout=go.Layout(height=330, margin=MARGIN, hovermode="x unified"))
    line = {"x": dose["strength"].tolist(), "mode": "lines+markers"}
    figure.add_scatter(
        y=dose["kl"].tolist(),
        name="KL(clean ‖ edited)",
        marker={"size": 5},
        line={"color": colours.edited, "width": 2},
        **line,
    )
    figure.add_scatter(
        y=change.tolist(),
        name=f"log-probability of {safe(token, 16)}",
        marker={"size": 5, "symbol": "square"},
        line={"color": colours.clean, "width": 2, "dash": "dot"},
        **line,
    )
    figure.add_vline(
        x=1,
        line={"color": colours.clean, "width": 1, "dash": "dash"},
        annotation_text="clean",
        annotation_position="top",
    )
    figure.update_xaxes(title="strength (0 = removed, 1 = untouched, 2 = doubled)")
    figure.update_yaxes(title="nats", hoverformat="+.4f")
    figure.update_layout(legend={"orientation": "h", "y": 1.12, "x": 0})
    removed = float(change.iloc[0])
    sentence = (
        f"The chosen features multiplied by each strength. Removing them changes the log-probability of {token} by "
        f"{removed:+.3f} nats; a straight dotted line would mean that the effect grows in proportion."
    )
    return figure, sentence


def downstream(changes: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Features of later layers whose activation changes most: clean and edited value joined by a line.

    changes: name, position, token, clean, edited, change; one row a (feature, position), strongest first.
    """
    rows = list(range(len(changes)))
    labels = [f"{safe(n, 28)}  @{p}" for n, p in zip(changes["name"], changes["position"], strict=True)]
    figure = go.Figure(layout=go.Layout(height=110 + ROW_HEIGHT * max(len(rows), 3), margin=MARGIN))
    for up, colour in ((True, colours.raised), (False, colours.lowered)):
        part = changes.reset_index(drop=True).loc[lambda f, up=up: (f["change"] > 0) == up]
        figure.add_scatter(
            x=_joined(part["clean"], part["edited"]),
            y=_joined(part.index, part.index),
            mode="lines",
            line={"color": colour, "width": 3},
            name="rises" if up else "falls",
            hoverinfo="skip",
        )
    for column, colour, name in (("clean", colours.clean, "clean"), ("edited", colours.edited, "edited")):
        figure.add_scatter(
            x=changes[column].tolist(),
            y=rows,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9},
            text=labels,
            hovertemplate=f"%{{text}}<br>{name} %{{x:.3f}}<extra></extra>",
        )
    figure.update_yaxes(tickvals=rows, ticktext=labels, autorange="reversed")
    figure.update_xaxes(title="activation", rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": 1.06, "x": 0})
    sentence = (
        "Features of later layers whose activation the edit changes most (@ = position in the sentence). Each line "
        "runs from the clean value to the edited one."
    )
    return figure, sentence


def _joined(starts: Sequence[float], ends: Sequence[float]) -> list[float | None]:
    """x0, x1, None, x0, x1, None ...: separate segments in one trace."""
    return [value for a, b in zip(starts, ends, strict=True) for value in (float(a), float(b), None)]
