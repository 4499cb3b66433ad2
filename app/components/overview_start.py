"""Where a first visitor can start: the landmarks a run names, and what one can do."""

from __future__ import annotations

import datetime
import json

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import links, names, state
from app.components import cards, layout, plots
from app.glossary import plain
from sae_core import browse
from sae_core.errors import RunError, TableError
from sae_core.store import DictionaryEntry, RunStore


def start_here(run: RunStore) -> None:
    """The run's landmarks if it names some, then what a first visitor can do."""
    entry = state.default_dictionary(run)
    found = landmarks(run)
    if found:
        st.subheader("Start here")
        for row in range(0, len(found), 3):
            for place, column in enumerate(layout.stacking_columns(3, f"landmarks-{row}", "small")):
                if row + place < len(found):
                    landmark_card(column, found[row + place])
    st.subheader("What you can do")
    browse_card, feature_card, ablate_card = layout.stacking_columns(3, "start", "small")
    with browse_card.container(border=True, height="stretch"):
        st.markdown("**Browse the features**")
        plots.note("Sort and filter all features of a dictionary; search by a token they read or a token they predict.")
        links.link("Open the table", "browse", icon=":material/table_rows:", dictionary=entry.id)
    with feature_card.container(border=True, height="stretch"):
        st.markdown("**Look at one feature**")
        plots.note("When it fires, what it does to the prediction, which features cause it. A different one every day:")
        feature = feature_of_the_day(run, entry)
        name = plain(names.feature_names(run, entry.id, [feature])[feature])
        links.link(f"Feature {name}", "feature", icon=":material/insights:", dictionary=entry.id, feature=feature)
    with ablate_card.container(border=True, height="stretch"):
        st.markdown("**Remove a feature yourself**")
        plots.note("Type a sentence, switch features off, and see which next tokens become more or less likely.")
        links.link("Open Ablate", "ablate", icon=":material/content_cut:", dictionary=entry.id)


def landmarks(run: RunStore) -> list[dict]:
    """Features worth a visit that the run names in landmarks.json: key, title, dictionary, feature, why.

    The key says what it is a landmark of; it is empty where the file names none. Raises RunError if the file is there
    but is not a list of such entries.
    """
    path = run.folder / "landmarks.json"
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        needed = ("title", "dictionary", "feature", "why")
        return [{"key": entry.get("key", ""), **{name: entry[name] for name in needed}} for entry in entries]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        found = f"{path.name}: {type(error).__name__} {error}"
        raise RunError("a list of {title, dictionary, feature, why}", found, "Mend the file or delete it") from None


def landmark_card(column: DeltaGenerator, entry: dict) -> None:
    """One landmark: title, why, link."""
    with column.container(border=True, height="stretch"):
        st.html(cards.box(str(entry["title"]), str(entry["why"])))
        place = {"dictionary": entry["dictionary"], "feature": entry["feature"]}
        links.link(f"Feature {entry['feature']}", "feature", icon=":material/insights:", **place)


def feature_of_the_day(run: RunStore, entry: DictionaryEntry) -> int:
    """A live feature that changes with the date; 0 where the features table is not there yet."""
    try:
        alive = browse.feature_index(run, entry.id).alive
    except TableError:
        return 0
    return int(alive[datetime.date.today().toordinal() * 7919 % len(alive)]) if len(alive) else 0
