"""Step `stability`: which features of a headline dictionary are found again when it is trained with another seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from precompute import train
from precompute.common import load_entry, parse_layers
from precompute.paper.across_layers import across_rows
from precompute.paper.states import summary
from sae_core.dictionaries import read_metadata
from sae_core.errors import DictionaryError
from sae_core.metrics import ALIVE_ABOVE
from sae_core.schemas import FOUND_AGAIN
from sae_core.store import DictionaryEntry, Provenance, RunStore

STEP = "stability"
TABLE = "stability"
SEEDS_ON = 1
VARIANT = "seed{}"


@dataclass(frozen=True)
class Args:
    """Train a twin of each headline dictionary with another seed, and match their features one to one."""

    layers: str = "all"
    """layers whose headline dictionary gets a twin: all, 0-5 or 0,2,4"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    batch: int = 16
    """contexts passed through the model at once"""


def run(store: RunStore, args: Args) -> None:
    """Write `stability` of the headline dictionaries, whose twins are trained like them where they are missing."""
    layers = range(store.manifest.model["n_layers"])
    chosen = layers if args.layers == "all" else parse_layers(args.layers, len(layers))
    entries = [entry for layer in chosen if (entry := store.headline(layer)) is not None]
    if not entries:
        fix = f"Run first: python -m precompute metrics --run {store.folder}"
        raise DictionaryError("a headline dictionary in these layers", "none", fix)
    for entry in (entry for entry in entries if _state(store, entry) != "ready"):
        alive = _alive(store, entry)
        twin = train_twin(store, entry, args)
        frame = stability_rows(*(load_entry(store, each).W_dec.numpy() for each in (entry, twin)), twin.id)
        frame["alive"] = alive
        store.write_table(TABLE, frame, entry.id, _provenance(store, entry))
        print(f"{entry.id}: {share_found(frame):.0%} of its live features are found again in {twin.id}")


def state(store: RunStore) -> str:
    """State of the tables of all headline dictionaries."""
    return summary({_state(store, entry) for entry in store.dictionaries if entry.headline})


def train_twin(store: RunStore, entry: DictionaryEntry, args: Args) -> DictionaryEntry:
    """A dictionary like `entry` with the next seed, from the run or trained now; the seed draws weights and order."""
    metadata = read_metadata(store.dictionary_folder(entry.id))
    if not metadata.get("train"):
        fix = "Train it with: python -m precompute train"
        raise DictionaryError(f"how {entry.id} was trained, in its folder", "nothing about it", fix)
    spec, seed = entry.spec, metadata["train"]["seed"] + SEEDS_ON
    names = {f.name for f in dataclasses.fields(train.Args)}
    settings = {name: value for name, value in metadata["train"].items() if name in names} | {"seed": seed}
    sparsity = {"alphas": (spec.alpha,)} if spec.k is None else {"ks": (spec.k,)}
    place = {"layers": str(spec.site.layer), "sites": spec.site.name, "kind": spec.kind, "ratio": spec.ratio}
    run_settings = {"precision": "auto", "device": args.device, "batch": args.batch}
    variant = VARIANT.format(seed)
    train.run(store, train.Args(**settings, **sparsity, **place, **run_settings, variant=variant))
    return store.dictionary(replace(spec, variant=variant).id)


def stability_rows(own: np.ndarray, theirs: np.ndarray, twin: str) -> pd.DataFrame:
    """Rows of `stability` but for `alive`; own [n, d], theirs [m, d]: decoder directions."""
    rows = across_rows(own, theirs, twin)
    return rows.assign(found=rows["cosine"] > FOUND_AGAIN)


def share_found(frame: pd.DataFrame) -> float:
    """Share of the live features that are found again; 0 if none is alive."""
    alive = frame[frame["alive"]]
    return float(alive["found"].mean()) if len(alive) else 0.0


def _alive(store: RunStore, entry: DictionaryEntry) -> np.ndarray:
    return (store.read("features", entry.id, columns=["n_active"])["n_active"] > ALIVE_ABOVE).to_numpy()


def _twins(store: RunStore, entry: DictionaryEntry) -> Iterator[DictionaryEntry]:
    """Twins of a dictionary that the run has."""
    for other in store.dictionaries:
        if other.spec.variant.startswith("seed") and replace(other.spec, variant=entry.spec.variant) == entry.spec:
            yield other


def _provenance(store: RunStore, entry: DictionaryEntry) -> Provenance:
    return store.provenance(entry.id, twins=[twin.hash for twin in _twins(store, entry)])


def _state(store: RunStore, entry: DictionaryEntry) -> str:
    return store.table_state(TABLE, entry.id, **_provenance(store, entry).settings)
