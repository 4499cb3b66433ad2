"""Known factors and toy data as frames: which dictionary stands for a kind, mean F1, and differences. No widgets."""

from __future__ import annotations

import pandas as pd

from app.paper.interpretability_frames import beside, catalogue
from sae_core.results import all_metrics, described, mean_interval
from sae_core.store import RunStore

CASE = ["factor", "value"]


def all_factors(run: RunStore) -> pd.DataFrame:
    """Rows of `factors` of every dictionary that has them, with what the dictionary is; empty if none has."""
    frames = [
        run.read("factors", entry.id).assign(**described(entry))
        for entry in run.dictionaries
        if run.table_state("factors", entry.id) == "ready"
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def side_by_side(run: RunStore, factors: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The rows of one residual dictionary for each layer and kind; `ours` marks the SAE of the layer."""
    chosen = beside(catalogue(factors, all_metrics(run)), "resid_post", setting)
    return factors.merge(chosen[["id", "ours"]], on="id")


def always_yes(frame: pd.DataFrame) -> pd.Series:
    """F1 of answering yes for every token: 2 p / (1 + p), p = share of the tokens that have the value."""
    share = frame["n_positives"] / frame["n_tokens"]
    return 2 * share / (1 + share)


def mean_f1(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean F1 over factor values of each dictionary: layer, kind, id, ours, mean, lower, upper, n, skipped (0)."""
    groups = frame.groupby(["layer", "kind", "id", "ours"], sort=False)["f1"]
    rows = [(*key, *mean_interval(values.to_numpy()), len(values), 0) for key, values in groups]
    return pd.DataFrame(rows, columns=["layer", "kind", "id", "ours", "mean", "lower", "upper", "n", "skipped"])


def against(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The SAE beside one kind on the same layer and factor value: above, below (by the kind's interval), difference.

    above: F1 of the SAE over the upper end of the kind's interval; below: under its lower end.
    """
    keys = ["layer", *CASE]
    ours = frame.loc[frame["ours"], [*keys, "f1"]]
    both = ours.merge(
        frame.loc[frame["kind"] == kind, [*keys, "f1", "lower", "upper"]], on=keys, suffixes=("", "_other")
    )
    return both.assign(
        above=both["f1"] > both["upper"], below=both["f1"] < both["lower"], difference=both["f1"] - both["f1_other"]
    )


def by_factor(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean F1 over the values of each factor, with its interval over values: name, kind, f1, lower, upper, n, yes."""
    rows = []
    for (factor, kind), part in frame.assign(yes=always_yes(frame)).groupby(["factor", "kind"]):
        rows.append((factor, kind, *mean_interval(part["f1"].to_numpy()), len(part), part["yes"].mean()))
    return pd.DataFrame(rows, columns=["name", "kind", "f1", "lower", "upper", "n", "yes"])


def by_value(frame: pd.DataFrame, factor: str) -> pd.DataFrame:
    """The values of one factor: name, kind, f1, lower, upper, n (tokens with the value), yes, id, feature."""
    part = frame[frame["factor"] == factor]
    return part.assign(name=part["value"], n=part["n_positives"], yes=always_yes(part))[
        ["name", "kind", "f1", "lower", "upper", "n", "yes", "id", "feature"]
    ]


def over_seeds(toy: pd.DataFrame) -> pd.DataFrame:
    """Rows of `toy` averaged over seeds, one for each coefficient and size, with n_seeds."""
    numbers = toy.select_dtypes("number").columns.difference(["coefficient", "size", "seed"])
    groups = toy.groupby(["coefficient", "size"])
    return groups[list(numbers)].mean().assign(n_seeds=groups.size()).reset_index()
