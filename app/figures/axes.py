"""Small parts that the live figures share: safe text, axes of tokens, quiet margins."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

ROW_HEIGHT = 22
MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}


def safe(text: str, limit: int = 40) -> str:
    """Text for a plotly label, which reads pseudo-HTML: escaped, and cut to `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return html.escape(cut, quote=False)  # plotly shows &quot; as it is


def numbered(tokens: Sequence[str]) -> dict[str, Any]:
    """Axis ticks for tokens in order; equal tokens stay apart because the axis counts positions."""
    positions = list(range(len(tokens)))
    angle = 0 if sum(map(len, tokens)) + len(tokens) < 70 else -60
    labels = [
        f"{safe(token, 12)}<br>{position}" if angle == 0 else f"{safe(token, 12)} {position}"
        for position, token in enumerate(tokens)
    ]
    return {"tickvals": positions, "ticktext": labels, "tickangle": angle, "range": [-0.5, len(tokens) - 0.5]}
