"""Patching, second part: which dictionaries, in which order, which features. Loads torch."""

from __future__ import annotations

import streamlit as st

from app import links, names, state
from app.components.patching_pair import OF_PAIR
from app.components.plots import note
from app.live_patching import Reading
from sae_core.errors import DictionaryError
from sae_core.store import DictionaryEntry, RunStore

NONE = "none"
FIRST = 10
ORDERS = {"magnitude": "Size of the edit", "acdc": "Pruning (ACDC)"}
PICKS = {"first": "The first of the order", "hand": "By hand"}
ORDER_HELP = (
    "Size of the edit: the mean norm of what each feature's patch adds, largest first. Pruning (paper, Sec. 4.2): all "
    "are patched, then dropped one by one where the KL rises least; what is dropped last comes first. It takes a while."
)


def choose_dictionary(run: RunStore) -> DictionaryEntry:
    """The dictionary whose features are patched. Raises DictionaryError if no weights are in the run."""
    default = state.default_dictionary(run).id
    entries = {d.id: d for d in run.main_dictionaries if with_weights(run, d)}
    if not entries:
        fix = f"Train some: python -m precompute train --run {run.folder.name}"
        raise DictionaryError("a dictionary with tables whose weights are in the run", "none", fix)
    bound = links.bound(
        "dictionary", default if default in entries else next(iter(entries)), options=entries,
        drops=("feature", "second", *OF_PAIR),
    )  # fmt: skip
    chosen = st.selectbox(
        "Dictionary", entries, **bound, format_func=lambda id: names.dictionary_name(run, id),
        help="Its features are patched at its own place in the model, at all positions at once.",
    )  # fmt: skip
    return entries[chosen]


def choose_second(run: RunStore, entry: DictionaryEntry) -> DictionaryEntry | None:
    """A dictionary to draw a second curve of: PCA of the same place if the run has it."""
    others = {d.id: d for d in run.dictionaries if d.id != entry.id and d.role != "grid" and with_weights(run, d)}
    nearest = sorted(others, key=lambda id: others[id].spec.site != entry.spec.site)
    same = [id for id in nearest if (others[id].spec.site, others[id].spec.kind) == (entry.spec.site, "pca")]
    bound = links.bound("second", same[0] if same else NONE, options=[NONE, *nearest])
    chosen = st.selectbox(
        "Compare with", [NONE, *nearest], **bound,
        format_func=lambda id: "nothing" if id == NONE else names.dictionary_name(run, id),
        help="A second curve for the same two sentences. Of PCA and other bases both sides of a direction are patched "
        "together, so that all of them together give the target run.",
    )  # fmt: skip
    return others.get(chosen)


def with_weights(run: RunStore, entry: DictionaryEntry) -> bool:
    """Whether its weights are in the run: points of a grid may have left theirs behind."""
    return run.dictionary_folder(entry.id).is_dir()


def choose_order() -> str:
    """By what the features are ranked."""
    bound = links.bound("order", "magnitude", options=ORDERS)
    return st.segmented_control(
        "Order of the features", ORDERS, **bound, format_func=ORDERS.get, required=True, help=ORDER_HELP
    )


def choose_features(run: RunStore, found: Reading) -> tuple[int, ...]:
    """The features to patch: the first k of the order, or those named."""
    left, right = st.columns([2, 3], gap="large", vertical_alignment="bottom")
    bound = links.bound("pick", "first", options=PICKS)
    pick = left.segmented_control("Which features", PICKS, **bound, format_func=PICKS.get, required=True)
    n = len(found.order)
    with right:
        if pick == "hand":
            return by_hand(run, found)
        bound = links.bound("k", min(FIRST, n), int, range(n + 1))
        k = st.slider("How many, from the first of the order", 0, n, **bound, help=f"{n} features differ")
        return found.order[:k]


def by_hand(run: RunStore, found: Reading) -> tuple[int, ...]:
    """Features chosen one by one. One that a link names but does not differ is left out, and said."""
    bound = links.bound_list("features", [], int)
    asked = [run.check_feature(found.entry.id, f) for f in st.session_state["features"]]
    silent = [f for f in asked if f not in found.order]
    offered = [*found.order, *silent]
    named = names.feature_names(run, found.entry.id, offered)
    chosen = st.multiselect(
        "Features to patch", offered, **bound, format_func=named.get, placeholder="Choose features, first of the order"
    )
    if silent:
        note(f"The same in both runs, so patching changes nothing: {', '.join(f'#{f}' for f in silent)}.")
    return tuple(f for f in chosen if f in found.order)
