"""One meaning per colour, everywhere, in a light and a dark variant.

The hues are Okabe and Ito's (safe for colour-blind eyes) and differ in lightness too, so they also survive print.
Sign is never told by colour alone: numbers carry their sign, bars their direction.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """What each colour means. Fields are #rrggbb.

    activation: how strongly a feature fires. raised, lowered: a prediction or code after an edit against before.
    edited: whatever the user changes. chosen: the row, bar or position being looked at (the accent of the theme).
    clean: the model untouched. muted: axes, remainders, what is not in question.
    tokens: which token, in stacked histograms; they rank nothing.
    """

    activation: str
    raised: str
    lowered: str
    edited: str
    chosen: str
    clean: str
    muted: str
    text: str
    background: str
    tokens: tuple[str, ...]


LIGHT = Palette(
    activation="#e69f00",
    raised="#0072b2",
    lowered="#c8501e",
    edited="#a6508a",
    chosen="#0f766e",
    clean="#5f6b67",
    muted="#a9b2ae",
    text="#1c2321",
    background="#ffffff",
    tokens=(
        "#332288", "#88ccee", "#117733", "#ddcc77", "#cc6677",
        "#aa4499", "#44aa99", "#999933", "#882255", "#6699cc",
    ),
)  # fmt: skip
DARK = Palette(
    activation="#b87a00",
    raised="#56b4e9",
    lowered="#f08a5d",
    edited="#dd94c6",
    chosen="#2fa394",
    clean="#9aa6a1",
    muted="#5d6864",
    text="#e6eae8",
    background="#121615",
    tokens=(
        "#8f83e0", "#88ccee", "#3fa35c", "#ddcc77", "#cc6677",
        "#c46ab5", "#44aa99", "#b5b54a", "#c4527f", "#6699cc",
    ),
)  # fmt: skip


def palette(dark: bool) -> Palette:
    """The palette of the theme in use."""
    return DARK if dark else LIGHT


def rgba(colour: str, alpha: float) -> str:
    """`#rrggbb` with an opacity, as CSS and plotly read it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:.3g})"


def mix(colour: str, background: str, share: float) -> str:
    """`share` of the colour over the background, as #rrggbb: what an opacity would look like, but solid."""
    pairs = zip(_channels(colour), _channels(background), strict=True)
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two #rrggbb colours, 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
