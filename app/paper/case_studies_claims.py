"""What the paper says of what single features fire on and predict (Sec. 5, App. D), judged on frames. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from app.components.numbers import digits, share_of
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY, Claim
from sae_core.results import wilson
from sae_core.schemas import DROP_THRESHOLD, HISTOGRAM_BINS, OTHER_TOKEN

APOSTROPHES = ("'", "’")
NEARLY_ALL, MAJORITY = 0.9, 0.5
FEWEST = 20


def is_apostrophe(token: str) -> bool:
    """Whether a readable token is an apostrophe, straight or curly, and nothing else but a space before it."""
    return token.lstrip("␣") in APOSTROPHES


# ---- token histograms (Figs 4, 11 to 15)


def upper_half(histogram: pd.DataFrame) -> pd.DataFrame:
    """The bins above half of the maximum."""
    return histogram[histogram["bin"] >= HISTOGRAM_BINS // 2]


def among(histogram: pd.DataFrame, wanted: Callable[[str], bool]) -> tuple[int, int]:
    """Activations on listed tokens that are wanted, and all activations of the frame."""
    hits = histogram.loc[histogram["token"].map(wanted).astype(bool), "count"].sum()
    return int(hits), int(histogram["count"].sum())


def pure_above(histogram: pd.DataFrame, wanted: Callable[[str], bool], share: float = NEARLY_ALL) -> float | None:
    """Smallest share of the maximum from which on at least `share` of the activations are on wanted tokens.

    So above every higher level too, as far as at least FEWEST activations are above it; None if there is no such level.
    """
    level = None
    for first in reversed(range(HISTOGRAM_BINS)):
        hits, n = among(histogram[histogram["bin"] >= first], wanted)
        if n >= FEWEST and hits / n < share:
            break
        if n >= FEWEST:
            level = first / HISTOGRAM_BINS
    return level


def commonest(histogram: pd.DataFrame) -> str | None:
    """The listed token with most activations; None where none is listed."""
    listed = histogram[histogram["token_id"] != OTHER_TOKEN]
    return str(listed.groupby("token")["count"].sum().idxmax()) if len(listed) else None


def token_entropy(histogram: pd.DataFrame) -> float:
    """Bits over tokens, -sum p log2 p; all tokens that are not listed count as one, so it is a lower bound."""
    counts = histogram.assign(token=histogram["token"].where(histogram["token_id"] != OTHER_TOKEN, None))
    shares = counts.groupby("token", dropna=False)["count"].sum().to_numpy(float)
    shares = shares[shares > 0] / max(shares.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) if len(shares) > 1 else 0.0


def strong_activations(histogram: pd.DataFrame) -> Claim:
    """Fig. 4 left: at higher activations nearly all tokens are apostrophes."""
    over_all, strong = among(histogram, is_apostrophe), among(upper_half(histogram), is_apostrophe)
    level = pure_above(histogram, is_apostrophe)
    verdict = HOLDS if level is not None and level <= 0.5 else PARTLY if level is not None else FAILS
    reason = (
        f"No part of the range with at least {FEWEST} activations is {NEARLY_ALL:.0%} apostrophes."
        if level is None
        else f"At least {NEARLY_ALL:.0%} are apostrophes above {level:.0%} of the maximum; it holds if that is so from "
        "half of the maximum on."
    )
    return Claim(
        "The stronger the feature, the more it is about apostrophes, and when strong about nothing else.",
        "58% of 1,590 activations, 94% of those above 20% of the maximum, 99% above half (Pythia-70M, layer 4).",
        f"Of all activations {share_of(*over_all)}; above half of the maximum {share_of(*strong)}. All table tokens.",
        verdict,
        reason,
    )


def next_token(drops: pd.DataFrame, token: str = "s") -> Claim:
    """Fig. 4 right: among drops of the realised next token above the threshold, nearly all are of `s`.

    drops: rows of `next_token_drops` of one feature at all positions.
    """
    says = f"Removing the feature mainly lowers the prediction of a following `{token}`."
    paper = f"Of 587 drops above {DROP_THRESHOLD} nats 527 are of `s` (90%)."
    hits, n = among(drops, lambda found: found == token)
    if n < FEWEST:
        return Claim(says, paper, share_of(hits, n), OPEN, f"Fewer than {FEWEST} positions drop by that much.")
    first, lower = commonest(drops), wilson(hits, n)[0]
    verdict = HOLDS if lower > MAJORITY else PARTLY if first == token else FAILS
    looked_at = int(drops["n_positions"].iloc[0])
    return Claim(
        says,
        paper,
        f"Of {n:,} drops above {DROP_THRESHOLD} nats, `{token}`: {share_of(hits, n)}; commonest is `{first}`. "
        f"{looked_at:,} positions looked at; tokens outside a bar's commonest do not count.",
        verdict,
        f"It holds if most drops are of `{token}` (interval above {MAJORITY:.0%}), in part if it is the commonest.",
    )


def not_every(n_active: int, n: int) -> Claim:
    """App. D.2: the feature is active on some apostrophes only, because others serve other contexts."""
    upper = wilson(n_active, n)[1]
    return Claim(
        "The feature does not fire on all apostrophes: other features stand for those in other contexts.",
        "Features of their own for the apostrophe of I'l and that of don't (Figures 14 and 15); no number given.",
        f"Active on {share_of(n_active, n)} of the apostrophes among the table tokens." if n else "No apostrophe.",
        OPEN if not n else HOLDS if upper < NEARLY_ALL else PARTLY if n_active < n else FAILS,
        f"It holds below {NEARLY_ALL:.0%}. Active means any activation, however small.",
    )


def one_token(histogram: pd.DataFrame) -> Claim:
    """Figs 12 to 15: strong activations are on one token."""
    strong = upper_half(histogram)
    token = commonest(strong)
    hits, n = among(strong, lambda found: found == token)
    says = "When strong, the feature stands for one token."
    paper = (
        "Features for `If` in code, `dis`, the apostrophe of I'l and of don't: one colour fills the right (no number)."
    )
    if n < FEWEST:
        return Claim(says, paper, share_of(hits, n), OPEN, f"Fewer than {FEWEST} activations above half the maximum.")
    share = hits / n
    return Claim(
        says,
        paper,
        f"Above half of the maximum `{token}`: {share_of(hits, n)}; of all activations "
        f"{share_of(*among(histogram, lambda found: found == token))}.",
        HOLDS if share >= NEARLY_ALL else PARTLY if share >= MAJORITY else FAILS,
        f"It holds from {NEARLY_ALL:.0%} on, in part from {MAJORITY:.0%}. A feature about something wider than a token "
        "(a word family, a role) need not pass: the paper says that this plot suits token features only.",
    )


def polysemantic(coordinate: pd.DataFrame, feature: pd.DataFrame) -> Claim:
    """Fig. 11: the coordinate that best stands for the same thing mixes more tokens than the feature.

    Frames: `basis_histograms` and `token_histograms` of one feature.
    """
    mixed, clean = upper_half(coordinate), upper_half(feature)
    ends = []
    for frame in (mixed, clean):
        token = commonest(frame)
        ends.append((token, *among(frame, lambda found, token=token: found == token)))
    (_, hits, n), (_, own_hits, own_n) = ends
    entropies = token_entropy(mixed), token_entropy(clean)
    less_pure = wilson(hits, n)[1] < wilson(own_hits, own_n)[0]
    more_mixed = entropies[0] > entropies[1]
    enough = min(n, own_n) >= FEWEST
    verdict = HOLDS if less_pure and more_mixed else PARTLY if less_pure or more_mixed else FAILS
    return Claim(
        "The coordinate nearest to the feature is polysemantic: it stands for different things at different values.",
        "Dimension 21 of layer 4: apostrophes fill the upper range, and little of the middle and lower range.",
        f"Above half of the maximum, coordinate: `{ends[0][0]}` {share_of(hits, n)}, at least {digits(entropies[0])} "
        f"bits; feature: `{ends[1][0]}` {share_of(own_hits, own_n)}, at least {digits(entropies[1])} bits.",
        verdict if enough else OPEN,
        "It holds if the coordinate's commonest token has a smaller share (intervals apart) and its tokens more bits."
        if enough
        else f"Fewer than {FEWEST} values above half of the maximum.",
    )
