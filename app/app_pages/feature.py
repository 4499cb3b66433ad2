"""Feature: when it fires, what it does to the prediction, what causes it, what is near it, and one's own label."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from app import computed, feature_parts, links, names, state
from app.components import cards, compute_now, layout, plots
from app.components.downloads import report_button, table_buttons
from app.components.drops import show_drops
from app.components.errors import show_errors
from app.components.feature_explanations import explanations
from app.components.feature_firing import firing
from app.components.feature_related import causes, nearby
from app.components.numbers import count, digits, percent
from app.components.tokens import chips, token_strip
from app.figures.effects import logit_effects
from app.glossary import TERMS, explain
from sae_core import browse, labels
from sae_core.annotations import Annotations
from sae_core.schemas import DENSE_ABOVE
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import MAKES

FLAGS = {
    "dead": "dead: never active on the table tokens",
    "dense": f"dense: active on more than {DENSE_ABOVE:.0%} of tokens",
    "position_only": "position-only: nearly all activity on one position of the context",
    "outlier_direction": "outlier direction: mostly one residual coordinate",
}
POSITIONS = {"active": "Active positions", "all": "All positions"}


def main() -> None:
    """The page, top to bottom. A table that is missing spoils only its own part."""
    run = state.store()
    entry, feature = navigation(run)
    row = browse.feature_index(run, entry.id).rows([feature]).iloc[0]
    header(run, entry, feature, row)
    numbers(run, row)
    for part in (firing, explanations, prediction, causes, nearby, try_it, downloads):
        with show_errors(stop=False):
            part(run, entry, feature, row)


# ---- where we are


def navigation(run: RunStore) -> tuple[DictionaryEntry, int]:
    """Dictionary, feature number, previous, random and next."""
    pick, where = layout.stacking_columns([4, 5], "navigation", "small")
    with pick:
        entry = state.choose_dictionary(run)
    row = where.container(horizontal=True, vertical_alignment="bottom", gap="small")
    feature = state.feature_in_link(run, entry.id)
    last = entry.n_features - 1
    row.number_input(
        "Feature", min_value=0, max_value=last, step=1, help=f"0 to {last}", **links.bound("feature", 0, int)
    )
    alive = browse.feature_index(run, entry.id).alive
    before, after, browsed = state.beside(run, entry.id, feature)
    order = " in the order of Browse" if browsed else " by number"
    for key, icon, target, how in (
        ("previous", ":material/chevron_left:", before, order),
        ("random", ":material/casino:", int(links.any_of(alive)) if len(alive) else feature, ""),
        ("next", ":material/chevron_right:", after, order),
    ):
        row.button(
            "", key=key, icon=icon, help=f"{key} feature{how}", width=72,
            on_click=open_here, args=(entry.id, target),
        )  # fmt: skip
    return entry, feature


def open_here(dictionary: str, feature: int) -> None:
    """Callback: this page for another feature, without the choices that belonged to the old one."""
    run = st.session_state["run"]
    st.query_params.from_dict(links.query(run=run, dictionary=dictionary, feature=feature))


def header(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """Name, place, flags, top tokens, and the box for one's own label."""
    written = Annotations(run).get(entry.id, feature)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        star = "★ " if written.star else ""
        title = f"{star}{names.place(run, entry.id)} feature {feature}"
        label = labels.labels(run, entry.id, [feature]).get(feature)
        st.html(feature_parts.heading(title, label), width="content")
        with st.popover("Label", icon=":material/edit:"):
            label_form(run, entry, feature)
    st.html(chips(list(row["top_tokens"])) + cards.badges([text for flag, text in FLAGS.items() if row[flag]]))
    if written.note:
        plots.note(written.note)


