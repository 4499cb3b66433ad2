"""What a page says of a dictionary that was trained elsewhere: where it came from, and what its health check found."""

from __future__ import annotations

import streamlit as st

from app.components import plots
from app.glossary import plain
from sae_core.store import DictionaryEntry, RunStore


def sources(run: RunStore) -> dict[str, str]:
    """`FORMAT:PLACE` of each imported dictionary, by id."""
    return {entry.id: entry.imported["from"] for entry in run.dictionaries if entry.imported}


def warn(run: RunStore) -> None:
    """A warning for each imported dictionary that does not fit the activations it is said to read."""
    for entry in run.dictionaries:
        if entry.imported and not entry.imported["fits"]:
            verdict = plain(entry.imported["verdict"])
            st.warning(f"{plain(entry.id)} may not fit this run: {verdict}.", icon=":material/warning:")


def origin(entry: DictionaryEntry) -> None:
    """One line about where a dictionary came from; nothing for one that was trained here."""
    if entry.imported:
        told = entry.imported
        version = f", version {told['revision'][:12]}" if told["revision"] else ""
        plots.note(
            f"Imported from {told['from']} ({told['file']}{version}, sha256 {told['sha256'][:12]}). "
            f"Health check at the import: {told['verdict']}."
        )
