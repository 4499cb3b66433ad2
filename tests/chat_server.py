"""A real HTTP server on this machine that speaks OpenAI's protocol, and can misbehave on demand."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG_SECONDS = 3.0
WHOLE, HALF = "whole", "half"


@dataclass
class Exchange:
    """What the server was asked, and how it shall answer.

    persona: a request's JSON -> the reply's JSON. trouble: what happens to the next requests instead, in order.
    """

    persona: Callable[[dict], dict]
    trouble: deque[str] = field(default_factory=deque)
    asked: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    def answer(self, body: dict) -> tuple[int, dict[str, str], bytes, str]:
        """Status, headers, body, and whether all of it is sent."""
        kind = self.trouble.popleft() if self.trouble else "answer"
        if kind == "429":
            return 429, {"Retry-After": "1"}, b'{"error": {"message": "slow down"}}', WHOLE
        if kind in ("400", "401", "404", "500"):
            said = {"error": {"message": f"no ({self.keys[-1]})"}}
            return int(kind), {}, json.dumps(said).encode(), WHOLE
        if kind == "hang":
            self.stopped.wait(HANG_SECONDS)
        if kind == "not json":
            return 200, {}, b"<html>busy</html>", WHOLE
        if kind == "other form":
            return 200, {}, b'{"object": "chat.completion", "choices": []}', WHOLE
        if kind == "half json":
            return 200, {}, json.dumps(self.persona(body)).encode()[:40], WHOLE
        if kind == "nonsense":
            return 200, {}, json.dumps(chat("Lorem {ipsum")).encode(), WHOLE
        return 200, {}, json.dumps(self.persona(body)).encode(), HALF if kind == "half" else WHOLE


def chat(text: str, tokens: list[tuple[str, dict[str, float]]] | None = None) -> dict:
    """A chat reply; tokens: (text, log-probability by alternative)."""
    choice: dict = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if tokens is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": 0.0,
                    "top_logprobs": [{"token": t, "logprob": p} for t, p in others.items()],
                }
                for token, others in tokens
            ]
        }
    return {"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}


def echoed(tokens: list[tuple[str, dict[str, float]]]) -> dict:
    """A completion that reads its prompt back."""
    logprobs = {"tokens": [t for t, _ in tokens], "top_logprobs": [None, *(others for _, others in tokens[1:])]}
    choice = {"index": 0, "finish_reason": "length", "text": "".join(t for t, _ in tokens), "logprobs": logprobs}
    return {"object": "text_completion", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}


def _handler(exchange: Exchange) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                exchange.asked.append(body)
                exchange.paths.append(self.path)
                exchange.keys.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
            status, headers, raw, how = exchange.answer(body)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw[: len(raw) // 2] if how == HALF else raw)
            self.close_connection = self.close_connection or how == HALF

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up waiting is no news."""


@contextmanager
def chat_server(persona: Callable[[dict], dict]) -> Iterator[Exchange]:
    """A server on a free port; `Exchange.url` is its base URL."""
    exchange = Exchange(persona)
    server = _Server(("127.0.0.1", 0), _handler(exchange))
    exchange.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield exchange
    finally:
        exchange.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
