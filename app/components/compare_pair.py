"""The part of the Compare page on one feature of A: its nearest in every dictionary, and one of them beside it."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, names, state
from app.components import cards, layout, plots
from app.components.compare_choice import Pair, feature_in_link, show_counterpart, show_feature, why_not
from app.components.compare_match import counterparts, decoder, has_features, live
from app.components.compare_quality import in_words
from app.components.errors import show_errors
from app.components.feature_explanations import columns as explanation_columns
from app.components.feature_explanations import written
from app.components.feature_firing import scale_switch
from app.components.numbers import digits, percent
from app.components.tables import chosen_row
from app.components.tokens import chips
from app.figures.compare import two_histograms
from app.figures.effects import logit_effects
from app.glossary import TERMS, explain
from sae_core import browse, compare
from sae_core.store import DictionaryEntry, RunStore

COLUMNS_A_ROW = 3
EFFECTS = 8
Feature = tuple[DictionaryEntry, int]


def one_feature(run: RunStore, pair: Pair, chosen: list[DictionaryEntry]) -> None:
    """The feature of A in the address: nearest counterparts, then side by side with one of B."""
    st.subheader("One feature of A")
    ids = [entry.id for entry in chosen]
    feature = choose_feature(run, pair.a, ids)
    if feature is None:
        plots.note("Choose a row above, or type the number of a feature of A.")
        return
    if not compare.has_weights(run.dictionary_folder(pair.a.id)):
        plots.note(f"{pair.a.id} has metrics only: without its weights its features have no directions to compare.")
        return
    nearest(run, pair.a, feature, [entry for entry in chosen if entry.id != pair.a.id])
    if why_not(run, pair.a, pair.b) is None:
        side_by_side(run, pair, feature)


def choose_feature(run: RunStore, a: DictionaryEntry, ids: list[str]) -> int | None:
    """Number of the feature of A, bound to the address."""
    st.session_state["feature"] = feature_in_link(run, "feature", a.id)
    return st.number_input(
        "Feature of A", min_value=0, max_value=a.n_features - 1, step=1, value=None, key="feature", width=200,
        placeholder=f"0 to {a.n_features - 1}", on_change=lambda: show_feature(a.id, ids, st.session_state["feature"]),
    )  # fmt: skip


# ---- nearest


def nearest(run: RunStore, a: DictionaryEntry, feature: int, others: list[DictionaryEntry]) -> None:
    """The nearest features of every other chosen dictionary, by cosine of decoder directions."""
    for start in range(0, len(others), COLUMNS_A_ROW):
        row = others[start : start + COLUMNS_A_ROW]
        for column, entry in zip(layout.stacking_columns(len(row), f"nearest-{start}", "small"), row, strict=True):
            with column, show_errors(stop=False):
                nearest_table(run, a, feature, entry)
    plots.note(
        f"The {compare.NEAREST} live features of each dictionary with the largest cosine of decoder directions. Choose "
        "a row to put it beside the feature of A."
    )


def nearest_table(run: RunStore, a: DictionaryEntry, feature: int, b: DictionaryEntry) -> None:
    """One dictionary's nearest; a click makes it B and shows that feature."""
    st.markdown(f"###### {in_words(b)} · `{b.id}`")
    problem = why_not(run, a, b)
    if problem:
        plots.note(f"No cosines: this takes {problem.expected}; found {problem.found}.")
        return
    found = compare.nearest_to(decoder(run, a)[feature], decoder(run, b), live(run, b))
    found["name"] = found["feature"].map(names.feature_names(run, b.id, found["feature"]))
    config = st.column_config
    columns = {
        "name": config.TextColumn("Nearest", width="medium"),
        "cosine": config.NumberColumn("Cosine", format="%.3f"),
    }
    key = f"nearest-{a.id}-{feature}-{b.id}"
    st.dataframe(found, column_order=list(columns), column_config=columns, hide_index=True, key=key,
                 selection_mode="single-row",
                 on_select=lambda: _nearest_chosen(key, b.id, found["feature"].tolist()))  # fmt: skip


def _nearest_chosen(key: str, b: str, features: list[int]) -> None:
    row = chosen_row(key)
    if row is not None:
        show_counterpart(b, int(features[row]))


# ---- side by side


