"""Labels that came from elsewhere (Neuronpedia, feature-circuits), kept beside one's own in the labels file of the run.

As one's own they belong to a dictionary's weights (its hash). Reading the same file again changes nothing. Light.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from sae_core.annotations import FILE, checked, connection, select
from sae_core.store import RunStore

LONGEST_TEXT = 2_000
ASKED_FOR = 500  # features asked for one by one; for more the whole dictionary is read
COLUMNS = ("feature", "format", "source", "text", "note")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS imported (
    dictionary TEXT NOT NULL, hash TEXT NOT NULL, feature INTEGER NOT NULL,
    format TEXT NOT NULL, source TEXT NOT NULL, text TEXT NOT NULL, note TEXT NOT NULL,
    UNIQUE (hash, feature, format, source, text)
)"""


@dataclass(frozen=True)
class ImportedLabel:
    """format: whose file it was, `neuronpedia` or `feature-circuits`; source: the dictionary's name there."""

    feature: int
    format: str
    source: str
    text: str
    note: str = ""


class ImportedLabels:
    """The imported labels of a run."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.path = store.folder / FILE

    def add(self, dictionary: str, labels: Iterable[ImportedLabel]) -> int:
        """Keep labels of a dictionary; the number of those that were not there yet.

        Raises FeatureError for a feature it does not have, AnnotationError if the file cannot be written.
        """
        rows = [self._row(dictionary, label) for label in labels]
        with connection(self.path) as opened:
            opened.execute("PRAGMA journal_mode=WAL")
            opened.execute(_SCHEMA)
            before = opened.total_changes
            opened.executemany("INSERT OR IGNORE INTO imported VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            return opened.total_changes - before

    def _row(self, dictionary: str, label: ImportedLabel) -> tuple[object, ...]:
        feature = self.store.check_feature(dictionary, label.feature)
        text, note = checked("label", label.text, LONGEST_TEXT), checked("note", label.note, LONGEST_TEXT)
        hash = self.store.dictionary(dictionary).hash
        return dictionary, hash, feature, label.format, label.source, text, note

    def forget(self, format: str) -> int:
        """Remove all labels of a format from the run; their number."""
        if not self.path.exists():
            return 0
        with connection(self.path) as opened:
            opened.execute(_SCHEMA)
            return opened.execute("DELETE FROM imported WHERE format = ?", (format,)).rowcount

    def frame(self, dictionary: str, features: Sequence[int] | None = None) -> pd.DataFrame:
        """Labels of a dictionary, or of some of its features, by feature and in the order they came in."""
        wanted, values = "", [self.store.dictionary(dictionary).hash]
        if features is not None and len(features) <= ASKED_FOR:
            wanted = f"AND feature IN ({', '.join('?' * len(features))})"
            values += map(int, features)
        condition = f"WHERE hash = ? {wanted} ORDER BY feature, rowid"
        rows = select(self.path, "imported", COLUMNS, condition, *values)
        frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"feature": "int64"})
        return frame if features is None else frame[frame["feature"].isin(features)].reset_index(drop=True)
