"""Contexts, effects and edges of a feature: from the run's tables, or computed now and kept. Light.

What is computed now is added to the run's tables, as the steps would; where the run cannot be written, it is kept for
this session. Torch is loaded by the first computation only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st

from app import state
from sae_core.compare import has_weights
from sae_core.errors import StorageError
from sae_core.schemas import TABLES
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import MAKES, add_rows, holds, parent_of
from sae_core.tree_growth import Node

KEPT = "computed_rows"  # session state: rows by (dictionary hash, table, feature)
Tell = Callable[[float, str], None]


def rows(run: RunStore, table: str, entry: DictionaryEntry, feature: int) -> pd.DataFrame | None:
    """Rows of a feature, None where they are not computed yet. Raises TableError for a table that cannot be used."""
    if holds(run, table, entry.id, feature):
        return run.read(table, entry.id, key=feature)
    return st.session_state.get(KEPT, {}).get((entry.hash, table, feature))


def windows(run: RunStore, wanted: Sequence[int]) -> pd.DataFrame:
    """Rows of `windows`, from the corpus where the table lacks some: contexts may be kept for this session only.

    Raises TableError where there is neither.
    """
    asked, corpus = np.unique(wanted), _has_corpus(run)
    if not corpus or run.table_state("windows") != "missing":
        found = run.read("windows", key=asked.tolist())
        if not corpus or len(found) == len(asked):
            return found
    from sae_core.context_rows import window_rows

    return window_rows(run, asked)


def _has_corpus(run: RunStore) -> bool:
    return (run.folder / "corpus" / "corpus.json").exists()


def cannot(run: RunStore, entries: Sequence[DictionaryEntry]) -> str:
    """Why nothing can be computed now for these dictionaries, in a sentence; empty if nothing speaks against it."""
    without = [entry.id for entry in entries if not has_weights(run.dictionary_folder(entry.id))]
    if without:
        return f"It cannot be computed here: the weights of {', '.join(without)} are not in the run."
    if not _has_corpus(run):
        return "It cannot be computed here: the corpus (the token windows) is not in the run."
    return ""


def compute_contexts(run: RunStore, entry: DictionaryEntry, feature: int, tell: Tell) -> None:
    """Compute and keep the contexts of one feature, and their windows. Raises as `compute_effects`."""
    from sae_core.compute_now import contexts_now
    from sae_core.context_rows import write_windows

    _compute(run, "contexts", contexts_now, entry, feature, tell)
    with contextlib.suppress(StorageError):
        write_windows(run)


def compute_effects(run: RunStore, entry: DictionaryEntry, feature: int, tell: Tell) -> None:
    """Compute and keep the effects of one feature. Raises ModelError, DictionaryError or CorpusError."""
    from sae_core.compute_now import effects_now

    _compute(run, "effects", effects_now, entry, feature, tell)


def _compute(
    run: RunStore, step: str, now: Callable[..., dict[str, pa.Table]], entry: DictionaryEntry, feature: int, tell: Tell
) -> None:
    model, dictionary = state.live_model(run), state.live_dictionary(run, entry.id)
    what = f"{step.capitalize()} of feature {feature}"
    _keep(run, step, entry, now(run, entry, model, dictionary, feature, lambda share: tell(share, what)), [feature])


def compute_edges(run: RunStore, nodes: Sequence[Node], tell: Tell) -> None:
    """Compute and keep the edges into these features. Raises as `compute_effects`."""
    from sae_core.compute_now import edges_now

    model = state.live_model(run)
    for id in sorted({id for id, _ in nodes}):
        entry, features = run.dictionary(id), sorted({feature for other, feature in nodes if other == id})
        parent, child = (state.live_dictionary(run, each.id) for each in (parent_of(run, entry), entry))
        what = f"Edges into {len(features)} features of {entry.spec.site.where}"
        told = lambda share, what=what: tell(share, what)  # noqa: E731
        _keep(run, "edges", entry, edges_now(run, entry, model, parent, child, features, told), features)


def _keep(
    run: RunStore, step: str, entry: DictionaryEntry, tables: Mapping[str, pa.Table], features: Sequence[int]
) -> None:
    try:
        add_rows(run, step, entry, {name: [table] for name, table in tables.items()}, np.asarray(features))
    except StorageError:
        kept = st.session_state.setdefault(KEPT, {})
        for table in MAKES[step]:
            frame = tables[table].cast(TABLES[table].arrow).to_pandas()
            for feature in features:
                kept[entry.hash, table, feature] = frame[frame["feature"] == feature].reset_index(drop=True)
