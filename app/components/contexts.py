"""Contexts as HTML: a line of coloured tokens with the numbers of its peak beside it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from app.components.numbers import digits
from app.components.tokens import token_strip
from app.palette import Palette


def context_list(
    contexts: pd.DataFrame, windows: pd.DataFrame, words: Mapping[int, str], colours: Palette, scale: float,
    around: int | None = None,
) -> str:  # fmt: skip
    """HTML of several contexts.

    contexts: rows of the `contexts` table; windows: the rows of `windows` they refer to, indexed by `window`;
    words: readable token by id; scale: activation that gets the full colour; around: tokens shown on either side of
    the peak, None for the whole window.
    """
    rows = (_context(row, windows.loc[row.window], words, colours, scale, around) for row in contexts.itertuples())
    return "".join(rows)


def _context(
    row: tuple, window: pd.Series, words: Mapping[int, str], colours: Palette, scale: float, around: int | None
) -> str:  # fmt: skip
    ids = np.asarray(window["token_ids"])
    values = np.zeros(len(ids))
    values[np.asarray(row.active_positions, dtype=int)] = row.active_values
    if row.activation:
        values[row.position] = row.activation
    start = 0 if around is None else max(0, row.position - around)
    stop = len(ids) if around is None else row.position + around + 1
    tokens = [words.get(int(i), f"token {i}") for i in ids]
    factors = _factors(window["labels"], len(ids))
    # The peak is stored exactly, the rest for its colour.
    numbers = [digits(value, 3 if p == row.position else 2) for p, value in enumerate(values)]
    titles = [_title(tokens[p], int(ids[p]), p, numbers[p], factors[p]) for p in range(len(ids))]
    peak = row.position - start if row.activation else None
    strip = token_strip(
        tokens[start:stop], values[start:stop].tolist(), colours, scale=scale, peak=peak, titles=titles[start:stop]
    )
    source = window["source"] or "unknown source"
    place = f"{source}\ndocument {window['document']}, window {row.window}, position {row.position}"
    number = f"<b>{digits(row.activation)}</b>" if row.activation else "silent"
    side = f"<div class='sae-context-side' title='{html.escape(place)}'>{number}"
    side += f"<span class='sae-source'>{html.escape(source)}</span></div>"
    return f"<div class='sae-context'>{side}{strip}</div>"


def _title(token: str, id: int, position: int, value: str, factors: list[str]) -> str:
    return "\n".join([token, f"id {id}, position {position}", f"activation {value}", *factors])


def _factors(labels: str, n: int) -> list[list[str]]:
    """What the corpus knows about each of n tokens, as lines such as `name_role: giver`."""
    found: list[list[str]] = [[] for _ in range(n)]
    for factor, spans in (json.loads(labels) if labels else {}).items():
        for start, stop, value in spans:
            for position in range(start, min(stop, n)):
                found[position].append(f"{factor}: {value}")
    return found
