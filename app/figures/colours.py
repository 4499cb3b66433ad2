"""Which token gets which colour in a histogram."""

from __future__ import annotations

import pandas as pd

from app.palette import Palette
from sae_core.schemas import OTHER_TOKEN

LEGEND_TOKENS = 9


def legend_tokens(frame: pd.DataFrame) -> list[int]:
    """The ids with a colour of their own, commonest first: the rest would be too many to tell apart."""
    listed = frame[frame["token_id"] != OTHER_TOKEN]
    totals = listed.groupby("token_id")["count"].sum().sort_values(ascending=False, kind="stable")
    return [int(id) for id in totals.index[:LEGEND_TOKENS]]


def token_colours(ids: list[int], colours: Palette) -> dict[int, str]:
    """Colour by token id."""
    return dict(zip(ids, colours.tokens, strict=False))
