"""Patching: which features make one sentence's prediction that of another (paper Sec. 4)?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components import layout
from sae_core.store import DictionaryEntry, RunStore

if TYPE_CHECKING:
    from app.live import Sentence
    from app.live_patching import Reading

PRUNING = "Pruning: dropping features one by one"


def main() -> None:
    """The page, top to bottom; torch is loaded only after its head is drawn."""
    run = state.store()
    st.title("Patching")
    st.caption(
        "Two sentences that differ in a word: give the first some feature activations of the second, and see how near "
        "its prediction comes. The fewer features it takes, the better they describe the difference."
    )
    typed, setting = layout.stacking_columns([3, 2], "pair")
    with st.spinner("Loading torch"):
        from app.components import patching_choice, patching_pair, patching_results
        from sae_core.ioi.prompts import check_lengths
    with setting:
        entry = patching_choice.choose_dictionary(run)
        second = patching_choice.choose_second(run, entry)
        order = patching_choice.choose_order()
    with typed:
        base, target, answers = patching_pair.choose_sentences(run)
    patching_pair.show_tokens(base, target)
    check_lengths(base.ids, target.ids)
    found = read(run, entry, base, target, order)
    if not found.order:
        why = "The two sentences are the same tokens" if base.ids == target.ids else "Both runs have the same codes"
        st.info(f"{why}: no feature of this dictionary differs, so there is nothing to patch.")
        return
    other = read(run, second, base, target, order) if second else None
    chosen = patching_choice.choose_features(run, found)
    patching_results.section(run, found, other, chosen, answers)


def read(run: RunStore, entry: DictionaryEntry, base: Sentence, target: Sentence, order: str) -> Reading:
    """Read the pair with a dictionary; pruning shows how far it is."""
    from app import live_patching

    if order == "magnitude":
        return live_patching.reading(run, entry, base, target, order)
    place = st.empty()
    found = live_patching.reading(run, entry, base, target, order, lambda share: place.progress(share, PRUNING))
    place.empty()
    return found


with st.container(key="live"):  # named so that the style sheet can let its columns wrap on a narrow screen
    main()
