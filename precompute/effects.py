"""Step `effects`: what removing each feature does to the next-token prediction, on uniformly drawn windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from precompute.common import bar, load_entry, load_model
from precompute.harvest import FeatureArgs, code_indexes, release_codes
from precompute.tables import Parts, Work, waiting
from sae_core.code_index import CodeIndex
from sae_core.effect_rows import EffectRows
from sae_core.language_model import LanguageModel
from sae_core.schemas import EFFECT_WINDOWS
from sae_core.store import RunStore
from sae_core.table_making import step_state, table_text, token_names

STEP = "effects"
state = partial(step_state, step=STEP)
NUMBERS_KEPT = 2**27
MOST_FEATURES_AT_ONCE = 128


@dataclass(frozen=True)
class Args(FeatureArgs):
    """Effects of removing features of the main dictionaries on the next-token prediction."""


def run(store: RunStore, args: Args) -> None:
    """Add what is asked for and missing to logit_effects and next_token_drops, in blocks that survive a kill."""
    works = waiting(store, STEP, args.features, args.only)
    if not works:
        return
    indexes = code_indexes(store, [work.entry for work in works], args.device, args.batch)
    model = load_model(store, args.device)
    text, names = table_text(store), token_names(store)
    for work in works:
        dictionary = load_entry(store, work.entry, model.device)
        rows = EffectRows(model, dictionary, text, names, store.manifest.spec.seed)
        _write(store, work, rows, indexes[work.entry.id], features_at_once(model, text.window))
    release_codes(store)


def _write(store: RunStore, work: Work, rows: EffectRows, index: CodeIndex, size: int) -> None:
    parts = Parts(store, STEP, work)
    blocks = parts.blocks(size)
    left = [block for block in blocks if not parts.done(block)]
    for block in bar(left, f"effects of {work.entry.id}", len(blocks), "block", len(blocks) - len(left)):
        parts.write(block, *block_tables(rows, index, block))
    parts.merge(blocks)


def block_tables(rows: EffectRows, index: CodeIndex, features: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """Rows of the two tables for ascending features whose codes are in the index."""
    return rows.tables(features.tolist(), [rows.drawn_windows(found) for found in index.chosen(features)])


def features_at_once(model: LanguageModel, window: int) -> int:
    """Features of a block, so that its windows (resid and last) fit in memory even if no two features share one."""
    fit = NUMBERS_KEPT // (2 * EFFECT_WINDOWS * window * model.d_model)
    return int(np.clip(fit, 1, MOST_FEATURES_AT_ONCE))
