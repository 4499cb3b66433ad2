"""Ground truth (paper Sec. 2 and later work): known directions of made-up data, known factors of labelled text."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, state
from app.components import layout, plots
from app.components.feature_related import open_row
from app.figures import paper_ground_truth as figures
from app.figures.paper_interpretability import means_by_layer
from app.glossary import explain
from app.names import feature_names
from app.paper import Result
from app.paper import ground_truth_claims as judge
from app.paper import ground_truth_frames as frames
from app.paper.claims import show_claims
from app.paper.missing import command, made_by
from sae_core.errors import MissingTable
from sae_core.results import kind_name
from sae_core.store import RunStore

ALL = "all"
NO_LABELS = (
    "This run is on text without labels: nobody knows which token has which property, so this cannot be measured. "
    "Runs on generated text, such as the miniature, have them."
)


def toy(run: RunStore, setting: str) -> None:
    """MMCS and other measures of dictionaries on toy data, by price and size."""
    with made_by(run, "toy"):
        found = frames.over_seeds(run.read("toy"))
    measure = st.segmented_control(
        "Measure", list(figures.SHORT), format_func=figures.SHORT.get, required=True,
        **links.bound("measure", "mmcs", options=list(figures.MEASURES)),
    )  # fmt: skip
    left, right = layout.stacking_columns(2, "toy")
    with left:
        drawn = figures.toy_map(found, measure, state.colours())
        plots.show_plot("By price and size", drawn, "toy-map", help=explain("toy", measure))
    with right:
        plots.show_plot("Against the price", figures.toy_lines(found, measure, state.colours()), "toy-lines")
    show_claims([judge.recovered(found), judge.needs_price(found)])


def labelled(run: RunStore, setting: str) -> pd.DataFrame | None:
    """F1 of known factors, one dictionary a layer and kind; None, with a sentence, on text without labels."""
    if not run.manifest.corpus.get("factors"):
        plots.note(NO_LABELS)
        return None
    found = frames.all_factors(run)
    if found.empty:
        raise MissingTable("factors of some dictionary", "none", f"Make them: {command(run, 'factors')}")
    return frames.side_by_side(run, found, setting)


def by_layer(run: RunStore, setting: str) -> None:
    """Mean F1 over all factor values, by layer and kind."""
    found = labelled(run, setting)
    if found is None:
        return
    figure, _ = means_by_layer(frames.mean_f1(found), state.colours(), "")
    plots.show_plot("", figures.f1_by_layer(figure), "f1-by-layer", help=explain("factors", "f1"))
    show_claims([judge.better_than_baselines(found), judge.better_than_yes(found, frames.always_yes(found))])


def by_factor(run: RunStore, setting: str) -> None:
    """F1 of one layer by factor, or by the values of one factor; a table of the SAE's features."""
    found = labelled(run, setting)
    if found is None:
        return
    left, right = layout.stacking_columns(2, "factor-choice", "small")
    layers = sorted(int(layer) for layer in found["layer"].unique())
    bound = links.bound("factor_layer", layers[len(layers) // 2], int, layers)
    layer = left.selectbox("Layer", layers, **bound)
    here = found[found["layer"] == layer]
    factors = [ALL, *sorted(here["factor"].unique())]
    bound = links.bound("factor", ALL, options=factors)
    factor = right.selectbox(
        "Factor", factors, **bound, format_func=lambda f: "All, mean over values" if f == ALL else f
    )
    drawn = frames.by_factor(here) if factor == ALL else frames.by_value(here, factor)
    plots.show_plot("", figures.f1_dots(drawn, state.colours()), f"f1-{factor}", help=explain("factors", "f1"))
    feature_table(run, here if factor == ALL else here[here["factor"] == factor])


def feature_table(run: RunStore, here: pd.DataFrame) -> None:
    """The SAE's best feature for each factor value, and the best other dictionary; a row opens the feature."""
    shown = table(here)
    if shown.empty:
        return
    id = shown["dictionary"].iloc[0]
    shown = shown.assign(name=shown["feature"].map(feature_names(run, id, shown["feature"].unique())))
    config = st.column_config
    columns = {
        "factor": config.TextColumn("Factor"),
        "value": config.TextColumn("Value"),
        "name": config.TextColumn("SAE feature", width=190),
        "f1": config.NumberColumn("F1", format="%.3f", help=explain("factors", "f1")),
        "other": config.TextColumn("Best other"),
        "other_f1": config.NumberColumn("its F1", format="%.3f"),
        "lower": config.NumberColumn("F1 from", format="%.3f", help=explain("factors", "lower")),
        "upper": config.NumberColumn("to", format="%.3f", help=explain("factors", "upper")),
        "n_positives": config.NumberColumn("Tokens", format="localized", help=explain("factors", "n_positives")),
    }
    st.dataframe(
        shown, column_order=list(columns), column_config=columns, hide_index=True, key="factor-features",
        on_select="rerun", selection_mode="single-row", height=320 if len(shown) > 8 else "content",
    )  # fmt: skip
    plots.note("Choose a row to open the feature.")
    open_row("factor-features", shown)


def table(here: pd.DataFrame) -> pd.DataFrame:
    """Rows of the SAE of one layer, best first, with the best of the other kinds on the same factor value."""
    others = here[~here["ours"]].sort_values("f1", ascending=False, kind="stable").drop_duplicates(frames.CASE)
    others = others.assign(other=others["kind"].map(kind_name), other_f1=others["f1"])
    ours = here[here["ours"]].merge(others[[*frames.CASE, "other", "other_f1"]], on=frames.CASE, how="left")
    return ours.rename(columns={"id": "dictionary"}).sort_values("f1", ascending=False, ignore_index=True)


RESULTS = (
    Result("Toy data", "known directions found again (Sharkey et al. 2022)", toy),
    Result("Known factors", "the best feature for each property of a token", by_layer),
    Result("Known factors", "one by one", by_factor),
)