def label_form(run: RunStore, entry: DictionaryEntry, feature: int) -> None:
    """One's own label, note and star; they are kept with the run."""
    annotations = Annotations(run)
    written = annotations.get(entry.id, feature)
    with st.form(f"label-{entry.id}-{feature}", border=False):
        label = st.text_input("Label", written.label, max_chars=200, placeholder="what this feature is about")
        note = st.text_area("Note", written.note, max_chars=10_000)
        star = st.toggle("Star", written.star)
        saved = st.form_submit_button("Save", type="primary")
    if saved:
        annotations.put(entry.id, feature, label, note, star)
        st.rerun()
    if written.updated:
        plots.note(f"Saved {written.updated.replace('T', ' ')[:16]} UTC. Empty fields remove the label.")


def numbers(run: RunStore, row: pd.Series) -> None:
    """Key numbers; each explains itself on hover."""
    n = run.manifest.spec.table_tokens
    values = {
        "density": ("Density", percent(row["density"])), "n_active": ("Active tokens", count(int(row["n_active"]))),
        "max_activation": ("Maximum", digits(row["max_activation"])),
        "mean_active": ("Mean active", digits(row["mean_active"])),
        "entropy": ("Entropy, bits", digits(row["entropy"], 2)),
        "skew": ("Skew", digits(row["skew"], 2)), "kurtosis": ("Kurtosis", digits(row["kurtosis"], 2)),
    }  # fmt: skip
    layout.metric_row([(title, text, explain("features", name, n)) for name, (title, text) in values.items()])


# ---- what it does


def prediction(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """Tokens lowered and raised by its removal, and drops of the token that really came next."""
    if row["dead"]:
        return
    st.subheader("What it does to the prediction", help=f"{TERMS['causal']} Direct path: {TERMS['direct']}")
    frame, drops = (computed.rows(run, table, entry, feature) for table in MAKES["effects"])
    if frame is None or drops is None:
        compute = partial(computed.compute_effects, run, entry, feature)
        compute_now.offer(run, "effects", "The effects of this feature are", [entry], compute, "compute-effects")
        return
    if frame.empty:
        plots.note("Not measured for this feature: it has no active position in the drawn windows.")
        return
    lowered, raised, came = layout.stacking_columns(3, "prediction", "medium")
    help_ = explain("logit_effects", "mean_change_logprob", int(frame["n_positions"].iloc[0]))
    with lowered:
        plots.show_plot("Lowered by removal", logit_effects(frame, state.colours(), True), "lowered", help_)
    with raised:
        plots.show_plot("Raised by removal", logit_effects(frame, state.colours(), False), "raised", help_)
    with came:
        show_drops(drops, "positions", POSITIONS)


# ---- one's own sentence


def try_it(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """Activation on a typed sentence; the model is loaded only when there is one."""
    st.subheader("Try it on your own sentence")
    text = st.text_input(
        "Sentence", placeholder="Type a sentence and press Enter; the model is loaded then",
        label_visibility="collapsed", **links.bound("try", ""),
    )  # fmt: skip
    if not text:
        return
    from app import live  # loads torch
    from app.components import live_text

    sentence = live.sentences(run, text)[0]
    values = live.clean(run, entry.id, sentence).codes[:, feature].float().cpu().numpy()
    titles = [f"{t}\nposition {p}\nactivation {digits(values[p])}" for p, t in enumerate(sentence.tokens)]
    peak = int(np.argmax(values)) if values.max() > 0 else None
    scale = max(float(row["max_activation"]), float(values.max())) or 1.0
    st.html(token_strip(sentence.tokens, values.tolist(), state.colours(), scale=scale, peak=peak, titles=titles))
    plots.note(feature_parts.try_sentence(values, sentence.tokens, float(row["max_activation"])))
    live_text.note_skipped(run)
    links.link("Remove it from this sentence", "ablate", icon=":material/content_cut:", dictionary=entry.id,
               text=text, features=feature)  # fmt: skip


def downloads(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """A report of this feature, and its rows of every table."""
    with st.expander("Download this feature"):
        report_button(run, (entry.id, feature))
        tables = {name: partial(run.read, name, entry.id, key=feature) for name in feature_parts.tables(run, entry)}
        table_buttons(tables, f"{entry.id}-{feature}")


main()
