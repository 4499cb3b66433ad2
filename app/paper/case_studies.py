"""Case studies (paper Sec. 5, App. D): single features, what they fire on, what they write, and what causes them."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, state
from app.components import layout, plots
from app.components.drops import show_drops
from app.components.feature_firing import scale_switch
from app.figures import paper_case_studies as figures
from app.figures.colours import legend_tokens
from app.figures.histograms import activation_histogram
from app.glossary import explain
from app.paper import Result
from app.paper import case_studies_claims as judge
from app.paper import case_studies_more as more
from app.paper.case_studies_choice import APOSTROPHE, OTHER, Part, choose, picked
from app.paper.claims import show_claims
from app.paper.missing import made_by
from sae_core.errors import InputError, MissingTable
from sae_core.schemas import HISTOGRAM_BINS
from sae_core.store import DictionaryEntry, RunStore

RANGES = {0: "Whole range", 2: "Above a fifth", HISTOGRAM_BINS // 2: "Above half"}
POSITIONS = {"all": "All positions, as in the paper", "active": "Active positions"}


# ---- Figures 4 and 11 to 15: what a feature fires on, what its removal does


def figure_4(run: RunStore, setting: str) -> None:
    """Token-activation histogram and next-token drops of the apostrophe feature."""
    entry, feature = choose(run, APOSTROPHE)
    histogram, drops = both_histograms(run, APOSTROPHE, entry, feature)
    claims = [judge.strong_activations(histogram), judge.next_token(drops[drops["population"] == "all"])]
    show_claims([*claims, judge.not_every(*apostrophes_read(run, entry, feature))])


def figures_12_to_15(run: RunStore, setting: str) -> None:
    """The same for any feature."""
    entry, feature = choose(run, OTHER)
    histogram, _ = both_histograms(run, OTHER, entry, feature)
    show_claims([judge.one_token(histogram)])


def both_histograms(
    run: RunStore, part: Part, entry: DictionaryEntry, feature: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw and return a feature's `token_histograms` and `next_token_drops`. Raises InputError for a dead one."""
    histogram = own_histogram(run, entry, feature)
    drops = run.read("next_token_drops", entry.id, key=feature)
    left, right = layout.stacking_columns(2, f"{part.key}-histograms")
    with left:
        show_histogram(part, entry, feature, histogram)
    with right:
        show_drops(drops, f"{part.key}_positions", POSITIONS)
    links.link(f"Feature {feature}", "feature", icon=":material/insights:", dictionary=entry.id, feature=feature)
    return histogram, drops


def own_histogram(run: RunStore, entry: DictionaryEntry, feature: int) -> pd.DataFrame:
    """Rows of `token_histograms` of a feature. Raises InputError for a dead one."""
    found = run.read("token_histograms", entry.id, key=feature)
    if found.empty:
        raise InputError("a feature that is active on some table token", f"#{feature} is dead", "Choose another one")
    return found


def show_histogram(part: Part, entry: DictionaryEntry, feature: int, histogram: pd.DataFrame) -> None:
    """Activations by token; a click opens the contexts of that part of a bar on the Feature page."""
    st.markdown("###### Activations by token", help=explain("token_histograms", "count"))
    first, log = range_and_scale(part.key, histogram)
    key = f"{part.key}-activations-{entry.id}-{feature}"
    shown = histogram[histogram["bin"] >= first]
    plots.show_plot("", activation_histogram(shown, state.colours(), log), key, on_select=lambda: None)
    note_range(histogram, shown)
    point = plots.clicked(key)
    if point:
        bin, token = point["customdata"]
        links.go("feature", dictionary=entry.id, feature=feature, band=f"bin{bin}", token=token)


def range_and_scale(key: str, histogram: pd.DataFrame) -> tuple[int, bool]:
    """First bin to show and whether counts are on a log scale, chosen in one row."""
    with st.container(horizontal=True, gap="small"):
        return choose_range(key, histogram), scale_switch(f"{key}_log")


def choose_range(key: str, histogram: pd.DataFrame) -> int:
    """First bin to show: the whole range, unless its legend would not name the commonest of the strong tokens."""
    token = judge.commonest(judge.upper_half(histogram))
    hidden = token is not None and token not in set(_named(histogram))
    bound = links.bound(f"{key}_range", max(RANGES) if hidden else 0, int, RANGES)
    return st.segmented_control(
        "Range", list(RANGES), format_func=RANGES.get, required=True, label_visibility="collapsed", **bound
    )


def _named(histogram: pd.DataFrame) -> pd.Series:
    """The tokens that have a colour of their own in a histogram."""
    return histogram.loc[histogram["token_id"].isin(legend_tokens(histogram)), "token"]


def note_range(histogram: pd.DataFrame, shown: pd.DataFrame) -> None:
    """How much of the histogram is shown, if not all."""
    if len(shown) < len(histogram):
        plots.note(f"Shown: {shown['count'].sum():,} of {histogram['count'].sum():,} activations, the strongest.")


def apostrophes_read(run: RunStore, entry: DictionaryEntry, feature: int) -> tuple[int, int]:
    """On how many of the apostrophes among the table tokens a feature is active, and how many there are."""
    words = run.read("vocabulary")
    words = words[words["token"].map(judge.is_apostrophe).astype(bool)]
    if words.empty:
        return 0, 0
    found = run.read("token_features", entry.id, key=words["token_id"].tolist(), columns=["feature", "count"])
    return int(found.loc[found["feature"] == feature, "count"].sum()), int(words["count"].sum())


def figure_11(run: RunStore, setting: str) -> None:
    """The residual coordinate nearest to the apostrophe feature, beside the feature."""
    entry, feature = picked(run, APOSTROPHE)
    with made_by(run, "basis"):
        coordinate = run.read("basis_histograms", entry.id, key=feature)
        if coordinate.empty:
            expected = f"basis_histograms of feature {feature} of {entry.id} (made for landmarks only)"
            raise MissingTable(expected, "none", "")
    histogram = own_histogram(run, entry, feature)
    first, log = range_and_scale("coordinate", histogram)
    shown = coordinate[coordinate["bin"] >= first], histogram[histogram["bin"] >= first]
    left, right = layout.stacking_columns(2, "coordinate")
    with left:
        drawn = figures.coordinate_histogram(shown[0], state.colours(), log)
        plots.show_plot("The coordinate", drawn, "coordinate", help=explain("basis_histograms", "coordinate"))
    with right:
        figure, sentence = activation_histogram(shown[1], state.colours(), log)
        plots.show_plot("The feature", (figure, sentence.partition(" Click")[0]), "beside-coordinate")
        note_range(histogram, shown[1])
    show_claims([judge.polysemantic(coordinate, histogram)])


RESULTS = (
    Result("Figure 4", "a feature for apostrophes, and the s it predicts", figure_4),
    Result("Figures 12 to 15", "other features", figures_12_to_15),
    Result("Figure 11", "the nearest coordinate of the residual stream", figure_11),
    Result("Appendix D.3", "finding a feature with a sentence", more.feature_search),
    Result("Section 5.3", "what the closing-bracket feature writes", more.unembedding),
    Result("Figure 5", "what causes the closing-bracket feature", more.figure_5),
    Result("Appendix D.4", "directions across layers", more.across_layers),
)
