"""One's own labels, notes and stars on features: a small SQLite file that lives with the run.

Rows belong to a dictionary's weights (its hash), so a dictionary trained again under the same name starts clean and
the old rows stay in the file. Several sessions may write at once; of two edits to one feature the later one counts.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from sae_core.errors import AnnotationError
from sae_core.store import RunStore

FILE = "annotations.sqlite"
WAIT_SECONDS = 10
LONGEST_LABEL = 200
LONGEST_NOTE = 10_000
COLUMNS = ("dictionary", "hash", "feature", "label", "note", "star", "updated")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS annotations (
    dictionary TEXT NOT NULL, hash TEXT NOT NULL, feature INTEGER NOT NULL,
    label TEXT NOT NULL, note TEXT NOT NULL, star INTEGER NOT NULL, updated TEXT NOT NULL,
    PRIMARY KEY (hash, feature)
)"""


@dataclass(frozen=True)
class Annotation:
    """What a reader wrote about one feature; `updated` is UTC, ISO 8601."""

    label: str = ""
    note: str = ""
    star: bool = False
    updated: str = ""


class Annotations:
    """The labels of a run. Every call opens its own connection, so threads and sessions do not share one."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.path = store.folder / FILE

    def get(self, dictionary: str, feature: int) -> Annotation:
        """What is written about a feature; empty if nothing. Raises AnnotationError if the file cannot be read."""
        rows = self._select("WHERE hash = ? AND feature = ?", self._hash(dictionary), feature)
        return Annotation(*rows[0][3:5], bool(rows[0][5]), rows[0][6]) if rows else Annotation()

    def put(self, dictionary: str, feature: int, label: str = "", note: str = "", star: bool = False) -> None:
        """Replace what is written about a feature; all empty removes it.

        Raises AnnotationError for texts that are too long, or if the file cannot be written.
        """
        self.store.check_feature(dictionary, feature)
        label, note = checked("label", label, LONGEST_LABEL), checked("note", note, LONGEST_NOTE)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = (dictionary, self._hash(dictionary), feature, label, note, int(star), now)
        with connection(self.path) as opened:
            opened.execute("PRAGMA journal_mode=WAL")
            opened.execute(_SCHEMA)
            if label or note or star:
                opened.execute("INSERT OR REPLACE INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            else:
                opened.execute("DELETE FROM annotations WHERE hash = ? AND feature = ?", row[1:3])

    def frame(self, dictionary: str | None = None) -> pd.DataFrame:
        """All rows, or those of one dictionary, by dictionary and feature: for search and export."""
        if dictionary is None:
            rows = self._select("ORDER BY dictionary, feature")
        else:
            rows = self._select("WHERE hash = ? ORDER BY feature", self._hash(dictionary))
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        return frame.astype({"feature": "int64", "star": "bool"})

    def labels(self, dictionary: str) -> dict[int, str]:
        """Non-empty labels of a dictionary by feature."""
        frame = self.frame(dictionary)
        return {int(f): text for f, text in zip(frame["feature"], frame["label"], strict=True) if text}

    def _hash(self, dictionary: str) -> str:
        return self.store.dictionary(dictionary).hash

    def _select(self, condition: str, *values: object) -> list[tuple]:
        return select(self.path, "annotations", COLUMNS, condition, *values)


# ---- the file, which one's own labels share with imported ones (sae_core.imported_labels)


def select(path: Path, table: str, columns: tuple[str, ...], condition: str, *values: object) -> list[tuple]:
    """Rows of a table of the labels file; none where the file or the table is not there yet."""
    if not path.exists():  # looking must not make a file: the run may be read-only
        return []
    with connection(path) as opened:
        if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return []
        return opened.execute(f"SELECT {', '.join(columns)} FROM {table} {condition}", values).fetchall()


@contextlib.contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of one's own, committed at the end. Raises AnnotationError if the file cannot be used."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as opened, opened:
            yield opened
    except sqlite3.Error as error:
        fix = "Check the disk and the folder's permissions, or move the file away to start a new one"
        raise AnnotationError(f"a labels file at {path}", str(error), fix) from None


def checked(what: str, text: str, longest: int) -> str:
    """The text without space around it, as UTF-8. Raises AnnotationError if it is too long."""
    text = text.strip()
    if len(text) > longest:
        raise AnnotationError(f"a {what} of at most {longest} characters", f"{len(text)}", f"Shorten the {what}")
    return text.encode("utf-8", "replace").decode("utf-8")
