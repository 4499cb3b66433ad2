"""Leave out weights a run need not carry: `python -m precompute prune --run DIR --keep 2 --grid '*-r4-a0'`."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from precompute.common import parse_layers
from sae_core.errors import DictionaryError, SpecError
from sae_core.schemas import TABLES
from sae_core.store import DictionaryEntry, RunStore

GRID_TABLES = ("metrics", "scores", "sides", "factors")
"""All that is left of a grid dictionary: small tables that the figures of the paper draw."""


@dataclass(frozen=True)
class Args:
    """Turn dictionaries of sweeps into grid ones: metrics, scores, sides and factors stay. Main ones stay whole."""

    run: Path
    """the run folder; its metrics, which choose the main dictionaries, must be finished"""
    keep: str = "none"
    """layers whose sweep of alphas beside the headline dictionary keeps its weights: none, 0-5 or 0,2,4"""
    grid: tuple[str, ...] = ()
    """more to turn into grid ones, whatever their role but main: ids, or patterns such as 'L*-pca-*'"""


def run(args: Args) -> None:
    """Change the roles in the manifest, then delete the files. Raises DictionaryError without main dictionaries."""
    store = RunStore.open(args.run)
    if not store.main_dictionaries:
        fix = f"Run first: python -m precompute metrics --run {args.run}"
        raise DictionaryError("main dictionaries, chosen by their metrics", "none yet", fix)
    n_layers = store.manifest.model["n_layers"]
    layers = () if args.keep == "none" else parse_layers(args.keep, n_layers)
    named = _named(store, args.grid)
    chosen = [e for e in store.dictionaries if e.id in named or e.role == "sweep" and not _stays(store, e, layers)]
    _check_measured(store, chosen)
    entries = (replace(e, role="grid") if e in chosen else e for e in store.dictionaries)
    store.update_manifest(dictionaries=tuple(entries))
    for entry in store.dictionaries:
        if entry.role == "grid":  # those of an earlier prune too, which may have been stopped
            delete(store, entry)
    n_whole = sum(entry.role != "grid" for entry in store.dictionaries)
    print(f"of {len(chosen)} dictionaries only tables for Paper are left; {n_whole} keep their weights")


def _named(store: RunStore, patterns: Sequence[str]) -> set[str]:
    """Ids of the dictionaries that fit a pattern. Raises SpecError for a pattern that only main ones fit, or none."""
    found: set[str] = set()
    for pattern in patterns:
        fitting = {e.id for e in store.dictionaries if e.role != "main" and fnmatchcase(e.id, pattern)}
        if not fitting:
            raise SpecError("ids or patterns of dictionaries that are not main", repr(pattern), "See manifest.json")
        found |= fitting
    return found


def _stays(store: RunStore, entry: DictionaryEntry, layers: Collection[int]) -> bool:
    """Whether it differs from its layer's headline dictionary in alpha only, in these layers or by an alpha of 0.

    Alpha 0 is the control of the paper's figure on indirect objects, which needs its weights.
    """
    spec, headline = entry.spec, store.headline(entry.spec.site.layer)
    if headline is None or replace(spec, alpha=headline.spec.alpha) != headline.spec:
        return False
    return spec.site.layer in layers or spec.alpha == 0


def _check_measured(store: RunStore, entries: Iterable[DictionaryEntry]) -> None:
    lacking = [e.id for e in entries if store.table_state("metrics", e.id) != "ready"]
    if lacking:
        fix = f"Run first: python -m precompute metrics --run {store.folder}"
        raise DictionaryError("metrics of all that is to lose its weights", f"none of {', '.join(lacking)}", fix)


def delete(store: RunStore, entry: DictionaryEntry) -> None:
    """Remove a dictionary's folder and all tables but GRID_TABLES."""
    if store.dictionary_folder(entry.id).exists():
        shutil.rmtree(store.dictionary_folder(entry.id))
    for table in TABLES.values():
        if table.per_dictionary and table.name not in GRID_TABLES:
            store.table_path(table.name, entry.id).unlink(missing_ok=True)
