"""Cards: a feature at a glance, and boxes with a title, a sentence and a link. HTML, escaped here."""

from __future__ import annotations

import html
import re

import numpy as np
import pandas as pd

from app.components.numbers import digits, percent
from app.components.tokens import chips
from app.figures.colours import legend_tokens, token_colours
from app.palette import Palette
from sae_core.schemas import HISTOGRAM_BINS

HEIGHT = 72
CODE = re.compile(r"`([^`]+)`")


def feature_card(row: pd.Series, histogram: pd.DataFrame, name: str, href: str, colours: Palette) -> str:
    """One feature: name, top tokens, its token histogram (log counts), density, maximum.

    row: of the `features` table; histogram: its rows of `token_histograms`; name: index and label.
    """
    numbers = f"{percent(row['density'])} of tokens · max {digits(row['max_activation'])}"
    if row["dead"]:
        numbers = "dead: never active on the table tokens"
    return (
        f"<a class='sae-card' href='{html.escape(href, quote=True)}' target='_self'>"
        f"<div class='sae-card-title'>{html.escape(name)}</div>{_histogram(histogram, colours)}"
        f"<div class='sae-card-tokens'>{chips(list(row['top_tokens']))}</div><div class='sae-note'>{numbers}</div></a>"
    )


def _histogram(frame: pd.DataFrame, colours: Palette) -> str:
    """Bars: height is log10(1 + count) of the bin, shares of the bar are shares of the tokens.

    Plain boxes, because st.html drops SVG.
    """
    if frame.empty:
        return "<div class='sae-card-plot'></div>"
    hue = token_colours(legend_tokens(frame), colours)
    totals = frame.groupby("bin")["count"].sum().reindex(range(HISTOGRAM_BINS), fill_value=0)
    heights = HEIGHT * np.log10(1 + totals) / np.log10(1 + totals.max())
    parts = dict(list(frame.groupby("bin")))
    scale = heights / totals.where(totals > 0, 1)
    bars = [_bar(parts[b], scale[b], hue, colours) if b in parts else "<div></div>" for b in totals.index]
    label = "Activation histogram: counts, log scale, by tenth of the range up to the maximum"
    return f"<div class='sae-card-plot' role='img' aria-label='{label}'>{''.join(bars)}</div>"


def _bar(part: pd.DataFrame, scale: float, hue: dict[int, str], colours: Palette) -> str:
    pieces = [
        f"<div style='height:{count * scale:.1f}px;background:{hue.get(id, colours.muted)}'></div>"
        for id, count in zip(part["token_id"], part["count"], strict=True)
    ]
    return f"<div>{''.join(pieces)}</div>"


def box(title: str, body: str) -> str:
    """A plain card: title and sentence; what stands between `backticks` is set as code."""
    title, body = (CODE.sub(r"<code>\1</code>", html.escape(text)) for text in (title, body))
    return f"<div class='sae-box'><b>{title}</b><p class='sae-note'>{body}</p></div>"


def facts(rows: list[tuple[str, str]]) -> str:
    """Names and values, one a line."""
    items = "".join(f"<span>{html.escape(name)}</span><span>{html.escape(value)}</span>" for name, value in rows)
    return f"<div class='sae-facts'>{items}</div>"


def badges(texts: list[str]) -> str:
    """Small marks in a row, such as `dense`."""
    return "".join(f"<span class='sae-badge'>{html.escape(text)}</span>" for text in texts)
