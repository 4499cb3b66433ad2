"""Which dictionary stands for a method in a layer, and mean scores with their intervals: frames to frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from app.figures.kinds import rank
from app.paper import AS_PUBLISHED
from sae_core.results import DESCRIBED, mean_interval
from sae_core.specs import HEADLINE_L0, K_KINDS, LINEAR_KINDS, TOPK_KINDS

LEARNT = ("untied", "tied", *K_KINDS)
"""Kinds that are sparse autoencoders; the first that a layer has stands for them where none is a headline."""
PUBLISHED_FEATURES = 150
TAIL, EACH, BETTER = "tail", "each", "better"
MEANS = ("mean", "lower", "upper", "n", "skipped")


def sided(scores: pd.DataFrame, setting: str, sides: str) -> pd.DataFrame:
    """The features that count. Two-sided dictionaries (PCA and the like) hold all positive sides, then the negative.

    as-published: the first 150 features, positive sides only. corrected: every feature, each side one of its own
    (sides = "each"), or of every direction the side with the higher score (sides = "better", which favours them).
    """
    two = scores["kind"].isin((*LINEAR_KINDS, *TOPK_KINDS))
    n = scores["n_features"] // 2
    if setting == AS_PUBLISHED:
        return scores[(scores["feature"] < PUBLISHED_FEATURES) & ~(two & (scores["feature"] >= n))]
    if sides == EACH or not two.any():
        return scores
    ordered = scores[two].assign(direction=(scores["feature"] % n)[two])
    ordered = ordered.sort_values(["skipped", "score"], ascending=[True, False], kind="stable")
    best = ordered.drop_duplicates(["id", "direction", "explainer", "scheme"]).drop(columns="direction")
    return pd.concat([scores[~two], best], ignore_index=True)


def catalogue(scores: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """One row for each dictionary with scores: DESCRIBED, and its l0 (NaN without metrics)."""
    found = scores.drop_duplicates("id")[list(DESCRIBED)]
    return found.merge(metrics[["id", "l0"]], on="id", how="left").astype({"l0": float})


def beside(dictionaries: pd.DataFrame, site: str, setting: str, target: pd.Series | None = None) -> pd.DataFrame:
    """One dictionary for each layer and kind at a site; `ours` marks the sparse autoencoder of each layer.

    Of several: the headline one, then one with all tables, then the one nearest in L0 to the headline (or to `target`,
    by layer). Twins and other variants are left out, but as-published one trained as published comes first.
    """
    target = _headline(dictionaries, "l0") if target is None else target
    wanted = {"", "published"} if setting == AS_PUBLISHED else {""}
    here = dictionaries[(dictionaries["site"] == site) & dictionaries["variant"].isin(wanted)]
    here = here.assign(
        published=here["variant"] == "published", main=here["role"] == "main",
        distance=_distance(here["l0"], here["layer"].map(target).fillna(HEADLINE_L0)),
        learnt=[LEARNT.index(kind) if kind in LEARNT else len(LEARNT) for kind in here["kind"]],
    )  # fmt: skip
    first = here.sort_values(
        ["layer", "published", "headline", "main", "distance", "learnt"],
        ascending=[True, False, False, False, True, True], kind="stable",
    ).drop_duplicates(["layer", "kind"])  # fmt: skip
    ours = first[first["kind"].isin(LEARNT)].sort_values(
        ["published", "headline", "learnt"], ascending=[False, False, True], kind="stable"
    )
    return first.assign(ours=first["id"].isin(ours.drop_duplicates("layer")["id"]))


def by_ratio(dictionaries: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The headline's kind in each layer, one dictionary a ratio: nearest in L0 (as-published: in alpha)."""
    column = "alpha" if setting == AS_PUBLISHED else "l0"
    kinds = _headline(dictionaries, "kind")
    here = dictionaries[(dictionaries["site"] == "resid_post") & (dictionaries["variant"] == "")]
    here = here[here["kind"] == here["layer"].map(kinds)]
    distance = _distance(here[column], here["layer"].map(_headline(dictionaries, column)))
    ordered = here.assign(distance=distance).sort_values(
        ["layer", "ratio", "headline", "distance"], ascending=[True, True, False, True], kind="stable"
    )
    first = ordered.drop_duplicates(["layer", "ratio"])
    return first[first.groupby("layer")["ratio"].transform("size") > 1]


def _headline(dictionaries: pd.DataFrame, column: str) -> pd.Series:
    """A column of the headline dictionaries, by layer."""
    return dictionaries[dictionaries["headline"].astype(bool)].drop_duplicates("layer").set_index("layer")[column]


def _distance(values: pd.Series, target: pd.Series) -> pd.Series:
    """|log(value / target)|; infinite where either is unknown or 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.abs(np.log(values.astype(float) / target.astype(float)))
    return found.fillna(np.inf)


def means(scores: pd.DataFrame, chosen: pd.DataFrame, scheme: str) -> pd.DataFrame:
    """`chosen` with the mean score of each dictionary, its 95% interval, features counted and features skipped."""
    here = scores[(scores["scheme"] == scheme) & scores["id"].isin(chosen["id"])]
    skipped = here["skipped"].astype(bool)
    left_out = here.loc[skipped, "id"].value_counts()
    kept = dict(list(here.loc[~skipped].groupby("id")["score"]))
    none = here["score"].head(0)
    rows = [_mean(id, kept.get(id, none), int(left_out.get(id, 0))) for id in here["id"].unique()]
    found = chosen.merge(pd.DataFrame(rows, columns=["id", *MEANS]), on="id")
    return found.sort_values(["layer", "kind"], key=_legend_order, kind="stable").reset_index(drop=True)


def _legend_order(column: pd.Series) -> pd.Series:
    return column.map(rank) if column.name == "kind" else column


def _mean(id: str, kept: pd.Series, skipped: int) -> tuple[str, float, float, float, int, int]:
    return id, *mean_interval(kept.to_numpy()), len(kept), skipped


def fall(scores: pd.DataFrame, chosen: pd.DataFrame, schemes: Sequence[str]) -> pd.DataFrame:
    """By kind: mean over features of the score in the second scheme minus that in the first, with its interval."""
    kept = scores[scores["id"].isin(chosen["id"]) & ~scores["skipped"].astype(bool)]
    wide = kept.pivot_table(index=["kind", "id", "feature"], columns="scheme", values="score")
    change = (wide[schemes[1]] - wide[schemes[0]]).dropna()
    rows = [(kind, *mean_interval(group.to_numpy()), len(group)) for kind, group in change.groupby(level="kind")]
    found = pd.DataFrame(rows, columns=["kind", "mean", "lower", "upper", "n"])
    return found.sort_values("kind", key=_legend_order).reset_index(drop=True)
