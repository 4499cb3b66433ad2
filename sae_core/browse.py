"""Finding features: sort, filter and search a whole dictionary, one page of rows at a time.

The `features` table of a dictionary is held in memory once (about 250 bytes a feature) and shared by all readers;
a page is then a mask, a partial sort and a take. Searches by output token and by parent invert their table once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sae_core.errors import InputError
from sae_core.store import RunStore

SORTABLE = ("feature", "density", "max_activation", "mean_active", "entropy", "n_active", "skew", "kurtosis")
FLAGS = ("dead", "dense", "position_only")
RELEVANCE = "relevance"
CANDIDATES = 30

Range = tuple[float | None, float | None]


@dataclass(frozen=True)
class Query:
    """Which features, in which order.

    sort: a column of SORTABLE, or RELEVANCE for the order of `candidates`. hide: flags of FLAGS. ranges: inclusive
    bounds by column, None for open. candidates: what a search found, best first; None for all features.
    """

    sort: str = "feature"
    descending: bool = False
    hide: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    candidates: np.ndarray | None = None


class FeatureIndex:
    """The `features` table of one dictionary, in memory."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self.columns = {name: self._numpy(name) for name in (*SORTABLE, *FLAGS)}

    def _numpy(self, name: str) -> np.ndarray:
        return self.table.column(name).to_numpy()

    def select(self, query: Query) -> np.ndarray:
        """Features that pass, in the order asked for. Ties keep index order. Raises InputError for unknown columns."""
        keep = self._mask(query)
        if query.candidates is not None:
            found = query.candidates[keep[query.candidates]]
        else:
            found = np.flatnonzero(keep)
        if query.sort == RELEVANCE:
            return found
        values = self.columns[_known(query.sort, SORTABLE)][found]
        found, values = (found, values) if query.candidates is None else _by_index(found, values)
        return found[np.argsort(-values if query.descending else values, kind="stable")]

    def _mask(self, query: Query) -> np.ndarray:
        keep = np.ones(len(self.table), dtype=bool)
        for flag in query.hide:
            keep &= ~self.columns[_known(flag, FLAGS)]
        for name, (low, high) in query.ranges.items():
            values = self.columns[_known(name, SORTABLE)]
            if low is not None:
                keep &= values >= np.float32(low)
            if high is not None:
                keep &= values <= np.float32(high)
        return keep

    def rows(self, features: Sequence[int] | np.ndarray) -> pd.DataFrame:
        """The rows of these features, all columns, in this order."""
        return self.table.take(pa.array(np.asarray(features, dtype=np.int64))).to_pandas()

    @property
    def alive(self) -> np.ndarray:
        """Features that are not dead."""
        return np.flatnonzero(~self.columns["dead"])


def feature_index(store: RunStore, dictionary: str) -> FeatureIndex:
    """The index of a dictionary, read once while its table does not change. Raises TableError if it is missing."""
    store.table_info("features", dictionary)
    return _feature_index(TableKey(store, "features", dictionary))


@dataclass(frozen=True)
class Page:
    """Rows of one page; `number` counts from 1, `order` is every feature found."""

    frame: pd.DataFrame
    number: int
    n_pages: int
    order: np.ndarray

    @property
    def total(self) -> int:
        return len(self.order)


