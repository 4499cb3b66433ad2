"""Means with intervals beside each other: which is above, by how much, in which layers. Pure, for the claims.

One mean is above another where its lower end is above the other's upper end; where intervals meet, they are level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot

import pandas as pd

from sae_core.results import kind_name

BASELINES = ("pca", "ica", "identity", "random")
ABOVE, LEVEL, BELOW = "above", "level", "below"
OUTCOMES = {ABOVE: 1, LEVEL: 0, BELOW: -1}


@dataclass(frozen=True)
class Gap:
    """A difference of two means with its interval."""

    value: float
    half: float

    @property
    def lower(self) -> float:
        return self.value - self.half

    @property
    def upper(self) -> float:
        return self.value + self.half

    @property
    def sign(self) -> int:
        """+1 or -1 where the whole interval is above or below 0, else 0."""
        return int(self.lower > 0) - int(self.upper < 0)

    def __str__(self) -> str:
        return f"{self.value:+z.2f} [{self.lower:+z.2f}, {self.upper:+z.2f}]"


@dataclass(frozen=True)
class Standing:
    """One layer: our mean, the best of what it is compared with, and how they stand."""

    layer: int
    ours: pd.Series
    best: pd.Series
    standing: str

    @property
    def margin(self) -> Gap:
        return gap(self.ours, self.best)

    def __str__(self) -> str:
        return f"Layer {self.layer}: {brief(self.ours)}; best other {brief(self.best)}: {self.standing}."


def gap(one: pd.Series, other: pd.Series) -> Gap:
    """one - other, for independent means; `half` combines their half-widths."""
    return Gap(one["mean"] - other["mean"], hypot(one["upper"] - one["mean"], other["upper"] - other["mean"]))


def brief(row: pd.Series) -> str:
    """`SAE 0.41 [0.39, 0.43] n 500`."""
    return f"{kind_name(row['kind'])} {row['mean']:z.2f} [{row['lower']:z.2f}, {row['upper']:z.2f}] n {row['n']:,}"


def standings(means: pd.DataFrame, others: Sequence[str] = BASELINES) -> list[Standing]:
    """Layers that have ours and at least one of the others, each with an interval."""
    means = means[means["n"] >= 2]
    found = []
    for layer, here in means.groupby("layer"):
        ours, rest = here[here["ours"]], here[here["kind"].isin(others)]
        if len(ours) and len(rest):
            found.append(_standing(int(layer), ours.iloc[0], rest))
    return found


def _standing(layer: int, ours: pd.Series, rest: pd.DataFrame) -> Standing:
    best = rest.loc[rest["mean"].idxmax()]
    if ours["lower"] > rest["upper"].max():
        return Standing(layer, ours, best, ABOVE)
    return Standing(layer, ours, best, BELOW if ours["upper"] < rest["lower"].max() else LEVEL)


def at(found: Sequence[Standing], standing: str) -> list[int]:
    return [each.layer for each in found if each.standing == standing]


def layers(numbers: Sequence[int]) -> str:
    """`layer 2`, `layers 0, 1 and 2`, `no layer`."""
    if not numbers:
        return "no layer"
    *first, last = map(str, numbers)
    return f"layers {', '.join(first)} and {last}" if first else f"layer {last}"


def lines(texts: Iterable[object]) -> str:
    return "\n".join(map(str, texts))


def pairs(means: pd.DataFrame, one: str, other: str) -> list[tuple[int, pd.Series, pd.Series]]:
    """Layers with both kinds (`ours` may stand for one), each with an interval."""
    found, means = [], means[means["n"] >= 2]
    for layer, here in means.groupby("layer"):
        parts = [here[here["ours"]] if kind == "ours" else here[here["kind"] == kind] for kind in (one, other)]
        if all(map(len, parts)):
            found.append((int(layer), parts[0].iloc[0], parts[1].iloc[0]))
    return found