def side_by_side(run: RunStore, pair: Pair, feature: int) -> None:
    """The feature of A and one of B: what they are, their histograms, effects and scores."""
    other = feature_in_link(run, "other", pair.b.id)
    both = ((pair.a, feature), (pair.b, counterpart(run, pair, feature) if other is None else other))
    own, theirs = (decoder(run, entry)[f] for entry, f in both)
    cosine = float(compare.nearest_to(own, theirs[None])["cosine"].iloc[0])
    st.markdown(f"###### Side by side: cosine {cosine:.3f}")
    for (entry, f), column in zip(both, layout.stacking_columns(2, "heads"), strict=True):
        with column, show_errors(stop=False):
            head(run, entry, f)
    if not all(has_features(run, entry) for entry, _ in both):
        without = " and ".join(entry.id for entry, _ in both if not has_features(run, entry))
        plots.note(f"No histograms or effects to compare: {without} has weights and metrics, but no feature tables.")
        return
    for part in (histograms, effects, scores):
        with show_errors(stop=False):
            part(run, both)


def counterpart(run: RunStore, pair: Pair, feature: int) -> int:
    """The partner of a matched feature, else the nearest of B; also for dead features, which the table leaves out."""
    frame = compare.classify(counterparts(run, pair), pair.match, pair.part)
    row = frame.loc[frame["feature"] == feature, "other"]
    if len(row):
        return int(row.iloc[0])
    found = compare.nearest_to(decoder(run, pair.a)[feature], decoder(run, pair.b), live(run, pair.b))
    return int(found["feature"].iloc[0])


def head(run: RunStore, entry: DictionaryEntry, feature: int) -> None:
    """Name, dictionary, numbers, top tokens, and the link to its page."""
    name = names.feature_names(run, entry.id, [feature])[feature]
    title = f"{names.place(run, entry.id)} {name}"
    if not has_features(run, entry):
        st.html(cards.facts([("Feature", title), ("Dictionary", f"{entry.id} ({in_words(entry)})")]))
        return
    row = browse.feature_index(run, entry.id).rows([feature]).iloc[0]
    density, top = percent(row["density"]), digits(row["max_activation"])
    facts = [
        ("Feature", title), ("Dictionary", f"{entry.id} ({in_words(entry)})"),
        ("Density", f"{density} of the table tokens"), ("Maximum", top),
    ]  # fmt: skip
    st.html(cards.facts(facts))
    st.html(chips(list(row["top_tokens"])) + (cards.badges(["dead"]) if row["dead"] else ""))
    links.link(f"Open feature {feature}", "feature", icon=":material/insights:", dictionary=entry.id, feature=feature)


def histograms(run: RunStore, both: tuple[Feature, Feature]) -> None:
    """Token histograms on the same axes."""
    frames = [run.read("token_histograms", entry.id, key=f) for entry, f in both]
    if any(frame.empty for frame in frames):
        plots.note("One of the two is dead, so it has no histogram.")
        return
    titles = [f"{side}: feature {f}" for side, (_, f) in zip("AB", both, strict=True)]
    st.markdown("###### On which tokens they fire", help=explain("token_histograms", "count"))
    overlap, log = compare.token_overlap(*frames), scale_switch("log")
    plots.show_plot("", two_histograms(*frames, tuple(titles), overlap, state.colours(), log), "two-histograms")


def effects(run: RunStore, both: tuple[Feature, Feature]) -> None:
    """Next tokens that either removal lowers, or raises."""
    st.markdown("###### What removing them does to the prediction", help=TERMS["causal"])
    lowered = st.segmented_control(
        "Direction", [True, False], format_func={True: "Lowered", False: "Raised"}.get, required=True,
        label_visibility="collapsed", **links.bound("lowered", True, links.flag),
    )  # fmt: skip
    for side, (entry, f), column in zip("AB", both, layout.stacking_columns(2, "effects"), strict=True):
        with column:
            frame = run.read("logit_effects", entry.id, key=f)
            if frame.empty:
                plots.note(f"Not measured for feature {f} of {side}: no active position in the drawn windows.")
                continue
            drawn = logit_effects(frame, state.colours(), bool(lowered), EFFECTS)
            plots.show_plot(f"{side}: feature {f}", drawn, f"effects-{side}", explain("logit_effects", "stderr"))


def scores(run: RunStore, both: tuple[Feature, Feature]) -> None:
    """Explanations of both with their scores, where they were made."""
    frames = [
        run.read("scores", entry.id, key=f).assign(side=side)
        for side, (entry, f) in zip("AB", both, strict=True)
        if run.table_state("scores", entry.id) == "ready"
    ]
    if not frames or pd.concat(frames).empty:
        return
    st.markdown("###### Explanations and their scores", help=explain("scores", "score"))
    frame = pd.concat(frames).sort_values(["explainer", "scheme", "setting", "side"], kind="stable")
    columns = {"side": st.column_config.TextColumn("", width=40), **explanation_columns()}
    st.dataframe(
        written(frame), column_order=list(columns), column_config=columns, hide_index=True, key="pair-scores"
    )  # fmt: skip
