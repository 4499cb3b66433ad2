"""What a feature is called: one's own label, else an imported one, else a language model's explanation, else a rule.

A rule must predict decently. Where there is none of the four, callers show top tokens. Explanations are rows of the
table `scores`; names read only the rows of the features they are for, searches read the whole table once. Light.
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
from sae_core.imported_labels import ImportedLabels
from sae_core.schemas import TABLES
from sae_core.store import RunStore

RULE = "rule"
LEAST_RULE_SCORE = 0.3
"""A rule that correlates less with the activations is no name for the feature."""
PREFERRED_SETTING = "corrected"
KEYS_IN_LABEL = 3
SHORT_RULES = {"token": "token {}", "previous": "after {}", "suffix": "ends with {}", "ngram": "sequence {}"}
OWN, MODEL = "own", "model"
_READ = ["feature", "explainer", "scheme", "setting", "simulator", "kind", "explanation", "score", "skipped"]
_KEY = re.compile(r"“(.*?)”(?: \((\d+)\))?(?=, “|$)", re.DOTALL)
_SPACES = re.compile("␣{3,}")


@dataclass(frozen=True)
class Label:
    """What a feature is called. why: where it comes from, in a sentence.

    source: OWN, MODEL, RULE, or the format of an imported label (`neuronpedia`, `feature-circuits`).
    """

    text: str
    source: str
    why: str


def labels(store: RunStore, dictionary: str, features: Iterable[int]) -> dict[int, Label]:
    """The label of each of these features that has one: own, imported, explained. Missing scores are no error."""
    wanted = sorted(set(map(int, features)))
    own = Annotations(store).labels(dictionary)
    written = {f: Label(own[f], OWN, "Your own label.") for f in wanted if f in own}
    written = _imported(store, dictionary, [f for f in wanted if f not in written]) | written
    return _explained(store, dictionary, [f for f in wanted if f not in written]) | written


def _imported(store: RunStore, dictionary: str, features: list[int]) -> dict[int, Label]:
    """The first imported label of each feature."""
    first = ImportedLabels(store).frame(dictionary, features).drop_duplicates("feature")
    return {row.feature: Label(one_line(row.text), row.format, origin(row)) for row in first.itertuples(index=False)}


def origin(row: Any) -> str:
    """Where an imported label comes from, as a sentence: `Imported from neuronpedia, 3-res-sm. explained by ...`."""
    return f"Imported from {row.format}, {row.source}." + (f" {one_line(row.note)}" if row.note else "")


def one_line(text: str) -> str:
    """The text without line breaks and repeated spaces."""
    return " ".join(text.split())


def _explained(store: RunStore, dictionary: str, features: list[int]) -> dict[int, Label]:
    try:
        best = best_explanations(store, dictionary, features)
    except TableError:
        return {}
    return {row.feature: _label(row) for row in best.itertuples(index=False)}


def best_explanations(store: RunStore, dictionary: str, features: list[int]) -> pd.DataFrame:
    """Of each of these features the row of `scores` that may name it. Raises TableError without a usable table."""
    table = store.read_arrow("scores", dictionary, key=features, columns=_READ)
    return _best_first(table.filter(_usable(table))).drop_duplicates("feature")


def _label(row: Any) -> Label:
    """Of a row of `scores`."""
    if row.explainer == RULE:
        why = f"Rule, score {row.score:.2f}: {row.explanation}."
        return Label(short_rule(row.kind, row.explanation), RULE, why)
    return Label(one_line(row.explanation), MODEL, f"Explanation by {row.explainer}, score {row.score:.2f}.")


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
    """Everything said about a feature: imported labels, then its rows of `scores`, best first, skipped ones last.

    Columns of `scores`; an imported label has its origin as `explainer` and no score (NaN). Raises TableError for a
    table that is there and cannot be used.
    """
    parts = [_imported_rows(store, dictionary, feature), _scored_rows(store, dictionary, feature)]
    return pd.concat([part for part in parts if len(part)] or parts[1:], ignore_index=True)


def _imported_rows(store: RunStore, dictionary: str, feature: int) -> pd.DataFrame:
    imported = ImportedLabels(store).frame(dictionary, [feature])
    text = [f"{text} ({note})" if note else text for text, note in zip(imported["text"], imported["note"], strict=True)]
    explainer = imported["format"] + " " + imported["source"]
    rows = pd.DataFrame({"feature": imported["feature"], "explainer": explainer, "explanation": text})
    empty = dict.fromkeys(("scheme", "setting", "simulator"), "")
    unknown = dict.fromkeys(("score", "lower", "upper"), np.nan)
    rows = rows.assign(kind="imported", skipped=False, n_fragments=0, **empty, **unknown)
    return rows[TABLES["scores"].column_names]


def _scored_rows(store: RunStore, dictionary: str, feature: int) -> pd.DataFrame:
    if not store.table_path("scores", dictionary).exists():
        return pd.DataFrame(columns=TABLES["scores"].column_names)
    frame = _best_first(store.read_arrow("scores", dictionary, key=feature))
    return frame.sort_values(["skipped", "scheme"], ascending=[True, False], kind="stable", ignore_index=True)


# ---- search


def search(store: RunStore, dictionary: str, text: str) -> np.ndarray:
    """Features with an imported label or an explanation that contains the text, imported ones first, then the best.

    Case does not count, and a space also finds ␣.
    """
    imported = ImportedLabels(store).frame(dictionary)
    hit = imported["text"].str.contains(text, case=False, regex=False)
    found = np.r_[imported["feature"][hit].to_numpy(np.int64), _search_explanations(store, dictionary, text)]
    return pd.unique(found)


def _search_explanations(store: RunStore, dictionary: str, text: str) -> np.ndarray:
    try:
        store.table_info("scores", dictionary)
        found = _searchable(TableKey(store, "scores", dictionary))
    except TableError:
        return np.empty(0, dtype=np.int64)
    patterns = {text, text.replace(" ", "␣")}
    hits = [pc.match_substring(found.texts, pattern, ignore_case=True) for pattern in patterns]
    return found.features[np.any([hit.to_numpy(zero_copy_only=False) for hit in hits], axis=0)]


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
