"""What is computed so far of a run's feature tables, and the one way rows of more features are added to them. Light.

A table that holds some features names them in its provenance (setting `features`, as ranges); a table of all features
names none. Adding merges the rows, so the table is the same as if all its features had been asked for at once.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sae_core.feature_selection import as_ranges, from_ranges
from sae_core.store import DictionaryEntry, Provenance, RunStore, storage_errors

if TYPE_CHECKING:
    from sae_core.code_index import CodeIndex
    from sae_core.contexts import TokenText

MAKES = {
    "features": ("features", "token_histograms", "token_features"),
    "contexts": ("contexts",),
    "effects": ("logit_effects", "next_token_drops"),
    "edges": ("causal_edges",),
    "neighbours": ("neighbours",),
}
"""The tables of each step that writes tables of dictionaries."""
FEATURES = "features"
CODES = "codes"  # scratch folder of the code indexes
OTHER_TEXT = "all others"
_FEATURES_READ_AT_ONCE = 1024
_THREADS = threading.Lock()


# ---- what tables are made from


def table_text(store: RunStore) -> TokenText:
    """The table tokens of a run: the first `table_tokens` tokens of the training split, in whole contexts."""
    from sae_core.contexts import TokenText
    from sae_core.corpus import load_windows

    spec = store.manifest.spec
    contexts = load_windows(store.folder, "train").tokens[: max(1, spec.table_tokens // spec.context)]
    return TokenText(contexts.reshape(-1), spec.context, spec.window, spec.first)


def token_names(store: RunStore) -> np.ndarray:
    """Readable token by id, [n_tokens + 1]; the last one, so also index -1, stands for all other tokens."""
    return np.array([*store.vocabulary(), OTHER_TEXT], dtype=object)


def parent_of(store: RunStore, entry: DictionaryEntry) -> DictionaryEntry | None:
    """The headline dictionary one layer below a headline dictionary: the parent side of its causal edges."""
    layer = entry.spec.site.layer
    return store.headline(layer - 1) if entry.headline and layer > 0 else None


def owners(store: RunStore, step: str) -> list[DictionaryEntry]:
    """The dictionaries a step writes tables for."""
    return [d for d in store.main_dictionaries if step != "edges" or parent_of(store, d) is not None]


def provenance(store: RunStore, step: str, entry: DictionaryEntry) -> Provenance:
    """What the tables of a step are made from, its settings and other dictionaries included."""
    spec, layer = store.manifest.spec, entry.spec.site.layer
    settings: dict[str, Any] = {"table_tokens": spec.table_tokens, "seed": spec.seed}
    others = {"edges": (layer - 1,), "neighbours": (layer - 1, layer + 1)}.get(step, ())
    if others and entry.headline:
        found = [store.headline(other) for other in others]
        settings["others"] = [d.hash if d else "" for d in found]
    return store.provenance(entry.id, **settings)


def codes_made_from(store: RunStore, entry: DictionaryEntry, text: TokenText) -> Provenance:
    """What the codes of a dictionary over the table tokens are made from."""
    return store.provenance(entry.id, n_tokens=len(text.token_ids), context=text.context)


def kept_codes(store: RunStore, entry: DictionaryEntry, text: TokenText) -> CodeIndex | None:
    """The codes of a dictionary that steps keep while a table still needs them; None where they are not whole."""
    from sae_core.code_index import CodeIndex

    folder = store.folder / "scratch" / CODES / entry.id
    made_from = json.dumps(codes_made_from(store, entry, text).to_dict(), sort_keys=True)
    stamp = folder / "made_from.json"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != made_from:
        return None
    index = CodeIndex(folder, entry.n_features, len(text.token_ids), text.context)
    return None if index.missing() else index


# ---- how far they are


@dataclass(frozen=True)
class Made:
    """How far a step is for one dictionary: `missing`, `stale`, `partial` or `ready`, and the features it has."""

    state: str
    features: np.ndarray  # ascending; all of them where it is ready, none where it is missing or stale


def made(store: RunStore, step: str, entry: DictionaryEntry) -> Made:
    """State and features of a step's tables of a dictionary; a feature counts when all of the tables have it."""
    wanted = provenance(store, step, entry)
    found = [_table_made(store, table, entry, wanted) for table in MAKES[step]]
    states = {one.state for one in found}
    state = next(iter(states)) if len(states) == 1 else "stale" if "stale" in states else "partial"
    features = found[0].features
    for one in found[1:]:
        features = np.intersect1d(features, one.features, assume_unique=True)
    return Made(state, features)


def _table_made(store: RunStore, table: str, entry: DictionaryEntry, wanted: Provenance) -> Made:
    state = store.table_state(table, entry.id)
    none = np.zeros(0, np.int64)
    if state != "ready":
        return Made(state, none)
    settings = dict(store.table_info(table, entry.id).settings)
    some = settings.pop(FEATURES, None)
    if settings != wanted.to_dict()["settings"]:
        return Made("stale", none)
    return Made("ready", np.arange(entry.n_features)) if some is None else Made("partial", from_ranges(some))


