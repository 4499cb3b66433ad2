"""Which windows to show for a feature: the strongest, some of every histogram bin, some without activity. Pure numpy.

A position counts as a repeat of another if the same 12 tokens of its context lead up to it (itself included);
of repeats only the first in order is kept. At most LOOKED_AT candidates of a band are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sae_core.code_index import FeatureCodes
from sae_core.histograms import TokenHistogram
from sae_core.row_entries import RowEntries
from sae_core.sampling import draw

TOP = 20
PER_BIN = 5
SILENT = 5
REPEAT_TOKENS = 12
LOOKED_AT = 2_000
_CHUNK = 32


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
    def contexts(self) -> np.ndarray:
        """Token ids by context, [n_contexts, context]."""
        return self.token_ids.reshape(-1, self.context)

    @property
    def uncounted(self) -> np.ndarray:
        """The tokens that do not count."""
        return self.contexts[:, : self.first].reshape(-1)

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
    silent = silent_positions(found, text, rng)
    none = Band("none", silent, np.zeros(len(silent), np.float32))
    return [*binned, none, _band("top", found, strongest(found, text))]


def _band(name: str, found: FeatureCodes, chosen: np.ndarray) -> Band:
    order = np.lexsort((found.positions[chosen], -found.codes[chosen]))
    chosen = chosen[order]
    return Band(name, found.positions[chosen], found.codes[chosen])


def strongest(found: FeatureCodes, text: TokenText, n: int = TOP) -> np.ndarray:
    """Indices into `found` of the n strongest windows' peaks (the first of equals) without repeats, strongest first."""
    windows = _strongest_windows(found, text.window)
    return distinct((_peaks(found, some, text.window) for some in _chunks(windows)), found, text, n)


def _strongest_windows(found: FeatureCodes, window: int) -> np.ndarray:
    """The LOOKED_AT windows with the largest codes, strongest first, of equals the first."""
    kept, highest = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for part in found.parts(window):
        windows, codes = highest_codes(part, window)
        windows, codes = np.concatenate([kept, windows]), np.concatenate([highest, codes])
        best = np.argsort(-codes, kind="stable")[:LOOKED_AT]
        kept, highest = windows[best], codes[best]
    return kept


def highest_codes(found: FeatureCodes, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Every window with activity, ascending, and its largest code."""
    windows, starts = _active_windows(found, window)
    return windows, np.maximum.reduceat(found.codes, starts) if len(starts) else found.codes


def _active_windows(found: FeatureCodes, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Every window with activity, ascending, and the index of its first entry."""
    windows = found.positions // window
    changes = windows[1:] != windows[:-1]
    starts = np.r_[0, np.flatnonzero(changes) + 1][: len(windows)]
    return windows[starts], starts


def _peaks(found: FeatureCodes, windows: np.ndarray, window: int) -> np.ndarray:
    """Index into `found` of the largest code of each of these windows."""
    spans = zip(*active_spans(found, windows, window), strict=True)
    return np.array([start + found.codes[start:stop].argmax() for start, stop in spans], np.int64)


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def distinct(chunks: Iterable[np.ndarray], found: FeatureCodes, text: TokenText, n: int) -> np.ndarray:
    """The first n entries of `found`, of those that come in chunks, that are no repeat of an earlier one."""
    first: dict[bytes, int] = {}
    for entries in chunks:
        for entry, before in zip(entries, text.leading_up(found.positions[entries]), strict=True):
            first.setdefault(before.tobytes(), entry)
        if len(first) >= n:
            break
    return np.array(list(first.values())[:n], np.int64)


def _binned(found: FeatureCodes, histogram: TokenHistogram, text: TokenText, rng: np.random.Generator) -> list[Band]:
    """Of every bin at most PER_BIN entries, and one of every listed token that these lack."""
    if not len(found.codes):
        return []
    rows, chosen, extra = RowEntries(found, histogram, text.token_ids), [], []
    for bin, count in enumerate(histogram.bin_counts()):
        candidates = _chunks(draw(int(count), LOOKED_AT, rng))
        first, stop = rows.of_bin(bin)
        chosen.append(distinct((rows.entries(first, stop, some) for some in candidates), found, text, PER_BIN))
        lacking = set(histogram.listed(bin)) - set(text.token_ids[found.positions[chosen[bin]]])
        extra += [(bin, row, rng.choice(histogram.counts[row])) for row in rows.of_tokens(bin, sorted(lacking))]
    bins, row, which = np.array(extra, np.int64).reshape(-1, 3).T
    entries = rows.entries(row, row + 1, which)
    return [_band(f"bin{b}", found, np.concatenate([some, entries[bins == b]])) for b, some in enumerate(chosen)]


def silent_positions(found: FeatureCodes, text: TokenText, rng: np.random.Generator, n: int = SILENT) -> np.ndarray:
    """The middles of at most n uniformly drawn windows in which the feature is never active."""
    n_active = sum(len(_active_windows(part, text.window)[0]) for part in found.parts(text.window))
    drawn = np.sort(draw(text.n_windows - n_active, n, rng))
    # The k-th silent window is k plus the active ones before it, those with at most k silent ones before them.
    windows, done = drawn.copy(), 0
    for part in found.parts(text.window) if len(drawn) else ():
        active, _ = _active_windows(part, text.window)
        windows += np.searchsorted(active - np.arange(done, done + len(active)), drawn, side="right")
        done += len(active)
    return windows * text.window + text.window // 2


def active_spans(found: FeatureCodes, windows: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and stop, into `found`, of the entries inside each window; each [n]."""
    return (
        np.searchsorted(found.positions, windows * window),
        np.searchsorted(found.positions, (windows + 1) * window),
    )
