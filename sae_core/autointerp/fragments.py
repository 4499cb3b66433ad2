"""Which fragments of text a feature is explained and scored on (paper App. A), and the scale of 0 to 10. Pure numpy.

A fragment is a window of the table tokens. Its codes were computed with the text of its context before it in view;
the authors ran each fragment alone.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import FeatureCodes, joined
from sae_core.contexts import TokenText, active_spans, highest_codes
from sae_core.sampling import draw, feature_rng
from sae_core.schemas import SCORE_MIN_FRAGMENTS

POOL = 50_000
TOP = 20
TOP_EXPLAINED = slice(0, TOP, 4)
TOP_SCORED = slice(2, TOP, 4)
RANDOM_SCORED = 5
SCALE = 10
QUANTILES = 10
JUDGED = 20
CORRECTED, AS_PUBLISHED = "corrected", "as-published"


@dataclass(frozen=True)
class Fragments:
    """Windows [n] of the table tokens, their tokens [n, window] and one feature's codes there [n, window]."""

    windows: np.ndarray
    token_ids: np.ndarray
    activations: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)


@dataclass(frozen=True)
class Selection:
    """Five strong fragments to explain from; five other strong ones and five drawn ones to score on."""

    explained: Fragments
    top: Fragments
    random: Fragments


def fragment_pool(documents: np.ndarray, seed: int, dictionary: str = "") -> np.ndarray:
    """The windows that fragments come from, ascending; documents: [n_windows], the document of each window.

    `corrected`: at most 50,000 windows drawn uniformly, the same for every dictionary. `as-published` (a dictionary
    is named): one window drawn from each document, anew for every dictionary.
    """
    if not dictionary:
        return np.sort(draw(len(documents), POOL, np.random.default_rng(seed)))
    order = np.random.default_rng([seed, zlib.crc32(dictionary.encode())]).permutation(len(documents))
    _, first = np.unique(documents[order], return_index=True)
    return np.sort(order[first])[:POOL]


def in_pool(found: FeatureCodes, pool: np.ndarray, text: TokenText) -> FeatureCodes:
    """Its entries in the windows of the pool: all that fragments are chosen by."""
    if len(pool) == text.n_windows:
        return found
    inside = np.zeros(text.n_windows, bool)
    inside[pool] = True
    return joined([part.part(inside[part.positions // text.window]) for part in found.parts()])


def active_fragments(found: FeatureCodes, pool: np.ndarray, window: int) -> np.ndarray:
    """The windows of the pool with activity, by falling largest code (equal ones by window); [n]."""
    parts = (highest_codes(part, window) for part in found.parts(window))
    inside = [(windows[kept := np.isin(windows, pool, assume_unique=True)], codes[kept]) for windows, codes in parts]
    windows, largest = (np.concatenate(each) for each in zip(*inside, strict=True))
    return windows[np.argsort(-largest, kind="stable")]


def fragments_at(found: FeatureCodes, windows: np.ndarray, text: TokenText) -> Fragments:
    """The tokens and codes of some windows, in their order."""
    activations = np.zeros((len(windows), text.window), np.float32)
    for row, (start, stop) in enumerate(zip(*active_spans(found, windows, text.window), strict=True)):
        activations[row, found.positions[start:stop] % text.window] = found.codes[start:stop]
    token_ids = text.token_ids.reshape(-1, text.window)[windows].astype(np.int64)
    return Fragments(windows, token_ids, activations)


def select(found: FeatureCodes, pool: np.ndarray, text: TokenText, seed: int, setting: str) -> Selection | None:
    """The fragments of one feature; None if fewer than 20 of the pool have activity (the paper's skip rule).

    Of the 20 strongest, ranks 0, 4, .. are explained and 2, 6, .. scored (the authors' interleaved split). The drawn
    ones are uniform among fragments with activity; as `corrected`, none of them is among those explained or
    scored already.
    """
    ranked = active_fragments(found, pool, text.window)
    if len(ranked) < SCORE_MIN_FRAGMENTS:
        return None
    explained, top = ranked[TOP_EXPLAINED], ranked[TOP_SCORED]
    left = ranked if setting == AS_PUBLISHED else np.sort(np.r_[ranked[1:TOP:2], ranked[TOP:]])
    drawn = left[draw(len(left), RANDOM_SCORED, feature_rng(seed, found.feature))]
    return Selection(*(fragments_at(found, windows, text) for windows in (explained, top, drawn)))


def judged(
    found: FeatureCodes, pool: np.ndarray, text: TokenText, seed: int, explained: np.ndarray
) -> tuple[Fragments, Fragments]:
    """Equally many fragments with and without activity, at most 20 each, none of them explained (Paulo et al. 2024).

    Those with activity are drawn evenly from the ten tenths of the ranking by largest code.
    """
    rng = feature_rng(seed, found.feature)
    ranked = active_fragments(found, pool, text.window)
    silent = np.setdiff1d(pool, ranked)
    ranked = ranked[~np.isin(ranked, explained)]
    n = min(JUDGED, len(ranked), len(silent))
    with_activity = _spread(ranked, n, rng)
    without = silent[draw(len(silent), n, rng)]
    return fragments_at(found, with_activity, text), fragments_at(found, without, text)


def _spread(ranked: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n of `ranked`, drawn evenly from its tenths."""
    tenth = np.arange(len(ranked)) * QUANTILES // max(1, len(ranked))
    shuffled = rng.permutation(len(ranked))
    # The turn of each: how many of its own tenth come before it. Low turns first takes from all tenths alike.
    turn = np.empty(len(ranked), np.int64)
    for part in range(QUANTILES):
        members = shuffled[tenth[shuffled] == part]
        turn[members] = np.arange(len(members))
    return ranked[shuffled[np.argsort(turn[shuffled], kind="stable")][:n]]


def on_scale(activations: np.ndarray, largest: float) -> np.ndarray:
    """min(10, floor(10 max(a, 0) / largest)): whole numbers 0 .. 10; zeros where `largest` is not above 0."""
    if largest <= 0:
        return np.zeros(activations.shape, np.int64)
    return np.floor(SCALE * np.maximum(activations, 0) / largest).clip(max=SCALE).astype(np.int64)