def held(store: RunStore, table: str, dictionary: str) -> np.ndarray | None:
    """The features that a table was computed for, ascending; None for all of them. Raises TableError without it."""
    some = store.table_info(table, dictionary).settings.get(FEATURES)
    return None if some is None else from_ranges(some)


def holds(store: RunStore, table: str, dictionary: str, feature: int) -> bool:
    """Whether a table is there and was computed for a feature, which may have no rows in it all the same."""
    if store.table_state(table, dictionary) == "missing":
        return False
    some = held(store, table, dictionary)
    return some is None or feature in some


def step_state(store: RunStore, step: str) -> str:
    """`ready`, `missing` (nothing made), `stale` (something made from other inputs) or `partial`."""
    if not store.main_dictionaries:
        return "missing"
    found = {made(store, step, entry).state for entry in owners(store, step)}
    if "stale" in found:
        return "stale"
    return "ready" if found <= {"ready"} else "missing" if found == {"missing"} else "partial"


def run_states(store: RunStore) -> dict[str, str]:
    """State of every step of the pipeline, in its order; of the first three only whether they have been done."""
    done = {
        "corpus": bool(store.manifest.corpus.get("hash")),
        "train": bool(store.dictionaries),
        "metrics": bool(store.main_dictionaries),
    }
    found = {step: "ready" if is_done else "missing" for step, is_done in done.items()}
    found |= {step: step_state(store, step) for step in MAKES}
    if found["contexts"] == "ready" and store.table_state("windows") != "ready":
        found["contexts"] = "partial"
    return found


def progress(store: RunStore, step: str) -> tuple[int, int]:
    """Features that a step's tables hold, and features of all its dictionaries."""
    entries = owners(store, step)
    return sum(len(made(store, step, entry).features) for entry in entries), sum(d.n_features for d in entries)


def how_far(store: RunStore, step: str) -> str:
    """`120 of 2,048 features` for a step that has made some of its tables, else empty."""
    if step not in MAKES or step_state(store, step) != "partial":
        return ""
    done, total = progress(store, step)
    return f"{done:,} of {total:,} features"


# ---- adding


def add_rows(
    store: RunStore,
    step: str,
    entry: DictionaryEntry,
    blocks: Mapping[str, Iterable[pa.Table]],
    features: np.ndarray,
    made_from: Provenance | None = None,
) -> None:
    """Add the rows of `features` to the step's tables; what is there of other features, made from the same, stays.

    blocks: for each table of the step, tables sorted by its key, each feature whole inside one. features: all that
    were looked at, those without rows too. Raises StorageError if the run folder cannot be written.
    """
    wanted = made_from or provenance(store, step, entry)
    with _locked(store):
        for table in MAKES[step]:
            before = _table_made(store, table, entry, wanted).features
            kept = np.setdiff1d(before, features, assume_unique=True)
            rows = _merged(store, table, entry, kept, blocks[table]) if len(kept) else blocks[table]
            now = _with_features(wanted, np.union1d(before, features), entry)
            store.write_sorted(table, rows, entry.id, now)


def _with_features(wanted: Provenance, features: np.ndarray, entry: DictionaryEntry) -> Provenance:
    if len(features) == entry.n_features:
        return wanted
    return replace(wanted, settings={**wanted.settings, FEATURES: as_ranges(features)})


def _merged(
    store: RunStore, table: str, entry: DictionaryEntry, kept: np.ndarray, blocks: Iterable[pa.Table]
) -> Iterator[pa.Table]:
    """Stored rows of the features `kept` and the new blocks, together in the order of the features."""
    start = 0
    for block in blocks:
        if not len(block):
            continue
        first, last = (pc.min_max(block.column("feature"))[end].as_py() for end in ("min", "max"))
        yield from _stored(store, table, entry, kept[(kept >= start) & (kept < first)])
        between = [*_stored(store, table, entry, kept[(kept >= first) & (kept <= last)])]
        yield _in_order(pa.concat_tables([*between, block.cast(between[0].schema)])) if between else block
        start = last + 1
    yield from _stored(store, table, entry, kept[kept >= start])


def _stored(store: RunStore, table: str, entry: DictionaryEntry, features: np.ndarray) -> Iterator[pa.Table]:
    for i in range(0, len(features), _FEATURES_READ_AT_ONCE):
        yield store.read_arrow(table, entry.id, key=features[i : i + _FEATURES_READ_AT_ONCE])


def _in_order(rows: pa.Table) -> pa.Table:
    """The rows by feature; those of one feature keep their order."""
    return rows.take(pa.array(np.argsort(rows.column("feature").to_numpy(), kind="stable")))


@contextlib.contextmanager
def _locked(store: RunStore) -> Iterator[None]:
    """One writer at a time: a page that adds a feature and a step that finishes must not lose each other's rows."""
    folder = store.folder / "tables"
    with _THREADS, storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            try:
                import fcntl
            except ImportError:  # Windows: threads of one process still wait for each other
                yield
            else:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
