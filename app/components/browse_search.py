"""The boxes above the Browse table: what to search for, how to sort, what to hide, which ranges."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import streamlit as st

from app import links, state
from app.components import layout
from app.glossary import explain, explain_flag
from sae_core import browse, labels
from sae_core.annotations import Annotations
from sae_core.store import DictionaryEntry, RunStore

SEARCHES = {
    "none": "All features",
    "reads": "Active on a token",
    "lowers": "Removal lowers a token",
    "raises": "Removal raises a token",
    "label": "Labels and explanations",
}
SORTS = {
    "relevance": "Search result", "feature": "Index", "density": "Density", "max_activation": "Maximum",
    "mean_active": "Mean active", "entropy": "Entropy", "n_active": "Active tokens", "skew": "Skew",
    "kurtosis": "Kurtosis",
}  # fmt: skip
HIDEABLE = {"dead": "dead", "dense": "dense", "position_only": "position-only"}
RANGES = {"density": "Density (%)", "max_activation": "Maximum", "entropy": "Entropy (bits)"}
SCALE = {"density": 100.0}


def search(run: RunStore, entry: DictionaryEntry) -> tuple[pd.DataFrame | None, str]:
    """The search boxes: what they find (None: no search) and a sentence about it."""
    kind_box, text_box, token_box = st.columns([2, 2, 2])
    with kind_box:
        kind = st.selectbox(
            "Search", list(SEARCHES), format_func=SEARCHES.get,
            **links.bound("search", "none", options=list(SEARCHES), drops=("token", "sort", "page")),
        )  # fmt: skip
    if kind == "none":
        return None, ""
    with text_box:
        hint = "a part of a label or explanation" if kind == "label" else "one token, such as  the"
        text = st.text_input("Text", placeholder=hint, **links.bound("text", "", drops=("token", "page")))
    if kind == "label":
        return labelled(run, entry, text or ""), "with such a label"
    if not text:
        return None, ""
    with token_box:
        token = choose_token(run, text)
    word = state.tokens(run)[token]
    if kind == "reads":
        return browse.by_input_token(run, entry.id, token), f"among the strongest on {word}"
    found = browse.by_output_token(run, entry.id, token, kind == "lowers")
    return found, f"whose removal {kind} {word} (among its most changed tokens)"


def choose_token(run: RunStore, text: str) -> int:
    """Which token the typed text means."""
    words = state.tokens(run)
    ids = browse.find_tokens(words, text)
    return st.selectbox(
        "Token", ids, format_func=lambda id: words[id], help="␣ is a space, ↵ a newline, ⇥ a tab",
        **links.bound("token", ids[0], int, options=ids, drops=("page",)),
    )  # fmt: skip


def labelled(run: RunStore, entry: DictionaryEntry, text: str) -> pd.DataFrame:
    """Features whose label or note contains the text, starred ones first, then those explained so, best ones first."""
    frame = Annotations(run).frame(entry.id)
    hit = frame["label"].str.contains(text, case=False, regex=False) | frame["note"].str.contains(
        text, case=False, regex=False
    )
    own = frame[hit].sort_values("star", ascending=False, kind="stable")
    explained = labels.search(run, entry.id, text)
    return pd.DataFrame({"feature": pd.unique(np.r_[own["feature"].to_numpy(), explained])})


def filters(found: pd.DataFrame | None) -> browse.Query:
    """Sort, hide and range widgets, as a query."""
    names = list(SORTS) if found is not None else [name for name in SORTS if name != "relevance"]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        sort = st.selectbox(
            "Sort by", names, format_func=SORTS.get, width=190,
            **links.bound("sort", names[0], options=names, drops=("page",)),
        )  # fmt: skip
        order = st.segmented_control(
            "Order", ["up", "down"], format_func={"up": "Smallest first", "down": "Largest first"}.get, required=True,
            disabled=sort == "relevance", **links.bound("order", "up", options=["up", "down"], drops=("page",)),
        )  # fmt: skip
        hide = st.pills(
            "Hide", list(HIDEABLE), format_func=HIDEABLE.get, selection_mode="multi",
            help=". ".join(f"{HIDEABLE[flag].capitalize()}: {explain_flag(flag)}" for flag in HIDEABLE),
            **links.bound_list("hide", ["dead"], options=list(HIDEABLE), drops=("page",)),
        )  # fmt: skip
    candidates = None if found is None else np.unique(found["feature"]) if sort != "relevance" else _in_order(found)
    return browse.Query(sort, order == "down", tuple(hide), ranges(), candidates)


def _in_order(found: pd.DataFrame) -> np.ndarray:
    return found["feature"].drop_duplicates().to_numpy()


def ranges() -> dict[str, browse.Range]:
    """Range filters; an empty box leaves that side open."""
    limits: dict[str, browse.Range] = {}
    asked = any(f"{side}_{name}" in st.query_params for name in RANGES for side in ("min", "max"))
    with st.expander("Ranges", expanded=asked):
        for (name, title), column in zip(RANGES.items(), layout.stacking_columns(3, "ranges", "small"), strict=True):
            low_box, high_box = column.columns(2)
            scale = SCALE.get(name, 1.0)
            low = low_box.number_input(f"{title} from", min_value=0.0, format="%g", placeholder="any",
                                       help=explain("features", name), **_open(f"min_{name}"))  # fmt: skip
            high = high_box.number_input("to", min_value=0.0, format="%g", placeholder="any",
                                         **_open(f"max_{name}"))  # fmt: skip
            limits[name] = (None if low is None else low / scale, None if high is None else high / scale)
    return limits


def _open(key: str) -> dict:
    return links.bound(key, None, bound_value, drops=("page",))


def bound_value(text: str) -> float:
    """A finite number of 0 or more; ValueError otherwise."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value
