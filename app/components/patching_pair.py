"""Patching, first part: the two sentences, drawn as an indirect-object pair or typed. Loads torch."""

from __future__ import annotations

import streamlit as st

from app import links, live_patching
from app.components.live_text import TEXT_HELP, note_skipped
from app.components.live_views import live_line
from app.components.plots import note
from app.live import Sentence
from sae_core.errors import InputError
from sae_core.store import RunStore

EXAMPLE = (
    "When Mary and John went to the store, John gave a drink to",
    "When Anna and John went to the store, John gave a drink to",
)
SEEDS = range(10_000)
OF_PAIR = ("k", "features", "position", "answers")


def choose_sentences(run: RunStore) -> tuple[Sentence, Sentence, list[str]]:
    """Both boxes and the button for another pair; base, target, and words a model may answer with."""
    seed = links.read("pair", 0, int, SEEDS)
    base, target, answers = drawn(run, seed)
    texts = [
        st.text_input(f"{name.capitalize()} sentence", **links.bound(name, text, drops=OF_PAIR), help=help)
        for name, text, help in (
            ("base", base, f"The run that is changed. {TEXT_HELP}"),
            ("target", target, "The run it is patched from; as many tokens as the base."),
        )
    ]
    if answers:
        st.button("Another pair", icon=":material/casino:", key="another", on_click=_another, args=(seed,))
    found = live_patching.read_sentences(run, *texts)
    note_skipped(run)
    return *found, answers if tuple(texts) == (base, target) else []


def drawn(run: RunStore, seed: int) -> tuple[str, str, list[str]]:
    """The sentences to begin with: a pair of the model's own names, else an example and a word on why."""
    try:
        pair = live_patching.preset(run, seed)
    except InputError as error:
        st.info(f"No pair of names can be drawn here: {error.found} ({error.expected} would be needed). Type your own.")
        return *EXAMPLE, []
    note(
        f"Pair {seed}: the indirect object {pair.base_io} becomes {pair.target_io}; the subject is {pair.subject}. "
        "Type over it to compare sentences of your own."
    )
    return pair.base, pair.target, [f" {name}" for name in (pair.base_io, pair.target_io, pair.subject)]


def _another(seed: int) -> None:
    for key in ("base", "target", *OF_PAIR):
        links.write(key, None)
    links.write("pair", (seed + 1) % len(SEEDS))


def show_tokens(base: Sentence, target: Sentence) -> None:
    """Both sentences as tokens below each other, with what differs marked."""
    marks = live_patching.differences(base.ids, target.ids)
    for name, line, marked in zip(("base", "target"), (base, target), marks, strict=True):
        st.html(live_line(name, line.tokens, marked))
    n = int(sum(marks[0]))
    if len(base.ids) != len(target.ids):
        note(f"{len(base.ids)} tokens in the base and {len(target.ids)} in the target; marked: what the other lacks.")
    elif n:
        note(f"{len(base.ids)} tokens in both; they differ on {n}, which {'is' if n == 1 else 'are'} marked.")
