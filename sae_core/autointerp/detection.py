"""Detection and fuzzing: can a reader of the explanation tell which fragments, or marked tokens, fit?

Paulo et al. 2024 (arXiv 2410.13928). Their examples are 32 tokens around the activation; here they are whole fragments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from sae_core.autointerp import prompts
from sae_core.autointerp.client import Reply, Request
from sae_core.autointerp.fragments import Fragments
from sae_core.autointerp.simulate import json_object

DETECTION, FUZZING = "detection", "fuzzing"
SCORERS = (DETECTION, FUZZING)
FEWEST = 5
AT_ONCE = 5
MAX_TOKENS = 1100


@dataclass(frozen=True)
class Item:
    """A passage and whether it fits."""

    text: str
    fits: bool


@dataclass(frozen=True)
class Verdict:
    """accuracy with its 95 % Wilson interval, and F1 of the answer yes, over n passages."""

    accuracy: float
    lower: float
    upper: float
    f1: float
    n: int


def items(active: Fragments, silent: Fragments, names: np.ndarray, scorer: str, rng: np.random.Generator) -> list[Item]:
    """Passages in random order. names: readable token by id.

    fuzzing marks the active tokens of `active`; in each of `silent` it marks as many tokens, drawn uniformly, as are
    marked in one of `active`.
    """
    marks = [None] * (len(active) + len(silent))
    if scorer == FUZZING:
        true = active.activations != 0
        false = np.stack([rng.permutation(row) for row in true[rng.permutation(len(true))][: len(silent)]])
        marks = [*true, *false]
    token_ids = np.concatenate([active.token_ids, silent.token_ids])
    texts = [prompts.passage(names[ids].tolist(), mark) for ids, mark in zip(token_ids, marks, strict=True)]
    found = [Item(text, i < len(active)) for i, text in enumerate(texts)]
    return [found[i] for i in rng.permutation(len(found))]


def requests(model: str, explanation: str, shown: list[Item], scorer: str, temperature: float | None) -> list[Request]:
    """Questions about five passages each."""
    groups = [shown[i : i + AT_ONCE] for i in range(0, len(shown), AT_ONCE)]
    asked = [prompts.judge(explanation, [item.text for item in group], scorer == FUZZING) for group in groups]
    return [Request(model, messages, max_tokens=MAX_TOKENS, temperature=temperature) for messages in asked]


def parse(reply: Reply, n: int) -> list[bool]:
    """The answers for n passages. Raises ValueError unless each has one, yes or no."""
    found = json_object(reply.text)
    values = [found.get(str(i)) for i in range(1, n + 1)]
    if len(found) != n or not all(value in (0, 1) for value in values):
        raise ValueError(f"answers that are not 0 or 1 for each of {n} passages")
    return [bool(value) for value in values]


def verdict(fits: np.ndarray, said: np.ndarray) -> Verdict:
    """accuracy = share of right answers; f1 = 2 tp / (2 tp + fp + fn), 0 without any yes; both arrays bool [n]."""
    right, n = int((fits == said).sum()), len(fits)
    interval = binomtest(right, n).proportion_ci(method="wilson")
    hits, either = int((fits & said).sum()), int(fits.sum() + said.sum())
    return Verdict(right / n, float(interval.low), float(interval.high), 2 * hits / either if either else 0.0, n)
