"""What removing a feature does to the next-token prediction: causal bars with the direct path beside them."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import MARGIN, safe
from app.palette import Palette

ROW = 25


def logit_effects(frame: pd.DataFrame, colours: Palette, lowered: bool, n: int = 12) -> tuple[go.Figure, str]:
    """The `n` most lowered (or raised) next tokens.

    frame: rows of `logit_effects` of one feature. Bars: mean change of log-probability with one standard error;
    diamonds: the direct path, a change of logit.
    """
    shown = strongest(frame, lowered, n)
    labels = [safe(t, 16) for t in shown["token"]]
    rows = list(range(len(shown)))
    figure = go.Figure(layout={"height": 90 + ROW * max(len(shown), 4), "margin": MARGIN, "bargap": 0.25})
    figure.add_trace(_causal(shown, labels, rows, colours.lowered if lowered else colours.raised))
    figure.add_trace(_direct(shown, labels, rows, colours))
    figure.update_yaxes(tickvals=rows, ticktext=labels, autorange="reversed", tickfont={"family": "monospace"})
    figure.update_xaxes(title="change (nats; diamond: logits)", zeroline=True)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, dragmode=False)
    return figure, _sentence(shown, lowered)


def strongest(frame: pd.DataFrame, lowered: bool, n: int) -> pd.DataFrame:
    """The n rows with the most negative (or positive) mean_change_logprob, strongest first."""
    change = frame["mean_change_logprob"]
    side = frame[(change < 0) if lowered else (change > 0)]
    return side.sort_values("mean_change_logprob", ascending=lowered, kind="stable").head(n)


def _causal(shown: pd.DataFrame, labels: list[str], rows: list[int], colour: str) -> go.Bar:
    return go.Bar(
        x=shown["mean_change_logprob"].tolist(),
        y=rows,
        orientation="h",
        name="causal",
        marker={"color": colour},
        error_x={"array": shown["stderr"].tolist(), "thickness": 1.2, "width": 3},
        customdata=shown[["stderr", "mean_change_logit"]].to_numpy().tolist(),
        text=labels,
        textposition="none",
        hovertemplate="%{text}<br>%{x:+.3f} ± %{customdata[0]:.3f} nats<br>logit %{customdata[1]:+.3f}"
        "<extra>causal</extra>",
    )


def _direct(shown: pd.DataFrame, labels: list[str], rows: list[int], colours: Palette) -> go.Scatter:
    return go.Scatter(
        x=shown["direct"].tolist(),
        y=rows,
        mode="markers",
        name="direct path",
        marker={
            "symbol": "diamond",
            "size": 9,
            "color": colours.background,
            "line": {"width": 2, "color": colours.text},
        },
        text=labels,
        hovertemplate="%{text}<br>%{x:+.3f} logits<extra>direct path</extra>",
    )


def _sentence(shown: pd.DataFrame, lowered: bool) -> str:
    word = "lowers" if lowered else "raises"
    if shown.empty:
        return f"Removing the feature {word} no token."
    first = shown.iloc[0]
    return (
        f"Removing the feature {word} {first['token']} most: {first['mean_change_logprob']:+.3g} nats on average "
        f"over {first['n_positions']:,} active positions of {first['n_windows']:,} windows (whiskers: one standard "
        "error). A diamond far from its bar means that later layers do the work."
    )
