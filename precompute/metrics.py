"""Measure every dictionary on held-out text, then choose which get all tables: the roles `main` and `headline`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from math import log

import numpy as np
import pandas as pd

from precompute.common import bar, load_entry, load_model
from precompute.workers import side_by_side
from sae_core.corpus import load_windows
from sae_core.dictionaries import read_metadata
from sae_core.errors import DictionaryError, SpecError
from sae_core.language_model import LanguageModel
from sae_core.metrics import Metrics, held_out_batches, measure
from sae_core.specs import HEADLINE_L0, HEADLINE_RATIO, HEADLINE_RULE, IMPORTED_KINDS
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
    tables: str = ""
    """more dictionaries that get all tables: ids or patterns such as 'L2-*-r8-a1e-3', separated by commas; the run
    remembers them until others are given, or none"""


def run(store: RunStore, args: Args) -> None:
    """Measure what has no up-to-date row, layer by layer, then assign roles."""
    if not store.dictionaries:
        raise DictionaryError("trained dictionaries", "none in the run", "Train some: python -m precompute train")
    tables = _tables(store, args.tables)
    waiting = [e for e in _measurable(store) if store.table_state("metrics", e.id, **_settings(args)) != "ready"]
    layers = sorted({e.spec.site.layer for e in waiting})
    model = load_model(store, args.device) if waiting else None
    for layer in layers:
        _measure_layer(store, model, [e for e in waiting if e.spec.site.layer == layer], args)
    _choose(store, tables)


def state(store: RunStore) -> str:
    """`missing`, `partial` (some dictionaries lack a row), `stale` or `ready`."""
    states = {store.table_state("metrics", e.id) for e in _measurable(store)}
    if states <= {"missing"}:
        return "missing"
    if "missing" in states:
        return "partial"
    chosen = any(e.role == "main" for e in store.dictionaries)
    return "ready" if states == {"ready"} and chosen else "stale"


def _measurable(store: RunStore) -> list[DictionaryEntry]:
    """All but the grid dictionaries, of which only their metrics are left."""
    return [entry for entry in store.dictionaries if entry.role != "grid"]


# ---- measuring


def _settings(args: Args) -> dict[str, int]:
    return {"metric_tokens": args.metric_tokens}


def _measure_layer(store: RunStore, model: LanguageModel, entries: Sequence[DictionaryEntry], args: Args) -> None:
    """All dictionaries of one layer in one pass: the clean loss is theirs together."""
    tokens = load_windows(store.folder, "held_out").tokens
    batches = partial(held_out_batches, tokens, args.metric_tokens, model.d_vocab, args.batch, model.device)
    dictionaries = [load_entry(store, entry, model.device) for entry in entries]
    what = f"metrics of {entries[0].spec.site.where} ({len(entries)} dictionaries)"
    each = partial(side_by_side, device=model.device)
    shown = bar(batches(), what, sum(1 for _ in batches()))  # counted, not kept: 8 bytes a token
    found = measure(model, dictionaries, shown, store.manifest.spec.first, each)
    for entry, metrics in zip(entries, found, strict=True):
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


def _tables(store: RunStore, asked: str) -> tuple[str, ...]:
    """Patterns of the dictionaries that get tables besides those of the rule. Raises SpecError for one without any."""
    if asked in ("", "none"):
        return () if asked else store.manifest.tables
    patterns = tuple(part.strip() for part in asked.split(","))
    for pattern in patterns:
        if not any(fnmatchcase(entry.id, pattern) for entry in _candidates(store.dictionaries)):
            expected = "ids or patterns of dictionaries with weights that are not there to be compared with"
            raise SpecError(expected, repr(pattern), "See the ids in the run's manifest.json")
    return patterns


def _choose(store: RunStore, tables: tuple[str, ...]) -> None:
    store.reload()  # another step may have added dictionaries meanwhile; those wait for the next `metrics`
    measured = [e for e in _measurable(store) if store.table_state("metrics", e.id) == "ready"]
    l0 = {e.id: float(store.read("metrics", e.id, columns=["l0"])["l0"].iloc[0]) for e in measured}
    roles = {e.id: e for e in assign_roles(measured, l0, tables)}
    chosen = tuple(roles.get(e.id, e) for e in store.dictionaries)
    new = {"dictionaries": chosen, "headline_rule": HEADLINE_RULE, "tables": tables}
    if any(getattr(store.manifest, name) != value for name, value in new.items()):
        store.update_manifest(**new)


def assign_roles(
    entries: Iterable[DictionaryEntry], l0: Mapping[str, float], tables: Iterable[str] = ()
) -> tuple[DictionaryEntry, ...]:
    """`main`: one dictionary of each site (`_preference`), those whose id fits a pattern of `tables`, and all imported
    ones; else `sweep`.

    `headline`: of each layer the tied resid_post one chosen so, not by a pattern, or where there is none the imported
    one. Dictionaries to compare with and grid ones take no part and keep the role they were given.
    """
    entries, tables = tuple(entries), tuple(tables)
    candidates = _candidates(entries)
    imported = [e for e in candidates if e.spec.kind in IMPORTED_KINDS]
    usual = _first(candidates, l0, lambda e: e.spec.site)
    tied = [e for e in candidates if e.id in usual and e.spec.kind == "tied"]
    stream = [e for e in (*tied, *imported) if e.spec.site.name == "resid_post"]
    headline = _first(stream, l0, lambda e: e.spec.site.layer)
    main = usual | {e.id for e in candidates if any(fnmatchcase(e.id, pattern) for pattern in tables)}
    main |= {e.id for e in imported}
    roles = {e.id: "main" if e.id in main else "sweep" for e in candidates}
    return tuple(replace(e, role=roles[e.id], headline=e.id in headline) if e.id in roles else e for e in entries)


def _candidates(entries: Iterable[DictionaryEntry]) -> list[DictionaryEntry]:
    return [e for e in entries if not e.spec.is_comparison and e.role != "grid"]


def _first(
    entries: Iterable[DictionaryEntry], l0: Mapping[str, float], group: Callable[[DictionaryEntry], Hashable]
) -> set[str]:
    """The id of the preferred dictionary of each group."""
    best: dict[Hashable, str] = {}
    for entry in sorted(entries, key=lambda e: _preference(e, l0[e.id])):
        best.setdefault(group(entry), entry.id)
    return set(best.values())


def _preference(entry: DictionaryEntry, l0: float) -> tuple:
    """The paper's kind of the site (tied, and untied in the MLP) before others; the ratio nearest 4; the L0 nearest 30.

    Ties go to the smaller ratio and the smaller alpha. Of imported ones only the L0 counts, and they come last.
    """
    spec = entry.spec
    if spec.kind in IMPORTED_KINDS:
        return True, "~imported", 0.0, 0.0, abs(l0 - HEADLINE_L0), spec.alpha
    usual = "untied" if spec.site.name == "mlp_post" else "tied"
    size = abs(log(spec.ratio / HEADLINE_RATIO)), spec.ratio
    return spec.kind != usual, spec.kind, *size, abs(l0 - HEADLINE_L0), spec.alpha
