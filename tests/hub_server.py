"""A hub on this machine: a real HTTP server that serves folders as repositories, and can fail in the hub's ways."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Hub:
    """What the server serves and what it was asked.

    revisions: repository (data sets as `datasets/NAME`) -> {branch or tag: folder}; gated, private: repositories that
    need an account; expired: those that refuse the token they were sent. cut: file name -> bytes after which the
    connection is closed, once.
    """

    revisions: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    endpoint: str = ""

    def add(self, repository: str, folder: Path, revision: str = "main") -> str:
        """Serve a folder as a revision of a repository; its commit."""
        self.revisions.setdefault(repository, {})[revision] = folder
        return commit_of(folder)

    def folder(self, repository: str, revision: str) -> Path | None:
        """The folder of a branch, tag or commit."""
        known = self.revisions[repository]
        return known.get(revision) or {commit_of(folder): folder for folder in known.values()}.get(revision)

    def asked_for(self, file: str) -> list[tuple[str, str]]:
        """Method and range of every request for a file."""
        return [(method, ranged) for method, path, ranged in self.requests if path.endswith(f"/{file}")]


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Make this process ask the server at `endpoint`, as HF_ENDPOINT and HF_HOME would have at its start."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def commit_of(folder: Path) -> str:
    """40 hexadecimal digits that change with the names and contents of the files."""
    digest = hashlib.sha1()
    for file in files_of(folder):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """Its files, those in folders inside it included."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that runs while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(json.loads(self.rfile.read(length) or b"{}"))

    def _answer(self, body: dict | None = None) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        kind, repository, action, revision, rest = _parts(path)
        name = f"datasets/{repository}" if kind == "datasets" else repository
        if name in self.hub.gated:
            return self._error(403, "GatedRepo", f"Access to {kind} {repository} is restricted.")
        if name in self.hub.private:
            return self._error(401, "RepoNotFound", "Repository not found")
        if name in self.hub.expired:
            return self._error(401, "", "Invalid credentials in Authorization header")
        if name not in self.hub.revisions:
            return self._error(404, "RepoNotFound", "Repository not found")
        folder = self.hub.folder(name, revision)
        if folder is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if action == "resolve":
            return self._file(folder, rest)
        return self._json(self._described(folder, repository, action, rest, body))

    def _described(self, folder: Path, repository: str, action: str, rest: str, body: dict | None) -> object:
        entries = [_entry(folder, file) for file in files_of(folder)]
        if action == "tree":
            return entries if "recursive=true" in self.path.lower() else _listing(folder, folder / rest)
        if action == "paths-info":
            return [entry for entry in entries if entry["path"] in (body or {}).get("paths", [])]
        siblings = [{"rfilename": entry["path"]} for entry in entries]
        about = {"id": repository, "sha": commit_of(folder), "private": False, "gated": False, "tags": []}
        return about | {"siblings": siblings, "downloads": 0, "likes": 0, "lastModified": "2024-01-01T00:00:00.000Z"}

    def _file(self, folder: Path, name: str) -> None:
        file = folder / name
        if not file.is_file():
            return self._error(404, "EntryNotFound", "Entry not found")
        raw = file.read_bytes()
        start, stop = _range(self.headers.get("Range", ""), len(raw))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", f'"{hashlib.sha1(raw).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(folder))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(raw)}")
        self.end_headers()
        if self.command == "GET":
            self._send(raw[start:stop], self.hub.cut.pop(name, None))

    def _send(self, raw: bytes, cut: int | None) -> None:
        self.wfile.write(raw if cut is None else raw[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def _json(self, value: object) -> None:
        raw = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _error(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _parts(path: str) -> tuple[str, str, str, str, str]:
    """Kind, repository, action, revision and what follows, of an address of the hub's API or of one of its files."""
    words = path.strip("/").split("/")
    api = words[0] == "api"
    words = words[1:] if api else words
    kind = words[0] if words[0] in ("datasets", "models") else "models"
    words = words[1:] if words[0] == kind else words
    repository, words = "/".join(words[:2]), words[2:]
    action, revision = words[0] if words else "info", words[1] if len(words) > 1 else "main"
    return kind, repository, action, revision, "/".join(words[2:])


def _entry(folder: Path, file: Path) -> dict[str, object]:
    raw = file.read_bytes()
    path = file.relative_to(folder).as_posix()
    return {"type": "file", "path": path, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}


def _listing(folder: Path, inside: Path) -> list[dict[str, object]]:
    """The files and folders directly in one folder of a repository."""
    found = sorted(inside.iterdir()) if inside.is_dir() else []
    folders = [
        {"type": "directory", "path": f.relative_to(folder).as_posix(), "oid": "0" * 40} for f in found if f.is_dir()
    ]
    return [*folders, *(_entry(folder, file) for file in found if file.is_file())]


def _range(header: str, size: int) -> tuple[int, int]:
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first or 0), min(int(last) + 1 if last else size, size)
