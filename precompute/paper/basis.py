"""Step `basis`: the residual coordinate nearest to a landmark feature, by token (paper Fig. 11, App. D.1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from precompute.activation_files import from_model
from precompute.common import load_entry, load_model
from precompute.features import histogram_table
from precompute.harvest import HarvestArgs, write_indexes
from precompute.paper.states import summary
from sae_core.code_index import CodeIndex
from sae_core.contexts import TokenText
from sae_core.dictionaries import Dictionary
from sae_core.errors import InputError
from sae_core.histograms import feature_histogram
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from sae_core.store import DictionaryEntry, Provenance, RunStore
from sae_core.table_making import table_text, token_names

STEP = "basis"
TABLE = "basis_histograms"
LANDMARKS = "landmarks.json"


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Histogram the residual coordinate nearest to each landmark feature."""


@dataclass(frozen=True)
class Nearest:
    """The coordinate with the largest absolute component of a feature's direction of norm 1, and that component."""

    feature: int
    coordinate: int
    component: float


def run(store: RunStore, args: Args) -> None:
    """Write `basis_histograms` of every dictionary with a landmark. Raises InputError for a run without landmarks."""
    wanted = chosen(store)
    if not wanted:
        fix = f"Make them: python -m precompute landmarks --run {store.folder}"
        raise InputError(f"landmark features of residual dictionaries in {LANDMARKS}", "none", fix)
    waiting = {id: features for id, features in wanted.items() if _state(store, id, features) != "ready"}
    if not waiting:
        return
    model, text, names = load_model(store, args.device), table_text(store), token_names(store)
    nearest = {
        id: nearest_coordinates(load_entry(store, store.dictionary(id)).W_dec, features)
        for id, features in waiting.items()
    }
    sides = {id: coordinate_dictionary(store.dictionary(id).spec.site, model, found) for id, found in nearest.items()}
    store.clear_scratch(STEP)
    indexes = coordinate_codes(model, sides, text, args.batch, store.scratch(STEP))
    for id, features in waiting.items():
        frame = basis_rows(nearest[id], indexes[id], text, names)
        store.write_table(TABLE, frame, id, _provenance(store, id, features))
    store.clear_scratch(STEP)


def state(store: RunStore) -> str:
    """State of the tables of all dictionaries with a landmark; `missing` without landmarks."""
    return summary({_state(store, id, features) for id, features in chosen(store).items()})


def chosen(store: RunStore) -> dict[str, list[int]]:
    """Landmark features by dictionary, of dictionaries that read the residual stream; none without landmarks."""
    path = store.folder / LANDMARKS
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    by_id: dict[str, set[int]] = {}
    for landmark in found:
        by_id.setdefault(landmark["dictionary"], set()).add(landmark["feature"])
    return {e.id: sorted(by_id[e.id]) for e in store.dictionaries if e.id in by_id and _residual(e)}


def _residual(entry: DictionaryEntry) -> bool:
    return entry.spec.site.name == "resid_post"


def nearest_coordinates(directions: torch.Tensor, features: list[int]) -> list[Nearest]:
    """For each feature the coordinate nearest to its direction by absolute cosine; directions: [n_features, d]."""
    unit = torch.nn.functional.normalize(directions[features].float(), dim=1)
    coordinates = unit.abs().argmax(1)
    components = unit.gather(1, coordinates[:, None])[:, 0]
    return [Nearest(*found) for found in zip(features, coordinates.tolist(), components.tolist(), strict=True)]


def coordinate_dictionary(site: Site, model: LanguageModel, nearest: list[Nearest]) -> Dictionary:
    """A dictionary whose feature i is that side of coordinate i which the feature's component is on."""
    rows = torch.zeros(len(nearest), model.width(site))
    for row, found in zip(rows, nearest, strict=True):
        row[found.coordinate] = float(np.sign(found.component))
    return Dictionary(site, rows.T.contiguous(), torch.zeros(len(rows)), rows, torch.zeros(rows.shape[1])).to(
        model.device
    )


def coordinate_codes(
    model: LanguageModel, sides: dict[str, Dictionary], text: TokenText, batch: int, folder: Path
) -> dict[str, CodeIndex]:
    """Where each side is above 0 and its value there, of all dictionaries in one pass over the table tokens.

    The indexes lie in a fresh `folder`: a side is active on about half of the tokens, too many to be kept in memory.
    """
    indexes = {
        id: CodeIndex(folder / id, side.n_features, len(text.token_ids), text.context) for id, side in sides.items()
    }
    for index in indexes.values():
        index.folder.mkdir()
    read = from_model(model, list({side.site for side in sides.values()}), text.contexts)
    write_indexes(read, sides, indexes, text, batch, "residual coordinates")
    return indexes


def basis_rows(nearest: list[Nearest], sides: CodeIndex, text: TokenText, names: np.ndarray) -> pd.DataFrame:
    """Rows of `basis_histograms` of the features of one dictionary; feature i of `sides` is that of nearest[i]."""
    frames = []
    for found, side in zip(nearest, sides.features(), strict=True):
        histogram = feature_histogram(side, text.token_ids)
        frame = histogram_table(found.feature, histogram, names).to_pandas()
        frames.append(frame.assign(coordinate=found.coordinate, component=found.component))
    return pd.concat(frames, ignore_index=True)


def _provenance(store: RunStore, id: str, features: list[int]) -> Provenance:
    return store.provenance(id, table_tokens=store.manifest.spec.table_tokens, features=features)


def _state(store: RunStore, id: str, features: list[int]) -> str:
    return store.table_state(TABLE, id, **_provenance(store, id, features).settings)
