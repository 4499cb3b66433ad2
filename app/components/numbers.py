"""How numbers are written: sensible digits, thousands, units."""

from __future__ import annotations

import math
import re

from sae_core.results import wilson


def digits(value: float, n: int = 3) -> str:
    """`n` significant digits without an exponent where that stays readable: 0.0123, 4.57, 1,230."""
    if not math.isfinite(value):
        return "not defined"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{n - 1}e}"
    places = max(0, n - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f}"


def count(value: int) -> str:
    """Whole number with thousands."""
    return f"{value:,}"


def percent(share: float) -> str:
    """A share in percent with two significant digits: 0.012%, 4.5%, 62%."""
    return f"{digits(100 * share, 2)}%"


def closed_up(text: str) -> str:
    """Text written outside of the app with its percentages as `percent` writes them: `40%`, not `40 %`."""
    return re.sub(r"(?<=\d)\s+%(?!\w)", "%", text)


def share_of(hits: int, n: int) -> str:
    """A share with its cases and Wilson's 95% interval: `58% (930 of 1,590; 95% interval 56% to 61%)`."""
    if n == 0:
        return "no cases"
    lower, upper = (percent(max(0.0, end)) for end in wilson(hits, n))
    return f"{percent(hits / n)} ({hits:,} of {n:,}; 95% interval {lower} to {upper})"


def mean_of(interval: tuple[float, float, float], n: int) -> str:
    """A mean with its 95% interval and number of cases: `0.43 (95% interval 0.40 to 0.46, n = 12)`."""
    mean, lower, upper = (digits(value) for value in interval)
    return f"{mean} (95% interval {lower} to {upper}, n = {n:,})"


def duration(seconds: float) -> str:
    """Seconds as `12 s`, `3 min 20 s` or `1 h 05 min`."""
    if seconds < 100:
        return f"{digits(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
