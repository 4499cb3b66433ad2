"""Which windows to show for a feature: the strongest, some of every histogram bin, some without activity. Pure numpy.

A position counts as a repeat of another if the same 12 tokens of its context lead up to it (itself included);
of repeats only the first in order is kept. At most LOOKED_AT candidates of a band are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import PART_ENTRIES, FeatureCodes
from sae_core.histograms import TokenHistogram, bin_of
from sae_core.sampling import draw

TOP = 20
PER_BIN = 5
SILENT = 5
REPEAT_TOKENS = 12
LOOKED_AT = 2_000
_CHUNK = 64


@dataclass(frozen=True)
class TokenText:
    """The table tokens, flat: token_ids [n] in contexts of `context` tokens, each of whole windows of `window`.

    Positions before `first` of a context, or of a window that is run on its own, are read and do not count.
    """

    token_ids: np.ndarray
    context: int
    window: int
    first: int = 0

    @property
    def uncounted(self) -> np.ndarray:
        """The tokens that do not count."""
        return self.token_ids.reshape(-1, self.context)[:, : self.first].reshape(-1)

    @property
    def n_counted(self) -> int:
        return len(self.token_ids) - len(self.uncounted)

    @property
    def n_windows(self) -> int:
        return len(self.token_ids) // self.window

    def leading_up(self, positions: np.ndarray) -> np.ndarray:
        """The last REPEAT_TOKENS tokens up to each position, -1 before the start of its context; [n, 12]."""
        back = np.arange(REPEAT_TOKENS - 1, -1, -1)
        inside = (positions % self.context)[:, None] >= back
        found = self.token_ids[np.maximum(positions[:, None] - back, 0)].astype(np.int64)
        return np.where(inside, found, -1)


@dataclass(frozen=True)
class Band:
    """Positions [n] of one band in the table tokens, strongest first, and the codes there."""

    name: str
    positions: np.ndarray
    codes: np.ndarray


def bands(found: FeatureCodes, histogram: TokenHistogram, text: TokenText, rng: np.random.Generator) -> list[Band]:
    """All bands of a feature, in the order of their names: bin0 .. bin9, none, top."""
    binned = _binned(found, histogram, text, rng)
    silent = silent_positions(found.positions, text, rng)
    none = Band("none", silent, np.zeros(len(silent), np.float32))
    return [*binned, none, _band("top", found, strongest(found, text))]


def _band(name: str, found: FeatureCodes, chosen: np.ndarray) -> Band:
    order = np.lexsort((found.positions[chosen], -found.codes[chosen]))
    chosen = chosen[order]
    return Band(name, found.positions[chosen], found.codes[chosen])


def strongest(found: FeatureCodes, text: TokenText, n: int = TOP) -> np.ndarray:
    """Indices into `found` of the n strongest windows' peaks without repeats, strongest first."""
    peaks = window_peaks(found, text.window)
    order = peaks[np.argsort(-found.codes[peaks], kind="stable")]
    return order[distinct(found.positions[order], text, n)]


def window_peaks(found: FeatureCodes, window: int) -> np.ndarray:
    """Index of the largest code of every window with activity (the first of equals), ascending by window."""
    peaks, done = [], 0
    for part in found.parts(window):
        peaks.append(done + _peaks(part, window))
        done += len(part.codes)
    return np.concatenate(peaks)


def _peaks(found: FeatureCodes, window: int) -> np.ndarray:
    windows = found.positions // window
    starts = np.flatnonzero(np.diff(windows, prepend=-1))
    if not len(starts):
        return starts
    lengths = np.diff(starts, append=len(windows))
    highest = np.flatnonzero(found.codes == np.repeat(np.maximum.reduceat(found.codes, starts), lengths))
    return highest[np.flatnonzero(np.diff(windows[highest], prepend=-1))]


def distinct(positions: np.ndarray, text: TokenText, n: int) -> np.ndarray:
    """Indices of the first n positions that are no repeat of an earlier one."""
    seen: set[bytes] = set()
    kept: list[int] = []
    for start in range(0, min(len(positions), LOOKED_AT), _CHUNK):
        for i, key in enumerate(text.leading_up(positions[start : start + _CHUNK]), start):
            if len(kept) == n:
                return np.array(kept, np.int64)
            if key.tobytes() not in seen:
                seen.add(key.tobytes())
                kept.append(i)
    return np.array(kept, np.int64)


def _binned(found: FeatureCodes, histogram: TokenHistogram, text: TokenText, rng: np.random.Generator) -> list[Band]:
    """Memory: 3 bytes an active token of this feature, its bin and its token."""
    if not len(found.codes):
        return []
    n_bins, highest = len(histogram.edges) - 1, float(found.codes.max())
    bins = np.concatenate([bin_of(part.codes, highest, n_bins).astype(np.uint8) for part in found.parts()])
    chosen = [_from_bin(found, bins, bin, histogram.listed(bin), text, rng) for bin in range(n_bins)]
    return [_band(f"bin{bin}", found, indices) for bin, indices in enumerate(chosen)]


def _from_bin(
    found: FeatureCodes, bins: np.ndarray, bin: int, listed: np.ndarray, text: TokenText, rng: np.random.Generator
) -> np.ndarray:
    candidates = _those(bins, bin, draw(_count(bins, bin), LOOKED_AT, rng))
    chosen = candidates[distinct(found.positions[candidates], text, PER_BIN)]
    lacking = np.setdiff1d(listed, text.token_ids[found.positions[chosen]])
    if not len(lacking):
        return chosen
    token_ids = np.concatenate([text.token_ids[found.positions[each][bins[each] == bin]] for each in _spans(bins)])
    drawn = [_those(token_ids, token, np.atleast_1d(rng.choice(_count(token_ids, token)))) for token in lacking]
    return np.concatenate([chosen, _those(bins, bin, np.concatenate(drawn))])


def _spans(values: np.ndarray) -> Iterator[slice]:
    return (slice(start, start + PART_ENTRIES) for start in range(0, len(values), PART_ENTRIES))


def _count(values: np.ndarray, value: int) -> int:
    return sum(np.count_nonzero(values[each] == value) for each in _spans(values))


def _those(values: np.ndarray, value: int, which: np.ndarray) -> np.ndarray:
    """np.flatnonzero(values == value)[which], a part at a time."""
    found, before = np.zeros(len(which), np.int64), 0
    for each in _spans(values):
        here = np.flatnonzero(values[each] == value)
        inside = (which >= before) & (which < before + len(here))
        found[inside] = each.start + here[which[inside] - before]
        before += len(here)
    return found


def silent_positions(positions: np.ndarray, text: TokenText, rng: np.random.Generator, n: int = SILENT) -> np.ndarray:
    """The middles of at most n uniformly drawn windows in which the feature is never active."""
    silent = np.ones(text.n_windows, bool)
    for each in _spans(positions):
        silent[positions[each] // text.window] = False
    windows = np.flatnonzero(silent)
    return np.sort(windows[draw(len(windows), n, rng)]) * text.window + text.window // 2


def active_spans(found: FeatureCodes, windows: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop, into `found`, of the entries inside each window; each [n]."""
    return (
        np.searchsorted(found.positions, windows * window),
        np.searchsorted(found.positions, (windows + 1) * window),
    )
