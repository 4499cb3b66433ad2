"""Ablate and the live tree: the box for one's own sentences. Loads torch."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app import links, live, state
from app.components.plots import note
from app.live import Sentence
from sae_core.errors import TableError
from sae_core.store import DictionaryEntry, RunStore

EXAMPLE = (
    "When Mary and John went to the store, John gave a drink to\n"
    "When Mary and John went to the store, Mary gave a drink to"
)
SKIPPED = (
    "This run leaves position 0 out: the model reads the first token, but features count as silent there and are not "
    "edited, as in the run's tables."
)
CONTEXT_BEFORE_PEAK, FEWEST_BEFORE_PEAK = 24, 8
OF_TEXT = ("sentence", "source", "position", "at")
OF_SENTENCE = ("source", "position", "at")
TEXT_HELP = "Read exactly as typed, with no start-of-text token. ↵ in a line stands for a line break, ⇥ for a tab."


def typed_sentences(run: RunStore, entry: DictionaryEntry) -> list[Sentence]:
    """The text box, cut into sentences. A link that names only a feature opens with its strongest context."""
    if "text" not in st.query_params and "feature" in st.query_params:
        text = strongest_text(run, entry.id, state.feature_in_link(run, entry.id))
        if text:
            st.query_params["text"] = text
    bound = links.bound("text", EXAMPLE, drops=OF_TEXT)
    found = live.sentences(run, st.text_area("Sentences, one a line", **bound, height=108, help=TEXT_HELP))
    note_skipped(run)
    return found


def note_skipped(run: RunStore) -> None:
    """Say that position 0 does not count, where the run leaves it out."""
    if live.first(run):
        note(SKIPPED)


def strongest_text(run: RunStore, dictionary: str, feature: int) -> str:
    """Text up to the peak of the feature's strongest context that has a few tokens before it; empty if none is stored.

    The very strongest may begin at its peak, which shows a reader nothing.
    """
    try:
        contexts = run.read("contexts", dictionary, key=feature, columns=["band", "rank", "window", "position"])
        top = contexts[contexts["band"] == "top"].sort_values("rank").to_dict("records")
        if not top:
            return ""
        chosen = next((c for c in top if c["position"] >= FEWEST_BEFORE_PEAK), top[0])
        ids = run.read("windows", key=chosen["window"])["token_ids"].iloc[0]
    except TableError:
        return ""
    end = chosen["position"] + 1
    return live.one_line(run, ids[max(0, end - CONTEXT_BEFORE_PEAK) : end].tolist())


def choose_sentence(lines: Sequence[Sentence]) -> Sentence:
    """Which line the page looks at."""
    options = range(len(lines))
    bound = links.bound("sentence", 0, int, options, drops=OF_SENTENCE)
    if len(lines) == 1:
        return lines[0]
    return lines[
        st.selectbox("Sentence to look at", options, **bound, format_func=lambda i: f"{i + 1} · {lines[i].text[:70]}")
    ]
