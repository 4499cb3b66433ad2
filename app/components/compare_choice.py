"""What the Compare page compares: dictionaries, the two in detail (A and B), thresholds, a feature; all in the address.

A is the address's `dictionary` and `feature`, so that other pages open on it; B is `b`, its feature `other`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from app import links, state
from app.components import layout
from sae_core import compare
from sae_core.errors import DictionaryError, InputError, UnfinishedRun
from sae_core.store import DictionaryEntry, RunStore

MOST = 6
KEY = "dictionaries"
MATCH_RANGE, PART_RANGE = (0.7, 0.99), (0.2, 0.7)


@dataclass(frozen=True)
class Pair:
    """The two dictionaries in detail, and the two thresholds."""

    a: DictionaryEntry
    b: DictionaryEntry
    match: float
    part: float


def choose_dictionaries(run: RunStore) -> list[DictionaryEntry]:
    """The dictionaries side by side. Raises DictionaryError or InputError for what a link may not hold."""
    ids = [entry.id for entry in run.dictionaries]
    if len(ids) < 2:
        fix = f"Train another: python -m precompute train --run {run.folder.name}"
        raise UnfinishedRun("a run with two dictionaries or more", f"{len(ids)}", fix)
    links.bound_list(KEY, proposed(run), options=ids)
    chosen = list(dict.fromkeys(st.session_state[KEY]))
    if len(chosen) > MOST:
        raise InputError(f"at most {MOST} dictionaries", f"{len(chosen)} in the link", "Leave some out")
    st.session_state[KEY] = chosen
    # A callback of its own: the list must be written even where it is the one proposed, which depends on A.
    found = st.multiselect(
        "Dictionaries", ids, key=KEY, on_change=_chosen_changed, max_selections=MOST,
        help="layer, site, kind, ratio to the site's width, alpha or k; two to six of any role",
    )  # fmt: skip
    return [run.dictionary(id) for id in found]


def _chosen_changed() -> None:
    chosen = st.session_state[KEY]
    links.write(KEY, chosen)
    a, b = st.query_params.get("dictionary"), st.query_params.get("b")
    if a not in chosen:
        forget("dictionary", "feature", "other")
        a = next(iter(chosen), None)
    if b not in chosen or b == a:
        forget("b", "other")


def forget(*keys: str) -> None:
    """Remove keys from the address."""
    for key in keys:
        links.write(key, None)


# ---- what is proposed


def proposed(run: RunStore) -> list[str]:
    """A of the link, or the page's usual dictionary, and what is most worth comparing it with."""
    asked = st.query_params.get("dictionary")
    a = run.dictionary(asked) if asked else state.default_dictionary(run)
    return [a.id, companion(run, a).id]


def companion(run: RunStore, a: DictionaryEntry) -> DictionaryEntry:
    """Its twin of another seed; else the most like it at the same site; else one that can be compared at all."""
    others = [entry for entry in run.dictionaries if entry.id != a.id]
    return min(others, key=lambda b: _distance(run, a, b))


def _distance(run: RunStore, a: DictionaryEntry, b: DictionaryEntry) -> tuple[Any, ...]:
    plain, other = (replace(entry.spec, variant="") for entry in (a, b))
    return (
        not compare.has_weights(run.dictionary_folder(b.id)),
        not compare.comparable(a.spec.site, b.spec.site),
        other != plain,
        b.spec.site != a.spec.site,
        b.spec.kind != a.spec.kind,
        abs(b.spec.site.layer - a.spec.site.layer),
        abs(b.spec.alpha - a.spec.alpha),
    )


# ---- A and B


def choose_pair(run: RunStore, chosen: list[DictionaryEntry]) -> Pair:
    """A and B out of the chosen dictionaries, and the thresholds of the classes."""
    ids = [entry.id for entry in chosen]
    a_column, swap, b_column = st.container(key="stack-pair").columns([6, 1, 6], vertical_alignment="bottom")
    links.bound("dictionary", ids[0], options=ids)
    a = a_column.selectbox("A: its features are looked for", ids, key="dictionary", on_change=_a_changed)
    others = [id for id in ids if id != a]
    links.bound("b", _first_comparable(run, a, others), options=others)
    b = b_column.selectbox("B: where they are looked for", others, key="b", on_change=_b_changed)
    swap.button("", key="swap", icon=":material/swap_horiz:", help="Swap A and B", width="stretch",
                on_click=_show, args=(ids, b, a))  # fmt: skip
    match, part = thresholds()
    return Pair(run.dictionary(a), run.dictionary(b), match, part)


def thresholds() -> tuple[float, float]:
    """The cosines from which a partner is a match, and from which a feature is a part."""
    left, right = layout.stacking_columns(2, "thresholds")
    match = left.slider(
        "Match from cosine", *MATCH_RANGE, step=0.01,
        help="A feature of A is matched if its one-to-one partner in B has at least this cosine",
        **links.bound("match", compare.MATCH, lambda text: _between(text, *MATCH_RANGE)),
    )  # fmt: skip
    part = right.slider(
        "Part from cosine", *PART_RANGE, step=0.01,
        help="Without a match: split if two or more features of B have at least this cosine, near if one, else missing",
        **links.bound("part", compare.PART, lambda text: _between(text, *PART_RANGE)),
    )  # fmt: skip
    return match, part


def _between(text: str, low: float, high: float) -> float:
    value = float(text)
    if not low <= value <= high:
        raise ValueError(text)
    return value


def _first_comparable(run: RunStore, a: str, others: list[str]) -> str:
    entry = run.dictionary(a)
    return min(others, key=lambda id: _distance(run, entry, run.dictionary(id))[:2])


def _a_changed() -> None:
    _show(st.session_state[KEY], st.session_state["dictionary"], st.query_params.get("b"))


def _b_changed() -> None:
    links.write("b", st.session_state["b"])
    forget("other")


def _show(chosen: list[str], a: str, b: str | None) -> None:
    """Callback: another A. The list goes into the address with it, because what is proposed depends on A."""
    links.write(KEY, chosen)
    links.write("dictionary", a)
    links.write("b", b if b != a else None)
    forget("feature", "other")


# ---- features


def show_feature(a: str, chosen: list[str], feature: int | None) -> None:
    """Callback: look at a feature of A. A goes into the address with it."""
    links.write(KEY, chosen)
    links.write("dictionary", a)
    links.write("feature", feature)
    forget("other")


def show_counterpart(b: str, other: int) -> None:
    """Callback: look at this counterpart, whose dictionary becomes B."""
    links.write("b", b)
    links.write("other", other)


def feature_in_link(run: RunStore, key: str, dictionary: str) -> int | None:
    """A feature the address names, None without one. Raises InputError or FeatureError for one that is not there."""
    feature = links.read(key, None, int)
    return None if feature is None else run.check_feature(dictionary, feature)


def why_not(run: RunStore, a: DictionaryEntry, b: DictionaryEntry) -> DictionaryError | None:
    """Why the directions of two dictionaries cannot be compared, None if they can."""
    for entry in (a, b):
        if not compare.has_weights(run.dictionary_folder(entry.id)):
            found = f"metrics only for {entry.id}"
            return DictionaryError("weights of both dictionaries in the run", found, "Choose another for A or B")
    if not compare.comparable(a.spec.site, b.spec.site):
        places = " and ".join(e.spec.site.words for e in (a, b))
        wanted = "directions in the same coordinates: the same site of one layer, or the residual stream of any layer"
        return DictionaryError(wanted, places, "Choose another for A or B; metrics and scores compare all the same")
    return None
