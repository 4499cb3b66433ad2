"""Step `edges`: which features of the previous layer each headline feature depends on (paper Sec. 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from precompute.common import bar, load_entry, load_model
from precompute.harvest import FeatureArgs, code_indexes, release_codes
from precompute.tables import Parts, Work, waiting
from sae_core.code_index import CodeIndex
from sae_core.contexts import TokenText
from sae_core.edge_rows import edge_table, sample_contexts
from sae_core.language_model import LanguageModel
from sae_core.store import RunStore
from sae_core.table_making import parent_of, step_state, table_text

STEP = "edges"
state = partial(step_state, step=STEP)
FEATURES_AT_ONCE = 32


@dataclass(frozen=True)
class Args(FeatureArgs):
    """Causal edges between the headline dictionaries of adjacent layers, into the features asked for."""


def run(store: RunStore, args: Args) -> None:
    """Add what is asked for and missing to causal_edges, in blocks of features that survive a kill."""
    works = waiting(store, STEP, args.features, args.only)
    if not works:
        return
    indexes = code_indexes(store, [work.entry for work in works], args.device, args.batch)
    model, text = load_model(store, args.device), table_text(store)
    for work in works:
        _write_edges(store, work, indexes[work.entry.id], model, text)
    store.clear_scratch(STEP)
    release_codes(store)


def _write_edges(store: RunStore, work: Work, index: CodeIndex, model: LanguageModel, text: TokenText) -> None:
    parent_entry = parent_of(store, work.entry)
    parent, child = (load_entry(store, each, model.device) for each in (parent_entry, work.entry))
    parts = Parts(store, STEP, work)
    blocks = parts.blocks(FEATURES_AT_ONCE)
    left = [block for block in blocks if not parts.done(block)]
    for block in bar(left, f"edges of {work.entry.id}", len(blocks), "block", len(blocks) - len(left)):
        contexts = sample_contexts(index.chosen(block), text, store.manifest.spec.seed)
        parts.write(block, edge_table(model, parent, child, contexts, parent_entry.id))
    parts.merge(blocks)
