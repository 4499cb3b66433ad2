"""Which steps are at work on a run: each marks itself with a small file, so that pages can say so. Light.

    run/scratch/running/<step>.json     step, process, host, when it began, how far it is

The mark is refreshed every few seconds and removed at the end. One that a killed process left behind is told by its
age, or at once by its process where that was on this host.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sae_core.errors import SaeError
from sae_core.specs import Spec
from sae_core.store import atomic

REFRESH = 5.0
STALE_AFTER = 60.0


@dataclass(frozen=True)
class Mark(Spec):
    """A step at work. what, done and total: the part it is in; total 0 where it is not known. Times: Unix seconds."""

    step: str
    pid: int
    host: str
    started: float
    updated: float
    what: str = ""
    done: int = 0
    total: int = 0

    def alive(self, now: float | None = None) -> bool:
        """Whether its process still runs: by its number on this host, elsewhere by the age of the mark."""
        if self.host == socket.gethostname() and not _exists(self.pid):
            return False
        return (time.time() if now is None else now) - self.updated < STALE_AFTER

    def how_far(self) -> str:
        """`effects of L2-..., 40 %`; empty where nothing is known."""
        share = f", {self.done / self.total:.0%}".replace("%", " %") if self.total else ""
        return f"{self.what}{share}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # of another user
    return True


def marks(run_folder: Path) -> list[Mark]:
    """The marks of a run, live or left behind, by step; files that are no marks are left out."""
    found = []
    for path in sorted((run_folder / "scratch" / "running").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, SaeError):
            found.append(Mark.from_dict(json.loads(path.read_text(encoding="utf-8"))))
    return found


class Marker:
    """Keeps the mark of one step fresh from a thread of its own."""

    def __init__(self, run_folder: Path, step: str) -> None:
        now = time.time()
        self.path = run_folder / "scratch" / "running" / f"{step}.json"
        self.mark = Mark(step, os.getpid(), socket.gethostname(), now, now)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def start(self) -> None:
        """Write the mark and keep it fresh."""
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """Remove the mark."""
        self._over.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def tell(self, what: str, done: int, total: int | None) -> None:
        """How far the step is; written with the next refresh."""
        self.mark = replace(self.mark, what=what, done=done, total=total or 0)

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH):
            with contextlib.suppress(SaeError):  # a full disk stops the step itself, not its mark
                self._write()

    def _write(self) -> None:
        self.mark = replace(self.mark, updated=time.time())
        with atomic(self.path) as temporary:
            temporary.write_text(json.dumps(self.mark.to_dict()), encoding="utf-8")


_current: list[Marker] = []


@contextlib.contextmanager
def marked(run_folder: Path, step: str) -> Iterator[None]:
    """Mark a step as running while the block runs."""
    marker = Marker(run_folder, step)
    marker.start()
    _current.append(marker)
    try:
        yield
    finally:
        _current.remove(marker)
        marker.stop()


def tell(what: str, done: int, total: int | None) -> None:
    """How far the step that runs in this process is; nothing where none is marked."""
    if _current:
        _current[-1].tell(what, done, total)
