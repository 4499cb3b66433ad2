"""A second run on the same text whose model has re-initialised weights: the control of Heap et al. 2025.

Its dictionaries read another model's activations, so they need a run of their own; every step and page works on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from precompute import corpus, metrics, train
from precompute.common import load_model
from sae_core.language_model import LanguageModel
from sae_core.store import RunStore, storage_errors

SUFFIX = "-reinitialised"


def make_reinitialised(store: RunStore, folder: Path, seed: int, settings: Sequence[train.Args]) -> RunStore:
    """The run at `folder`, made or continued: model, text, dictionaries trained with these settings, and metrics."""
    made = folder / "manifest.json"
    other = RunStore.open(folder) if made.exists() else _start(store, folder)
    if corpus.state(other) != "ready":
        _prepare(store, other, seed)
    for each in settings:
        train.run(other, each)
    metrics.run(other, metrics.Args(store.manifest.spec.metric_tokens, settings[0].device))
    return other


def write_reinitialised(model: LanguageModel, folder: Path, seed: int) -> None:
    """Write a copy of a model, as a Hugging Face folder, with every parameter drawn anew; `model` itself is changed.

    Each tensor keeps its mean and standard deviation and is otherwise normal noise, embeddings included.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.hf_model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(parameter.mean() + parameter.std(correction=0) * noise)
    with storage_errors(folder):
        model.hf_model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)


def _start(store: RunStore, folder: Path) -> RunStore:
    manifest = store.manifest
    spec = replace(manifest.spec, model=replace(manifest.spec.model, name=_name(store), revision=None))
    description = f"Control: the model of {manifest.name} with re-initialised weights."
    fresh = replace(manifest, name=folder.name, spec=spec, description=description, model={}, corpus={}, steps={})
    return RunStore.create(folder, replace(fresh, dictionaries=()))


def _prepare(store: RunStore, other: RunStore, seed: int) -> None:
    write_reinitialised(load_model(store, "cpu"), other.folder / "model", seed)
    with storage_errors(other.folder):
        shutil.copytree(store.folder / "corpus", other.folder / "corpus", dirs_exist_ok=True)
    model = load_model(other, "cpu")
    facts = {**store.manifest.model, **corpus.model_facts(other, model), "name": _name(store)}
    other.update_manifest(model=facts, corpus=store.manifest.corpus)
    other.write_table("vocabulary", corpus.vocabulary_frame(other, model))


def _name(store: RunStore) -> str:
    return Path(store.manifest.spec.model.name).name + SUFFIX
