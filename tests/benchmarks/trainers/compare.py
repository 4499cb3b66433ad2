"""Which dictionaries to compare and at which number: frames in, frames out.

A frame of runs has one row for each trained dictionary: trainer, sparsity, lr, seed, l0, fvu and, where it was spliced
into the model, ce_recovered.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

L0 = 30.0
KEY = ["trainer", "lr", "seed"]


def bracket(runs: pd.DataFrame, l0: float = L0) -> pd.DataFrame:
    """The two rows of one trainer, lr and seed whose L0s are next below (or at) and next above `l0`; else none."""
    below, above = runs[runs.l0 <= l0], runs[runs.l0 > l0]
    if below.empty or above.empty:
        return runs.iloc[:0]
    return runs.loc[[below.l0.idxmax(), above.l0.idxmin()]]


def at_l0(runs: pd.DataFrame, column: str, l0: float = L0) -> float:
    """The column between the two rows of `bracket`, linear in log L0; NaN where `l0` is not bracketed."""
    pair = bracket(runs, l0)
    return float(np.interp(np.log(l0), np.log(pair.l0), pair[column])) if len(pair) else float("nan")


def interpolated(runs: pd.DataFrame, columns: list[str], l0: float = L0) -> pd.DataFrame:
    """One row for each trainer, lr and seed that brackets `l0`: trainer, lr, seed and the columns there."""
    rows = [
        {**dict(zip(KEY, key, strict=True)), **{column: at_l0(group, column, l0) for column in columns}}
        for key, group in runs.groupby(KEY)
        if len(bracket(group, l0))
    ]
    return pd.DataFrame(rows, columns=[*KEY, *columns])


def best_rates(runs: pd.DataFrame, l0: float = L0) -> pd.Series:
    """Of each trainer the learning rate of the least FVU at `l0` on seed 0."""
    tried = interpolated(runs[runs.seed == 0], ["fvu"], l0)
    return tried.loc[tried.groupby("trainer").fvu.idxmin()].set_index("trainer").lr


def finalists(runs: pd.DataFrame, l0: float = L0) -> pd.DataFrame:
    """At each trainer's best learning rate the two rows of every seed that bracket `l0`."""
    best = runs[runs.lr == runs.trainer.map(best_rates(runs, l0))]
    return pd.concat([bracket(group, l0) for _, group in best.groupby(KEY)])


def summary(finals: pd.DataFrame, l0: float = L0) -> pd.DataFrame:
    """A row for each trainer, least FVU first: lr, seeds, mean, low and high over seeds of FVU and CE recovered."""
    found = interpolated(finals, ["fvu", "ce_recovered"], l0)
    rows = found.groupby(["trainer", "lr"], as_index=False).agg(
        seeds=("seed", "nunique"),
        fvu=("fvu", "mean"),
        fvu_low=("fvu", "min"),
        fvu_high=("fvu", "max"),
        ce=("ce_recovered", "mean"),
        ce_low=("ce_recovered", "min"),
        ce_high=("ce_recovered", "max"),
    )
    return rows.sort_values("fvu", ignore_index=True)
