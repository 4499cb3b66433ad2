"""Small parts that the live figures share: safe text, axes of tokens, quiet margins."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

ROW_HEIGHT = 22
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
    angle = 0 if sum(map(len, tokens)) + len(tokens) < 70 else -60
    labels = [
        f"{safe(token, 12)}<br>{position}" if angle == 0 else f"{safe(token, 12)} {position}"
        for position, token in enumerate(tokens)
    ]
    return {"tickvals": positions, "ticktext": labels, "tickangle": angle, "range": [-0.5, len(tokens) - 0.5]}
