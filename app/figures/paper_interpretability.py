"""Figures of the paper's Section 3: mean scores by layer and by ratio, single scores, moments, detection."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import MARGIN, safe
from app.figures.kinds import SYMBOLS_OF_LAYERS, colour, dash, marker, rank
from app.palette import Palette, mix
from sae_core.results import kind_name

LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "title": None}
SPREAD = 0.36
STRIP_POINTS = 1500
HOW = "Bars: 95% interval of the mean, 1.96 sd / √n. Click a name in the legend to hide or show it."


def means_by_layer(frame: pd.DataFrame, colours: Palette, scheme: str) -> tuple[go.Figure, str]:
    """Mean score of each kind in each layer with its interval (paper Figs 2, 9, 10, 18).

    frame: layer, kind, id, mean, lower, upper, n, skipped.
    """
    figure = go.Figure(layout=_layout(390))
    kinds = sorted(frame["kind"].unique(), key=rank)
    for place, kind in enumerate(kinds):
        part = frame[frame["kind"] == kind].sort_values("layer")
        # Side by side, so that intervals of one layer do not hide each other.
        x = part["layer"] + SPREAD * ((place + 0.5) / len(kinds) - 0.5)
        look = {"marker": marker(kind, colours), "line": {"color": colour(kind, colours), "dash": dash(kind)}}
        figure.add_scatter(x=x.tolist(), mode="lines+markers", name=kind_name(kind), **_with_interval(part), **look)
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    figure.update_xaxes(title="layer", tickvals=layers, range=[layers[0] - 0.5, layers[-1] + 0.5], showgrid=False)
    figure.update_yaxes(title=f"mean score, {words(scheme)} (Pearson r)", rangemode="tozero")
    return figure, f"Higher: explanations predict the activations better. {HOW}"


def words(scheme: str) -> str:
    """A scheme as it is read: top-and-random, random-only."""
    return scheme.replace("_", "-")


def means_by_ratio(frame: pd.DataFrame, colours: Palette, scheme: str) -> tuple[go.Figure, str]:
    """Mean score against the ratio of features to width, one line a layer, later layers darker (paper Fig. 8).

    frame: layer, kind, ratio, id, mean, lower, upper, n, skipped.
    """
    figure = go.Figure(layout=_layout(360))
    layers = sorted(frame["layer"].unique())
    for place, layer in enumerate(layers):
        part = frame[frame["layer"] == layer].sort_values("ratio")
        hue = mix(colour(part["kind"].iloc[0], colours), colours.background, 0.45 + 0.55 * (place + 1) / len(layers))
        look = {"symbol": SYMBOLS_OF_LAYERS[place % len(SYMBOLS_OF_LAYERS)], "color": hue, "size": 9}
        figure.add_scatter(
            x=part["ratio"].tolist(), mode="lines+markers", name=f"layer {layer}", **_with_interval(part), marker=look,
            line={"color": hue},
        )  # fmt: skip
    ratios = sorted(frame["ratio"].unique())
    ticks = [f"{ratio:g}" for ratio in ratios]
    figure.update_xaxes(
        title="R (features / width of the site), log scale", type="log", tickvals=ratios, ticktext=ticks
    )
    figure.update_yaxes(title=f"mean score, {words(scheme)} (Pearson r)", rangemode="tozero")
    return figure, f"A flat line: features of larger dictionaries are as easy to explain as those of small ones. {HOW}"


def _with_interval(part: pd.DataFrame) -> dict:
    """y, error bars and hover of mean scores."""
    up, down = part["upper"] - part["mean"], part["mean"] - part["lower"]
    facts = part[["layer", "lower", "upper", "n", "skipped", "id"]].to_numpy(dtype=object)
    return {
        "y": part["mean"].tolist(),
        "error_y": {"type": "data", "array": up.tolist(), "arrayminus": down.tolist(), "thickness": 1.5, "width": 3},
        "customdata": facts.tolist(),
        "hovertemplate": "layer %{customdata[0]}: mean %{y:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]"
        "<br>n = %{customdata[3]:,} features, %{customdata[4]:,} skipped<br>%{customdata[5]}",
    }


def score_strip(frame: pd.DataFrame, averages: pd.DataFrame, colours: Palette, seed: int) -> tuple[go.Figure, str]:
    """Every feature's score, one column a kind; a point can be clicked: customdata is [id, feature, ...].

    frame: kind, id, feature, score, lower, upper, explanation, without skipped features. averages: of the same
    dictionaries, as for means_by_layer. At most 1,500 points a kind are drawn, chosen with the seed.
    """
    figure = go.Figure(layout=_layout(400) | {"showlegend": False, "margin": MARGIN})
    kinds = sorted(frame["kind"].unique(), key=rank)
    rng = np.random.default_rng(seed)
    for place, kind in enumerate(kinds):
        part = frame[frame["kind"] == kind]
        drawn = part if len(part) <= STRIP_POINTS else part.sample(STRIP_POINTS, random_state=seed)
        figure.add_trace(_points(drawn, place + rng.uniform(-0.32, 0.32, len(drawn)), kind, colours))
    _add_means(figure, averages, kinds, colours)
    sizes = frame["kind"].value_counts()
    names = [f"{kind_name(kind).replace(' ', '<br>')}<br>n = {sizes[kind]:,}" for kind in kinds]
    figure.update_xaxes(
        tickvals=list(range(len(kinds))),
        ticktext=names,
        range=[-0.6, len(kinds) - 0.4],
        tickangle=0,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title="score (Pearson r)")
    sentence = (
        "Each point is a feature, its place within a column is random; the bar is the mean with its 95% interval. "
        "Hover for the explanation; click a point to open the feature."
    )
    return figure, sentence


def _points(part: pd.DataFrame, x: np.ndarray, kind: str, colours: Palette) -> go.Scattergl:
    explained = [safe(text, 110) for text in part["explanation"]]
    columns = (part["id"], part["feature"].astype(int), part["lower"], part["upper"], explained)
    return go.Scattergl(
        x=x.tolist(), y=part["score"].tolist(), mode="markers", name=kind_name(kind),
        customdata=[list(row) for row in zip(*columns, strict=True)],
        marker={"color": colour(kind, colours), "size": 5, "opacity": 0.55},
        hovertemplate="#%{customdata[1]}: %{y:.3f} [%{customdata[2]:.3f}, %{customdata[3]:.3f}]<br>%{customdata[4]}"
        "<br>%{customdata[0]}",
    )  # fmt: skip


def _add_means(figure: go.Figure, averages: pd.DataFrame, kinds: list[str], colours: Palette) -> None:
    part = averages.set_index("kind").loc[kinds].reset_index()
    figure.add_scatter(
        x=list(range(len(kinds))), mode="markers", name="mean", **_with_interval(part),
        marker={"symbol": "line-ew", "size": 34, "color": colours.text, "line": {"width": 2.5, "color": colours.text}},
    )  # fmt: skip


def correlations(frame: pd.DataFrame, paper: dict[str, tuple[float, ...]], colours: Palette) -> tuple[go.Figure, str]:
    """Correlation of each moment with the score, and the paper's numbers as open diamonds (paper Table 2).

    frame: name, moment, r, lower, upper, n, from top to bottom. paper: numbers by moment.
    """
    figure = go.Figure(layout=_layout(90 + 44 * len(frame)))
    up, down = frame["upper"] - frame["r"], frame["r"] - frame["lower"]
    figure.add_scatter(
        x=frame["r"].tolist(), y=frame["name"].tolist(), mode="markers", name="this run",
        error_x={"type": "data", "array": up.tolist(), "arrayminus": down.tolist(), "thickness": 1.5, "width": 4},
        marker={"color": colours.chosen, "size": 10},
        customdata=frame[["lower", "upper", "n"]].to_numpy().tolist(),
        hovertemplate="%{y}: r = %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>n = %{customdata[2]:,}",
    )  # fmt: skip
    known = [(value, name) for name, moment in zip(frame["name"], frame["moment"], strict=True)
             for value in paper.get(moment, ())]  # fmt: skip
    figure.add_scatter(
        x=[value for value, _ in known], y=[name for _, name in known], mode="markers", name="paper",
        marker={"symbol": "diamond-open", "color": colours.clean, "size": 11, "line": {"width": 2}},
        hovertemplate="%{y}: the paper gives %{x:.2f}",
    )  # fmt: skip
    figure.add_vline(x=0, line={"width": 1, "color": colours.muted})
    figure.update_xaxes(title="Pearson correlation of the moment and the score, over features")
    figure.update_yaxes(autorange="reversed", title=None)
    return figure, "Right of the line: features with more of it score higher. Bars: 95%, features resampled."


def detection_means(frame: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """Mean accuracy of detection and fuzzing in each dictionary; the dotted line is chance.

    frame: scorer, layer, id, mean, lower, upper, n, skipped.
    """
    figure = go.Figure(layout=_layout(340))
    looks = {"detection": (colours.tokens[9], "circle"), "fuzzing": (colours.tokens[8], "diamond")}
    for place, (scorer, part) in enumerate(frame.groupby("scorer", sort=True)):
        hue, symbol = looks[str(scorer)]
        figure.add_scatter(
            x=(part["layer"] + 0.08 * (place - 0.5)).tolist(), mode="markers", name=str(scorer), **_with_interval(part),
            marker={"color": hue, "symbol": symbol, "size": 10},
        )  # fmt: skip
    figure.add_hline(y=0.5, line={"dash": "dot", "color": colours.clean})
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    figure.update_xaxes(title="layer", tickvals=layers, range=[layers[0] - 0.5, layers[-1] + 0.5], showgrid=False)
    figure.update_yaxes(title="mean accuracy (share of right answers)")
    return figure, f"Above the dotted line: the explanation tells fragments apart better than chance. {HOW}"


def _layout(height: int) -> dict:
    return {
        "height": height,
        "margin": MARGIN | {"t": 40},
        "legend": LEGEND,
        "showlegend": True,
        "dragmode": False,
        "hovermode": "closest",
    }
