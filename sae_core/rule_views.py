"""The ways in which rules (sae_core.rules) read the text, and which keys are common enough to be in a rule. Pure numpy.

The text is gone through BLOCK_TOKENS tokens at a time. What stays in memory are the keys that can be in a rule: those
of FEWEST_OCCURRENCES or more in the fitting half, 16 bytes each. The n-gram at every token lies on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sae_core.code_shards import mapped
from sae_core.contexts import TokenText

FEWEST_OCCURRENCES = 5
ENDINGS = (1, 2, 3, 4)
NGRAMS = (2, 3)
NO_KEY = -1
NEVER = 0
BLOCK_TOKENS = 2**20
KEYS_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class Reading:
    """What stands at a token, as a number below `size`; ids: positions -> numbers of the same shape."""

    ids: Callable[[np.ndarray], np.ndarray]
    size: int


@dataclass(frozen=True)
class View:
    """Keys made of what is read: the same key may stand for many things read, as an ending does for tokens.

    keys: [reading.size] the key of each, NEVER for none or one too rare to be a rule; None where they are the same.
    counts: [n_keys] occurrences in the fitting half, 0 for NEVER; `spell` makes a key readable; `sentence` has a
    place for the list of keys.
    """

    kind: str
    sentence: str
    reading: Reading
    keys: np.ndarray | None
    counts: np.ndarray
    spell: Callable[[int], str]

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The key at each position."""
        ids = self.reading.ids(positions)
        return ids if self.keys is None else self.keys[ids]

    def sums(self, of_ids: np.ndarray) -> np.ndarray:
        """Sums over what is read [reading.size] as sums over keys, [n_keys]."""
        return of_ids.copy() if self.keys is None else np.bincount(self.keys, of_ids, len(self.counts))


def views(text: TokenText, names: Sequence[str], fitting: np.ndarray, folder: Path | None = None) -> list[View]:
    """All views, simplest first. names: readable tokens by id; fitting: [n_contexts] of bool.

    The n-gram at every token, 4 bytes each, lies in nameless files in `folder`; without it, in memory.
    """
    token = Reading(text.token_ids.__getitem__, len(names))
    before = Reading(lambda positions: _previous(text, positions, len(names)), len(names) + 1)
    counts = _token_counts(text, fitting, len(names))
    found = [_view("token", "Active on {}", token, np.arange(len(names)), counts, names)]
    no_token = np.r_[np.arange(len(names)), NO_KEY]
    of_previous = _previous_counts(text, fitting, len(names))
    found.append(_view("previous", "Active right after {}", before, no_token, of_previous, names))
    for length in ENDINGS:
        endings, of_token = np.unique([_ending(name, length) for name in names], return_inverse=True)
        keys = np.where(endings == "", NO_KEY, np.arange(len(endings)))[of_token]
        found.append(_view("suffix", "Active on tokens that end in {}", token, keys, counts, endings))
    return [*found, *(_ngram_view(text, names, fitting, n, folder) for n in NGRAMS)]


def _view(
    kind: str, sentence: str, reading: Reading, keys: np.ndarray, counts: np.ndarray, names: Sequence[str]
) -> View:
    """A view of keys numbered as `names`, NO_KEY for none; keys, counts: of each thing read."""
    of_key = np.bincount(keys + 1, counts, len(names) + 1).astype(np.int64)[1:]
    known = np.flatnonzero(of_key >= FEWEST_OCCURRENCES)
    ids = np.zeros(len(names) + 1, np.int32)  # the last one, so also index NO_KEY, stays NEVER
    ids[known] = np.arange(1, len(known) + 1)
    return View(kind, sentence, reading, ids[keys], np.r_[0, of_key[known]], lambda key: str(names[known[key - 1]]))


