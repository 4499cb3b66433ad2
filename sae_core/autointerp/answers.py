"""Answers on disk as they come: one line of JSON each, so that no question is paid for twice."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from sae_core.autointerp.client import Reply, Request
from sae_core.errors import AnswerError
from sae_core.store import storage_errors

ATTEMPTS = 3
T = TypeVar("T")


class Service(Protocol):
    """What answers questions: `client.Client`."""

    def ask(self, request: Request) -> Reply:
        """The reply to one request."""


class Answers:
    """The usable answers of one dictionary in a file of JSON lines, by the hash of what was asked.

    A line cut short by a kill is left out and asked again. Safe to use from several threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        self._lines = {line["request"]: line for line in _lines(path)}

    def stored(self, request: Request) -> Reply | None:
        """The stored answer to a request, if there is one."""
        line = self._lines.get(request.key)
        return None if line is None else Reply.from_dict(line["reply"])

    def close(self) -> None:
        """Let no thread ask anything more."""
        self._closed = True

    @property
    def used(self) -> dict[str, tuple[int, int, int]]:
        """Requests, prompt tokens and reply tokens of all stored answers, by model, as the server counted them."""
        totals: dict[str, tuple[int, int, int]] = {}
        for line in self._lines.values():
            before, reply = totals.get(line["model"], (0, 0, 0)), line["reply"]
            here = (1, reply["prompt_tokens"], reply["reply_tokens"])
            totals[line["model"]] = tuple(a + b for a, b in zip(before, here, strict=True))
        return totals

    def ask(self, service: Service, request: Request, parse: Callable[[Reply], T]) -> T:
        """What `parse` makes of the stored answer, or of a new one, which is then stored.

        `parse` raises ValueError for an answer that cannot be used; then the question is asked again, three times
        in all. Raises AnswerError if none could be used.
        """
        stored = self.stored(request)
        if stored is not None:
            return parse(stored)
        reason = ""
        for _ in range(ATTEMPTS):
            if self._closed:
                raise AnswerError("time to answer", "that the work was stopped", "Run the same command again")
            try:
                reply = service.ask(request)
                value = parse(reply)
            except ValueError as error:
                reason = str(error)
                continue
            self._add(request, reply)
            return value
        raise AnswerError("an answer of the form asked for", f"{reason}, {ATTEMPTS} times", "Try another model")

    def _add(self, request: Request, reply: Reply) -> None:
        line = {"request": request.key, "model": request.model, "reply": reply.to_dict()}
        with self._lock, storage_errors(self.path):
            self._lines[request.key] = line
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # A line that a kill cut short must not swallow this one.
                start = b"\n" if file.tell() and not _ends_with_newline(self.path) else b""
                file.write(start + json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _lines(path: Path) -> list[dict]:
    """The whole lines of the file."""
    if not path.exists():
        return []
    found = []
    for raw in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(raw)
            Reply.from_dict(line["reply"])
            found.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return found
