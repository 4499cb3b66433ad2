"""Ablate, first part: which features fire, as a grid of one dictionary or ranked over all. Loads torch."""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from app import links, live, names, state
from app.components.plots import clicked, note, show_plot
from app.components.tables import chosen_row
from app.figures.axes import NAMES_WIDTH, tokens_width
from app.figures.firing import firing_grid
from app.live import Edit, Sentence
from sae_core.errors import TableError
from sae_core.schemas import DENSE_ABOVE
from sae_core.store import DictionaryEntry, RunStore

VIEWS = {"grid": "Grid of this dictionary", "ranking": "Ranking on one token, all layers"}
RANKED = 25
COLUMNS = {
    "name": st.column_config.TextColumn("feature", width=240),
    "activation": st.column_config.NumberColumn(format="%.3f"),
    "share": st.column_config.ProgressColumn(
        "of its maximum", format="percent", min_value=0, max_value=1, help="activation / largest on the table tokens"
    ),
    "density": st.column_config.NumberColumn(format="percent", help="share of the table tokens on which it fires"),
}


def section(run: RunStore, entry: DictionaryEntry, sentence: Sentence, edit: Edit, moved_most: int | None) -> int:
    """Draw the part and return the position the reader looks at (default: where the edit moves most, else the end)."""
    st.subheader("What fires", help="A feature fires on a token where its activation is not 0.")
    options = range(len(sentence.tokens))
    left, right = st.columns([3, 2], gap="large", vertical_alignment="bottom")
    bound = links.bound("fires", "grid", options=VIEWS)
    view = left.segmented_control("Show", VIEWS, **bound, format_func=VIEWS.get, required=True)
    bound = links.bound("position", options[-1] if moved_most is None else moved_most, int, options)
    position = right.selectbox(
        "Token to look at", options, **bound, format_func=lambda p: f"{p} · {sentence.tokens[p]}",
        help="For the ranking here and the predictions below. Until you choose, it is where the edit changes most.",
    )  # fmt: skip
    fires = live.firing(run, sentence)
    if view == "grid":
        grid(run, entry, fires[fires["dictionary"] == entry.id], sentence, edit)
    else:
        rank(run, entry, fires[fires["position"] == position], sentence.tokens[position])
    return position


def grid(run: RunStore, entry: DictionaryEntry, fires: pd.DataFrame, sentence: Sentence, edit: Edit) -> None:
    """Features by tokens; a click adds the feature."""
    if fires.empty:
        st.info("No feature of this dictionary fires on this sentence.")
        return
    named = names.feature_names(run, entry.id, fires["feature"].unique())
    drawn = firing_grid(fires, sentence.tokens, named, state.colours(), edit.features)
    # A key of its own for each edit: a kept selection would swallow the next click on the same cell.
    key = f"grid-{edit.features}"
    width = tokens_width(len(sentence.tokens), NAMES_WIDTH)
    show_plot("Activations of this dictionary", drawn, key, None, lambda: _cell_clicked(key), width)


def _cell_clicked(key: str) -> None:
    point = clicked(key)
    if point:
        feature, position, _ = point["customdata"]
        st.query_params["position"] = str(int(position))
        add_feature(int(feature))


def rank(run: RunStore, entry: DictionaryEntry, fires: pd.DataFrame, token: str) -> None:
    """The features strongest on one token, all dictionaries; a click adds the feature."""
    bound = links.bound("dense", False, links.flag)
    dense = st.checkbox("Dense features too", **bound, help=f"Those that fire on over {DENSE_ABOVE:.0%} of the tokens")
    found = ranking(run, fires, dense)
    if found.empty:
        st.info("No feature fires on this token.")
        return
    st.dataframe(
        found[list(COLUMNS)], column_config=COLUMNS, hide_index=True, key="ranking", selection_mode="single-row",
        on_select=lambda: _row_clicked(found, entry.id), height=400 if len(found) > 10 else "content",
    )  # fmt: skip
    note(
        "The strongest features on the chosen token over all dictionaries (feature search, App. D.3 of the paper). "
        "Click a row to put the feature into the edit; a feature of another layer starts a new edit there."
    )


def ranking(run: RunStore, fires: pd.DataFrame, dense: bool) -> pd.DataFrame:
    """Strongest first: dictionary, feature, activation, name, share (of the maximum), density.

    fires: dictionary, feature, activation. Without a features table, share and density are missing (NaN).
    """
    parts = [
        part.merge(_scalars(run, id, part["feature"]), "left", "feature") for id, part in fires.groupby("dictionary")
    ]
    found = pd.concat(parts, ignore_index=True) if parts else fires.assign(max_activation=1.0, density=0.0)
    found = found if dense else found[~(found["density"] > DENSE_ABOVE)]
    found = found.sort_values("activation", ascending=False, kind="stable", ignore_index=True).head(RANKED)
    return found.assign(name=names.full_names(run, found), share=found["activation"] / found["max_activation"])


def _scalars(run: RunStore, dictionary: str, features: pd.Series) -> pd.DataFrame:
    columns = ["feature", "max_activation", "density"]
    try:
        return run.read("features", dictionary, key=features.tolist(), columns=columns)
    except TableError:
        return pd.DataFrame({"feature": features, "max_activation": math.nan, "density": math.nan})


def _row_clicked(found: pd.DataFrame, current: str) -> None:
    chosen = chosen_row("ranking")
    if chosen is not None:
        row = found.iloc[chosen]
        if row["dictionary"] != current:
            start_edit(row["dictionary"], int(row["feature"]))
        else:
            add_feature(int(row["feature"]))


def add_feature(feature: int) -> None:
    """Put a feature into the edit that the address describes."""
    landed = [st.query_params["feature"]] if "feature" in st.query_params else []
    chosen = [f for f in st.query_params.get_all("features") or landed if f]
    st.query_params["features"] = list(dict.fromkeys([*chosen, str(feature)]))


def start_edit(dictionary: str, feature: int) -> None:
    """Begin again with one feature of another dictionary; the sentence stays."""
    for key in ("feature", "operation", "value", "at"):
        st.query_params.pop(key, None)
    st.query_params["dictionary"] = dictionary
    st.query_params["features"] = str(feature)
