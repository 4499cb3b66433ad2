"""The part of the Feature page on what others say it is about: every explanation, with how well it predicts."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.components import plots
from app.glossary import explain
from sae_core import labels
from sae_core.store import DictionaryEntry, RunStore


def explanations(run: RunStore, entry: DictionaryEntry, feature: int, row: pd.Series) -> None:
    """Imported labels, then explanations by rules and models, each with its score on text it was not made from."""
    st.subheader("Explanations", help=explain("scores", "score"))
    frame = labels.explanations(run, entry.id, feature)
    if frame.empty:
        command = f"python -m precompute paper rules --run {run.folder.name} --dictionaries {entry.id}"
        plots.note(f"None were made for this feature. Rules need no language model: {command}")
        return
    st.dataframe(
        written(frame), column_config=columns(), column_order=list(columns()), hide_index=True, row_height=34,
        key=f"explanations-{entry.id}-{feature}", height="content",
    )  # fmt: skip
    plots.note(
        "A score is the correlation of the activations that the explanation predicts with the true ones, on text it "
        f"was not made from; 1 is perfect. A rule names the feature where it scores {labels.LEAST_RULE_SCORE:g} or "
        "more, no label was imported and no language model has explained it."
    )


def written(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows as the table shows them: no score, interval and fragments where it was skipped or not scored."""
    skipped = frame["skipped"].astype(bool)
    unscored = skipped | frame["score"].isna()
    scored = frame[["score", "lower", "upper", "n_fragments"]].astype(float).mask(unscored)
    interval = [f"{low:.2f} to {high:.2f}" for low, high in zip(frame["lower"], frame["upper"], strict=True)]
    text = frame["explanation"].where(~skipped, "Skipped: " + frame["explanation"])
    return frame.assign(
        explanation=text, score=scored["score"], n_fragments=scored["n_fragments"],
        interval=pd.Series(interval, index=frame.index, dtype="str").where(~unscored, ""),
        scheme=frame["scheme"].str.replace("_", " "),
    )  # fmt: skip


def columns() -> dict:
    """Settings of the table's columns."""
    config = st.column_config
    return {
        "explainer": config.TextColumn("By", help=explain("scores", "explainer"), width=55),
        "score": config.NumberColumn("Score", format="%.2f", help=explain("scores", "score"), width=58),
        "scheme": config.TextColumn("Fragments", help=explain("scores", "scheme"), width=122),
        "explanation": config.TextColumn("Explanation", width="large"),
        "setting": config.TextColumn("Setting", help=explain("scores", "setting"), width=90),
        "interval": config.TextColumn("95% interval", help=explain("scores", "lower"), width=120),
        "n_fragments": config.NumberColumn("n", format="%d", help=explain("scores", "n_fragments"), width=50),
        "simulator": config.TextColumn("Predicted by", help=explain("scores", "simulator"), width=110),
    }
