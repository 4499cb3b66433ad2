"""Step `effects`: what removing each feature does to the next-token prediction, on uniformly drawn windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from precompute.common import bar, load_entry, load_model
from precompute.harvest import HarvestArgs, code_indexes, release_codes, table_text
from precompute.tables import Parts, step_state, token_names, waiting
from sae_core.code_index import CodeIndex, FeatureCodes
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.histograms import token_histogram
from sae_core.language_model import LanguageModel
from sae_core.removal import Drops, Removal, Remover
from sae_core.sampling import feature_rng, lowest_priority, window_priorities
from sae_core.schemas import DROP_THRESHOLD, EFFECT_TOKENS, EFFECT_WINDOWS, LOGIT_EFFECTS, NEXT_TOKEN_DROPS
from sae_core.store import RunStore

STEP = "effects"
state = partial(step_state, step=STEP)
NUMBERS_KEPT = 2**27
MOST_FEATURES_AT_ONCE = 128


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Effects of removing every feature of the main dictionaries on the next-token prediction."""

    only: str = ""
    """part of a dictionary id, such as L2-: only these dictionaries, so that processes can share the work"""


def run(store: RunStore, args: Args) -> None:
    """Write logit_effects and next_token_drops, in blocks of features that survive a kill."""
    entries = [entry for entry in waiting(store, STEP) if args.only in entry.id]
    if not entries:
        return
    indexes = code_indexes(store, entries, args.device, args.batch)
    model = load_model(store, args.device)
    text, names = table_text(store), token_names(store)
    for entry in entries:
        dictionary = load_entry(store, entry, model.device)
        parts = Parts(store, STEP, entry)
        work = Effects(model, dictionary, indexes[entry.id], text, names, store.manifest.spec.seed)
        blocks = range(0, entry.n_features, work.features_at_once)
        left = [block for block in blocks if not parts.done(block)]
        for block in bar(left, f"effects of {entry.id}", len(blocks), "block", len(blocks) - len(left)):
            parts.write(block, *work.block(block))
        parts.merge(blocks)
    release_codes(store)


class Effects:
    """Effects of one dictionary, block by block. A block's windows are read once for all of its features."""

    def __init__(
        self,
        model: LanguageModel,
        dictionary: Dictionary,
        index: CodeIndex,
        text: TokenText,
        names: np.ndarray,
        seed: int,
    ) -> None:
        self.remover = Remover(model, dictionary)
        self.index, self.text, self.names, self.seed = index, text, names, seed
        self.windows = text.token_ids.reshape(-1, text.window)
        self.priorities = window_priorities(len(self.windows), seed)
        # resid and last, for the windows of a block if no two features share one
        fit = NUMBERS_KEPT // (2 * EFFECT_WINDOWS * text.window * model.d_model)
        self.features_at_once = int(np.clip(fit, 1, MOST_FEATURES_AT_ONCE))

    def block(self, start: int) -> tuple[pa.Table, pa.Table]:
        """Rows of the two tables for features_at_once features from `start` on."""
        stop = min(start + self.features_at_once, self.index.n_features)
        drawn = [self._drawn_windows(found) for found in self.index.features(start, stop)]
        union = np.unique(np.concatenate(drawn))
        logit_rows, drop_rows = [LOGIT_EFFECTS.arrow.empty_table()], [NEXT_TOKEN_DROPS.arrow.empty_table()]
        for feature, result in self._removals(start, drawn, union) if len(union) else ():
            logit_rows += effect_rows(feature, result, self.names)
            drop_rows += [drop_table(feature, "active", result.drops_active, self.names)]
            drop_rows += [drop_table(feature, "all", result.drops_all, self.names)]
        return pa.concat_tables(logit_rows), pa.concat_tables(drop_rows)

    def _drawn_windows(self, found: FeatureCodes) -> np.ndarray:
        return lowest_priority(np.unique(found.positions // self.text.window), self.priorities, EFFECT_WINDOWS)

    def _removals(self, start: int, drawn: list[np.ndarray], union: np.ndarray) -> Iterator[tuple[int, Removal]]:
        features = range(start, start + len(drawn))
        clean = self.remover.read(torch.from_numpy(self.windows[union].astype(np.int64)), features)
        for feature, windows, codes in zip(features, drawn, clean.codes, strict=True):
            rows = torch.from_numpy(np.searchsorted(union, windows)).to(codes.device)
            yield feature, self.remover.remove(clean, feature, codes, rows, feature_rng(self.seed, feature))


def effect_rows(feature: int, result: Removal, names: np.ndarray) -> list[pa.Table]:
    """Rows of `logit_effects` of one feature, most lowered first; none where no position was active."""
    change = result.change
    if change is None:
        return []
    order = np.argsort(change.logprob[: len(names) - 1], kind="stable")
    token_ids = order if len(order) <= 2 * EFFECT_TOKENS else np.r_[order[:EFFECT_TOKENS], order[-EFFECT_TOKENS:]]
    n = len(token_ids)
    columns = {
        "feature": np.full(n, feature),
        "population": ["active"] * n,
        "token_id": token_ids,
        "token": names[token_ids],
        "mean_change_logprob": change.logprob[token_ids],
        "mean_change_logit": change.logit[token_ids],
        "stderr": change.stderr[token_ids],
        "n_positions": np.full(n, change.n_positions),
        "n_windows": np.full(n, change.n_windows),
        "direct": result.direct[token_ids],
        "mean_kl": np.full(n, change.kl),
    }
    return [pa.table({name: columns[name] for name in LOGIT_EFFECTS.column_names}, schema=LOGIT_EFFECTS.arrow)]


def drop_table(feature: int, population: str, drops: Drops, names: np.ndarray) -> pa.Table:
    """Rows of `next_token_drops` of one feature and population."""
    histogram = token_histogram(drops.drops, drops.token_ids, low=DROP_THRESHOLD)
    n = len(histogram.bins)
    columns = {
        "feature": np.full(n, feature),
        "population": [population] * n,
        "bin": histogram.bins,
        "bin_low": histogram.lows,
        "bin_high": histogram.highs,
        "token_id": histogram.token_ids,
        "token": names[histogram.token_ids],
        "count": histogram.counts,
        "n_positions": np.full(n, drops.n_positions),
    }
    return pa.table({name: columns[name] for name in NEXT_TOKEN_DROPS.column_names}, schema=NEXT_TOKEN_DROPS.arrow)
