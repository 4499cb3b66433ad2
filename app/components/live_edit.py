"""Ablate, second part: which features, which operation, how strongly, where. Loads torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import links, live, names
from app.live import Edit, Sentence
from sae_core.errors import InputError, TableError
from sae_core.store import DictionaryEntry, RunStore

OPERATIONS = {
    "remove": "Remove",
    "remove_to_threshold": "Remove to threshold",
    "scale": "Scale",
    "set": "Set",
    "add": "Add (steer)",
    "patch": "Patch from another sentence",
}
OPERATION_HELP = """
- **Remove**: the activation becomes 0.
- **Remove to threshold**: the model's activations move against the feature's direction until it is just silent (the
  paper's less-than-rank-one ablation). For a tied dictionary it is the same as Remove.
- **Scale**: the activation times a number.
- **Set**: the activation becomes a number on every chosen token, also where it was 0.
- **Add (steer)**: the activation plus a number, also where it was 0.
- **Patch**: the activation becomes that of another sentence at the same position.
"""
ERROR_HELP = (
    "What the dictionary does not explain is left in the model, so that only the chosen features change. Switched off, "
    "the model runs on the reconstruction alone: most of what then changes is due to that."
)
VALUES = {"scale": ("Factor", 2.0), "set": ("New activation", None), "add": ("Added activation", None)}
LARGEST_VALUE = 1e6


def choose_edit(run: RunStore, entry: DictionaryEntry, lines: Sequence[Sentence], sentence: Sentence) -> Edit:
    """The edit that the widgets and the address describe."""
    st.subheader("Edit")
    fires = live.firing(run, sentence)
    fires = fires[fires["dictionary"] == entry.id]
    left, right = st.columns([3, 2], gap="large")
    with left:
        features = choose_features(run, entry, fires)
        at = choose_positions(sentence, live.first(run))
    with right:
        operation, value, source = choose_operation(run, entry, lines, sentence, features)
        keep_error = st.toggle(
            "Keep the reconstruction error", **links.bound("error", True, links.flag), help=ERROR_HELP
        )
    return Edit(entry.id, tuple(features), operation, value, at, keep_error, source)


def choose_features(run: RunStore, entry: DictionaryEntry, fires: pd.DataFrame) -> list[int]:
    """Features to change; offered are those that fire, strongest first, and any index typed into the link."""
    bound = links.bound_list("features", landed(run, entry), int)
    chosen = [run.check_feature(entry.id, f) for f in st.session_state["features"]]
    peaks = fires.groupby("feature")["activation"].max().sort_values(ascending=False, kind="stable")
    offered = list(dict.fromkeys([*chosen, *map(int, peaks.index)]))
    named = names.feature_names(run, entry.id, offered)
    return st.multiselect(
        "Features to change", offered, **bound, format_func=lambda f: named[f],
        placeholder="Choose features that fire here, strongest first",
        help="Or click a cell of the grid or a row of the ranking. All of them get the same operation.",
    )  # fmt: skip


def landed(run: RunStore, entry: DictionaryEntry) -> list[int]:
    """The feature the reader came from, as the address names it."""
    text = st.query_params.get("feature", "")
    return [run.check_feature(entry.id, int(text))] if text.isdecimal() else []


def choose_positions(sentence: Sentence, first: int) -> tuple[int, ...]:
    """Tokens at which the features are changed, out of those from position `first` on; () is all of them."""
    options = range(first, len(sentence.tokens))
    bound = links.bound_list("at", [], int, options)
    chosen = st.multiselect(
        "On which tokens", options, **bound, format_func=lambda p: f"{p} · {sentence.tokens[p]}",
        placeholder="all tokens", help="The feature is changed only on these tokens; later tokens still feel it.",
    )  # fmt: skip
    return tuple(sorted(chosen))


def choose_operation(
    run: RunStore, entry: DictionaryEntry, lines: Sequence[Sentence], sentence: Sentence, features: Sequence[int]
) -> tuple[str, float, Sentence | None]:
    """Operation, its number (0 where it takes none), and the sentence that `patch` takes from."""
    what, how = st.columns(2)
    bound = links.bound("operation", "remove", options=OPERATIONS, drops=("value", "source"))
    operation = what.selectbox("Operation", OPERATIONS, **bound, format_func=OPERATIONS.get, help=OPERATION_HELP)
    with how:
        if operation in VALUES:
            return operation, choose_value(run, entry, operation, features), None
        return operation, 0.0, choose_source(lines, sentence) if operation == "patch" else None


def choose_value(run: RunStore, entry: DictionaryEntry, operation: str, features: Sequence[int]) -> float:
    """The number an operation takes; new and added activations start at the first feature's largest stored one."""
    label, default = VALUES[operation]
    if default is None:
        default = largest_activation(run, entry.id, features)
    bound = links.bound("value", default, _number)
    return st.number_input(label, -LARGEST_VALUE, LARGEST_VALUE, step=0.1, format="%.3f", **bound)


def largest_activation(run: RunStore, dictionary: str, features: Sequence[int]) -> float:
    """Largest stored activation of the first feature, three digits; 1 where it is unknown or 0."""
    try:
        frame = run.read("features", dictionary, key=list(features[:1]), columns=["feature", "max_activation"])
    except TableError:
        return 1.0
    return float(f"{frame['max_activation'].sum():.3g}") or 1.0


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > LARGEST_VALUE:
        raise ValueError(text)
    return value


def choose_source(lines: Sequence[Sentence], sentence: Sentence) -> Sentence:
    """The sentence to patch from. Raises InputError if no other one has as many tokens."""
    n = len(sentence.ids)
    equal = [i for i, line in enumerate(lines) if len(line.ids) == n and line is not sentence]
    if not equal:
        found = ", ".join(str(len(line.ids)) for line in lines if line is not sentence) or "no other sentence"
        raise InputError(
            f"another sentence of {n} tokens to patch from",
            f"{found} (tokens)",
            "Add such a line to the text box above",
        )
    bound = links.bound("source", equal[0], int, equal)
    return lines[st.selectbox("From", equal, **bound, format_func=lambda i: f"{i + 1} · {lines[i].text[:60]}")]
