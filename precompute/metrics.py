"""Measure every dictionary on held-out text, then choose which get all tables: the roles `main` and `headline`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from precompute.common import bar, load_entry, load_model
from sae_core.corpus import load_windows
from sae_core.dictionaries import read_metadata
from sae_core.errors import DictionaryError
from sae_core.language_model import LanguageModel
from sae_core.metrics import Metrics, held_out_batches, measure
from sae_core.specs import HEADLINE_L0, HEADLINE_RULE
from sae_core.store import DictionaryEntry, RunStore


@dataclass(frozen=True)
class Args:
    """Measure dictionaries on held-out tokens and choose the main and headline ones."""

    metric_tokens: int = 200_000
    """held-out tokens, in whole contexts; fewer if the corpus has fewer"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    batch: int = 16
    """contexts at once; fewer where the vocabulary is large"""


def run(store: RunStore, args: Args) -> None:
    """Measure what has no up-to-date row, layer by layer, then assign roles."""
    if not store.dictionaries:
        raise DictionaryError("trained dictionaries", "none in the run", "Train some: python -m precompute train")
    waiting = [e for e in store.dictionaries if store.table_state("metrics", e.id, **_settings(args)) != "ready"]
    layers = sorted({e.spec.site.layer for e in waiting})
    model = load_model(store, args.device) if waiting else None
    for layer in layers:
        _measure_layer(store, model, [e for e in waiting if e.spec.site.layer == layer], args)
    _choose(store)


def state(store: RunStore) -> str:
    """`missing`, `partial` (some dictionaries lack a row), `stale` or `ready`."""
    states = {store.table_state("metrics", e.id) for e in store.dictionaries}
    if states <= {"missing"}:
        return "missing"
    if "missing" in states:
        return "partial"
    chosen = any(e.role == "main" for e in store.dictionaries)
    return "ready" if states == {"ready"} and chosen else "stale"


# ---- measuring


def _settings(args: Args) -> dict[str, int]:
    return {"metric_tokens": args.metric_tokens}


def _measure_layer(store: RunStore, model: LanguageModel, entries: Sequence[DictionaryEntry], args: Args) -> None:
    """All dictionaries of one layer in one pass: the clean loss is theirs together."""
    tokens = load_windows(store.folder, "held_out").tokens
    batches = list(held_out_batches(tokens, args.metric_tokens, model.d_vocab, args.batch, model.device))
    dictionaries = [load_entry(store, entry, model.device) for entry in entries]
    what = f"metrics of layer {entries[0].spec.site.layer} ({len(entries)} dictionaries)"
    for entry, metrics in zip(entries, measure(model, dictionaries, bar(batches, what)), strict=True):
        frame = pd.DataFrame([row(entry, metrics, read_metadata(store.dictionary_folder(entry.id)))])
        store.write_table("metrics", frame, entry.id, store.provenance(entry.id, **_settings(args)))


def row(entry: DictionaryEntry, metrics: Metrics, metadata: Mapping) -> dict:
    """A row of the table `metrics`."""
    codes, losses = metrics.codes, metrics.losses
    return {
        "dictionary": entry.id,
        "n_tokens": codes.n_tokens,
        "l0": codes.l0,
        "fvu": codes.fvu,
        "n_features": entry.n_features,
        "n_alive": codes.n_alive,
        "loss_clean": losses.clean,
        "loss_spliced": losses.spliced,
        "loss_zero": losses.zero,
        "ce_recovered": losses.ce_recovered,
        "perplexity_clean": np.exp(losses.clean),
        "perplexity_spliced": np.exp(losses.spliced),
        "train_tokens": metadata.get("train_tokens", 0),
        "train_seconds": metadata.get("train_seconds", 0.0),
        "mean_l1": codes.mean_l1,
        "density_hist": codes.density_hist,
    }


# ---- choosing


def _choose(store: RunStore) -> None:
    l0 = {e.id: float(store.read("metrics", e.id, columns=["l0"])["l0"].iloc[0]) for e in store.dictionaries}
    chosen = assign_roles(store.dictionaries, l0)
    if chosen != store.dictionaries or store.manifest.headline_rule != HEADLINE_RULE:
        store.update_manifest(dictionaries=chosen, headline_rule=HEADLINE_RULE)


def assign_roles(entries: Iterable[DictionaryEntry], l0: Mapping[str, float]) -> tuple[DictionaryEntry, ...]:
    """`main`: of each site, kind and ratio the dictionary whose L0 is nearest 30; all others `sweep`.

    `headline`: of each layer the tied resid_post dictionary whose L0 is nearest 30. Ties go to the smaller alpha.
    Dictionaries to compare with take no part and keep the role they were given.
    """
    entries = tuple(entries)
    chosen_from = [e for e in entries if not e.spec.is_comparison]
    main = _nearest(chosen_from, l0, lambda e: (e.spec.site, e.spec.kind, e.spec.ratio))
    tied = [e for e in chosen_from if e.spec.site.name == "resid_post" and e.spec.kind == "tied"]
    headline = _nearest(tied, l0, lambda e: e.spec.site.layer)
    return tuple(
        e if e.spec.is_comparison else replace(e, role="main" if e.id in main else "sweep", headline=e.id in headline)
        for e in entries
    )


def _nearest(
    entries: Iterable[DictionaryEntry], l0: Mapping[str, float], group: Callable[[DictionaryEntry], Hashable]
) -> set[str]:
    """Of each group the id of the dictionary whose L0 is nearest 30."""
    best: dict[Hashable, str] = {}
    for entry in sorted(entries, key=lambda e: (abs(l0[e.id] - HEADLINE_L0), e.spec.alpha)):
        best.setdefault(group(entry), entry.id)
    return set(best.values())
