"""The part of the Compare page on quality: what the dictionaries are, metrics, densities, the sweep, scores."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, state
from app.components import layout, plots
from app.figures.compare import chosen_in_sweep, density_overlay, score_means
from app.glossary import TERMS, explain, plain
from app.names import layer_column
from app.paper import CORRECTED, SETTINGS
from sae_core import results
from sae_core.specs import L1_KINDS, format_alpha
from sae_core.store import DictionaryEntry, RunStore


def quality(run: RunStore, chosen: list[DictionaryEntry]) -> None:
    """Table of what they are and their metrics, then densities and the sweep."""
    metrics = results.all_metrics(run)
    st.subheader("Side by side")
    quality_table(chosen, metrics)
    ids = [entry.id for entry in chosen]
    found = metrics[metrics["id"].isin(ids)]
    if found.empty:
        return
    ordered = found.set_index("id", drop=False).loc[[id for id in ids if id in set(found["id"])]]
    n = int(ordered["n_tokens"].iloc[0])
    left, right = layout.stacking_columns(2, "quality")
    with left:
        plots.show_plot("How often features fire", density_overlay(ordered, ids, state.colours()), "densities",
                        help=explain("metrics", "density_hist", n))  # fmt: skip
    with right:
        plots.show_plot("Reconstruction against sparsity", chosen_in_sweep(metrics, ids, state.colours()), "sweep",
                        help=explain("metrics", "fvu", n))  # fmt: skip


def quality_table(chosen: list[DictionaryEntry], metrics: pd.DataFrame) -> None:
    """One row a dictionary; the head of every column explains it on hover."""
    rows = pd.DataFrame([results.described(entry) for entry in chosen])
    numbers = metrics.drop(columns=[c for c in rows.columns if c != "id"], errors="ignore")
    shown = rows.merge(numbers, on="id", how="left")
    shown["layer"] = layer_column(shown["layer"])
    shown["kind"] = [in_words(entry) for entry in chosen]
    shown["sparsity"] = [sparsity(entry) for entry in chosen]
    shown["ce_recovered"] *= 100
    shown["alive"] = 100 * shown["n_alive"] / shown["n_features"]
    columns = quality_columns(int(metrics["n_tokens"].max()) if len(metrics) else None)
    st.dataframe(shown, column_order=list(columns), column_config=columns, hide_index=True, key="quality")
    without = shown.loc[shown["l0"].isna(), "id"]
    if len(without):
        make = "Make them: python -m precompute metrics --run FOLDER"
        plots.note(f"Without metrics: {', '.join(without)}. {make}")


def in_words(entry: DictionaryEntry) -> str:
    """Kind and variant: `SAE`, `SAE, seed1`."""
    name = results.kind_name(entry.spec.kind)
    return f"{name}, {entry.spec.variant}" if entry.spec.variant else name


def sparsity(entry: DictionaryEntry) -> str:
    """`alpha 3.2e-2` or `k 30`, whichever made the dictionary sparse."""
    if entry.spec.k is not None:
        return f"k {entry.spec.k}"
    return f"alpha {format_alpha(entry.spec.alpha)}" if entry.spec.kind in L1_KINDS else "none"


def quality_columns(n: int | None) -> dict:
    """Column settings; n: held-out tokens."""
    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    return {
        "id": text("Dictionary", width=245),
        "l0": number("L0", format="%.1f", help=explain("metrics", "l0", n)),
        "fvu": number("FVU", format="%.3f", help=explain("metrics", "fvu", n)),
        "ce_recovered": number("CE rec. (%)", format="%.1f", help=explain("metrics", "ce_recovered", n)),
        "alive": number("Alive (%)", format="%.1f", help=explain("metrics", "n_alive", n)),
        "kind": text("Kind", width=90),
        "layer": number("Layer", format="%d", width=52),
        "site": text("Site", help=TERMS["site"]),
        "ratio": number("Ratio", format="%g", help=TERMS["ratio"]),
        "sparsity": text(
            "Sparsity", help=f"alpha: {plain(TERMS['alpha'])} k: active features a token it was trained to, or keeps."
        ),
        "n_features": number("Features", format="localized"),
        "perplexity_spliced": number("Perplexity", format="%.2f", help=explain("metrics", "perplexity_spliced", n)),
        "role": text("Role", help="main: all tables; sweep, baseline: metrics and weights; grid: metrics only"),
    }


# ---- scores


def scores(run: RunStore, chosen: list[DictionaryEntry]) -> None:
    """Mean scores of explanations by rules or a language model, where they were made."""
    st.subheader("How well their features can be explained", help=explain("scores", "score"))
    scored = [entry.id for entry in chosen if run.table_state("scores", entry.id) == "ready"]
    if not scored:
        plots.note(
            "None of them has scores yet. Make them: python -m precompute paper rules --run FOLDER (by rules), or "
            "python -m precompute paper explain --run FOLDER (by a language model)."
        )
        return
    bound = links.bound("setting", CORRECTED, options=list(SETTINGS))
    setting = st.segmented_control("Setting", list(SETTINGS), required=True, label_visibility="collapsed", **bound)
    frame = results.all_scores(run, setting)
    means = mean_scores(frame[frame["id"].isin(scored)])
    if means.empty:
        plots.note(f"No feature was scored in the setting {setting}.")
        return
    left, right = layout.stacking_columns([1, 2], "scores")
    ids = [entry.id for entry in chosen]
    with left:
        plots.show_plot("Mean score", score_means(means, ids, state.colours()), "scores", explain("scores", "score"))
    with right:
        columns = score_columns()
        st.dataframe(means, column_order=list(columns), column_config=columns, hide_index=True, key="score-table")
        absent = [id for id in ids if id not in set(means["id"])]
        plots.note(f"Without scores: {', '.join(absent)}." if absent else "All of the chosen dictionaries have scores.")


def mean_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95% interval over features by dictionary, explainer and scheme; skipped features are left out.

    Columns: id, explainer, scheme (in words), mean, lower, upper, interval (in words), n, n_skipped.
    """
    keys = ["id", "explainer", "scheme"]
    rows = []
    for key, part in frame.groupby(keys, sort=True):
        kept = part.loc[~part["skipped"].astype(bool), "score"]
        rows.append((*key, *results.mean_interval(kept), len(kept), len(part) - len(kept)))
    found = pd.DataFrame(rows, columns=[*keys, "mean", "lower", "upper", "n", "n_skipped"])
    found = found[found["n"] > 0].reset_index(drop=True)
    known = found["lower"].notna()
    ends = [f"{low:.3f} to {high:.3f}" for low, high in zip(found["lower"], found["upper"], strict=True)]
    interval = pd.Series(ends, index=found.index, dtype="str").where(known, "")
    return found.assign(scheme=found["scheme"].str.replace("_", " "), interval=interval)


def score_columns() -> dict:
    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    interval = "mean ± 1.96 standard errors over features; none for a single feature"
    return {
        "id": text("Dictionary", width=215),
        "explainer": text("By", help=explain("scores", "explainer"), width=50),
        "scheme": text("Fragments", help=explain("scores", "scheme"), width=115),
        "mean": number("Mean", format="%.3f", help=explain("scores", "score"), width=58),
        "interval": text("95% interval", help=interval, width=108),
        "n": number("n", help="features scored", width=45),
        "n_skipped": number("Skipped", help=explain("scores", "skipped"), width=70),
    }
