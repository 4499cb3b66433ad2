"""What Section 4 of the paper claims of patching, judged on curves: pure functions from a frame to Claims.

Rule. A curve reaches a level (half, a quarter of the unpatched KL) at its first point at or below it. Its 95% band
reaches it earlier (lower end) and later (upper end): the range of that reading. Of two curves one is clearly ahead if
its range ends before the other's begins; one that never gets there, because its floor lies above, is behind one that
does. The bands resample the same pairs, so this is stricter than a paired test. Every alpha above 0 is a case of its
own: none is picked after the fact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite

import numpy as np
import pandas as pd

from app.components.numbers import count, digits
from app.figures.paper_indirect_objects import series_name
from app.paper.claims import Claim, agreement
from sae_core.specs import format_alpha

LEVELS = {"half": 0.5, "a quarter": 0.25}
"""Levels of KL at which curves are compared, as shares of the KL without any patch."""
NEEDED = {"n_patched": "Features", "mean_magnitude": "Mean edit magnitude"}
PAPER = "no numbers printed; Pythia-410M, 50 pairs, R = 4, alpha 1e-4 to 1e-3; layer 11, in Figure 17 layers 3 to 23"
PAPER_PRICE = "0.10, 0.31 and 1.02"
"""Its alphas 1e-4, 3e-4, 1e-3 times d = 1,024: the price of sparsity of Eq. 4, which compares between widths."""


@dataclass(frozen=True)
class Reach:
    """What a curve needs to reach a level, and the range its 95% band allows; infinite where it never gets there."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not isfinite(self.low):
            return "never"
        return f"{_number(self.value)} ({_number(self.low)} to {_number(self.high)})"


def _number(value: float) -> str:
    if not isfinite(value):
        return "never"
    return count(int(value)) if value.is_integer() else digits(value)


def reach(part: pd.DataFrame, share: float, column: str = "n_patched") -> Reach:
    """`column` at the first point of one curve whose KL is at most `share` of its unpatched KL, with its range."""
    part = part.sort_values("n_patched")
    level = share * part["mean_kl"].iloc[0]
    values = part[column].to_numpy(dtype=float)

    def first(kl: str) -> float:
        below = np.flatnonzero(part[kl].to_numpy() <= level)
        return float(values[below[0]]) if len(below) else inf

    return Reach(first("mean_kl"), first("lower"), first("upper"))


def compare(one: Reach, other: Reach) -> int:
    """1 if `one` needs clearly less, -1 if clearly more, 0 if the ranges overlap."""
    return int(one.high < other.low) - int(other.high < one.low)


# ---- the curves of a layer


def saes(layer: pd.DataFrame) -> list[pd.DataFrame]:
    """The curves of the SAEs by rising alpha."""
    return [part for _, part in layer[layer["method"] == "sae"].groupby("alpha")]


def sparse(layer: pd.DataFrame) -> list[pd.DataFrame]:
    """Those of alpha above 0."""
    return [part for part in saes(layer) if part["alpha"].iloc[0] > 0]


def non_sparse(layer: pd.DataFrame) -> list[pd.DataFrame]:
    """That of alpha 0, if there is one."""
    return [part for part in saes(layer) if part["alpha"].iloc[0] == 0]


def pcas(layer: pd.DataFrame) -> list[pd.DataFrame]:
    """The curves of PCA: signed, and side by side."""
    return [part for _, part in layer[layer["method"] != "sae"].groupby("method")]


