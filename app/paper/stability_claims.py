"""Stability (later work): features found again with another seed, judged on frames of a run. Pure."""

from __future__ import annotations

import pandas as pd

from app.components.numbers import digits, mean_of, share_of
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY, Claim
from sae_core.results import mean_interval, wilson
from sae_core.schemas import FOUND_AGAIN

MAJORITY = 0.5
FIFTHS = 5
FEWEST = 2 * FIFTHS


def found_by_layer(live: pd.DataFrame) -> pd.DataFrame:
    """Share of live features found again in each layer: layer, share, lower, upper (Wilson), hits, n, id."""
    rows = []
    for (layer, id), part in live.groupby(["layer", "id"]):
        hits, n = int(part["found"].sum()), len(part)
        rows.append((layer, hits / n, *wilson(hits, n), hits, n, id))
    return pd.DataFrame(rows, columns=["layer", "share", "lower", "upper", "hits", "n", "id"])


def mostly_the_same(live: pd.DataFrame) -> Claim:
    """Most live features are found again. live: layer, id, found, cosine; one row a feature."""
    layers = found_by_layer(live)
    above = int((layers["lower"] > MAJORITY).sum())
    each = ", ".join(f"layer {row.layer}: {row.hits} of {row.n}" for row in layers.itertuples())
    n = len(layers)
    return Claim(
        f"A dictionary trained with another seed has mostly the same features (matched cosine above {FOUND_AGAIN}).",
        "No such claim. Paulo and Belrose (2025): about 30% shared between seeds in a large dictionary of Llama 3 8B.",
        f"{share_of(int(live['found'].sum()), len(live))} of live features; {each}; median cosine "
        f"{live['cosine'].median():.2f}. n = 1 pair of seeds a layer."
        if n
        else "No live feature.",
        OPEN if not n else HOLDS if above == n else PARTLY if above else FAILS,
        f"It holds if the interval of the share lies above {MAJORITY:.0%} in every layer, in part if in some.",
    )


def by_fifths(live: pd.DataFrame, column: str) -> pd.DataFrame:
    """Features ordered by a column and cut into fifths: fifth, low, high (of the column), mean cosine, its interval.

    Also the share found with Wilson's interval and n. Empty for fewer than FEWEST features.
    """
    names = ["fifth", "low", "high", "mean", "lower", "upper", "share", "share_lower", "share_upper", "n"]
    if len(live) < FEWEST:
        return pd.DataFrame(columns=names)
    fifth = live[column].rank(method="first").sub(1).mul(FIFTHS).floordiv(len(live)).astype(int)
    rows = []
    for place, part in live.groupby(fifth):
        hits, n = int(part["found"].sum()), len(part)
        ends = part[column].min(), part[column].max()
        rows.append((place + 1, *ends, *mean_interval(part["cosine"]), hits / n, *wilson(hits, n), n))
    return pd.DataFrame(rows, columns=names)


def more_stable(fifths: pd.DataFrame, what: str) -> Claim:
    """The highest fifth is found again more closely than the lowest. fifths: from `by_fifths`; what: its column."""
    says = f"Features with a higher {what} are found again more closely."
    paper = "Not in this paper."
    if fifths.empty:
        return Claim(says, paper, "Too few live features.", OPEN, f"Fewer than {FEWEST} features.")
    low, high = fifths.iloc[0], fifths.iloc[-1]
    texts = [mean_of((row["mean"], row["lower"], row["upper"]), int(row["n"])) for row in (low, high)]
    above, below = high["lower"] > low["upper"], high["upper"] < low["lower"]
    return Claim(
        says,
        paper,
        f"Mean matched cosine in the highest fifth ({what} from {digits(high['low'])}) {texts[1]}; in the lowest "
        f"(up to {digits(low['high'])}) {texts[0]}.",
        HOLDS if above else FAILS if below else OPEN,
        "It holds if the interval of the highest fifth is above that of the lowest; where they meet, none can tell.",
    )
