"""Step `contexts`: the windows shown for every feature, by band, and the run's `windows` they refer to."""

from __future__ import annotations

from dataclasses import dataclass

from precompute.common import bar
from precompute.harvest import FeatureArgs, code_indexes, release_codes
from precompute.tables import Work, waiting
from sae_core.code_index import CodeIndex
from sae_core.context_rows import STEP, context_blocks, windows_ready, write_windows
from sae_core.store import RunStore
from sae_core.table_making import add_rows, step_state, table_text


@dataclass(frozen=True)
class Args(FeatureArgs):
    """Windows for features of the main dictionaries: strongest, by histogram bin, silent."""


def state(store: RunStore) -> str:
    """`ready`, `missing`, `stale` or `partial`."""
    found = step_state(store, STEP)
    return "partial" if found == "ready" and not windows_ready(store) else found


def run(store: RunStore, args: Args) -> None:
    """Add the contexts asked for and missing, then write the windows that any of all contexts refers to."""
    works = waiting(store, STEP, args.features, args.only)
    entries = [work.entry for work in works]
    indexes = code_indexes(store, entries, args.device, args.batch) if works else {}
    for work in works:
        _write_contexts(store, work, indexes[work.entry.id])
    write_windows(store)
    release_codes(store)


def _write_contexts(store: RunStore, work: Work, index: CodeIndex) -> None:
    features = bar(index.chosen(work.features), f"contexts of {work.entry.id}", len(work.features))
    blocks = context_blocks(features, table_text(store), store.manifest.spec.seed)
    add_rows(store, STEP, work.entry, {"contexts": blocks}, work.features)
