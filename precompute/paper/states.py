"""What the steps of the paper share: which dictionaries can be read, and the state of many tables as one word."""

from __future__ import annotations

from collections.abc import Collection

from sae_core.store import DictionaryEntry, RunStore


def with_weights(store: RunStore) -> list[DictionaryEntry]:
    """The dictionaries whose weights are in the run; grid points of a sweep may have left theirs behind."""
    return [entry for entry in store.dictionaries if store.dictionary_folder(entry.id).is_dir()]


def summary(states: Collection[str]) -> str:
    """`ready`, `missing` (nothing made), `stale` (something made from other inputs) or `partial`."""
    if "stale" in states:
        return "stale"
    if not states or set(states) == {"missing"}:
        return "missing"
    return "ready" if set(states) == {"ready"} else "partial"
