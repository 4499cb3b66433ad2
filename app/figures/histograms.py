"""Stacked histograms by token (paper Fig. 4): activations of a feature, and drops of the token that came next."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import MARGIN, round_ticks, safe
from app.figures.colours import legend_tokens, token_colours
from app.palette import Palette
from sae_core.schemas import DROP_THRESHOLD, OTHER_TOKEN

HEIGHT = 340
LOG_NOTE = "On a log scale only whole bars compare, not their parts."


def activation_histogram(frame: pd.DataFrame, colours: Palette, log: bool) -> tuple[go.Figure, str]:
    """How often the feature is active how strongly, by token (paper Fig. 4 left).

    frame: rows of `token_histograms` of one feature. Bars can be clicked: `customdata` is [bin, token_id].
    """
    figure = stacked(frame, colours, log)
    figure.update_xaxes(title="activation (code)")
    figure.update_yaxes(title="active tokens" + (" (log scale)" if log else ""))
    common = legend_tokens(frame)
    share = frame.loc[frame["token_id"] == common[0], "count"].sum() / frame["count"].sum() if common else 0
    top = frame.loc[frame["token_id"] == common[0], "token"].iloc[0] if common else "no listed token"
    sentence = (
        f"Each bar counts the tokens on which the activation lies in that tenth of its range; {share:.0%} of "
        f"the active tokens are {top} ; one colour to the right means that the feature is about it when strong. "
        + (f"{LOG_NOTE} " if log else "")
        + "Click a part of a bar to see its contexts."
    )
    return figure, sentence


def drop_histogram(frame: pd.DataFrame, colours: Palette, log: bool) -> tuple[go.Figure, str]:
    """How much the log-probability of the token that really came next falls, by that token (paper Fig. 4 right).

    frame: rows of `next_token_drops` of one feature and one population.
    """
    figure = stacked(frame, colours, log)
    figure.update_xaxes(title="drop of log-probability (nats)")
    figure.update_yaxes(title="positions" + (" (log scale)" if log else ""))
    shown, looked_at = int(frame["count"].sum()), int(frame["n_positions"].iloc[0])
    sentence = (
        f"Removing the feature lowers the next token that really came by more than {DROP_THRESHOLD} nats at {shown:,} "
        f"of {looked_at:,} positions ({shown / looked_at:.0%}); colours are these next tokens. "
        "One colour to the right means that the feature serves to predict that token."
    )
    return figure, sentence


def stacked(frame: pd.DataFrame, colours: Palette, log: bool) -> go.Figure:
    """Bars by bin, stacked by token: the commonest tokens in colour, the others together in grey."""
    ids = legend_tokens(frame)
    figure = go.Figure(layout={"barmode": "stack", "bargap": 0.06, "height": HEIGHT, "margin": MARGIN})
    for id, colour in token_colours(ids, colours).items():
        part = frame[frame["token_id"] == id]
        figure.add_trace(_bars(part, safe(part["token"].iloc[0], 18), colour, id))
    rest = frame[~frame["token_id"].isin(ids)]
    if len(rest):
        columns = ["bin", "bin_low", "bin_high"]
        merged = rest.groupby(columns, as_index=False)["count"].sum()
        figure.add_trace(_bars(merged, "all others", colours.muted, OTHER_TOKEN))
    figure.update_layout(legend={"traceorder": "normal", "font": {"family": "monospace", "size": 12}}, dragmode=False)
    if len(frame):
        figure.update_xaxes(tickvals=round_ticks(float(frame["bin_low"].min()), float(frame["bin_high"].max())))
    figure.update_yaxes(type="log" if log else "linear", rangemode="tozero")
    return figure


def _bars(part: pd.DataFrame, name: str, colour: str, id: int) -> go.Bar:
    low, high = part["bin_low"].to_numpy(float), part["bin_high"].to_numpy(float)
    return go.Bar(
        x=((low + high) / 2).tolist(),
        y=part["count"].tolist(),
        width=((high - low) * 0.94).tolist(),
        name=name,
        marker={"color": colour, "line": {"width": 0}},
        customdata=[[int(bin), id] for bin in part["bin"]],
        text=[f"{a:.3g} to {b:.3g}" for a, b in zip(low, high, strict=True)],
        textposition="none",
        hovertemplate=name + "<br>%{text}<br>%{y:,}<extra></extra>",
        unselected={"marker": {"opacity": 0.35}},
    )
