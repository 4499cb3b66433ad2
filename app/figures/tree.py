"""Node-link picture of a causal tree: layers from left to right, the root at the right, edges by relative drop."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.axes import MARGIN, safe
from app.palette import Palette, rgba

LABEL_LENGTH = 16
LABEL_WIDTH = 120  # pixels of the longest line, outside of the first and last layer on a screen of any width
LAYER_WIDTH = 100  # pixels between layers, so that labels over neighbouring nodes do not touch
LABEL_SIZE = 11
LEGEND_HEIGHT = 48  # two lines
ROW = 46
DASHES = {"": "solid", "both": "solid", "live only": "dash", "stored only": "dot"}


def place(nodes: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """Nodes with a place: x = layer, y = rank in the layer by the mean height of the children, centred on 0.

    nodes: dictionary, feature, layer. links: child_dictionary, child, parent_dictionary, parent.
    """
    placed = nodes.assign(x=nodes["layer"].astype(float), y=0.0).set_index(["dictionary", "feature"], drop=False)
    rows = int(nodes.groupby("layer").size().max())
    for layer in sorted(nodes["layer"].unique(), reverse=True)[1:]:
        here = placed.index[placed["layer"] == layer]
        wanted = [_mean_height(placed, links, key) for key in here]
        order = np.argsort(np.argsort(wanted, kind="stable"))
        placed.loc[here, "y"] = (order - (len(here) - 1) / 2) * _spacing(len(here), rows)
    return placed.reset_index(drop=True)


def _spacing(n: int, rows: int) -> float:
    """Rows between neighbours, so that a short layer spreads along a long one, at most three rows apart."""
    return min(3.0, (rows - 1) / (n - 1)) if n > 1 else 1.0


def _mean_height(placed: pd.DataFrame, links: pd.DataFrame, key: tuple[str, int]) -> float:
    children = links[(links["parent_dictionary"] == key[0]) & (links["parent"] == key[1])]
    heights = [placed.loc[child, "y"] for child in zip(children["child_dictionary"], children["child"], strict=True)]
    return float(np.mean(heights)) if heights else 0.0


def causal_tree(nodes: pd.DataFrame, links: pd.DataFrame, colours: Palette) -> tuple[go.Figure, str]:
    """The tree as a figure. Nodes can be clicked: customdata is [dictionary, feature].

    nodes: dictionary, feature, layer, name, depth (0 = root). links: child_dictionary, child, parent_dictionary,
    parent, relative_drop, stderr, n_contexts, and optionally mark ("both", "live only", "stored only").
    """
    placed = place(nodes, links)
    figure = go.Figure(layout=_layout(placed))
    places = placed.set_index(["dictionary", "feature"])[["x", "y"]]
    for link in links.to_dict("records"):
        figure.add_trace(_edge(link, places, colours))
    figure.add_trace(_edge_hover(links, places, placed))
    figure.add_trace(_node_trace(placed, colours))
    for trace in _legend(links, colours):
        figure.add_trace(trace)
    figure.update_layout(annotations=_inner_labels(placed, colours))
    return figure, _sentence(placed, links)


def _ends(link: dict, places: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    start = places.loc[(link["parent_dictionary"], link["parent"])].to_numpy()
    end = places.loc[(link["child_dictionary"], link["child"])].to_numpy()
    return start, end


def _curve(start: np.ndarray, end: np.ndarray, n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A flat-ended S between two points (smoothstep in y)."""
    t = np.linspace(0, 1, n)
    return start[0] + t * (end[0] - start[0]), start[1] + (3 * t**2 - 2 * t**3) * (end[1] - start[1])


def _edge(link: dict, places: pd.DataFrame, colours: Palette) -> go.Scatter:
    x, y = _curve(*_ends(link, places))
    drop = link["relative_drop"]
    line = {
        "width": 1 + 9 * min(abs(drop), 1),
        "color": colours.lowered if drop > 0 else colours.raised,
        "dash": DASHES[link.get("mark", "")],
    }
    return go.Scatter(
        x=x.tolist(), y=y.tolist(), mode="lines", line=line, opacity=0.75, hoverinfo="skip", showlegend=False
    )


