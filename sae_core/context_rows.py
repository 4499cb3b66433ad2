"""Rows of `contexts`, the windows shown for a feature by band, and of `windows`, which they refer to. Light.

The step `contexts` writes them for many features, the dashboard for the one that is looked at (sae_core.compute_now).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from sae_core.code_index import FeatureCodes
from sae_core.contexts import TokenText, active_spans, bands
from sae_core.corpus import Windows, load_windows
from sae_core.feature_selection import as_ranges
from sae_core.histograms import feature_histogram
from sae_core.sampling import feature_rng
from sae_core.schemas import CONTEXTS
from sae_core.store import Provenance, RunStore
from sae_core.table_making import FEATURES, made

STEP = "contexts"
FEATURES_AT_ONCE = 256
CONTEXTS_AT_ONCE = 1024
LARGEST = np.finfo(np.float16).max


def context_blocks(features: Iterable[FeatureCodes], text: TokenText, seed: int) -> Iterator[pa.Table]:
    """Rows of `contexts`, FEATURES_AT_ONCE features in a block."""
    block: list[pa.Table] = []
    for found in features:
        block.append(context_table(found, text, seed))
        if len(block) == FEATURES_AT_ONCE:
            yield pa.concat_tables(block)
            block = []
    if block:
        yield pa.concat_tables(block)


def context_table(found: FeatureCodes, text: TokenText, seed: int) -> pa.Table:
    """Rows of `contexts` for one feature, sorted by band and rank."""
    histogram = feature_histogram(found, text.token_ids)
    shown = bands(found, histogram, text, feature_rng(seed, found.feature))
    positions = np.concatenate([band.positions for band in shown])
    windows = positions // text.window
    where, values, offsets = _active(found, windows, text.window)
    columns = {
        "feature": np.full(len(positions), found.feature),
        "band": np.repeat([band.name for band in shown], [len(band.positions) for band in shown]),
        "rank": np.concatenate([np.arange(len(band.positions)) for band in shown]),
        "window": windows,
        "position": positions % text.window,
        "activation": np.concatenate([band.codes for band in shown]),
        "token_id": text.token_ids[positions].astype(np.int32),
        "active_positions": pa.ListArray.from_arrays(offsets, where),
        "active_values": pa.ListArray.from_arrays(offsets, values.clip(max=LARGEST).astype(np.float16)),
    }
    return pa.table({name: columns[name] for name in CONTEXTS.column_names}, schema=CONTEXTS.arrow)


def _active(found: FeatureCodes, windows: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in the window, codes, and list offsets of what is active in each of the windows."""
    starts, stops = active_spans(found, windows, window)
    entries = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)] or [[]]).astype(np.int64)
    offsets = np.r_[0, np.cumsum(stops - starts)].astype(np.int32)
    return (found.positions[entries] % window).astype(np.int16), found.codes[entries], offsets


# ---- the run's windows


def _windows_provenance(store: RunStore) -> Provenance:
    spec, hashes = store.manifest.spec, sorted(d.hash for d in store.main_dictionaries)
    settings = {"table_tokens": spec.table_tokens, "seed": spec.seed, "dictionaries": hashes}
    found = {d.id: made(store, STEP, d) for d in store.main_dictionaries}
    some = {id: as_ranges(one.features) for id, one in found.items() if one.state != "ready"}
    return store.provenance(**settings, **({FEATURES: some} if some else {}))


def windows_ready(store: RunStore) -> bool:
    """Whether `windows` holds what all the contexts that are there refer to."""
    return store.table_state("windows", **_windows_provenance(store).settings) == "ready"


def write_windows(store: RunStore) -> None:
    """Write `windows` if contexts were added since. Raises StorageError if the run folder cannot be written."""
    if not windows_ready(store):
        store.write_table("windows", window_rows(store, _referred(store)), provenance=_windows_provenance(store))


def _referred(store: RunStore) -> np.ndarray:
    """Every window that the contexts of a main dictionary refer to, ascending."""
    present = [d for d in store.main_dictionaries if made(store, STEP, d).state != "missing"]
    referred = [store.read("contexts", d.id, columns=["window"])["window"] for d in present]
    return np.unique(np.concatenate(referred)) if referred else np.zeros(0, np.int64)


def window_rows(store: RunStore, wanted: np.ndarray) -> pd.DataFrame:
    """Rows of `windows` for the windows `wanted`, ascending. Raises CorpusError without the run's windows."""
    windows = load_windows(store.folder, "train")
    documents = windows.documents.reshape(-1)[wanted]
    return pd.DataFrame(
        {
            "window": wanted,
            "document": documents.astype(np.int64),
            "source": windows.sources(documents),
            "token_ids": list(windows.tokens.reshape(-1, windows.window)[wanted].astype(np.int32)),
            "labels": list(window_labels(windows, wanted)),
        }
    )


def window_labels(windows: Windows, wanted: np.ndarray) -> Iterator[str]:
    """The known factors of each wanted window (ascending) as JSON of runs; "" where none is known."""
    per_context = windows.tokens.shape[1] // windows.window
    contexts = np.unique(wanted // per_context)
    for start in range(0, len(contexts), CONTEXTS_AT_ONCE):
        rows = contexts[start : start + CONTEXTS_AT_ONCE]
        labels = windows.labels(rows) or {}
        for window in wanted[np.isin(wanted // per_context, rows)]:
            row, first = np.searchsorted(rows, window // per_context), window % per_context * windows.window
            here = {factor: runs(values[row, first : first + windows.window]) for factor, values in labels.items()}
            here = {factor: found for factor, found in here.items() if found}
            yield json.dumps(here, ensure_ascii=False) if here else ""


def runs(values: np.ndarray) -> list[list]:
    """[first, last + 1, value] of every run of equal values but "" in values [n]."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    ends = np.r_[starts[1:], len(values)]
    return [[int(a), int(b), str(values[a])] for a, b in zip(starts, ends, strict=True) if values[a] != ""]