def _ngram_view(text: TokenText, names: Sequence[str], fitting: np.ndarray, n: int, folder: Path | None) -> View:
    known, counts = common_ngrams(text, n, len(names), fitting)
    ids = np.empty(len(text.token_ids), np.int32) if folder is None else mapped(folder, np.int32, len(text.token_ids))
    for start, block in _blocks(text):
        keys = ngram_keys(block, n, len(names))
        at = np.searchsorted(known, keys)
        is_known = (np.append(known, NO_KEY)[at] == keys) & (keys != NO_KEY)
        ids[start : start + len(keys)] = np.where(is_known, at + 1, NEVER)
    base = len(names)

    def spell(key: int) -> str:
        number = int(known[key - 1])
        return "".join(names[number // base**back % base] for back in reversed(range(n)))

    reading = Reading(ids.__getitem__, len(known) + 1)
    return View("ngram", "Active at the end of {}", reading, None, np.r_[0, counts], spell)


def common_ngrams(text: TokenText, n: int, n_names: int, fitting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of FEWEST_OCCURRENCES or more in the fitting contexts, as `ngram_keys`, ascending; their counts.

    Exact. One pass over the text counts those n-grams that leave one remainder: so many passes that one of them meets
    at most about KEYS_AT_ONCE different ones.
    """
    passes = max(1, -(-int(fitting.sum()) * text.context // KEYS_AT_ONCE))
    found = [_common(text, n, n_names, fitting, remainder, passes) for remainder in range(passes)]
    known, counts = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(known)
    return known[order], counts[order]


def _common(
    text: TokenText, n: int, n_names: int, fitting: np.ndarray, remainder: int, passes: int
) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for _, block in _blocks(text, fitting):
        keys = ngram_keys(block, n, n_names)
        parts.append(np.unique(keys[(keys != NO_KEY) & (keys % passes == remainder)], return_counts=True))
    keys, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    known, which = np.unique(keys, return_inverse=True)
    totals = np.bincount(which, counts, len(known)).astype(np.int64)
    common = totals >= FEWEST_OCCURRENCES
    return known[common], totals[common]


def ngram_keys(text: TokenText, n: int, n_names: int) -> np.ndarray:
    """The last n tokens as one number (the earliest most significant); NO_KEY where the context has fewer; [tokens]."""
    keys = np.zeros(len(text.token_ids), np.int64)
    for back in reversed(range(n)):
        keys = keys * n_names + np.roll(text.token_ids, back)
    keys[np.arange(len(keys)) % text.context < n - 1] = NO_KEY
    return keys


def _blocks(text: TokenText, chosen: np.ndarray | None = None) -> Iterator[tuple[int, TokenText]]:
    """The text in blocks of whole contexts, or only the chosen contexts of it; with each where it starts."""
    contexts = text.token_ids.reshape(-1, text.context)
    size = max(1, BLOCK_TOKENS // text.context)
    for start in range(0, len(contexts), size):
        block = contexts[start : start + size]
        block = block if chosen is None else block[chosen[start : start + size]]
        yield start * text.context, TokenText(block.reshape(-1), text.context, text.window)


def _previous(text: TokenText, positions: np.ndarray, none: int) -> np.ndarray:
    """The token before each position; `none` at the start of a context."""
    return np.where(positions % text.context == 0, none, text.token_ids[positions - 1])


def _token_counts(text: TokenText, fitting: np.ndarray, n_names: int) -> np.ndarray:
    """Occurrences of every token in the fitting contexts, [n_names]."""
    counts = (np.bincount(block.token_ids, minlength=n_names) for _, block in _blocks(text, fitting))
    return sum(counts, np.zeros(n_names, np.int64))


def _previous_counts(text: TokenText, fitting: np.ndarray, n_names: int) -> np.ndarray:
    """How often every token stands before another of its context, and last the contexts; [n_names + 1]."""
    rows = (block.token_ids.reshape(-1, text.context)[:, :-1].reshape(-1) for _, block in _blocks(text, fitting))
    counts = sum((np.bincount(row, minlength=n_names) for row in rows), np.zeros(n_names, np.int64))
    return np.r_[counts, fitting.sum()]


def _ending(name: str, length: int) -> str:
    """The last `length` characters of a readable token; empty if it has fewer, or ends in part of a character."""
    bare = name.lstrip("␣")
    return bare[-length:] if len(bare) >= length and not bare.endswith("›") else ""
