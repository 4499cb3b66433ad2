"""Rows of `scores` and `detection`: many explainers share one table a dictionary, and each replaces its own rows only.

The table's provenance keeps the settings of each explainer apart: {"EXPLAINER, SETTING": settings}. An explainer that
has looked at some features only names them there (`features`, as ranges).
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from sae_core.errors import TableError
from sae_core.feature_selection import as_ranges, from_ranges
from sae_core.schemas import TABLES
from sae_core.store import DictionaryEntry, Provenance, RunStore
from sae_core.table_making import FEATURES, Made

TABLE = "scores"


def maker(explainer: str, setting: str) -> str:
    """The name under which the settings of an explainer's rows are kept."""
    return f"{explainer}, {setting}"


def merge_scores(
    store: RunStore, entry: DictionaryEntry, rows: pd.DataFrame, provenance: Provenance, table: str = TABLE
) -> None:
    """Replace the rows of the explainers and settings in `rows`; keep those of all others made from the same inputs.

    rows: columns of the table, of any explainers; `provenance.settings` holds for all of them.
    Raises TableError if the columns or their types are wrong, or no explainer is named in `rows`.
    """
    made = sorted({maker(*pair) for pair in zip(rows["explainer"], rows["setting"], strict=True)})
    if not made:
        raise TableError(f"rows of an explainer for {table}", "no row", "Write a skipped row for every skipped feature")
    kept, settings = _others(store, entry, table, made)
    settings |= {name: provenance.settings for name in made}
    frame = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
    store.write_table(table, frame, entry.id, store.provenance(entry.id, **settings))


def add_scores(
    store: RunStore, entry: DictionaryEntry, explainer: str, rows: pd.DataFrame, features: np.ndarray, made: Provenance
) -> None:
    """Add the rows of one explainer and setting for `features`; its rows of others, if made from the same, stay."""
    setting = rows["setting"].iloc[0]
    before = scores_made(store, entry, explainer, setting, made).features
    kept = np.setdiff1d(before, features)
    if len(kept):
        old = store.read(TABLE, entry.id)
        own = (old["explainer"] == explainer) & (old["setting"] == setting) & old["feature"].isin(kept)
        rows = pd.concat([old[own], rows], ignore_index=True)
    now = np.union1d(before, features)
    some = {} if len(now) == entry.n_features else {FEATURES: as_ranges(now)}
    merge_scores(store, entry, rows, store.provenance(entry.id, **made.settings, **some))


def scores_made(store: RunStore, entry: DictionaryEntry, explainer: str, setting: str, provenance: Provenance) -> Made:
    """State and features of an explainer's rows in `scores`, as `add_scores` keeps them."""
    none = np.zeros(0, np.int64)
    found = store.table_state(TABLE, entry.id)
    own = store.table_info(TABLE, entry.id).settings.get(maker(explainer, setting)) if found == "ready" else None
    if own is None:
        return Made("missing" if found == "ready" else found, none)
    some = own.get(FEATURES)
    if {name: value for name, value in own.items() if name != FEATURES} != provenance.to_dict()["settings"]:
        return Made("stale", none)
    return Made("ready", np.arange(entry.n_features)) if some is None else Made("partial", from_ranges(some))


def scores_state(
    store: RunStore, entry: DictionaryEntry, explainer: str, setting: str, provenance: Provenance, table: str = TABLE
) -> str:
    """`ready`, `missing` or `stale`: whether the rows of an explainer were made from exactly `provenance`."""
    found = store.table_state(table, entry.id)
    if found != "ready":
        return found
    settings = store.table_info(table, entry.id).settings.get(maker(explainer, setting))
    if settings is None:
        return "missing"
    return "ready" if settings == json.loads(json.dumps(provenance.settings)) else "stale"


def _others(store: RunStore, entry: DictionaryEntry, table: str, made: list[str]) -> tuple[pd.DataFrame, dict]:
    """Rows and settings of the other explainers; none if the table is missing or made from other inputs."""
    if store.table_state(table, entry.id) != "ready":
        return pd.DataFrame(columns=TABLES[table].column_names), {}
    rows = store.read(table, entry.id)
    names = [maker(*pair) for pair in zip(rows["explainer"], rows["setting"], strict=True)]
    settings = store.table_info(table, entry.id).settings
    kept = rows[[name not in made for name in names]]
    return kept, {name: value for name, value in settings.items() if name not in made}
