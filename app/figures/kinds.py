"""How each kind of dictionary looks in every figure: always the same colour, symbol and dash."""

from __future__ import annotations

from typing import Any

from app.palette import Palette, mix

# kind: place in palette.tokens, symbol. A Top-K form has the colour of what it is made from, and an open symbol.
_LOOKS = {
    "tied": (0, "circle"),
    "untied": (9, "circle"),
    "batchtopk": (1, "star"),
    "jumprelu": (3, "hexagon"),
    "pca": (4, "square"),
    "ica": (2, "diamond"),
    "identity": (7, "triangle-up"),
    "random": (6, "x"),
    "pca_topk": (4, "square-open"),
    "ica_topk": (2, "diamond-open"),
    "frozen": (8, "triangle-down"),
    "reinitialised": (5, "cross"),
}
FAINTEST = 0.4
ORDER = tuple(_LOOKS)
"""Kinds in the order of legends: dictionaries that are learnt, then what they are compared with."""

SYMBOLS_OF_LAYERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon", "pentagon")
"""Where lines are layers of one kind, which then share its colour."""


def colour(kind: str, colours: Palette) -> str:
    """Colour of a kind; a kind nobody named is muted."""
    return colours.tokens[_LOOKS[kind][0]] if kind in _LOOKS else colours.muted


def symbol(kind: str) -> str:
    """Symbol of a kind."""
    return _LOOKS[kind][1] if kind in _LOOKS else "circle-open"


def dash(kind: str) -> str:
    """Lines of Top-K forms are dashed, all others solid."""
    return "dash" if kind.endswith("_topk") else "solid"


def marker(kind: str, colours: Palette, size: int = 9) -> dict[str, Any]:
    """Marker of a kind, as plotly reads it."""
    hue = colour(kind, colours)
    return {"symbol": symbol(kind), "color": hue, "size": size, "line": {"width": 1.5, "color": hue}}


def rank(kind: str) -> int:
    """Place of a kind in legends; those without one come last."""
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def shade(kind: str, place: int, n: int, colours: Palette) -> str:
    """Colour of the `place`-th of n members of a series within one kind (rising alpha, ratio, ...): faint to full."""
    return mix(colour(kind, colours), colours.background, FAINTEST + (1 - FAINTEST) * (place + 1) / n)
