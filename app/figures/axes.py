"""Small parts that the live figures share: safe text, axes of tokens, quiet margins."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

ROW_HEIGHT = 22
TOKEN_WIDTH = 19  # pixels: the least between slanted labels of 12 pixels that do not touch
LETTER_WIDTH = 8
LONGEST_TOKEN = 12  # characters
NARROWEST = 330  # pixels of an axis beside the names of rows, on a screen of 800
NAMES_WIDTH = 200  # pixels left of a grid, for the names of its rows
SCALE_WIDTH = 60  # pixels left of a plain axis
# The scale of colours stands above a grid: beside it, it would take the width that the tokens need.
KEY_ABOVE = {"orientation": "h", "y": 1.01, "yanchor": "bottom", "ypad": 0, "thickness": 10, "outlinewidth": 0}
MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}
L0_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
L0_AXIS = {"title": "L0 (mean active features a token)", "type": "log", "tickvals": L0_TICKS, "ticktext": L0_TICKS}
FVU_AXIS = {"title": "FVU (share of variance not explained)", "rangemode": "tozero"}


def safe(text: str, limit: int = 40) -> str:
    """Text for a plotly label, which reads pseudo-HTML: escaped, and cut to `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return html.escape(cut, quote=False)  # plotly shows &quot; as it is


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` ticks at round numbers from low to high; plotly puts them on the bars where there are few."""
    if not high > low:
        return [low]
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(unit * factor for factor in (1, 2, 5, 10) if (high - low) / (unit * factor) < most)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def numbered(tokens: Sequence[str]) -> dict[str, Any]:
    """Axis ticks for tokens in order; equal tokens stay apart because the axis counts positions."""
    positions = list(range(len(tokens)))
    flat = len(tokens) * _longest(tokens) * LETTER_WIDTH <= NARROWEST
    labels = [
        f"{safe(token, LONGEST_TOKEN)}<br>{position}" if flat else f"{safe(token, LONGEST_TOKEN)} {position}"
        for position, token in enumerate(tokens)
    ]
    angle = 0 if flat else -60
    return {"tickvals": positions, "ticktext": labels, "tickangle": angle, "range": [-0.5, len(tokens) - 0.5]}


def _longest(tokens: Sequence[str]) -> int:
    return max((min(len(token), LONGEST_TOKEN) for token in tokens), default=0)


def tokens_width(n_tokens: int, beside: int) -> int:
    """Pixels that a figure with an axis of `n_tokens` takes for labels that can be read; `beside`: left of the axis."""
    return beside + TOKEN_WIDTH * n_tokens
