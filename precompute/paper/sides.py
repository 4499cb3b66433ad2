"""Two-sided dictionaries (PCA, ICA): which side of a direction stands for it (table `sides`), and both as published."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sae_core.code_index import CodeIndex, FeatureCodes, signed
from sae_core.signed import SIGNED_KINDS, best_sides, n_as_published
from sae_core.store import DictionaryEntry, Provenance, RunStore

TABLE = "sides"


def sides_state(store: RunStore, entry: DictionaryEntry) -> str:
    """State of the table; `ready` for dictionaries that have no two sides."""
    if entry.spec.kind not in SIGNED_KINDS:
        return "ready"
    return store.table_state(TABLE, entry.id, **_provenance(store, entry).settings)


def make_sides(store: RunStore, entry: DictionaryEntry, index: CodeIndex) -> None:
    """Write the table from the codes, unless it is there."""
    if sides_state(store, entry) == "ready":
        return
    moments = np.array([third_moment(found, index.n_tokens) for found in index.features()])
    frame = pd.DataFrame({"feature": np.arange(len(moments)), "third_moment": moments, "best": best_sides(moments)})
    store.write_table(TABLE, frame, entry.id, _provenance(store, entry))


def published(entry: DictionaryEntry, index: CodeIndex) -> Iterator[FeatureCodes]:
    """The features that the paper scores, those of PCA and ICA signed."""
    n, d = n_as_published(entry.spec.kind, entry.n_features), entry.n_features // 2
    if entry.spec.kind not in SIGNED_KINDS:
        return index.features(0, n)
    return (signed(a, b, index.room) for a, b in zip(index.features(0, n), index.features(d, d + n), strict=True))


def third_moment(found: FeatureCodes, n_tokens: int) -> float:
    """Mean cube of the code over n_tokens tokens."""
    parts = (part.codes.astype(np.float64) for part in found.parts())
    return sum(float(np.square(codes) @ codes) for codes in parts) / n_tokens


def _provenance(store: RunStore, entry: DictionaryEntry) -> Provenance:
    return store.provenance(entry.id, table_tokens=store.manifest.spec.table_tokens)
