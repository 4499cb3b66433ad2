"""Whole dictionaries in other formats: the SAELens folder completed, and Neuronpedia's files with causal numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from precompute.common import bar, load_entry, load_model
from sae_core import compare
from sae_core.dictionaries import read_metadata, save_dictionary
from sae_core.dictionaries.standardisation import STANDARDISATIONS
from sae_core.errors import InputError
from sae_core.feature_selection import Selection
from sae_core.interop import neuronpedia as form
from sae_core.interop import neuronpedia_records as records
from sae_core.interop.neuronpedia_effects import CausalNumbers
from sae_core.store import DictionaryEntry, RunStore, atomic
from sae_core.tokens import original

FEATURES_A_FILE = 64
SPARSITY = "sparsity.safetensors"
RARE = 1e-10


# ---- SAELens


def saelens(store: RunStore, entry: DictionaryEntry, target: Path) -> None:
    """Write the dictionary to a new folder, its metadata completed. Raises InputError if something is there."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError("a new or empty folder", f"{target} with something in it", "Choose another, or empty it")
    dictionary = load_entry(store, entry)
    if store.table_state("features", entry.id) == "ready":
        density = store.read("features", entry.id, columns=["density"])["density"].to_numpy(np.float64)
        target.mkdir(parents=True, exist_ok=True)
        with atomic(target / SPARSITY) as temporary:
            save_file({"sparsity": torch.from_numpy(np.log10(density + RARE)).float()}, temporary)
    save_dictionary(dictionary, target, _metadata(store, entry))


def _metadata(store: RunStore, entry: DictionaryEntry) -> dict[str, Any]:
    """What is known of the dictionary, then every key that other loaders look for."""
    spec, known = store.manifest.spec, read_metadata(store.dictionary_folder(entry.id))
    corpus = spec.corpus.source[0] if spec.corpus.kind == "hub" else str(spec.corpus)
    needed = {
        "model_name": store.manifest.model.get("name") or spec.model.name,
        "context_size": spec.context,
        "dataset_path": corpus,
        "exclude_special_tokens": False,
        "seqpos_slice": [None],
        "neuronpedia_id": f"{form.model_id(store)}/{form.source_id(entry)}",
        "sae_lens_training_version": None,
    }
    return needed | {key: value for key, value in known.items() if value is not None or key not in needed}


# ---- Neuronpedia


@dataclass(frozen=True)
class Settings:
    """Who makes the export, and whether the model is loaded for causal numbers."""

    creator: str
    creator_id: str
    losses: bool
    device: str


def neuronpedia(store: RunStore, entry: DictionaryEntry, selection: Selection, path: Path, settings: Settings) -> None:
    """Write one source. A killed export continues; a folder with another export is refused (InputError)."""
    names = form.Names.of(store, entry, settings.creator_id, settings.creator)
    folder = path / names.model / names.source
    features = selection.of(store, entry.id)
    config = json.loads((store.dictionary_folder(entry.id) / "cfg.json").read_text(encoding="utf-8"))
    _begin(form.source(names, entry, store, config, _notes(entry, config, selection, settings)), folder)
    form.write_lines(folder / "release.jsonl", [form.release(names, store)])
    form.write_lines(folder / "model.jsonl", [form.model(names, store)])
    form.write_lines(folder / "sourceset.jsonl", [form.sourceset(names, entry)])
    numbers = _numbers(store, entry, settings.device) if settings.losses else None
    vectors = compare.decoder(store.dictionary_folder(entry.id))
    words = {int(id): original(token) for id, token in store.vocabulary().items()}
    parts = np.array_split(features, max(1, -(-len(features) // FEATURES_A_FILE)))
    for i, part in enumerate(bar(parts, f"features of {entry.id}", unit="file")):
        batch = records.Batch(store, entry, names, part.tolist(), vectors[part], words)
        for kind, found in _files(batch, numbers):
            target = folder / kind / f"batch-{i}.jsonl.gz"
            if not target.exists():
                form.write_lines(target, found())
    print(f"{folder}: {len(features):,} features")
    if numbers is None:
        print("lossValues, logitContributions and the tokens that directions write are empty: the model was not loaded")


def _files(batch: records.Batch, numbers: CausalNumbers | None) -> Iterator[tuple[str, Any]]:
    if numbers:
        batch.effects = numbers.contexts
        batch.logits = numbers.written(batch.features)
    yield "features", lambda: records.feature_records(batch)
    yield "activations", lambda: records.activation_records(batch)
    yield "explanations", lambda: records.explanation_records(batch)


def _numbers(store: RunStore, entry: DictionaryEntry, device: str) -> CausalNumbers:
    model = load_model(store, device)
    return CausalNumbers(model, load_entry(store, entry, model.device))


def _notes(entry: DictionaryEntry, config: form.Record, selection: Selection, settings: Settings) -> str:
    """What the numbers are; equal for equal exports, so that a killed one is known again."""
    causal = (
        "lossValues: loss of the next token after removal of the feature minus before (nats), the window read on its "
        "own; logitContributions: next-token logits before minus after, where the feature is active"
    )
    return json.dumps(
        {
            "dictionary": entry.id,
            "hash": entry.hash,
            "features": selection.text,
            "values": units(config),
            "causal": causal if settings.losses else "not computed",
        }
    )


def units(config: form.Record) -> str:
    """The units of activations, which Neuronpedia's own keys have no place for."""
    how = STANDARDISATIONS.get(config.get("normalize_activations"))
    other = f": the codes by saelensConfig times the {how.sigma_is} of the token's activation" if how else ""
    return f"in the units of the model's activation{other}"


def _begin(source: form.Record, folder: Path) -> None:
    """Write `source.jsonl` first, as the mark of which export the folder holds. Raises InputError for another one."""
    mark = folder / "source.jsonl"
    same = mark.exists() and mark.read_text(encoding="utf-8") == json.dumps(source, ensure_ascii=False) + "\n"
    if not same and folder.exists() and any(folder.iterdir()):
        raise InputError("a new folder, or one with the same export begun", f"another in {folder}", "Choose another")
    form.write_lines(mark, [source])
