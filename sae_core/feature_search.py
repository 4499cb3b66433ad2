"""Feature search by sentence (paper App. D.3): active on the chosen tokens, silent on others, over all layers."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from sae_core.errors import InputError

COLUMNS = ["dictionary", "feature", "mean_activation", "n_elsewhere"]


def search_firing(firing: pd.DataFrame, active: Collection[int], silent: Collection[int] = ()) -> pd.DataFrame:
    """Features active at every position of `active` and at none of `silent`, strongest on the chosen tokens first.

    firing: `effects.firing_features` of one sentence (dictionary, feature, position, activation).
    Columns: dictionary, feature, mean_activation (over `active`), n_elsewhere (other positions with activity).
    Raises InputError if no position is chosen, or one is both.
    """
    active, silent = set(active), set(silent)
    if not active or active & silent:
        found = "none" if not active else f"{sorted(active & silent)} in both"
        raise InputError("tokens to be active on, none of them also to be silent on", found, "Choose some tokens")
    chosen = firing["position"].isin(active)
    marked = firing.assign(
        on_active=chosen, on_silent=firing["position"].isin(silent), strength=firing["activation"].where(chosen, 0.0)
    )
    sums = marked.groupby(["dictionary", "feature"], as_index=False).agg(
        hits=("on_active", "sum"), misses=("on_silent", "sum"), n=("position", "size"), total=("strength", "sum")
    )
    kept = sums[(sums["hits"] == len(active)) & (sums["misses"] == 0)]
    kept = kept.assign(mean_activation=kept["total"] / len(active), n_elsewhere=kept["n"] - kept["hits"])
    return kept.sort_values("mean_activation", ascending=False, kind="stable", ignore_index=True)[COLUMNS]
