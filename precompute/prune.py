"""Drop sweep dictionaries a run need not carry: `python -m precompute prune --run DIR --keep 2`."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from precompute.common import parse_layers
from sae_core.errors import DictionaryError
from sae_core.schemas import TABLES
from sae_core.specs import DictionarySpec
from sae_core.store import DictionaryEntry, RunStore


@dataclass(frozen=True)
class Args:
    """Remove dictionaries of the role sweep, with their tables; main ones always stay."""

    run: Path
    """the run folder; its metrics, which choose the main dictionaries, must be finished"""
    keep: str = "none"
    """layers whose tied resid_post sweep stays: none, 0-5 or 0,2,4"""


def run(args: Args) -> None:
    """Take the dictionaries off the manifest, then delete their files. Raises DictionaryError without main ones."""
    store = RunStore.open(args.run)
    if not store.main_dictionaries:
        fix = f"Run first: python -m precompute metrics --run {args.run}"
        raise DictionaryError("main dictionaries, chosen by their metrics", "none yet", fix)
    n_layers = store.manifest.model["n_layers"]
    layers = () if args.keep == "none" else parse_layers(args.keep, n_layers)
    dropped = [e for e in store.dictionaries if e.role == "sweep" and not _in_sweep(e.spec, layers)]
    store.update_manifest(dictionaries=tuple(e for e in store.dictionaries if e not in dropped))
    for entry in dropped:
        delete(store, entry)
    print(f"removed {len(dropped)} dictionaries, kept {len(store.dictionaries)}")


def _in_sweep(spec: DictionarySpec, layers: Collection[int]) -> bool:
    return spec.site.layer in layers and spec.site.name == "resid_post" and spec.kind == "tied"


def delete(store: RunStore, entry: DictionaryEntry) -> None:
    """Remove a dictionary's folder and tables."""
    shutil.rmtree(store.dictionary_folder(entry.id))
    for table in TABLES.values():
        if table.per_dictionary:
            store.table_path(table.name, entry.id).unlink(missing_ok=True)
