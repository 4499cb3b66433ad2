"""Every text a language model is sent. Tokens are shown readable (`sae_core.tokens`): none hides or breaks a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from sae_core.tokens import VISIBLE

Messages = tuple[tuple[str, str], ...]
SHOWN_SPARSE_BELOW = 0.2
UNKNOWN = "?"
MARK = ("«", "»")

_SIGNS = "In the tokens, ␣ is a space, ↵ a new line, ⇥ a tab and ‹E2› a single byte. "

_FEATURE = (
    "A feature is one number that a small language model computes at every token of a text. It was put on a scale from "
    "0 (nothing) to 10 (the strongest ever seen). "
)

# ---- explain

_EXPLAIN = (
    _FEATURE
    + "You are shown passages in which a feature is strong, one token and its number on each line. "
    + _SIGNS
    + "Find out what makes the feature strong. It may be the token itself, the word it is part of, what stands just "
    "before it, the kind of text, or a meaning. Reply with one short sentence that would let somebody who has not seen "
    "these passages point out the strong tokens in other ones. Do not copy out lists of tokens, and do not speak of "
    "numbers, tokens, or the feature."
)
_EXPLAIN_SHOWN = (
    (("␣The", 0), ("␣train", 0), ("␣left", 0), ("␣on", 0), ("␣Monday", 10), ("␣and", 0), ("␣not", 0), ("␣Friday", 9)),
    (("␣Every", 1), ("␣Sun", 8), ("day", 6), (",", 0), ("␣bread", 0), ("␣is", 0), ("␣baked", 0), (".", 0)),
)
_EXPLAIN_REPLY = "Names of days of the week."

# ---- simulate

_SIMULATE = (
    _FEATURE
    + "You are told in one sentence what a feature responds to, and given a passage, one token on each line. "
    + _SIGNS
    + "Predict the feature at every token as a whole number from 0 to 10. Features are silent most of the "
    "time: give 0 wherever the sentence does not clearly apply. The feature sees only the token and what comes before "
    "it, never what comes after. "
)
_AS_LINES = (
    "The tokens are counted. Reply with one line for each token and nothing else: its count, a colon, its number."
)
_AS_JSON = (
    "The tokens are counted. Reply with one JSON object and nothing else: for each token its count as the key and its "
    "number as the value."
)
_AS_ECHO = "Each line holds a token, a tab and the number."
_SIMULATE_SHOWN = ("Names of days of the week.", ("␣On", "␣Tues", "day", "␣we", "␣rest"), (0, 7, 9, 0, 0))

# ---- judge

_JUDGE = (
    "You are told in one sentence what a feature of a language model responds to, and given {n} passages, each on a "
    "line of its own after its count. ↵ stands for a new line in the passage. {question} Judge each passage by itself; "
    "about half of all passages fit, but of these it may be any number. Reply with one JSON object and nothing else: "
    "for each passage its count as the key, and 1 for yes or 0 for no as the value."
)
_DETECTION = "Does the passage hold something that the feature responds to?"
_FUZZING = (
    f"In each passage some tokens stand between {MARK[0]} and {MARK[1]}. Are these the ones that the feature "
    "responds to?"
)


def explain(passages: Sequence[tuple[Sequence[str], np.ndarray]]) -> Messages:
    """Ask for an explanation from passages of (readable tokens, numbers 0 .. 10).

    Where fewer than a fifth of the numbers are above 0, the tokens that have one are listed once more.
    """
    texts = [listing(tokens, numbers) for tokens, numbers in passages]
    shown = "\n\n".join(f"Passage {i}\n{text}" for i, text in enumerate(texts, 1))
    numbers = np.concatenate([numbers for _, numbers in passages])
    if (numbers > 0).mean() < SHOWN_SPARSE_BELOW:
        tokens = np.concatenate([np.asarray(tokens, object) for tokens, _ in passages])
        strong = listing(tokens[numbers > 0], numbers[numbers > 0])
        shown += f"\n\nOnly the tokens above 0, in the same order\n{strong}"
    examples = "\n\n".join(
        f"Passage {i}\n{listing(*zip(*lines, strict=True))}" for i, lines in enumerate(_EXPLAIN_SHOWN, 1)
    )
    return (("system", _EXPLAIN), ("user", examples), ("assistant", _EXPLAIN_REPLY), ("user", shown))


def listing(tokens: Iterable[str], numbers: Iterable[int]) -> str:
    """One line for each token: the token, a tab, its number."""
    return "\n".join(f"{token}\t{number}" for token, number in zip(tokens, numbers, strict=True))


def simulate_lines(explanation: str, tokens: Sequence[str]) -> Messages:
    """Ask for a number for every token, as lines `count:number`."""
    return _simulate(_AS_LINES, explanation, tokens, "\n".join(f"{i}:{n}" for i, n in enumerate(_SIMULATE_SHOWN[2], 1)))


def simulate_json(explanation: str, tokens: Sequence[str]) -> Messages:
    """Ask for a number for every token, as one JSON object {count: number}."""
    return _simulate(_AS_JSON, explanation, tokens, json.dumps(dict(enumerate(_SIMULATE_SHOWN[2], 1))))


def _simulate(form: str, explanation: str, tokens: Sequence[str], reply: str) -> Messages:
    told, shown, _ = _SIMULATE_SHOWN
    asked = (("user", _task(told, shown)), ("assistant", reply), ("user", _task(explanation, tokens)))
    return (("system", _SIMULATE + form), *asked)


def simulate_echo(explanation: str, tokens: Sequence[str]) -> str:
    """A text whose own log-probabilities hold the numbers: every token is followed by a tab and UNKNOWN."""
    told, shown, numbers = _SIMULATE_SHOWN
    asked = listing(tokens, [UNKNOWN] * len(tokens))
    return (
        f"{_SIMULATE}{_AS_ECHO}\n\n"
        f"Responds to: {told}\n{listing(shown, numbers)}\n\nResponds to: {explanation}\n{asked}\n"
    )


def _task(explanation: str, tokens: Sequence[str]) -> str:
    counted = "\n".join(f"{i}\t{token}" for i, token in enumerate(tokens, 1))
    return f"Responds to: {explanation}\n{counted}"


def judge(explanation: str, passages: Sequence[str], marked: bool) -> Messages:
    """Ask which passages fit the explanation; `marked`: whether their marked tokens do."""
    system = _JUDGE.format(n=len(passages), question=_FUZZING if marked else _DETECTION)
    counted = "\n".join(f"{i}\t{passage}" for i, passage in enumerate(passages, 1))
    return (("system", system), ("user", f"Responds to: {explanation}\n{counted}"))


def passage(tokens: Sequence[str], marked: np.ndarray | None = None) -> str:
    """The tokens as running text on one line; runs of marked tokens (flags [n]) stand between « and »."""
    flags = np.zeros(len(tokens), bool) if marked is None else marked
    before = np.r_[False, flags[:-1]]
    after = np.r_[flags[1:], False]
    parts = (
        MARK[0] * int(flag and not first) + token + MARK[1] * int(flag and not last)
        for token, flag, first, last in zip(tokens, flags, before, after, strict=True)
    )
    return "".join(parts).replace(VISIBLE[" "], " ")
