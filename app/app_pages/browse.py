"""Browse: all features of a dictionary, sorted, filtered and searched, as a table or as cards."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, names, state
from app.components import cards, layout, plots
from app.components.browse_search import filters, search
from app.components.downloads import frame_buttons
from app.components.numbers import count
from app.components.tables import chosen_row, feature_columns
from app.figures.histograms import LOG_NOTE
from app.glossary import explain
from sae_core import browse
from sae_core.annotations import Annotations
from sae_core.store import DictionaryEntry, RunStore

TABLE_ROWS, CARD_ROWS = 50, 24


def main() -> None:
    """The page, top to bottom."""
    run = state.store()
    st.title("Browse")
    left, right = layout.stacking_columns([2, 3], "choice", "small")
    with left:
        entry = state.choose_dictionary(run)
    with right:
        found, what = search(run, entry)
    query = filters(found)
    view = st.segmented_control(
        "View", ["table", "cards"], format_func=str.capitalize, label_visibility="collapsed", required=True,
        **links.bound("view", "table", options=["table", "cards"]),
    )  # fmt: skip
    index = browse.feature_index(run, entry.id)
    size = TABLE_ROWS if view == "table" else CARD_ROWS
    page = browse.page(index, query, page_number(), size)
    st.session_state[state.BROWSED] = (run.folder.name, entry.id, page.order)
    plots.note(summary(page, entry, what))
    if page.total:
        show = table if view == "table" else leaf
        show(run, entry, page, found)
    pager(page, index, entry)
    export(run, index, query)


# ---- what was found


def page_number() -> int:
    """Page in the address, 1 if none."""
    return links.read("page", 1, int)


def summary(page: browse.Page, entry: DictionaryEntry, what: str) -> str:
    """How many features were found, in a sentence."""
    said = f"{count(page.total)} of {count(entry.n_features)} features {what}".strip()
    if not page.total:
        return f"{said}. Loosen a filter, or search for another token."
    return f"{said}, page {page.number} of {count(page.n_pages)}."


def table(run: RunStore, entry: DictionaryEntry, page: browse.Page, found: pd.DataFrame | None) -> None:
    """One page of rows; a click opens the feature."""
    named = names.label_texts(run, entry.id, page.frame["feature"])
    frame = page.frame.assign(name=page.frame["feature"].map(named), density=100 * page.frame["density"].astype(float))
    columns = feature_columns(state.colours())
    extra = {n: c for n, c in search_columns().items() if found is not None and n in found.columns}
    if extra:
        frame = frame.merge(found[["feature", *extra]].drop_duplicates("feature"), on="feature", how="left")
    label = ["name"] if any(named.values()) else []
    order = [
        "feature",
        *extra,
        *label,
        "sparkline",
        "top_tokens",
        "density",
        "max_activation",
        "mean_active",
        "entropy",
    ]
    key = f"features-{entry.id}"
    st.dataframe(
        frame, column_order=order, column_config=columns | extra, hide_index=True, key=key, row_height=34,
        height=38 + 34 * min(len(frame), 18), on_select="rerun", selection_mode="single-row",
    )  # fmt: skip
    plots.note("Choose a row to open its feature. The bars are counts of the ten activation bins, on a log scale.")
    row = chosen_row(key)
    if row is not None and row < len(frame):
        links.go("feature", dictionary=entry.id, feature=int(frame["feature"].iloc[row]))


def search_columns() -> dict:
    """Columns that a search adds to the table."""
    number = st.column_config.NumberColumn
    return {
        "mean_activation": number("On the token", format="%.3g", help=explain("token_features", "mean_activation")),
        "share_of_token": number("Share of token", format="percent", help=explain("token_features", "share_of_token")),
        "share_of_feature": number(
            "Share of feature", format="percent", help=explain("token_features", "share_of_feature")
        ),
        "mean_change_logprob": number(
            "Change (nats)", format="%+.3f", help=explain("logit_effects", "mean_change_logprob")
        ),
    }


def leaf(run: RunStore, entry: DictionaryEntry, page: browse.Page, found: pd.DataFrame | None) -> None:
    """The same rows as histogram cards."""
    del found  # cards show what a feature is, not why it was found
    features = page.frame["feature"].tolist()
    named = names.label_texts(run, entry.id, features)
    histograms = dict(list(run.read("token_histograms", entry.id, key=features).groupby("feature")))
    empty = pd.DataFrame({"bin": [], "token_id": [], "count": []})
    colours = state.colours()
    drawn = [
        cards.feature_card(
            row, histograms.get(row["feature"], empty), f"{row['feature']} {named[row['feature']]}",
            links.url("feature", dictionary=entry.id, feature=row["feature"]), colours,
        )
        for _, row in page.frame.iterrows()
    ]  # fmt: skip
    st.html(f"<div class='sae-cards'>{''.join(drawn)}</div>")
    plots.note(f"Each card counts the activations in ten bins up to the maximum, coloured by token. {LOG_NOTE}")


def pager(page: browse.Page, index: browse.FeatureIndex, entry: DictionaryEntry) -> None:
    """Previous and next page, any feature."""
    buttons = st.container(horizontal=True)
    buttons.button(
        "Previous", icon=":material/chevron_left:", key="previous", disabled=page.number <= 1,
        on_click=links.write, args=("page", page.number - 1),
    )  # fmt: skip
    buttons.button(
        "Next", icon=":material/chevron_right:", key="next", disabled=page.number >= page.n_pages,
        on_click=links.write, args=("page", page.number + 1),
    )  # fmt: skip
    if len(index.alive) and buttons.button("Random", icon=":material/casino:", key="random"):
        links.go("feature", dictionary=entry.id, feature=int(links.any_of(index.alive)))


def export(run: RunStore, index: browse.FeatureIndex, query: browse.Query) -> None:
    """Downloads: the rows found, and one's labels."""
    annotations = Annotations(run)
    with st.expander("Download"):
        frame_buttons("Features found", lambda: index.rows(index.select(query)), "features", "found")
        labels_csv, labels_json = layout.stacking_columns(2, "downloads", "small")
        labels_csv.download_button(
            "My labels, all dictionaries (CSV)", lambda: annotations.frame().to_csv(index=False), "labels.csv",
            key="labels_csv", width="stretch",
        )  # fmt: skip
        labels_json.download_button(
            "My labels, all dictionaries (JSON)", lambda: annotations.frame().to_json(orient="records", indent=1),
            "labels.json", key="labels_json", width="stretch",
        )  # fmt: skip


main()