def page(index: FeatureIndex, query: Query, number: int = 1, size: int = 50) -> Page:
    """One page of the features that a query finds; a number beyond the end gives the last page."""
    found = index.select(query)
    n_pages = max(1, -(-len(found) // size))
    number = min(max(number, 1), n_pages)
    return Page(index.rows(found[(number - 1) * size : number * size]), number, n_pages, found)


# ---- searches: each gives a frame with a `feature` column, best first


def by_input_token(store: RunStore, dictionary: str, token_id: int) -> pd.DataFrame:
    """The features strongest on a token: token_features rows by count x mean_activation, largest first."""
    frame = store.read("token_features", dictionary, key=token_id)
    order = np.argsort(-(frame["count"] * frame["mean_activation"]).to_numpy(), kind="stable")
    return frame.iloc[order].reset_index(drop=True)


def by_output_token(store: RunStore, dictionary: str, token_id: int, lowered: bool = True) -> pd.DataFrame:
    """Features whose removal lowers (or raises) a next token, strongest first.

    Only features that list the token among their most changed ones are found. Columns: feature, mean_change_logprob.
    """
    frame = inverted(store, "logit_effects", dictionary, "token_id", ("feature", "mean_change_logprob")).rows(token_id)
    change = frame["mean_change_logprob"]
    frame = frame[(change < 0) if lowered else (change > 0)]
    return frame.sort_values("mean_change_logprob", ascending=lowered, kind="stable", ignore_index=True)


def children(store: RunStore, dictionary: str, parent: int) -> pd.DataFrame:
    """Features of `dictionary` (the next layer's headline one) that name `parent` among their parents.

    Columns: feature, relative_drop, stderr, n_contexts, cosine; largest |relative_drop| first.
    """
    columns = ("feature", "relative_drop", "stderr", "n_contexts", "cosine")
    frame = inverted(store, "causal_edges", dictionary, "parent", columns).rows(parent)
    order = np.argsort(-frame["relative_drop"].abs().to_numpy(), kind="stable")
    return frame.iloc[order].reset_index(drop=True)


def find_tokens(vocabulary: pd.Series, text: str) -> list[int]:
    """Token ids a typed text may mean, best first: the exact token, the same after a space, then those containing it.

    Spaces, newlines and tabs may be typed as they are or in their readable form. Raises InputError if none fits.
    """
    wanted = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    exact = vocabulary.index[vocabulary.isin([wanted, f"␣{wanted}"])].tolist()
    exact.sort(key=lambda id: vocabulary[id] != wanted)
    containing = vocabulary.index[vocabulary.str.contains(wanted, regex=False, case=False)]
    others = sorted(set(containing) - set(exact), key=lambda id: (len(vocabulary[id]), id))
    if not exact and not others:
        raise InputError("a text that some token contains", repr(text), "Type one token, with a space in front or not")
    return [int(id) for id in [*exact, *others][:CANDIDATES]]


# ---- a table inverted: rows by the value of another column


class Inverted:
    """Rows of a table looked up by a column that is not its key."""

    def __init__(self, table: pa.Table, by: str) -> None:
        keys = table.column(by).to_numpy()
        order = np.argsort(keys, kind="stable")
        self.keys = keys[order]
        self.columns = {n: table.column(n).to_numpy()[order] for n in table.column_names if n != by}

    def rows(self, value: int) -> pd.DataFrame:
        """Rows whose column has this value, in the table's order."""
        start, stop = np.searchsorted(self.keys, [value, value + 1])
        return pd.DataFrame({name: values[start:stop] for name, values in self.columns.items()})


def inverted(store: RunStore, table: str, dictionary: str, by: str, columns: tuple[str, ...]) -> Inverted:
    """An inverted table, made once while the file does not change. Raises TableError if it is missing."""
    store.table_info(table, dictionary)
    return _inverted(TableKey(store, table, dictionary), by, columns)


class TableKey:
    """Cache key of a table: equal while it is the same file of the same run."""

    def __init__(self, store: RunStore, table: str, dictionary: str) -> None:
        self.store, self.table, self.dictionary = store, table, dictionary
        stat = store.table_path(table, dictionary).stat()
        entry_hash = store.dictionary(dictionary).hash
        self.value: tuple[Any, ...] = (store.table_path(table, dictionary), stat.st_mtime_ns, stat.st_size, entry_hash)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableKey) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


@lru_cache(maxsize=16)
def _feature_index(key: TableKey) -> FeatureIndex:
    return FeatureIndex(key.store.read_arrow(key.table, key.dictionary))


@lru_cache(maxsize=8)
def _inverted(key: TableKey, by: str, columns: tuple[str, ...]) -> Inverted:
    return Inverted(key.store.read_arrow(key.table, key.dictionary, columns=[by, *columns]), by)


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise InputError(f"a column out of {', '.join(names)}", repr(name), "Choose one of them")
    return name


def _by_index(found: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(found, kind="stable")
    return found[order], values[order]
