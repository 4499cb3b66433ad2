"""The part of the Feature page on when it fires: token histogram, and the contexts of the bar that was clicked."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app import computed, feature_parts, links, state
from app.components import compute_now, layout, plots
from app.components.contexts import context_list
from app.figures.histograms import activation_histogram
from app.glossary import TERMS, plain
from sae_core.schemas import OTHER_TOKEN
from sae_core.store import DictionaryEntry, RunStore

AROUND_PEAK = 14


def firing(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """Token-activation histogram, and beside it the contexts of the bar that was clicked."""
    st.subheader("When it fires")
    if row["dead"]:
        plots.note("Dead: never active on the table tokens, so it has no contexts and no effects.")
        return
    frame = run.read("token_histograms", entry.id, key=feature)
    left, right = layout.stacking_columns([2, 3], "firing")
    with left:
        log = scale_switch("log")
        key = f"histogram-{entry.id}-{feature}"
        plots.show_plot("", activation_histogram(frame, state.colours(), log), key, on_select=lambda: choose_bar(key))
    with right:
        contexts(run, entry, feature, row, frame)


def scale_switch(key: str) -> bool:
    """Linear or logarithmic counts."""
    names_ = {False: "Linear", True: "Log"}
    return bool(
        st.segmented_control(
            "Counts",
            [False, True],
            format_func=names_.get,
            required=True,
            label_visibility="collapsed",
            **links.bound(key, False, links.flag),
        )  # fmt: skip
    )


def choose_bar(key: str) -> None:
    """Callback of the histogram: its contexts are those of the clicked bar and token."""
    point = plots.clicked(key)
    bin, token = point["customdata"] if point else (None, None)
    links.write("band", None if bin is None else f"bin{bin}")
    links.write("token", token)


def contexts(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series, histogram: pd.DataFrame) -> None:
    """Contexts of one band, coloured by activation; one token only, if a bar was clicked."""
    found = computed.rows(run, "contexts", entry, feature)
    if found is None:
        compute = partial(computed.compute_contexts, run, entry, feature)
        compute_now.offer(run, "contexts", "The contexts of this feature are", [entry], compute, "compute-contexts")
        return
    bands = feature_parts.bands()
    band = st.pills(
        "Contexts", list(bands), format_func=bands.get, required=True, help=TERMS["band"], wrap=True,
        **links.bound("band", "top", options=list(bands), drops=("token",)),
    )  # fmt: skip
    token = links.read("token", None, int)
    shown = feature_parts.of_band(found, histogram, band, token)
    if token is not None:
        word = "other tokens" if token == OTHER_TOKEN else state.tokens(run).get(token, f"token {token}")
        label = f"Only {plain(word)}"
        st.button(label, icon=":material/close:", key="clear", on_click=links.write, args=("token", None))
    whole = st.toggle("Whole windows", help="64 tokens instead of those near the peak",
                      **links.bound("whole", False, links.flag))  # fmt: skip
    if shown.empty:
        plots.note("No context of this bar was kept: up to 5 are drawn from each bin, and one for each listed token.")
        return
    windows = computed.windows(run, shown["window"]).set_index("window")
    words = state.tokens(run)
    with st.container(height=430, border=False):
        st.html(context_list(shown, windows, words, state.colours(), float(row["max_activation"]),
                             None if whole else AROUND_PEAK))  # fmt: skip
    plots.note("The stronger the background, the nearer the activation to the feature's maximum. Outlined: the peak.")
