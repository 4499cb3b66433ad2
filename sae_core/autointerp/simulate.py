"""From a sentence to predicted activations, one request a fragment (paper App. A, step 3).

logprobs   a chat reply writes a number for each token; its expected value over 0 .. 10 from the log-probabilities
echo       the same for a text that the server reads back, the authors' way, where a server offers it
json       a chat reply writes the numbers out as JSON
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sae_core.autointerp import prompts
from sae_core.autointerp.client import Reply, Request
from sae_core.autointerp.fragments import SCALE

Tokens = Sequence[tuple[str, dict[str, float]]]
# More than any tokenizer makes of a line, and room for models that think first.
LONGEST_LINE, ROOM = 16, 1000
_LINE = re.compile(r"^[ \t]*(\d+)[ \t]*:[ \t]*(\d+)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Simulator:
    """How activations are predicted: `request(model, explanation, tokens, temperature)`, `parse(reply, n_tokens)`.

    tokens_a_line: about how many tokens the reply has for each token of the fragment.
    """

    request: Callable[[str, str, Sequence[str], float | None], Request]
    parse: Callable[[Reply, int], np.ndarray]
    tokens_a_line: int


# ---- logprobs: a chat reply


def _ask_lines(model: str, explanation: str, tokens: Sequence[str], temperature: float | None) -> Request:
    messages = prompts.simulate_lines(explanation, tokens)
    return Request(model, messages, "", ROOM + LONGEST_LINE * len(tokens), temperature, logprobs=True)


def expected_from_chat(reply: Reply, n_tokens: int) -> np.ndarray:
    """E[a] = sum over a of a p(a), a = 0 .. 10, p over the alternatives at each number of the reply; [n_tokens].

    Raises ValueError if the reply does not hold one line for each token, in order, or comes without log-probabilities.
    """
    if not reply.tokens:
        raise ValueError("a reply without log-probabilities (the simulator json needs none)")
    text = "".join(token for token, _ in reply.tokens)
    lines = list(_LINE.finditer(text))
    if [int(line[1]) for line in lines] != list(range(1, n_tokens + 1)):
        raise ValueError(f"{len(lines)} numbered lines instead of {n_tokens}")
    starts = np.cumsum([0] + [len(token) for token, _ in reply.tokens])
    return np.array([_expected_at(reply.tokens, starts, line.start(2)) for line in lines])


def _expected_at(tokens: Tokens, starts: np.ndarray, position: int) -> float:
    """The expected value of the number written at `position` of the text."""
    i = int(np.searchsorted(starts, position, side="right")) - 1
    probabilities = numbers(tokens[i][1], tokens[i][0][: position - starts[i]])
    written = tokens[i][0][position - starts[i] :].strip()
    if written == "1" and SCALE not in probabilities and i + 1 < len(tokens):
        # Where a tokenizer takes 10 apart, what p(1) holds is told by the digit that follows.
        follows = numbers(tokens[i + 1][1], "").get(0, 0.0)
        probabilities |= {1: probabilities.get(1, 0.0) * (1 - follows), SCALE: probabilities.get(1, 0.0) * follows}
    return expectation(probabilities)


def numbers(alternatives: dict[str, float], prefix: str) -> dict[int, float]:
    """Probability of each number 0 .. 10 among alternatives {text: log-probability} that begin with `prefix`."""
    found: dict[int, float] = {}
    for text, logprob in alternatives.items():
        rest = text[len(prefix) :].strip()
        if text.startswith(prefix) and rest.isdecimal() and rest == str(int(rest)) and int(rest) <= SCALE:
            found[int(rest)] = found.get(int(rest), 0.0) + math.exp(logprob)
    return found


def expectation(probabilities: dict[int, float]) -> float:
    """sum a p(a) / sum p(a). Raises ValueError if no number has any probability."""
    total = sum(probabilities.values())
    if total <= 0:
        raise ValueError("no number from 0 to 10 among the likeliest")
    return sum(number * p for number, p in probabilities.items()) / total


# ---- echo: a text read back


def _ask_echo(model: str, explanation: str, tokens: Sequence[str], temperature: float | None) -> Request:
    return Request(model, prompt=prompts.simulate_echo(explanation, tokens), temperature=temperature, logprobs=True)


def expected_from_echo(reply: Reply, n_tokens: int) -> np.ndarray:
    """E[a] over 0 .. 10 at every `?` after a tab; 0 where no number is among the likeliest, as the authors have it.

    Raises ValueError if the server did not read the whole text back with its log-probabilities.
    """
    if not reply.tokens:
        raise ValueError("no echo of the prompt with log-probabilities (the simulators logprobs and json need none)")
    before = [""] + [token for token, _ in reply.tokens]
    at = [
        alternatives
        for last, (token, alternatives) in zip(before, reply.tokens, strict=False)
        if token.startswith(prompts.UNKNOWN) and last.endswith("\t")
    ]
    if len(at) != n_tokens:
        raise ValueError(f"{len(at)} open numbers instead of {n_tokens} in the echoed prompt")
    found = (numbers(alternatives, "") for alternatives in at)
    return np.array([expectation(each) if each else 0.0 for each in found])


# ---- json: numbers written out


def _ask_json(model: str, explanation: str, tokens: Sequence[str], temperature: float | None) -> Request:
    messages = prompts.simulate_json(explanation, tokens)
    return Request(model, messages, "", ROOM + LONGEST_LINE * len(tokens), temperature)


def numbers_from_json(reply: Reply, n_tokens: int) -> np.ndarray:
    """The numbers of a JSON object {count: number}; [n_tokens].

    Raises ValueError if it is no JSON, lacks a token or has one too many, or a number is not in 0 .. 10.
    """
    found = json_object(reply.text)
    if set(found) != {str(i) for i in range(1, n_tokens + 1)}:
        raise ValueError(f"{len(found)} keys that are not 1 .. {n_tokens}")
    values = [found[str(i)] for i in range(1, n_tokens + 1)]
    if not all(type(value) in (int, float) and 0 <= value <= SCALE for value in values):
        raise ValueError(f"values that are no numbers from 0 to {SCALE}")
    return np.array(values, np.float64)


def json_object(text: str) -> dict:
    """The first JSON object in a reply; what stands around it (code fences, politeness) is passed over."""
    start = text.find("{")
    if start < 0:
        raise ValueError("a reply without JSON")
    found, _ = json.JSONDecoder().raw_decode(text[start:])
    return found


SIMULATORS = {
    "logprobs": Simulator(_ask_lines, expected_from_chat, 5),
    "echo": Simulator(_ask_echo, expected_from_echo, 0),
    "json": Simulator(_ask_json, numbers_from_json, 7),
}
