"""Which features of a dictionary: a small strict grammar for `--features`, and sets of features as ranges. Light.

    selection := "all" | clause { "and" clause }
    clause    := indices | ["not"] flag | column compared number
    indices   := item { "," item },  item := N | N "-" N          such as 3,17,40-99
    flag      := alive | dead | dense | position_only | outlier_direction
    compared  := < | <= | > | >= | =
    number    := a decimal number, or one followed by % (a hundredth)

`alive and density < 1%` or `0-999 and not dense`. Flags and columns are those of the table `features`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sae_core.errors import FeatureError, SpecError

if TYPE_CHECKING:
    import pandas as pd

    from sae_core.store import RunStore

ALL = "all"
FLAGS = ("alive", "dead", "dense", "position_only", "outlier_direction")
COLUMNS = ("density", "n_active", "max_activation", "mean_active", "entropy", "mean", "variance", "skew", "kurtosis")
COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
_INDICES = re.compile(r"\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*")
_COMPARISON = re.compile(r"([a-z_]+)\s*(<=|>=|<|>|=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(%?)")
_FLAG = re.compile(r"(not\s+)?([a-z_]+)")
LONGEST_INDEX = 9  # digits: larger than any dictionary, small enough to be an array of ranges

Clause = Callable[["pd.DataFrame | None", int], np.ndarray]  # rows of `features`, n_features -> mask [n_features]


@dataclass(frozen=True)
class Selection:
    """A parsed selection; `text` is what was written."""

    text: str
    clauses: tuple[Clause, ...]
    needs_table: bool

    def of(self, store: RunStore, dictionary: str) -> np.ndarray:
        """The features of a dictionary that it names, ascending.

        Raises FeatureError for an index that the dictionary does not have, TableError if a filter needs the table
        `features` and it is missing.
        """
        n = store.dictionary(dictionary).n_features
        rows = store.read("features", dictionary) if self.needs_table else None
        mask = np.ones(n, dtype=bool)
        for clause in self.clauses:
            mask &= clause(rows, n)
        return np.flatnonzero(mask)


def parse(text: str) -> Selection:
    """Read a selection. Raises SpecError that shows the grammar by example for anything else."""
    if text.strip() == ALL:
        return Selection(ALL, (), False)
    parts = [part.strip() for part in re.split(r"\band\b", text)]
    found = [_clause(part, text) for part in parts]
    needs_table = any(not _INDICES.fullmatch(part) for part in parts)
    return Selection(text.strip(), tuple(found), needs_table)


def _clause(part: str, text: str) -> Clause:
    if _INDICES.fullmatch(part):
        return _named(_ranges(part, text))
    compared, flag = _COMPARISON.fullmatch(part), _FLAG.fullmatch(part)
    if compared and compared[1] in COLUMNS:
        return _comparison(compared[1], COMPARED[compared[2]], float(compared[3]) / (100 if compared[4] else 1))
    if flag and flag[2] in FLAGS:
        return _flagged(flag[2], bool(flag[1]))
    raise _not_read(text, part)


def _named(ranges: list[tuple[int, int]]) -> Clause:
    def mask(rows: pd.DataFrame | None, n: int) -> np.ndarray:
        largest = max(last for _, last in ranges)
        if largest >= n:
            raise FeatureError(f"features from 0 to {n - 1}", str(largest), "Choose features of this dictionary")
        chosen = np.zeros(n, dtype=bool)
        for first, last in ranges:
            chosen[first : last + 1] = True
        return chosen

    return mask


def _comparison(column: str, compare: Callable, number: float) -> Clause:
    return lambda rows, n: compare(rows[column].to_numpy(np.float64), number)


def _flagged(name: str, negated: bool) -> Clause:
    column, wanted = ("dead", negated) if name == "alive" else (name, not negated)
    return lambda rows, n: rows[column].to_numpy() == wanted


def _ranges(part: str, text: str) -> list[tuple[int, int]]:
    found = []
    for item in part.split(","):
        first, _, last = (number.strip() for number in item.partition("-"))
        last = last or first
        if max(len(first), len(last)) > LONGEST_INDEX or int(first) > int(last):
            raise _not_read(text, item.strip())
        found.append((int(first), int(last)))
    return found


def _not_read(text: str, part: str) -> SpecError:
    expected = "features written all, 3,17,40, 0-99, or a filter such as alive and density<0.01"
    names = f"Flags: {', '.join(FLAGS)}; columns: {', '.join(COLUMNS)}; join clauses with `and`"
    return SpecError(expected, f"{part!r} in {text!r}" if part != text else repr(text), names)


# ---- sets of features as text


def as_ranges(features: Sequence[int] | np.ndarray) -> str:
    """Ascending features as ranges: [0, 1, 2, 7] -> `0-2,7`; empty for none."""
    features = np.asarray(features, dtype=np.int64)
    if not len(features):
        return ""
    breaks = np.flatnonzero(np.diff(features) != 1)
    firsts, lasts = features[np.r_[0, breaks + 1]], features[np.r_[breaks, len(features) - 1]]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(firsts, lasts, strict=True))


def from_ranges(text: str) -> np.ndarray:
    """Inverse of `as_ranges`; [n] int64. Raises SpecError for anything it does not write."""
    if not text:
        return np.zeros(0, np.int64)
    if not _INDICES.fullmatch(text):
        raise _not_read(text, text)
    return np.unique(np.concatenate([np.arange(a, b + 1) for a, b in _ranges(text, text)]))


def consecutive(features: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    """Runs of consecutive features, ascending, as (start, stop)."""
    return [(first, last + 1) for first, last in _ranges(as_ranges(features), "")] if len(features) else []