def layers_of(frame: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    yield from ((int(layer), part) for layer, part in frame.groupby("layer"))


# ---- claims


def claims(frame: pd.DataFrame) -> list[Claim]:
    """All claims on the curves of one or several layers, of one order."""
    return [fewer_patches(frame), smaller_edits(frame), not_without_sparsity(frame), higher_floor(frame)]


def fewer_patches(frame: pd.DataFrame) -> Claim:
    """Every sparse dictionary against both forms of PCA."""
    says = "Dictionary features need fewer patches than PCA to reach a given KL divergence."
    return _levels(frame, says, "n_patched", lambda _, own, others: min(compare(own, other) for other in others))


def smaller_edits(frame: pd.DataFrame) -> Claim:
    """The same of the edit's magnitude."""
    says = "They reach it with smaller edits."
    return _levels(frame, says, "mean_magnitude", lambda _, own, others: min(compare(own, other) for other in others))


def not_without_sparsity(frame: pd.DataFrame) -> Claim:
    """For: the sparse one is clearly ahead of alpha 0, which is not clearly ahead of PCA. Against: the reverse."""

    def outcome(plain: Reach, own: Reach, others: list[Reach]) -> int:
        return -1 if any(compare(plain, other) > 0 for other in others) else compare(own, plain)

    says = (
        "A dictionary that is not sparse (alpha 0) does not do this: it needs more patches than a sparse one, and is "
        "not ahead of PCA."
    )
    with_plain = frame[frame["layer"].isin([layer for layer, part in layers_of(frame) if non_sparse(part)])]
    return _levels(with_plain, says, "n_patched", outcome)


def _levels(
    frame: pd.DataFrame, says: str, column: str, outcome: Callable[[Reach | None, Reach, list[Reach]], int]
) -> Claim:
    """A claim judged in every layer, at every level, for every alpha above 0.

    outcome: 1, 0 or -1 from what alpha 0 (None where there is none), a sparse SAE and the forms of PCA need.
    """
    cases = [case for layer, part in layers_of(frame) for case in _cases(layer, part, column, outcome)]
    outcomes = [found for case in cases for found in case.outcomes]
    verdict, reason = agreement(outcomes, "layer, level and alpha")
    never = sum(case.never for case in cases)
    floor = f" In {never} the SAE never gets there, because its floor lies above the level." if never else ""
    unit = f"{NEEDED[column]} to reach {' and '.join(LEVELS)} of the unpatched KL"
    run = f"{unit} (95% range; n = {pairs_of(frame)} pairs).\n{_told(cases)}."
    return Claim(says, PAPER, run, verdict, reason + floor)


@dataclass(frozen=True)
class Case:
    """One layer at one level: what each curve needs, and the outcome for each alpha above 0."""

    layer: int
    level: str
    outcomes: list[int]
    never: int
    text: str


def _cases(layer: int, part: pd.DataFrame, column: str, outcome: Callable[..., int]) -> Iterator[Case]:
    groups = sparse(part), non_sparse(part), pcas(part)
    if not groups[0] or not groups[2]:
        return
    for name, share in LEVELS.items():
        own, plain, others = ([reach(curve, share, column) for curve in group] for group in groups)
        outcomes = [outcome(plain[0] if plain else None, found, others) for found in own]
        needs = zip([_name(curve) for group in groups for curve in group], [*own, *plain, *others], strict=True)
        text = ", ".join(f"{curve} {found}" for curve, found in needs)
        yield Case(layer, name, outcomes, sum(not isfinite(found.value) for found in own), text)


def _told(cases: list[Case]) -> str:
    """What each curve needs, for one layer; for several, the cases that speak for the claim by layer."""
    layers = sorted({case.layer for case in cases})
    if len(layers) == 1:
        return ".\n".join(f"{case.level.capitalize()}: {case.text}" for case in cases)
    by_layer = {layer: [o for case in cases if case.layer == layer for o in case.outcomes] for layer in layers}
    told = ", ".join(f"layer {layer} {found.count(1)} of {len(found)}" for layer, found in by_layer.items())
    return f"Cases for it: {told}. The numbers are in the table above" if told else "No layer has both an SAE and PCA"


def _name(curve: pd.DataFrame) -> str:
    return series_name(curve["method"].iloc[0], curve["alpha"].iloc[0])


def higher_floor(frame: pd.DataFrame) -> Claim:
    """Each alpha against the next larger one of its layer: is the KL with everything patched clearly higher?"""
    outcomes = [_risen(*step) for _, part in layers_of(frame) for step in pairwise(_floors(part))]
    verdict, reason = agreement(outcomes, "step to the next larger alpha")
    floors = [f"Layer {layer}: {', '.join(map(_floor_text, _floors(part)))}" for layer, part in layers_of(frame)]
    told = ".\n".join(floors) or "No SAE was patched"
    run = f"Floor in nats by alpha (n = {pairs_of(frame)} pairs).\n{told}."
    says = "A larger alpha reconstructs less well: the KL that is left with everything patched is higher."
    return Claim(says, PAPER, run, verdict, reason)


def _floors(layer: pd.DataFrame) -> list[pd.Series]:
    """The last point of every SAE curve, by rising alpha."""
    return [part.sort_values("n_patched").iloc[-1] for part in saes(layer)]


def _risen(floor: pd.Series, of_larger_alpha: pd.Series) -> int:
    """1 if the second interval lies above the first, -1 if below, 0 if they overlap."""
    return int(floor["upper"] < of_larger_alpha["lower"]) - int(of_larger_alpha["upper"] < floor["lower"])


def _floor_text(row: pd.Series) -> str:
    interval = f"{digits(row['lower'])} to {digits(row['upper'])}"
    return f"{format_alpha(row['alpha'])} → {digits(row['mean_kl'])} ({interval})"


def pairs_of(frame: pd.DataFrame) -> int:
    return int(frame["n_pairs"].min()) if len(frame) else 0
