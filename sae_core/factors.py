"""Features against known factors of the text: which feature says best whether a token has a property.

A detector is a feature, a sign and a threshold: `code > threshold` (sign +1) or `code <= threshold` (sign -1).
All three are chosen on one half of the contexts, and F1 is measured on the other, with an interval that resamples
whole contexts. Codes are counted batch by batch, so memory does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.schemas import FACTOR_MIN_POSITIVES

LEVELS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
RESAMPLES = 1000
POINTS = (2.5, 97.5)

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Each call passes over the same contexts: activations [b, t, width] of them and what is wanted [b, t, V] of bool."""


@dataclass(frozen=True)
class Counts:
    """Tokens with code > threshold, and those of them that are wanted, for every level, feature and property.

    thresholds, above: [levels, F]; hits: [levels, V, F]; positives: [V]; n: tokens.
    """

    thresholds: Tensor
    above: Tensor
    hits: Tensor
    positives: Tensor
    n: int


@dataclass(frozen=True)
class Detector:
    """A feature, and when it says yes: code > threshold; for sign -1, code <= threshold. f1: fitting half."""

    feature: int
    sign: int
    level: int
    threshold: float
    f1: float

    def says(self, codes: Tensor) -> Tensor:
        """Its answers, of bool; codes: [..., F] -> [...]."""
        return (codes[..., self.feature] > self.threshold) == (self.sign > 0)


@dataclass(frozen=True)
class F1:
    """F1 = 2 tp / (2 tp + fp + fn) on tokens a detector was not chosen on, with a bootstrap interval over contexts."""

    f1: float
    lower: float
    upper: float
    precision: float
    recall: float
    n_positives: int


# ---- choosing


@torch.inference_mode()
def count_above(dictionary: Dictionary, batches: Batches, levels: Sequence[float] = LEVELS) -> Counts:
    """Counts at thresholds level x the feature's largest code, and level x its smallest where codes can be negative."""
    thresholds = _thresholds(dictionary, batches, levels)
    n_features = dictionary.n_features
    above = torch.zeros(len(thresholds), n_features, dtype=torch.float64)
    hits: Tensor | float = 0.0
    positives: Tensor | float = 0.0
    n = 0
    for x, wanted in batches():
        codes = dictionary.encode(x).flatten(0, 1)
        mask = wanted.flatten(0, 1).to(codes.device, codes.dtype)
        over = (codes > threshold for threshold in thresholds.to(codes.device))
        counted = [(each.sum(0).cpu(), (mask.T @ each.to(codes.dtype)).cpu()) for each in over]
        above += torch.stack([totals for totals, _ in counted])
        hits = hits + torch.stack([both for _, both in counted]).double()
        positives = positives + mask.sum(0).double().cpu()
        n += len(codes)
    return Counts(thresholds, above, hits, positives, n)


def _thresholds(dictionary: Dictionary, batches: Batches, levels: Sequence[float]) -> Tensor:
    """[levels, F]; twice as many levels, the second half below 0, if any code is negative."""
    codes = (dictionary.encode(x).flatten(0, 1) for x, _ in batches())
    ranges = [(each.amin(0).cpu(), each.amax(0).cpu()) for each in codes]
    low = torch.stack([low for low, _ in ranges]).amin(0)
    high = torch.stack([high for _, high in ranges]).amax(0)
    shares = torch.tensor(levels)[:, None]
    sides = [shares * high.clamp_min(0)] + ([shares * low.clamp_max(0)] if (low < 0).any() else [])
    return torch.cat(sides)


def f1_table(counts: Counts) -> Tensor:
    """F1 of every sign, level, property and feature; [2, levels, V, F], sign +1 first."""
    wanted = counts.positives[:, None]
    above = counts.above[:, None]
    f1 = 2 * counts.hits / (above + wanted).clamp_min(1)
    f1_below = 2 * (wanted - counts.hits) / (counts.n - above + wanted).clamp_min(1)
    return torch.stack([f1, f1_below])


def best_detectors(counts: Counts, signs: int = 2) -> list[Detector]:
    """The detector with the highest F1 for every property, the first of equals; [V]. signs 1: of sign +1 only.

    Where no feature is ever active, the best there is says yes everywhere (sign -1).
    """
    table = f1_table(counts)[:signs]
    return [_best(table[:, :, v], counts) for v in range(table.shape[2])]


def _best(table: Tensor, counts: Counts) -> Detector:
    """table: [2, levels, F] of one property."""
    side, level, feature = np.unravel_index(int(table.argmax()), table.shape)
    threshold = float(counts.thresholds[level, feature])
    return Detector(int(feature), 1 - 2 * int(side), int(level), threshold, float(table[side, level, feature]))


# ---- scoring


@torch.inference_mode()
def score_detectors(dictionary: Dictionary, detectors: Sequence[Detector], batches: Batches, seed: int) -> list[F1]:
    """F1 of one detector for each property on contexts it was not chosen on; detectors: [V]."""
    parts = []
    for x, wanted in batches():
        codes = dictionary.encode(x)
        says = torch.stack([d.says(codes) for d in detectors], dim=-1).cpu()
        parts.append(torch.stack([(says & wanted).sum(1), says.sum(1), wanted.sum(1)]).numpy())
    per_context = np.concatenate(parts, axis=1)  # [3, contexts, V]: right, said, wanted
    return [f1_interval(per_context[:, :, v], seed) for v in range(len(detectors))]


def f1_interval(counts: np.ndarray, seed: int, resamples: int = RESAMPLES) -> F1:
    """F1 with the 2.5 and 97.5 % points of F1 over contexts drawn with replacement.

    counts: [3, contexts] tokens that are said and wanted, said, wanted, in each context.
    """
    n = counts.shape[1]
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)
    drawn = _f1(*(weights @ counts.T).T)
    right, said, wanted = counts.sum(1)
    lower, upper = np.percentile(drawn, POINTS)
    value = float(_f1(right, said, wanted))
    return F1(value, float(lower), float(upper), right / max(said, 1), right / max(wanted, 1), int(wanted))


def _f1(right: np.ndarray, said: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return 2 * right / np.maximum(said + wanted, 1)


# ---- what is wanted


@dataclass(frozen=True)
class Properties:
    """(factor, value) of every property, and which tokens have it: wanted [n, t, V] of bool."""

    names: list[tuple[str, str]]
    wanted: np.ndarray


def properties(labels: dict[str, np.ndarray], fewest: int = FACTOR_MIN_POSITIVES) -> Properties:
    """The values of each factor that at least `fewest` tokens of either half have; labels: text [n, t] by factor.

    The empty value (the factor says nothing of the token) is none.
    """
    found = [
        ((factor, str(value)), values == value)
        for factor, values in labels.items()
        for value in np.unique(values)
        if value != ""
    ]
    half = len(next(iter(labels.values()))) // 2 if labels else 0
    kept = [(name, mask) for name, mask in found if min(mask[:half].sum(), mask[half:].sum()) >= fewest]
    masks = np.stack([mask for _, mask in kept], axis=-1) if kept else np.zeros((0, 0, 0), bool)
    return Properties([name for name, _ in kept], masks)
