"""What the paper says of search, unembedding, causes and directions (Sec. 5.3, App. D), judged on frames. Pure."""

from __future__ import annotations

import numpy as np
import pandas as pd

from app.components.numbers import percent, share_of
from app.paper.case_studies_claims import MAJORITY
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY, Claim
from sae_core.results import Z95
from sae_core.tokens import closes

SIMILAR, VERY_SIMILAR = 0.7, 0.9
MODE_WIDTH = 0.1


def search_finds(found: pd.DataFrame, feature: int, kept: int) -> Claim:
    """App. D.3: among the features strongest on the last token, dense ones left out, is the apostrophe feature.

    found: the strongest first, with columns feature and dense.
    """
    rank = next((place for place, row in enumerate(found.itertuples(), 1) if row.feature == feature), None)
    left = found[~found["dense"]].head(kept)
    inside = feature in set(left["feature"])
    place = f"It is number {rank} of the {len(found)} strongest" if rank else "It is not active on the last token"
    return Claim(
        "A sentence that ends in an apostrophe finds the feature among the first few of its last token.",
        "First an outlier direction, which is left out; then the apostrophe after O; then the one before s.",
        f"{place}; {int(found['dense'].sum())} of them dense and left out. n = 1 sentence.",
        HOLDS if inside else PARTLY if rank else FAILS,
        f"It holds if the feature is one of the first {kept} that are not dense, in part if it fires at all.",
    )


def writes_closers(tokens: list[str], population: str) -> Claim:
    """Sec. 5.3: the tokens a direction writes most are all closing brackets. tokens: the most written first."""
    hits, n = sum(map(closes, tokens)), len(tokens)
    return Claim(
        "Unembedding the feature gives closing brackets.",
        "The top tokens of feature 2027 of layer 5 are all variants of a closing parenthesis.",
        f"{hits} of the {n} tokens it writes most begin with a closing bracket, out of {population}.",
        OPEN if not n else HOLDS if hits == n else PARTLY if hits >= n / 2 else FAILS,
        "It holds if all of them do, in part if half of them do.",
    )


def strongest_cause(edges: pd.DataFrame) -> Claim:
    """Fig. 5: one parent takes most of the root with it. edges: into the root, columns of `causal_edges`."""
    edges = edges[edges["parent"] >= 0].sort_values("relative_drop", ascending=False)
    says = "Removing one feature of the layer before takes away most of the root."
    paper = "71% by the strongest parent, then 6% and 5% (means of 20 contexts)."
    if edges.empty:
        return Claim(says, paper, "No edge was measured.", OPEN, "The root has no measured parents.")
    first = edges.iloc[0]
    half = Z95 * first["stderr"]
    then = " and ".join(percent(drop) if drop > 0 else "none" for drop in edges["relative_drop"].iloc[1:3])
    lower = first["relative_drop"] - half
    return Claim(
        says,
        paper,
        f"{percent(first['relative_drop'])} (95% interval {percent(max(0, lower))} to "
        f"{percent(first['relative_drop'] + half)}, n = {int(first['n_contexts'])} contexts) by feature "
        f"{int(first['parent'])}" + (f", then {then}." if then else "."),
        HOLDS if lower > MAJORITY else PARTLY if first["relative_drop"] > MAJORITY else FAILS,
        f"It holds if the interval lies above {MAJORITY:.0%}, in part if only the mean does.",
    )


def same_direction(links: pd.DataFrame) -> Claim:
    """Fig. 5: strongest parents point in similar directions. links: of the tree, the root's first."""
    says = "Features of the tree point in similar directions as their strongest parents."
    paper = "Cosine 0.86 of the root with its strongest parent; 0.93, 0.64 and 0.80 further up the tree."
    if links.empty:
        return Claim(says, paper, "The tree has no links.", OPEN, "No parent passes the threshold.")
    order = links["relative_drop"].abs().sort_values(ascending=False).index
    best = links.loc[order].drop_duplicates(["child_dictionary", "child"])
    n, similar = len(best), int((best["cosine"] >= SIMILAR).sum())
    root = best[best["child"] == links["child"].iloc[0]].iloc[0]
    return Claim(
        says,
        paper,
        f"Cosine {root['cosine']:+.2f} of the root with its strongest parent; of the {n} features of the tree that "
        f"have parents, {similar} at or above {SIMILAR} (median {best['cosine'].median():+.2f}).",
        HOLDS if similar > n / 2 else PARTLY if similar else FAILS,
        f"It holds if more than half of the strongest parents have a cosine of at least {SIMILAR}, in part if one has.",
    )


def across_layers(pairs: pd.DataFrame) -> Claim:
    """Sec. 5.3, App. D.4: features of neighbouring layers often point in similar directions.

    pairs: one row for each feature, columns pair and cosine (of the one-to-one match).
    """
    counts = pairs.groupby("pair", sort=False)["cosine"].agg(lambda values: int((values > VERY_SIMILAR).sum()))
    medians = pairs.groupby("pair", sort=False)["cosine"].median()
    similar = int((medians >= SIMILAR).sum())
    per_pair = ", ".join(f"{counts[pair]} of {n:,}" for pair, n in pairs["pair"].value_counts(sort=False).items())
    overall = int((pairs["cosine"] >= SIMILAR).sum())
    return Claim(
        "Features of neighbouring layers often point in similar directions.",
        "Above 0.9: 57, 43, 12, 20 and 0 of 4,096, with the mode near 0.8 in early and near 0.2 in late layers.",
        f"Above {VERY_SIMILAR}: {per_pair}; modes near {', '.join(f'{modal(g):.2g}' for _, g in _groups(pairs))}. "
        f"At or above {SIMILAR}: {share_of(overall, len(pairs))}.",
        HOLDS if similar == len(medians) else PARTLY if similar else FAILS,
        f"It holds if the median cosine is at least {SIMILAR} in every pair of layers, in part if in some. By this "
        "measure the paper's own late layers fail.",
    )


def _groups(pairs: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    return [(str(pair), group["cosine"].to_numpy()) for pair, group in pairs.groupby("pair", sort=False)]


def modal(cosines: np.ndarray) -> float:
    """Centre of the fullest bin of MODE_WIDTH."""
    edges = np.arange(-1, 1 + MODE_WIDTH / 2, MODE_WIDTH)
    counts, _ = np.histogram(cosines, edges)
    return float((edges[:-1] + edges[1:])[counts.argmax()] / 2)
