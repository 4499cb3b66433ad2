"""The language-model service: any server that speaks OpenAI's protocol. The only user of the openai package.

The key and the server come from the environment (OPENAI_API_KEY, OPENAI_BASE_URL) and stay inside the openai client:
neither is stored, printed or logged here, and a reply or an error that repeats the key is blanked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import openai

from sae_core.errors import AnswerError, ServiceError

KEY, SERVER = "OPENAI_API_KEY", "OPENAI_BASE_URL"
EXPLAINER, SIMULATOR = "SAE_EXPLAINER_MODEL", "SAE_SIMULATOR_MODEL"
BLANKED = "[key]"
SHORTEST_SECRET = 8
ALTERNATIVES = 20
ECHO_ALTERNATIVES = 15
LONGEST_MESSAGE = 300
HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
_NUMBERISH = re.compile(r"\D*\d{1,2}\D*")


@dataclass(frozen=True)
class Request:
    """One question. `messages` (role, text) is a chat; `prompt` instead is echoed back with its log-probabilities."""

    model: str
    messages: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    max_tokens: int = 1000
    temperature: float | None = None
    logprobs: bool = False

    @property
    def key(self) -> str:
        """A hash of everything that is asked."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def n_chars(self) -> int:
        return len(self.prompt) + sum(len(role) + len(text) for role, text in self.messages)


@dataclass(frozen=True)
class Reply:
    """What came back. tokens: (text, log-probability by alternative that holds a number), where they were asked for."""

    text: str
    tokens: tuple[tuple[str, Mapping[str, float]], ...] = ()
    prompt_tokens: int = 0
    reply_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reply:
        tokens = tuple((text, alternatives) for text, alternatives in values["tokens"])
        return cls(values["text"], tokens, values["prompt_tokens"], values["reply_tokens"])


class Client:
    """Asks a server. Rate limits, server errors, time-outs and lost connections are tried again by openai's client."""

    def __init__(self, timeout: float = 120.0, retries: int = 5) -> None:
        """timeout: seconds a request may take; retries: how often one is tried again. Raises ServiceError."""
        if not os.environ.get(KEY):
            fix = f"Set {KEY} (any text for a local server that asks for none)"
            raise ServiceError(f"a key in the environment variable {KEY}", "none", fix)
        self._openai = openai.OpenAI(timeout=timeout, max_retries=retries)
        # A short key is a placeholder for a local server; blanking it would blank ordinary text.
        self._secret = os.environ[KEY] if len(os.environ[KEY]) >= SHORTEST_SECRET else None

    def ask(self, request: Request) -> Reply:
        """The reply to one request.

        Raises ServiceError if no request can succeed (wrong key, unknown model), AnswerError if this one did not, and
        ValueError if what came back is no reply in OpenAI's form.
        """
        try:
            return _read(self._blank(self._send(request)), request)
        except HOPELESS as error:
            fix = f"Check {KEY}, {SERVER} and the model's name"
            raise ServiceError(f"a server that answers {request.model}", self._say(error), fix) from None
        except openai.APIConnectionError as error:
            fix = f"Check {SERVER} and the connection, then run the same command again"
            raise AnswerError(f"an answer from {request.model}", self._say(error), fix) from None
        except openai.OpenAIError as error:
            fix = "Run the same command again, with other settings if the server refuses these"
            raise AnswerError(f"an answer from {request.model}", self._say(error), fix) from None

    def _send(self, request: Request) -> str:
        common: dict[str, Any] = {"model": request.model}
        if request.temperature is not None:
            common["temperature"] = request.temperature
        if request.prompt:
            # Some servers refuse to write nothing, so one token is written and ignored.
            create = self._openai.completions.with_raw_response.create
            asked = create(prompt=request.prompt, echo=True, logprobs=ECHO_ALTERNATIVES, max_tokens=1, **common)
        else:
            create = self._openai.chat.completions.with_raw_response.create
            messages = [{"role": role, "content": text} for role, text in request.messages]
            extra = {"logprobs": True, "top_logprobs": ALTERNATIVES} if request.logprobs else {}
            asked = create(messages=messages, max_completion_tokens=request.max_tokens, **common, **extra)
        return asked.http_response.text

    def _say(self, error: Exception) -> str:
        """The error's own words on one line, without the key and not too long."""
        return " ".join(self._blank(str(error)).split())[:LONGEST_MESSAGE] or type(error).__name__

    def _blank(self, text: str) -> str:
        return text.replace(self._secret, BLANKED) if self._secret else text


def model_names() -> tuple[str, str]:
    """The explainer's and the simulator's model, from the environment; "" where none is named."""
    explainer = os.environ.get(EXPLAINER, "")
    return explainer, os.environ.get(SIMULATOR, "") or explainer


def _read(raw: str, request: Request) -> Reply:
    """A reply from the server's JSON. Raises ValueError where it is not of the expected form."""
    try:
        return _parsed(json.loads(raw), request)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"a reply that is not in OpenAI's form ({type(error).__name__})") from None


def _parsed(values: dict[str, Any], request: Request) -> Reply:
    choice, usage = values["choices"][0], values.get("usage") or {}
    counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    found = choice.get("logprobs") or {}
    if request.prompt:
        pairs = zip(found.get("tokens") or [], found.get("top_logprobs") or [], strict=True)
        return Reply(
            str(choice["text"]), tuple((str(token), _numberish(others or {})) for token, others in pairs), *counts
        )
    tokens = map(_chat_token, found.get("content") or []) if request.logprobs else ()
    return Reply(str(choice["message"]["content"] or ""), tuple(tokens), *counts)


def _chat_token(found: dict[str, Any]) -> tuple[str, dict[str, float]]:
    alternatives = {each["token"]: each["logprob"] for each in found.get("top_logprobs") or []}
    return str(found["token"]), _numberish(alternatives)


def _numberish(alternatives: Mapping[str, float]) -> dict[str, float]:
    """The alternatives that hold a number; the others are never looked at and would fill the disk."""
    return {text: round(float(value), 4) for text, value in alternatives.items() if _NUMBERISH.fullmatch(text)}
