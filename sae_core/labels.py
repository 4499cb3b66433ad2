"""What a feature is called: one's own label, else a language model's explanation, else a rule that predicts decently.

Where there is none of the three, callers show top tokens. Explanations are rows of the table `scores`; names read only
the rows of the features they are for, searches read the whole table once. Light.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sae_core.annotations import Annotations
from sae_core.autointerp.score import TOP_AND_RANDOM
from sae_core.browse import TableKey
from sae_core.errors import TableError
from sae_core.schemas import TABLES
from sae_core.store import RunStore

RULE = "rule"
LEAST_RULE_SCORE = 0.3
"""A rule that correlates less with the activations is no name for the feature."""
PREFERRED_SETTING = "corrected"
KEYS_IN_LABEL = 3
SHORT_RULES = {"token": "token {}", "previous": "after {}", "suffix": "ends with {}", "ngram": "sequence {}"}
OWN, MODEL = "own", "model"
_READ = ["feature", "explainer", "scheme", "setting", "kind", "explanation", "score", "skipped"]
_KEY = re.compile(r"“(.*?)”(?: \((\d+)\))?(?=, “|$)", re.DOTALL)
_SPACES = re.compile("␣{3,}")


@dataclass(frozen=True)
class Label:
    """What a feature is called. source: OWN, MODEL or RULE; why: where it comes from, in a sentence."""

    text: str
    source: str
    why: str


def labels(store: RunStore, dictionary: str, features: Iterable[int]) -> dict[int, Label]:
    """The label of each of these features that has one: own, else explained. Missing scores are no error."""
    wanted = sorted(set(map(int, features)))
    own = Annotations(store).labels(dictionary)
    written = {f: Label(own[f], OWN, "Your own label.") for f in wanted if f in own}
    return _explained(store, dictionary, [f for f in wanted if f not in written]) | written


def _explained(store: RunStore, dictionary: str, features: list[int]) -> dict[int, Label]:
    try:
        table = store.read_arrow("scores", dictionary, key=features, columns=_READ)
    except TableError:
        return {}
    best = _best_first(table.filter(_usable(table))).drop_duplicates("feature")
    return {row.feature: _label(row) for row in best.itertuples(index=False)}


def _label(row: Any) -> Label:
    """Of a row of `scores`."""
    if row.explainer == RULE:
        why = f"Rule, score {row.score:.2f}: {row.explanation}."
        return Label(short_rule(row.kind, row.explanation), RULE, why)
    return Label(" ".join(row.explanation.split()), MODEL, f"Explanation by {row.explainer}, score {row.score:.2f}.")


def short_rule(kind: str, explanation: str) -> str:
    """`token ␣the · ␣a`, `after ␣don`, `ends with -ing`: of a rule's keys at most 3, the strongest first.

    Keys at less than half of the first one's level are left out too; … stands for all that is, and for the rest of a
    run of spaces. The sentence itself for a kind that is not known here.
    """
    keys = [(_SPACES.sub("␣…", key), int(level or 1)) for key, level in _KEY.findall(explanation)]
    if kind not in SHORT_RULES or not keys:
        return explanation
    strong = list(dict.fromkeys(key for key, level in keys if 2 * level >= keys[0][1]))[:KEYS_IN_LABEL]
    shown = [f"-{key}" if kind == "suffix" else key for key in strong] + ["…"] * (len(strong) < len(keys))
    return SHORT_RULES[kind].format(" · ".join(shown))


# ---- which explanations may name a feature, and in which order


def _usable(table: pa.Table) -> pa.ChunkedArray:
    """Rows of the scheme that names use: of a language model, or of a rule with a decent score."""
    explained = pc.and_(pc.equal(table["scheme"], TOP_AND_RANDOM), pc.invert(table["skipped"]))
    decent = pc.greater_equal(table["score"], pa.scalar(LEAST_RULE_SCORE, pa.float32()))
    return pc.and_(explained, pc.or_(pc.not_equal(table["explainer"], RULE), decent))


def _best_first(table: pa.Table) -> pd.DataFrame:
    """Language models before rules, the corrected setting before others, then by score, largest first."""
    frame = table.to_pandas()
    order = np.lexsort((-frame["score"], frame["setting"] != PREFERRED_SETTING, frame["explainer"] == RULE))
    return frame.iloc[order]


# ---- everything about one feature


def explanations(store: RunStore, dictionary: str, feature: int) -> pd.DataFrame:
    """All rows of `scores` of a feature, best name first, skipped ones last; empty where the run has no such table.

    Raises TableError for a table that is there and cannot be used.
    """
    if not store.table_path("scores", dictionary).exists():
        return pd.DataFrame(columns=TABLES["scores"].column_names)
    frame = _best_first(store.read_arrow("scores", dictionary, key=feature))
    return frame.sort_values(["skipped", "scheme"], ascending=[True, False], kind="stable", ignore_index=True)


# ---- search


def search(store: RunStore, dictionary: str, text: str) -> np.ndarray:
    """Features an explanation of which contains the text (case aside, a space also as ␣), best explanation first."""
    try:
        store.table_info("scores", dictionary)
        found = _searchable(TableKey(store, "scores", dictionary))
    except TableError:
        return np.empty(0, dtype=np.int64)
    patterns = {text, text.replace(" ", "␣")}
    hits = [pc.match_substring(found.texts, pattern, ignore_case=True) for pattern in patterns]
    return pd.unique(found.features[np.any([hit.to_numpy(zero_copy_only=False) for hit in hits], axis=0)])


@dataclass(frozen=True)
class _Searchable:
    """Explanations of a dictionary that may name a feature, best first: features [n] and texts [n]."""

    features: np.ndarray
    texts: pa.Array


@lru_cache(maxsize=8)
def _searchable(key: TableKey) -> _Searchable:
    table = key.store.read_arrow(key.table, key.dictionary, columns=_READ)
    frame = _best_first(table.filter(_usable(table)))
    return _Searchable(frame["feature"].to_numpy(), pa.array(frame["explanation"], pa.string()))
