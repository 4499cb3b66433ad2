"""Rows of `logit_effects` and `next_token_drops`: what removing a feature does to the prediction, on drawn windows.

1. Of the windows of the table tokens in which the feature is active, draw EFFECT_WINDOWS uniformly.
2. Run each on its own, with and without the feature at all of its positions (sae_core.removal).
3. Average the change over active positions; collect the drops of the token that really came next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from sae_core.code_index import FeatureCodes
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.histograms import token_histogram
from sae_core.language_model import LanguageModel
from sae_core.removal import Drops, Removal, Remover
from sae_core.sampling import feature_rng, lowest_priority, window_priorities
from sae_core.schemas import DROP_THRESHOLD, EFFECT_TOKENS, EFFECT_WINDOWS, LOGIT_EFFECTS, NEXT_TOKEN_DROPS


class EffectRows:
    """Effects of one dictionary. The windows of several features are read once for all of them."""

    def __init__(
        self, model: LanguageModel, dictionary: Dictionary, text: TokenText, names: np.ndarray, seed: int
    ) -> None:
        self.remover = Remover(model, dictionary, text.first)
        self.text, self.names, self.seed = text, names, seed
        self.windows = text.token_ids.reshape(-1, text.window)
        self.priorities = window_priorities(len(self.windows), seed)

    def drawn_windows(self, found: FeatureCodes) -> np.ndarray:
        """The windows drawn for a feature with these codes over the table tokens, ascending."""
        drawn = np.zeros(0, np.int64)
        for part in found.parts(self.text.window):
            candidates = np.concatenate([drawn, part.windows(self.text.window)])
            drawn = lowest_priority(candidates, self.priorities, EFFECT_WINDOWS)
        return drawn

    def tables(self, features: Sequence[int], drawn: Sequence[np.ndarray]) -> tuple[pa.Table, pa.Table]:
        """Rows of the two tables for ascending features, each on its drawn windows."""
        union = np.unique(np.concatenate(drawn))
        logit_rows, drop_rows = [LOGIT_EFFECTS.arrow.empty_table()], [NEXT_TOKEN_DROPS.arrow.empty_table()]
        for feature, result in self._removals(features, drawn, union) if len(union) else ():
            logit_rows += effect_rows(feature, result, self.names)
            drop_rows += [drop_table(feature, "active", result.drops_active, self.names)]
            drop_rows += [drop_table(feature, "all", result.drops_all, self.names)]
        return pa.concat_tables(logit_rows), pa.concat_tables(drop_rows)

    def _removals(
        self, features: Sequence[int], drawn: Sequence[np.ndarray], union: np.ndarray
    ) -> Iterator[tuple[int, Removal]]:
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
