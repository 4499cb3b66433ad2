"""Tokens as HTML: monospace, whitespace visible, strength as background, numbers on hover, the peak outlined."""

from __future__ import annotations

import html
from collections.abc import Sequence

from app.palette import Palette, contrast, mix

FAINTEST = 0.12
STRONGEST = 0.95


def token_strip(
    tokens: Sequence[str],
    values: Sequence[float],
    colours: Palette,
    *,
    scale: float | None = None,
    meaning: str = "activation",
    peak: int | None = None,
    titles: Sequence[str] | None = None,
    hrefs: Sequence[str] | None = None,
) -> str:
    """A line of tokens, each on a background as strong as its value.

    tokens: readable tokens [t], not yet escaped. values: [t]; 0 stays without background. scale: the value that gets
    the full colour (default: the largest here). meaning: `activation`, `edited`, or `change` (positive raised,
    negative lowered). peak: outlined token. titles: hover texts; hrefs: relative addresses. A newline token ends its
    line on the screen.
    """
    top = scale or max((abs(v) for v in values), default=0.0) or 1.0
    chips = [
        _chip(
            token,
            _style(value / top, meaning, colours),
            titles[i] if titles else f"{token}\nvalue {value:.3g}",
            "sae-peak" if i == peak else "",
            hrefs[i] if hrefs else None,
        )
        for i, (token, value) in enumerate(zip(tokens, values, strict=True))
    ]
    return f"<div class='sae-tokens'>{''.join(chips)}</div>"


def token_chip(token: str, colour: str | None = None, title: str = "") -> str:
    """One token on its own, for lists and headers."""
    style = f"border-left:3px solid {colour}" if colour else ""
    return _chip(token, style, title or token, "sae-single", None)


def chips(tokens: Sequence[str]) -> str:
    """Several tokens side by side."""
    return "<span class='sae-chips'>" + " ".join(token_chip(t) for t in tokens) + "</span>"


def _chip(token: str, style: str, title: str, kind: str, href: str | None) -> str:
    text = html.escape(token) or "∅"
    attributes = f"class='sae-token {kind}' title='{html.escape(title, quote=True)}' style='{style}'"
    chip = f"<bdi {attributes}>{text}</bdi>"
    if href is not None:
        chip = f"<a href='{html.escape(href, quote=True)}' target='_self' {attributes}><bdi>{text}</bdi></a>"
    return chip + ("<br>" if token.endswith("↵") else "<wbr>")


def _style(share: float, meaning: str, colours: Palette) -> str:
    if share == 0:
        return ""
    colour = _colour(share, meaning, colours)
    strength = FAINTEST + (STRONGEST - FAINTEST) * min(abs(share), 1.0)
    background = mix(colour, colours.background, strength)
    return f"background:{background};color:{readable_on(background)}"


def _colour(share: float, meaning: str, colours: Palette) -> str:
    if meaning == "change":
        return colours.raised if share > 0 else colours.lowered
    return colours.edited if meaning == "edited" else colours.activation


def readable_on(background: str) -> str:
    """Black or white, whichever has the better contrast: at least 4.58 on any background."""
    return max(("#000000", "#ffffff"), key=lambda colour: contrast(colour, background))
