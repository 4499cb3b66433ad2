"""Step `features`: statistics, token histograms and the strongest features of every token.

All of it is exact over the table tokens: the codes are harvested once, then read feature by feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from precompute.common import bar, load_entry
from precompute.harvest import HarvestArgs, code_indexes, release_codes
from precompute.tables import waiting
from precompute.workers import side_by_side
from sae_core.code_index import CodeIndex, FeatureCodes
from sae_core.contexts import TokenText
from sae_core.feature_stats import (
    StrongestFeatures,
    entropy,
    is_outlier_direction,
    is_position_only,
    moments,
)
from sae_core.histograms import TokenHistogram, feature_histogram
from sae_core.schemas import DENSE_ABOVE, TOKEN_HISTOGRAMS, TOP_TOKENS
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import provenance, step_state, table_text, token_names

STEP = "features"
state = partial(step_state, step=STEP)
FEATURES_AT_ONCE = 256
TOKENS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Exact statistics of every feature of the main dictionaries over the table tokens."""


def run(store: RunStore, args: Args) -> None:
    """Write features, token_histograms and token_features of every main dictionary that lacks them."""
    entries = [work.entry for work in waiting(store, STEP)]
    if not entries:
        return
    indexes = code_indexes(store, entries, args.device, args.batch)
    text, names = table_text(store), token_names(store)
    for entry in entries:
        _write_tables(store, entry, indexes[entry.id], text, names)
    release_codes(store)


def _write_tables(
    store: RunStore, entry: DictionaryEntry, index: CodeIndex, text: TokenText, names: np.ndarray
) -> None:
    made_from = provenance(store, STEP, entry)
    directions = load_entry(store, entry).W_dec.cpu().numpy()
    tables = FeatureTables(text, names, is_outlier_direction(directions))
    blocks = tables.histogram_blocks(bar(index.features(), f"features of {entry.id}", entry.n_features))
    store.write_sorted("token_histograms", blocks, entry.id, made_from)
    store.write_table("token_features", tables.token_features(), entry.id, made_from)
    store.write_table("features", pd.DataFrame(tables.rows), entry.id, made_from)


@dataclass(frozen=True)
class Read:
    """What is taken from one feature: its row, by token its active tokens and summed codes, and its histogram."""

    row: dict
    counts: np.ndarray
    sums: np.ndarray
    histogram: pa.Table


class FeatureTables:
    """Gathers the rows of the three tables while features go by once."""

    def __init__(self, text: TokenText, names: np.ndarray, outliers: np.ndarray) -> None:
        self.text, self.names, self.outliers = text, names, outliers
        n_names = len(names) - 1
        self.occurrences = occurrences(text.token_ids, n_names) - occurrences(text.uncounted, n_names)
        self.strongest = StrongestFeatures(len(self.occurrences))
        self.rows: list[dict] = []

    def histogram_blocks(self, features: Iterator[FeatureCodes]) -> Iterator[pa.Table]:
        block: list[pa.Table] = []
        for histogram in self.add(features):
            block.append(histogram)
            if len(block) == FEATURES_AT_ONCE:
                yield pa.concat_tables(block)
                block = []
        if block:
            yield pa.concat_tables(block)

    def add(self, features: Iterable[FeatureCodes]) -> Iterator[pa.Table]:
        """The histogram of each feature; its other rows wait for `token_features` and in `rows`."""
        for read in side_by_side(self._read, features):
            self.strongest.add(read.row["feature"], read.counts, read.sums)
            self.rows.append(read.row)
            yield read.histogram

    def _read(self, found: FeatureCodes) -> Read:
        n = len(self.occurrences)
        counts, sums = np.zeros(n, np.int64), np.zeros(n)
        for part in found.parts():
            token_ids = self.text.token_ids[part.positions]
            counts += np.bincount(token_ids, minlength=n)
            sums += np.bincount(token_ids, part.codes.astype(np.float64), n)
        histogram = feature_histogram(found, self.text.token_ids)
        row = self._feature_row(found, counts, sums, histogram)
        return Read(row, counts, sums, histogram_table(found.feature, histogram, self.names))

    def _feature_row(
        self, found: FeatureCodes, counts: np.ndarray, sums: np.ndarray, histogram: TokenHistogram
    ) -> dict:
        n, n_tokens = len(found.codes), self.text.n_counted
        top = top_tokens(sums)
        return {
            "feature": found.feature,
            "n_active": n,
            "density": n / n_tokens,
            "max_activation": found.codes.max(initial=0.0),
            "mean_active": found.codes.mean(dtype=np.float64) if n else 0.0,
            "entropy": entropy(counts),
            **vars(moments(found.codes, n_tokens)),
            "top_tokens": list(self.names[top]),
            "top_token_ids": top,
            "sparkline": np.log10(1 + histogram.bin_counts()),
            "dead": n == 0,
            "dense": n > DENSE_ABOVE * n_tokens,
            "position_only": is_position_only(found.positions, found.codes, self.text.context),
            "outlier_direction": bool(self.outliers[found.feature]),
        }

    def token_features(self) -> pd.DataFrame:
        token_ids, features, counts, sums = self.strongest.rows()
        n_active = np.array([row["n_active"] for row in self.rows])
        return pd.DataFrame(
            {
                "token_id": token_ids,
                "feature": features,
                "count": counts,
                "mean_activation": sums / counts,
                "share_of_token": counts / self.occurrences[token_ids],
                "share_of_feature": counts / n_active[features],
            }
        )


def occurrences(token_ids: np.ndarray, n_tokens: int) -> np.ndarray:
    """How often each token occurs, [n_tokens]; a part at a time, so that memory does not grow with the text."""
    parts = range(0, len(token_ids), TOKENS_AT_ONCE)
    counts = (np.bincount(token_ids[i : i + TOKENS_AT_ONCE], minlength=n_tokens) for i in parts)
    return sum(counts, np.zeros(n_tokens, np.int64))


def top_tokens(sums: np.ndarray, n: int = TOP_TOKENS) -> np.ndarray:
    """The n tokens with the largest summed code, strongest first; fewer if it is active on fewer."""
    tokens = np.flatnonzero(sums)
    return tokens[np.argsort(-sums[tokens], kind="stable")[:n]]


def histogram_table(feature: int, histogram: TokenHistogram, names: np.ndarray) -> pa.Table:
    """Rows of `token_histograms` for one feature."""
    columns = {
        "feature": np.full(len(histogram.bins), feature),
        "bin": histogram.bins,
        "bin_low": histogram.lows,
        "bin_high": histogram.highs,
        "token_id": histogram.token_ids,
        "token": names[histogram.token_ids],
        "count": histogram.counts,
    }
    return pa.table({name: columns[name] for name in TOKEN_HISTOGRAMS.column_names}, schema=TOKEN_HISTOGRAMS.arrow)
