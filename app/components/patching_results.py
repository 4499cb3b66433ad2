"""Patching, third part: curves, distance to the target run, predictions, and the features behind it. Loads torch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import links, live_patching, names, state
from app.components import layout
from app.components.numbers import digits, percent
from app.components.plots import clicked, note, show_plot
from app.components.tables import chosen_row
from app.figures import patching as figures
from app.figures.axes import NAMES_WIDTH, SCALE_WIDTH, tokens_width
from app.live_patching import Patched, Reading
from sae_core.store import RunStore

SHOWN_FEATURES = 24
OFFERED_ANSWERS = 15
PREDICTION_COLUMNS = {
    "token": st.column_config.TextColumn("next token", width=78),
    **{
        f"{name}_{what}": st.column_config.NumberColumn(f"{name} {unit}", format=form, help=help, width=width)
        for what, unit, form, help, width in (
            ("percent", "%", "%.3g", "probability, percent", 92),
            ("logit", "logit", "%.2f", "before the softmax", 90),
        )
        for name in figures.RUNS
    },
}
FEATURE_COLUMNS = {
    "rank": st.column_config.NumberColumn("", width=40, help="place in the order"),
    "patched": st.column_config.CheckboxColumn("patched", width=65),
    "name": st.column_config.TextColumn("feature", width=205),
    "change_alone": st.column_config.NumberColumn(
        "Δ KL alone", format="%+.4f", width=85,
        help="nats: KL(patched ‖ target) at the last token with this feature patched by itself, minus that without any "
        "patch; negative = it brings the run nearer to the target",
    ),
    "magnitude": st.column_config.NumberColumn("size", format="%.3g", width=60, help="mean norm of its edit"),
    "at": st.column_config.TextColumn("most at", help="position and token of the target", width=100),
    "base": st.column_config.NumberColumn("base", format="%.3f", help="activation there in the base"),
    "target": st.column_config.NumberColumn("target", format="%.3f", help="activation there in the target"),
    "n_positions": st.column_config.NumberColumn("positions", help="positions on which the two runs differ"),
}  # fmt: skip


def section(
    run: RunStore, found: Reading, second: Reading | None, chosen: Sequence[int], answers: Sequence[str]
) -> None:
    """Everything below the choice of features."""
    result = live_patching.patched(run, found, chosen)
    numbers(found, result)
    curves(run, found, second, result)
    position = by_position(found, result)
    predictions(run, found, result, position, answers)
    features(run, found, result)


def numbers(found: Reading, result: Patched) -> None:
    """The row of measured numbers, all at the last token."""
    before, after, floor = float(result.before[-1]), float(result.after[-1]), float(found.curve["kl"].iloc[-1])
    n, closed = len(found.order), percent((before - after) / before) if before else "no gap"
    layout.metric_row(
        [
            ("KL before", f"{digits(before)} nats", "KL(base ‖ target) at the last token"),
            ("KL after", f"{digits(after)} nats", "KL(patched ‖ target) = Σ p (log p − log q), p patched, q target"),
            ("Gap closed", closed, "(KL before − KL after) / KL before"),
            (
                "Floor",
                f"{digits(floor)} nats",
                f"KL with all {n} features patched; what is left is reconstruction error",
            ),
            ("Patched", f"{len(result.features)} of {n}", _silent(found)),
            ("Edit norm", digits(result.magnitude), "mean Euclidean norm of the edit over all positions"),
        ]
    )


def _silent(found: Reading) -> str:
    n = found.entry.n_features
    same = n - len(found.order)
    return f"{same:,} of the {n:,} features are the same in both runs at every position; patching them changes nothing"


def curves(run: RunStore, found: Reading, second: Reading | None, result: Patched) -> None:
    """KL against the number of patched features, and against the size of the edit."""
    lines = [
        figures.Line(names.dictionary_name(run, each.entry.id), each.entry.spec.kind, each.curve)
        for each in (found, second)
        if each is not None
    ]
    here = len(result.features), float(result.after[-1]), result.magnitude
    titles = {"n_patched": "By number of patched features", "magnitude": "By size of the edit"}
    for column, (axis, title) in zip(layout.stacking_columns(2, "curves"), titles.items(), strict=True):
        with column:
            # A key of its own for each choice: a kept selection would swallow the next click on the same point.
            key = f"curve-{axis}-{here[0]}"
            drawn = figures.curves(lines, axis, here, state.colours())
            show_plot(title, drawn, key, on_select=lambda key=key: _point_clicked(key))


def _point_clicked(key: str) -> None:
    point = clicked(key)
    if point and point.get("customdata") and point["customdata"][2]:
        links.write("pick", None)
        links.write("k", int(point["customdata"][0]))


def by_position(found: Reading, result: Patched) -> int:
    """KL at every position; a click chooses the one that is read below. Default: the last."""
    options = range(len(found.target.tokens))
    position = links.read("position", options[-1], int, options)
    key = f"gap-{position}"
    drawn = figures.gap_by_position(result.before, result.after, found.target.tokens, position, state.colours())
    width = tokens_width(len(found.target.tokens), SCALE_WIDTH)
    show_plot("Distance to the target run, token by token", drawn, key, None, lambda: _bar_clicked(key), width)
    return position


def _bar_clicked(key: str) -> None:
    point = clicked(key)
    if point:
        links.write("position", int(point["x"]))


def predictions(run: RunStore, found: Reading, result: Patched, position: int, answers: Sequence[str]) -> None:
    """Next tokens of the three runs after one position: the likeliest as a plot, chosen answers as numbers."""
    frame = live_patching.predictions(run, result, position)
    left, right = layout.stacking_columns([1, 2], "predictions")
    with left:
        shown = frame.loc[live_patching.likeliest(frame)]
        drawn = figures.next_tokens(shown, position, found.target.tokens[position], state.colours())
        show_plot("What comes next", drawn, "next")
    with right:
        ids = choose_answers(run, found, frame, answers)
        shown = frame.loc[ids].assign(**{f"{name}_percent": 100 * frame[f"{name}_p"] for name in figures.RUNS})
        st.dataframe(
            shown[list(PREDICTION_COLUMNS)], column_config=PREDICTION_COLUMNS, hide_index=True, height="content",
            key="answers_table",
        )  # fmt: skip
        if len(ids) >= 2:
            note(_difference(shown))


def choose_answers(run: RunStore, found: Reading, frame: pd.DataFrame, answers: Sequence[str]) -> list[int]:
    """Tokens to read the numbers of: those of the drawn pair, else the likeliest of base and of target."""
    own = live_patching.answer_ids(run, answers)
    default = own or list(dict.fromkeys(int(frame[f"{name}_p"].idxmax()) for name in ("base", "target")))
    bound = links.bound_list("answers", default, int, frame.index)
    likely = live_patching.likeliest(frame, OFFERED_ANSWERS)
    asked = st.session_state["answers"]
    offered = dict.fromkeys([*asked, *default, *likely, *found.base.ids, *found.target.ids])
    return st.multiselect("Answers to compare", offered, **bound, format_func=lambda id: frame["token"][id])


def _difference(shown: pd.DataFrame) -> str:
    """The logit difference of the first two answers in the three runs."""
    first, other = shown["token"].iloc[:2]
    parts = [f"{name} {shown[f'{name}_logit'].iloc[0] - shown[f'{name}_logit'].iloc[1]:+.2f}" for name in figures.RUNS]
    return f"Logit of {first} minus logit of {other}: {', '.join(parts)}."


def features(run: RunStore, found: Reading, result: Patched) -> None:
    """The features that differ: a table with links, and where each of them differs."""
    st.markdown("###### Which features carry the difference")
    frame = live_patching.by_feature(run, found)
    named = names.feature_names(run, found.entry.id, frame["feature"])
    frame = frame.assign(
        name=frame["feature"].map(named), patched=frame["feature"].isin(result.features),
        at=[f"{p} · {found.target.tokens[p]}" for p in frame["position"]],
        change_alone=frame["kl_alone"] - float(result.before[-1]),
    )  # fmt: skip
    key = f"features-{found.entry.id}"
    st.dataframe(
        frame, column_order=list(FEATURE_COLUMNS), column_config=FEATURE_COLUMNS, hide_index=True, key=key,
        height=400 if len(frame) > 10 else "content", on_select="rerun", selection_mode="single-row",
    )  # fmt: skip
    note(f"Choose a row to open its feature. {_silent(found)}.")
    row = chosen_row(key)
    if row is not None and row < len(frame):
        links.go("feature", dictionary=found.entry.id, feature=int(frame["feature"].iloc[row]))
    first = list(dict.fromkeys([*found.order[:SHOWN_FEATURES], *result.features]))[: 2 * SHOWN_FEATURES]
    values, chosen = live_patching.changes(found, first), [f in result.features for f in first]
    drawn = figures.changes(values, [named[f] for f in first], found.target.tokens, chosen, state.colours())
    width = tokens_width(len(found.target.tokens), NAMES_WIDTH)
    show_plot("Where they differ", drawn, "changes", least_width=width)
