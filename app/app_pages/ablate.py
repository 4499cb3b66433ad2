"""Ablate: type sentences, see which features fire, change some of them, and read what the model predicts instead."""

from __future__ import annotations

import streamlit as st

from app import links, state
from sae_core.store import DictionaryEntry, RunStore

OF_DICTIONARY = ("feature", "features", "operation", "value", "at")


def main() -> None:
    """The page, top to bottom; torch is loaded only after its head is drawn."""
    run = state.store()
    st.title("Ablate")
    st.caption("Type a sentence, change what some features say about it, and read what the model predicts instead.")
    typed, setting = st.columns([3, 2], gap="large")
    with setting:
        entry = choose_dictionary(run)
    with st.spinner("Loading torch"):
        from app.components import live_edit, live_firing, live_results, live_text
    with typed:
        lines = live_text.typed_sentences(run, entry)
    with setting:
        sentence = live_text.choose_sentence(lines)
    fires_here, edit_here = st.container(), st.container()
    with edit_here:
        edit = live_edit.choose_edit(run, entry, lines, sentence)
    found = live_results.compute(run, sentence, edit)
    with fires_here:
        position = live_firing.section(run, entry, sentence, edit, found.moved_most)
    live_results.section(run, lines, sentence, edit, found, position)


def choose_dictionary(run: RunStore) -> DictionaryEntry:
    """Dictionary selector; another dictionary has other features, so the edit starts anew."""
    entries = {d.id: d for d in run.main_dictionaries}
    bound = links.bound("dictionary", state.default_dictionary(run).id, options=entries, drops=OF_DICTIONARY)
    chosen = st.selectbox(
        "Dictionary to edit", entries, **bound, format_func=lambda id: _name(entries[id]),
        help="All edits are made in one dictionary: one place in the model. The ranking below searches all of them.",
    )  # fmt: skip
    return entries[chosen]


def _name(entry: DictionaryEntry) -> str:
    return f"{entry.spec.site.title} · {entry.spec.kind} · {entry.n_features:,} features"


with st.container(key="live"):  # named so that the style sheet can let its columns wrap on a narrow screen
    main()
