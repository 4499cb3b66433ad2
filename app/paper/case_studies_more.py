"""Case studies, continued (paper Sec. 5.3, App. D): search, unembedding, causes, and directions across layers."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, state, trees
from app.components import layout, plots
from app.components.feature_related import open_row
from app.figures import paper_case_studies as figures
from app.figures.tree import causal_tree, least_width
from app.glossary import explain
from app.paper import AS_PUBLISHED
from app.paper import case_studies_more_claims as judge
from app.paper.case_studies_choice import APOSTROPHE, CLOSER, choose, picked
from app.paper.case_studies_claims import is_apostrophe
from app.paper.claims import show_claims
from app.paper.missing import made_by
from app.trees import Growth
from sae_core.errors import MissingTable
from sae_core.schemas import DENSE_ABOVE
from sae_core.store import DictionaryEntry, RunStore

MATCHES = {"cosine": "One to one", "best_cosine": "Nearest, matched or not"}
RANKED_BY = {"stored": "Among the stored tokens", "model": "Whole vocabulary (loads the model)"}
SENTENCE = " I don’t know about that. It is now up to Dave’"
STRONGEST, KEPT, WRITTEN = 10, 3, 10
GROWTH = Growth(depth=3, branching=3, threshold=0.01)


# ---- feature search and unembedding


def feature_search(run: RunStore, setting: str) -> None:
    """The strongest features on the last token of a sentence; the model is loaded when one is asked for."""
    box, button = layout.stacking_columns([5, 1], "search", "small")
    with box:
        text = st.text_input(
            "A sentence; its last token is looked at", **links.bound("find", SENTENCE), help="Read exactly as typed."
        )
    with button.container(height="stretch", vertical_alignment="bottom"):
        st.button("Search", on_click=links.write, args=("find", text), key="search", icon=":material/search:")
    if "find" not in st.query_params:
        plots.note("The language model is loaded when you search; the sentence is the one of the paper.")
        return
    show_found(run, text)


def show_found(run: RunStore, text: str) -> None:
    """The strongest features, those kept marked, as a table whose rows open their pages."""
    entry, feature = picked(run, APOSTROPHE)
    with st.spinner("Reading the sentence"):
        from app import live  # loads torch

        sentence = live.sentences(run, text)[0]
        found = strongest(run, entry, live.firing(run, sentence), len(sentence.ids) - 1)
    found = found.assign(kept=~found["dense"] & ((~found["dense"]).cumsum() <= KEPT))
    config = st.column_config
    columns = {
        "name": config.TextColumn("Feature", width=240),
        "activation": config.NumberColumn("Activation", format="%.3f"),
        "share": config.ProgressColumn("Of its maximum", format="percent", min_value=0, max_value=1),
        "density": config.NumberColumn("Density", format="percent", help=explain("features", "density")),
        "kept": config.CheckboxColumn("Kept", help=f"the first {KEPT} that are not dense"),
    }
    st.dataframe(found, column_order=list(columns), column_config=columns, hide_index=True, key="found",
                 on_select="rerun", selection_mode="single-row")  # fmt: skip
    open_row("found", found)
    plots.note(
        f"The {len(found)} features of {entry.id} that are strongest on the last token ({sentence.tokens[-1]}). Kept, "
        f"as in the paper: the first {KEPT} that are active on less than {DENSE_ABOVE:.0%} of the table tokens. "
        "Choose a row to open it."
    )
    if is_apostrophe(sentence.tokens[-1]):
        show_claims([judge.search_finds(found, feature, KEPT)])


def strongest(run: RunStore, entry: DictionaryEntry, fires: pd.DataFrame, position: int) -> pd.DataFrame:
    """The STRONGEST features of a dictionary at one position: dictionary, feature, activation, name, share, dense."""
    from app.components.live_firing import ranking  # loads torch
    from sae_core.feature_search import search_firing

    found = search_firing(fires[fires["dictionary"] == entry.id], {position})
    ranked = ranking(run, found.rename(columns={"mean_activation": "activation"}), dense=True).head(STRONGEST)
    return ranked.assign(dense=ranked["density"] >= DENSE_ABOVE)


def unembedding(run: RunStore, setting: str) -> None:
    """The tokens the closing-bracket feature writes most."""
    entry, feature = choose(run, CLOSER)
    ranked_by = st.segmented_control(
        "Ranked", list(RANKED_BY), format_func=RANKED_BY.get, required=True, label_visibility="collapsed",
        **links.bound("unembedding", "stored", options=list(RANKED_BY)),
    )  # fmt: skip
    if ranked_by == "model":
        frame, unit = written_by_model(run, entry, feature), "final LayerNorm with denominator 1"
        population = f"{len(state.tokens(run)):,} tokens of the vocabulary"
    else:
        effects = run.read("logit_effects", entry.id, key=feature)
        frame, unit = most_written(effects), "at the feature's mean activation"
        population = f"the {len(effects)} tokens that its removal lowers or raises most"
    plots.show_plot(f"What feature {feature} writes", figures.written(frame, state.colours(), unit), "written",
                    help=explain("logit_effects", "direct"))  # fmt: skip
    show_claims([judge.writes_closers(frame["token"].tolist(), population)])


def most_written(effects: pd.DataFrame) -> pd.DataFrame:
    """The WRITTEN tokens with the largest direct effect, out of the rows of `logit_effects`: token, logit."""
    rows = effects.assign(logit=-effects["direct"]).sort_values("logit", ascending=False, kind="stable")
    return rows.loc[rows["logit"] > 0, ["token", "logit"]].head(WRITTEN)


def written_by_model(run: RunStore, entry: DictionaryEntry, feature: int) -> pd.DataFrame:
    """The WRITTEN tokens with the largest logit over the whole vocabulary: token, logit."""
    with st.spinner("Unembedding the feature"):
        from sae_core.unembedding import written_tokens  # loads torch

        found = written_tokens(state.live_model(run), state.live_dictionary(run, entry.id), [feature], WRITTEN)
    return found.assign(token=found["token_id"].map(state.tokens(run)))[["token", "logit"]]


# ---- causes and neighbouring layers


def figure_5(run: RunStore, setting: str) -> None:
    """The causal tree of the closing-bracket feature."""
    entry, feature = picked(run, CLOSER)
    nodes, edges = trees.stored_tree(run, (entry.id, feature), GROWTH)
    own = trees.stored_edges(run, entry.id, feature)
    if edges.empty:
        plots.note(trees.why_empty(run, entry, own, GROWTH.threshold))
    else:
        key = f"tree-{entry.id}-{feature}"
        width = least_width(nodes)
        plots.show_plot("", causal_tree(nodes, edges, state.colours()), key, None, lambda: None, width)
        point = plots.clicked(key)
        if point and point.get("customdata"):
            dictionary, chosen = point["customdata"]
            links.go("causal_tree", dictionary=dictionary, feature=int(chosen))
    links.link("Open it on the Causal tree page", "causal_tree", icon=":material/account_tree:",
               dictionary=entry.id, feature=feature)  # fmt: skip
    show_claims([judge.strongest_cause(own), judge.same_direction(edges)])


def across_layers(run: RunStore, setting: str) -> None:
    """Cosines of features matched one to one between the headline dictionaries of neighbouring layers."""
    pairs = layer_pairs(run, alive_only=setting != AS_PUBLISHED)
    column = st.segmented_control(
        "Match", list(MATCHES), format_func=MATCHES.get, required=True, label_visibility="collapsed",
        **links.bound("match", "cosine", options=list(MATCHES)),
    )  # fmt: skip
    drawn = figures.matched_cosines(pairs, state.colours(), column)
    plots.show_plot("", drawn, "across-layers", help=explain("across_layers", column))
    plots.note("All features, as published." if setting == AS_PUBLISHED else "Features that are dead are left out.")
    show_claims([judge.across_layers(pairs)])


def layer_pairs(run: RunStore, alive_only: bool) -> pd.DataFrame:
    """Rows of `across_layers` of every pair of layers, with the column pair; dead features left out if asked."""
    frames = []
    with made_by(run, "across_layers"):
        for entry in (entry for entry in run.dictionaries if entry.headline):
            layer = entry.spec.site.layer
            if run.headline(layer + 1) is not None:
                frame = run.read("across_layers", entry.id).assign(pair=f"layers {layer} and {layer + 1}")
                frames.append(frame[~dead(run, entry)] if alive_only else frame)
        if not frames:
            raise MissingTable("headline dictionaries of two neighbouring layers", "none", "")
    return pd.concat(frames, ignore_index=True)


def dead(run: RunStore, entry: DictionaryEntry) -> pd.Series:
    """Whether each feature of a dictionary is never active on the table tokens."""
    return run.read("features", entry.id, columns=["dead"])["dead"]
