"""Which feature plays a part of the paper's case studies: the run's landmark for it, or any feature, in the address."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from app import links, names, state
from app.components import layout
from app.components.overview_start import landmarks
from sae_core.errors import InputError
from sae_core.store import DictionaryEntry, RunStore

ANOTHER = "another"


@dataclass(frozen=True)
class Part:
    """A part that a feature plays. key: in the address. landmarks: keys of the landmarks that can play it."""

    key: str
    name: str
    landmarks: tuple[str, ...]

    def default(self, run: RunStore) -> str:
        """The run's first landmark that plays it, or ANOTHER where it has none."""
        return next((_id(found) for found in landmarks(run) if found["key"] in self.landmarks), ANOTHER)

    @property
    def details(self) -> tuple[str, str]:
        """Keys of the address for a feature that is no landmark: its dictionary and its number."""
        return f"{self.key}_dictionary", f"{self.key}_feature"


APOSTROPHE = Part("apostrophe", "The apostrophe feature", ("apostrophe",))
CLOSER = Part("closer", "The closing-bracket feature", ("closing_bracket",))
OTHER = Part("other", "A feature", ("if_in_code", "word_family", "receiver"))


def choose(run: RunStore, part: Part) -> tuple[DictionaryEntry, int]:
    """Widgets for the feature of a part, and the feature. Raises InputError where none is named and none chosen."""
    titles = _titles(run)
    what, where, which = layout.stacking_columns([4, 3, 1], part.key, "small")
    bound = links.bound(part.key, part.default(run), options=[*titles, ANOTHER], drops=part.details)
    with what:
        chosen = st.selectbox(part.name, [*titles, ANOTHER], **bound, format_func=lambda id: _name(run, titles, id))
    if chosen == ANOTHER:
        dictionary, feature = part.details
        ids = [entry.id for entry in run.main_dictionaries]
        bound = links.bound(dictionary, state.default_dictionary(run).id, options=ids, drops=(feature,))
        where.selectbox("Dictionary", ids, **bound)
        which.text_input("Feature", placeholder="number", **links.bound(feature, ""))
    return picked(run, part)


def picked(run: RunStore, part: Part) -> tuple[DictionaryEntry, int]:
    """The feature of a part: the address's, or the run's landmark. Raises InputError where there is neither."""
    titles = _titles(run)
    chosen = links.read(part.key, part.default(run), options=[*titles, ANOTHER])
    if chosen != ANOTHER:
        dictionary, _, feature = chosen.rpartition(":")
    else:
        dictionary = links.read(part.details[0], state.default_dictionary(run).id)
        feature = links.read(part.details[1], "", _number)
    if feature == "":
        fix = f"Choose a dictionary and type a number. Landmarks: python -m precompute landmarks --run {run.folder}"
        raise InputError(f"a feature for this part: {part.name.lower()}", "none chosen, and no landmark for it", fix)
    return run.dictionary(dictionary), run.check_feature(dictionary, int(feature))


def _number(text: str) -> int | str:
    """The number in a text; an emptied box stands for none."""
    return int(text) if text else ""


def _titles(run: RunStore) -> dict[str, str]:
    """Title of each landmark by `dictionary:feature`."""
    return {_id(found): str(found["title"]) for found in landmarks(run)}


def _id(landmark: dict) -> str:
    return f"{landmark['dictionary']}:{landmark['feature']}"


def _name(run: RunStore, titles: dict[str, str], id: str) -> str:
    if id not in titles:
        return "Any other feature"
    dictionary, _, feature = id.rpartition(":")
    return f"{titles[id]} · {names.place(run, dictionary)} #{feature}"