def _edge_hover(links: pd.DataFrame, places: pd.DataFrame, placed: pd.DataFrame) -> go.Scatter:
    names = placed.set_index(["dictionary", "feature"])["name"]
    records = links.to_dict("records")
    middles = [np.mean(_ends(link, places), axis=0) for link in records]
    return go.Scatter(
        x=[float(m[0]) for m in middles],
        y=[float(m[1]) for m in middles],
        mode="markers",
        marker={"size": 16, "opacity": 0},
        text=[_edge_text(link, names) for link in records],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _edge_text(link: dict, names: pd.Series) -> str:
    parent = names[(link["parent_dictionary"], link["parent"])]
    child = names[(link["child_dictionary"], link["child"])]
    error = f" ± {link['stderr']:.1%}" if link["stderr"] > 0 else ""
    contexts = f"<br>{link['n_contexts']} contexts" if link["n_contexts"] > 1 else ""
    mark = f"<br>{link['mark']}" if link.get("mark") else ""
    return f"{safe(parent)} → {safe(child)}<br>relative drop {link['relative_drop']:+.1%}{error}{contexts}{mark}"


def _node_trace(placed: pd.DataFrame, colours: Palette) -> go.Scatter:
    root = placed["depth"] == 0
    return go.Scatter(
        x=placed["x"].tolist(),
        y=placed["y"].tolist(),
        mode="markers+text",
        text=[
            "" if inner else _label(name, at_root)
            for name, at_root, inner in zip(placed["name"], root, _is_inner(placed), strict=True)
        ],
        textposition=["middle right" if x == placed["x"].max() else "middle left" for x in placed["x"]],
        textfont={"size": LABEL_SIZE, "color": colours.text},
        hovertext=[safe(name, 120) for name in placed["name"]],
        cliponaxis=False,
        marker={
            "size": [18 if r else 13 for r in root],
            "color": colours.activation,
            "opacity": 1,
            "line": {"color": colours.text, "width": [2 if r else 0 for r in root]},
        },
        customdata=[[d, int(f)] for d, f in zip(placed["dictionary"], placed["feature"], strict=True)],
        hovertemplate="%{customdata[0]}<br>feature %{customdata[1]}<br>%{hovertext}<extra>click to walk here</extra>",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        showlegend=False,
    )


def _is_inner(placed: pd.DataFrame) -> pd.Series:
    """Nodes between the first and last layer: their labels stand above them, those of the others outside."""
    return placed["x"].between(placed["x"].min(), placed["x"].max(), inclusive="neither")


def _inner_labels(placed: pd.DataFrame, colours: Palette) -> list[dict]:
    """Labels above the inner nodes, on the colour of the page so that an edge behind them does not strike them out."""
    return [
        {
            "x": float(x), "y": float(y), "text": _label(name), "showarrow": False, "yanchor": "bottom", "yshift": 8,
            "font": {"size": LABEL_SIZE, "color": colours.text}, "bgcolor": rgba(colours.background, 0.85),
            "borderpad": 1,
        }
        for x, y, name in placed.loc[_is_inner(placed), ["x", "y", "name"]].itertuples(index=False)
    ]  # fmt: skip


def _label(name: str, bold: bool = False) -> str:
    """`L2 #12` over what it is about, each line cut; other names in one line."""
    parts = re.fullmatch(r"(.*?#\d+) +(.+)", name, re.DOTALL)
    text = "<br>".join(safe(part, LABEL_LENGTH) for part in (parts.groups() if parts else [name]))
    return f"<b>{text}</b>" if bold else text


def least_width(nodes: pd.DataFrame) -> int:
    """Pixels below which labels of neighbouring layers would overlap. nodes: layer."""
    return 2 * LABEL_WIDTH + LAYER_WIDTH * (nodes["layer"].nunique() - 1)


def _legend(links: pd.DataFrame, colours: Palette) -> list[go.Scatter]:
    drops = links["relative_drop"]
    signs = [
        (colours.lowered, "removing the parent lowers the child", (drops > 0).any()),
        (colours.raised, "removing the parent raises the child", (drops <= 0).any()),
    ]
    marks = links["mark"].unique() if "mark" in links else []
    names = {"both": "here and on the corpus", "live only": "here only", "stored only": "on the corpus only"}
    shown = [(colour, name, "solid") for colour, name, present in signs if present]
    shown += [(colours.muted, name, DASHES[mark]) for mark, name in names.items() if mark in marks]
    return [
        go.Scatter(x=[None], y=[None], mode="lines", name=name, line={"color": colour, "width": 3, "dash": dash})
        for colour, name, dash in shown
    ]


def _layout(placed: pd.DataFrame) -> go.Layout:
    layers = sorted(placed["layer"].unique().tolist())
    rows = int(placed.groupby("layer").size().max())
    half = max((rows - 1) / 2, 0.5)
    hidden = {"showgrid": False, "zeroline": False}
    return go.Layout(
        height=120 + LEGEND_HEIGHT + ROW * max(rows, 2),
        margin={**MARGIN, "l": LABEL_WIDTH, "r": LABEL_WIDTH, "t": LEGEND_HEIGHT},
        clickmode="event+select",
        dragmode=False,
        xaxis={
            **hidden,
            "tickvals": layers,
            "ticktext": [f"layer {n}" for n in layers],
            "range": [layers[0] - 0.1, layers[-1] + 0.1],
        },
        yaxis={**hidden, "visible": False, "range": [-half - 0.6, half + 0.9]},
        # Placed in the container: in the plot it would push the margins.
        legend={"orientation": "h", "x": 0, "xref": "container", "y": 1, "yref": "container", "yanchor": "top"},
    )


def _sentence(placed: pd.DataFrame, links: pd.DataFrame) -> str:
    root = placed.loc[placed["depth"] == 0, "name"].iloc[0]
    if links.empty:
        return f"{root} stands alone: no parent passes the threshold."
    best = links.loc[links["relative_drop"].abs().idxmax()]
    return (
        f"Earlier layers are on the left and the root, {root}, on the right. The thicker an edge, the larger the share "
        f"of the child's activation that goes when the parent is removed (largest here: {best['relative_drop']:+.0%}). "
        "Click a node to walk there."
    )
