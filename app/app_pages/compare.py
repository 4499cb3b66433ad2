"""Compare: dictionaries side by side, and two of them feature by feature: matched, split, near or missing."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components import plots
from app.components.compare_choice import choose_dictionaries, choose_pair
from app.components.compare_match import matching
from app.components.compare_pair import one_feature
from app.components.compare_quality import quality, scores
from app.components.errors import show_errors


def main() -> None:
    """The page, top to bottom. What is missing spoils only its own part."""
    run = state.store()
    st.title("Compare")
    plots.note("Choose two to six dictionaries: their quality side by side, then two of them feature by feature.")
    chosen = choose_dictionaries(run)
    if len(chosen) < 2:
        plots.note(f"{len(chosen)} chosen. Choose at least two dictionaries to compare.")
        return
    for part in (quality, scores):
        with show_errors(stop=False):
            part(run, chosen)
    st.subheader("Feature by feature")
    pair = choose_pair(run, chosen)
    with show_errors(stop=False):
        matching(run, pair, [entry.id for entry in chosen])
    with show_errors(stop=False):
        one_feature(run, pair, chosen)


main()
