"""Figures of the Compare page: densities, the sweep, scores, largest cosines by class, two token histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures import kinds
from app.figures.axes import FVU_AXIS, L0_AXIS, MARGIN, safe
from app.figures.colours import legend_tokens, token_colours
from app.figures.histograms import LOG_NOTE
from app.palette import Palette
from sae_core.compare import CLASSES, MATCHED, MISSING, NEAR, SPLIT
from sae_core.results import kind_name
from sae_core.schemas import HISTOGRAM_BINS, OTHER_TOKEN

HEIGHT = 340
LEGEND = {"orientation": "h", "y": 1.03, "yanchor": "bottom", "x": 0}
_PLACES = (0, 4, 2, 1, 5, 7)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_CLASS_PLACES = {MATCHED: 2, SPLIT: 5, NEAR: 1}
LOWEST_DENSITY = -6  # log10, where the bins of metrics.density_hist begin


def dictionary_colours(ids: Sequence[str], colours: Palette) -> dict[str, str]:
    """Colour by id of up to six dictionaries, the same in every figure of the page."""
    return {id: colours.tokens[place] for id, place in zip(ids, _PLACES, strict=False)}


def density_overlay(frame: pd.DataFrame, chosen: Sequence[str], colours: Palette) -> tuple[go.Figure, str]:
    """Share of each dictionary's features by log10 density, as lines over each other.

    frame: dictionary, n_features, density_hist (counts in half-decades of 1e-6 .. 1; silent features in none).
    chosen: the ids that have a colour on the page.
    """
    figure = go.Figure(layout={"height": HEIGHT, "margin": MARGIN, "dragmode": False, "legend": LEGEND})
    hues = dictionary_colours(chosen, colours)
    for row in frame.itertuples():
        counts = np.asarray(row.density_hist)
        edges = np.linspace(LOWEST_DENSITY, 0, len(counts) + 1)
        figure.add_scatter(
            x=((edges[:-1] + edges[1:]) / 2).tolist(), y=(counts / row.n_features).tolist(), name=safe(row.dictionary),
            line={"shape": "hvh", "color": hues[row.dictionary], "dash": _DASHES[list(chosen).index(row.dictionary)],
                  "width": 2}, mode="lines",
            customdata=[
                [f"{10**a:.1g} to {10**b:.1g}", int(n)] for a, b, n in zip(edges, edges[1:], counts, strict=False)
            ],
            hovertemplate="active on %{customdata[0]} of tokens<br>%{customdata[1]:,} features, %{y:.1%}",
        )  # fmt: skip
    ticks = list(range(LOWEST_DENSITY, 1))
    figure.update_xaxes(title="density (share of held-out tokens)", range=[LOWEST_DENSITY, 0],
                        tickvals=ticks, ticktext=[f"{10.0**t:g}" for t in ticks])  # fmt: skip
    figure.update_yaxes(title="share of the features", tickformat=".0%", rangemode="tozero")
    silent = ", ".join(
        f"{n - int(np.sum(counts)):,} of {n:,} in {id}"
        for id, n, counts in zip(frame["dictionary"], frame["n_features"], frame["density_hist"], strict=True)
    )
    sentence = f"Right is often active, left is rare. Features silent on all held-out tokens are not drawn: {silent}."
    return figure, sentence


def chosen_in_sweep(frame: pd.DataFrame, chosen: Sequence[str], colours: Palette) -> tuple[go.Figure, str]:
    """FVU against L0 of everything with metrics, the chosen dictionaries in their colours.

    frame: rows of sae_core.results.all_metrics.
    """
    figure = go.Figure(layout={"height": HEIGHT, "margin": MARGIN, "dragmode": False, "legend": LEGEND})
    others = frame[~frame["id"].isin(chosen)]
    figure.add_trace(_points(others, "other dictionaries", colours.muted, 7))
    for id, colour in dictionary_colours(chosen, colours).items():
        part = frame[frame["id"] == id]
        if len(part):
            figure.add_trace(_points(part, safe(id), colour, 14))
    figure.update_xaxes(**L0_AXIS)
    figure.update_yaxes(**FVU_AXIS)
    sentence = (
        "Each point is a dictionary on held-out tokens: left is sparser, lower explains more. Compare at equal L0, and "
        "within one layer and site, because each has its own variance. Shapes tell the kinds; large and coloured are "
        "the chosen ones."
    )
    return figure, sentence


def _points(part: pd.DataFrame, name: str, colour: str, size: int) -> go.Scatter:
    return go.Scatter(
        x=part["l0"].tolist(), y=part["fvu"].tolist(), mode="markers", name=name,
        marker={"color": colour, "size": size, "symbol": [kinds.symbol(k) for k in part["kind"]], "line": {"width": 1}},
        text=[f"{safe(id)}<br>{kind_name(kind)}" for id, kind in zip(part["id"], part["kind"], strict=True)],
        hovertemplate="%{text}<br>L0 %{x:.1f}, FVU %{y:.3f}<extra></extra>",
    )  # fmt: skip


def score_means(frame: pd.DataFrame, chosen: Sequence[str], colours: Palette) -> tuple[go.Figure, str]:
    """Mean score by explainer and scheme with its 95% interval.

    frame: id, explainer, scheme, mean, lower, upper (NaN for fewer than two features), n, n_skipped.
    """
    rows = list(dict.fromkeys(f"{e} · {s}" for e, s in zip(frame["explainer"], frame["scheme"], strict=True)))
    present = [id for id in chosen if (frame["id"] == id).any()]
    figure = go.Figure(layout={"margin": MARGIN, "dragmode": False, "legend": LEGEND})
    figure.update_layout(height=130 + 34 * len(rows) * max(1, len(present)))
    hues = dictionary_colours(chosen, colours)
    for place, id in enumerate(present):
        part = frame[frame["id"] == id]
        y = [rows.index(f"{e} · {s}") for e, s in zip(part["explainer"], part["scheme"], strict=True)]
        shift = (place - (len(present) - 1) / 2) * 0.7 / len(present)
        figure.add_scatter(
            x=part["mean"].tolist(), y=[v + shift for v in y], mode="markers", name=safe(id),
            marker={"size": 10, "color": hues[id]},
            error_x={"array": (part["upper"] - part["mean"]).fillna(0).tolist(), "thickness": 1.5, "width": 4},
            customdata=part[["lower", "upper", "n", "n_skipped"]].to_numpy().tolist(),
            hovertemplate="mean %{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})<br>"
            "n = %{customdata[2]} features, %{customdata[3]} skipped and left out",
        )  # fmt: skip
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=[safe(r) for r in rows], autorange="reversed")
    figure.update_xaxes(title="mean score (correlation)", zeroline=True)
    sentence = (
        "Right is better: what the explanations predict correlates more with the true activations. Whiskers: mean "
        "± 1.96 standard errors over features. Where they overlap, the difference may be chance."
    )
    return figure, sentence


def largest_cosines(
    frame: pd.DataFrame, match: float, part: float, chance: float, colours: Palette
) -> tuple[go.Figure, str]:
    """Number of features of A by their largest cosine with any of B, stacked by class.

    frame: rows of sae_core.compare.classify. chance: the largest cosine to expect of random directions.
    """
    figure = go.Figure(layout={"height": HEIGHT, "margin": MARGIN, "dragmode": False, "legend": LEGEND})
    figure.update_layout(barmode="stack", bargap=0.06)
    low = np.floor(min(float(frame["best_cosine"].min()), chance) / 0.05) * 0.05
    edges = np.arange(low, 1.0 + 0.03, 0.025)
    for name in CLASSES:
        values = frame.loc[frame["class"] == name, "best_cosine"].clip(upper=1.0)
        counts, _ = np.histogram(values, edges)
        figure.add_bar(
            x=((edges[:-1] + edges[1:]) / 2).tolist(), y=counts.tolist(), name=f"{name} ({len(values):,})",
            marker={"color": class_colour(name, colours), "line": {"width": 0}},
            text=[f"{a:.3f} to {b:.3f}" for a, b in zip(edges, edges[1:], strict=False)], textposition="none",
            hovertemplate="cosine %{text}<br>%{y:,} features",
        )  # fmt: skip
    for value, dash, label in ((match, "solid", "match"), (part, "dash", "part"), (chance, "dot", "chance")):
        figure.add_vline(x=value, line={"dash": dash, "width": 1.5, "color": colours.clean},
                         annotation={"text": label, "font": {"color": colours.text}},
                         annotation_position="top left")  # fmt: skip
    figure.update_xaxes(title="largest cosine with a feature of B")
    figure.update_yaxes(title="features of A")
    sentence = (
        f"Right are the features of A that B has too. Lines: the two thresholds, and chance ({chance:.2f}), the "
        "largest cosine that half of all directions drawn at random would reach with as many random others."
    )
    return figure, sentence


def class_colour(name: str, colours: Palette) -> str:
    """Colour of a class of features; `missing` is muted."""
    return colours.muted if name == MISSING else colours.tokens[_CLASS_PLACES[name]]


def two_histograms(
    own: pd.DataFrame, theirs: pd.DataFrame, names: tuple[str, str], overlap: float, colours: Palette, log: bool
) -> tuple[go.Figure, str]:
    """Two token-activation histograms on the same axes, the same token in the same colour.

    own, theirs: rows of `token_histograms` of one feature each. names: what the two features are called. overlap: of
    their tokens, sae_core.compare.token_overlap.
    """
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=[safe(n) for n in names])
    both = pd.concat([own, theirs])
    hues = token_colours(legend_tokens(both), colours) | {OTHER_TOKEN: colours.muted}
    words = dict(zip(both["token_id"], both["token"], strict=True)) | {OTHER_TOKEN: "all others"}
    for column, frame in enumerate((own, theirs), start=1):
        drawn = frame.assign(token_id=frame["token_id"].where(frame["token_id"].isin(hues), OTHER_TOKEN))
        for id, colour in hues.items():
            bars = _share_bars(drawn, id, safe(words[id], 18), colour)
            figure.add_trace(bars.update(showlegend=column == 1), row=1, col=column)
    legend = {**LEGEND, "y": -0.25, "yanchor": "top", "traceorder": "normal", "font": {"family": "monospace"}}
    figure.update_layout(barmode="stack", bargap=0.06, height=HEIGHT + 70, dragmode=False, legend=legend,
                         margin={**MARGIN, "t": 34})  # fmt: skip
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title="activation (% of maximum)", range=[0, 100], dtick=25)
    figure.update_yaxes(tickformat=".1~p" if log else ".0%", type="log" if log else "linear")
    figure.update_yaxes(title="share of the active tokens", col=1)
    sentence = (
        "On which share of its active tokens each feature reaches which tenth of its maximum, coloured by token. At "
        f"least {overlap:.0%} of their activity is common: the same tokens equally often (sum of the smaller share of "
        "each listed token)." + (f" {LOG_NOTE}" if log else "")
    )
    return figure, sentence


def _share_bars(frame: pd.DataFrame, id: int, name: str, colour: str) -> go.Bar:
    """One token's bars, as shares of all active tokens of the frame."""
    counts = frame[frame["token_id"] == id].groupby("bin")["count"].sum().reindex(range(HISTOGRAM_BINS), fill_value=0)
    width = 100 / HISTOGRAM_BINS
    return go.Bar(
        x=[(bin + 0.5) * width for bin in range(HISTOGRAM_BINS)],
        y=(counts / max(1, int(frame["count"].sum()))).tolist(),
        name=name,
        legendgroup=str(id),
        marker={"color": colour, "line": {"width": 0}},
        customdata=counts.tolist(),
        hovertemplate=f"{name}<br>%{{customdata:,}} tokens, %{{y:.1%}}<extra></extra>",
    )
