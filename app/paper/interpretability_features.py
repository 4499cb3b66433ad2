"""Single features in the section Interpretability: Table 1, their scores, their moments (Table 2), and detection."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import streamlit as st

from app import links, state
from app.components import plots
from app.components.html_table import Anchor, show_table
from app.figures import paper_interpretability as figures
from app.glossary import explain
from app.paper import AS_PUBLISHED
from app.paper import interpretability_claims as claims
from app.paper.claims import show_claims
from app.paper.interpretability_frames import means
from app.paper.interpretability_scores import SCHEMES, chosen_layer, detection_scores, reading
from app.paper.missing import command, made_by
from sae_core.errors import MissingTable
from sae_core.store import RunStore

TABLE_ROWS = 5
TABLE_1 = (0.33, -0.11, 0.55, 0.57, 0.19)
TABLE_2 = {"mean": (-0.09,), "variance": (0.02,), "skew_uncentred": (0.20, 0.19), "kurtosis_uncentred": (0.15, 0.24)}
MOMENTS = {
    "mean": "mean", "variance": "variance", "skew_uncentred": "skew, uncentred", "skew": "skew, centred",
    "kurtosis_uncentred": "kurtosis, uncentred", "kurtosis": "kurtosis, centred",
}  # fmt: skip


# ---- Table 1


def table_1(run: RunStore, setting: str) -> None:
    """Five features of one layer's dictionary with explanation and score, each a link."""
    asked = reading(run, setting)
    layer = chosen_layer(asked.scores)
    chosen = asked.beside("resid_post")
    ours = chosen[chosen["ours"] & (chosen["layer"] == layer)]
    if ours.empty:
        raise MissingTable(f"scores of an SAE in layer {layer}", "none", f"Make them: {command(run, 'rules')}")
    id = ours["id"].iloc[0]
    rows = five(asked.of(id, asked.scheme), setting, run.manifest.spec.seed)
    head = ("Feature", "Explanation", "Score", "95% interval")
    show_table(head, [_row(run, id, row) for row in rows.to_dict("records")], numbers=(2, 3))
    how = "the first five" if setting == AS_PUBLISHED else "five drawn with the run's seed among those scored"
    plots.note(
        f"{id}, {how}. The paper's first five features of layer 1 (Pythia-70M) score "
        f"{', '.join(f'{value:.2f}' for value in TABLE_1)}: parts of names, actions, the letter W, the number 5, law."
    )


def five(rows: pd.DataFrame, setting: str, seed: int) -> pd.DataFrame:
    """The first five features (as-published, skipped ones too), or five drawn among those with a score."""
    if setting == AS_PUBLISHED:
        return rows.sort_values("feature").head(TABLE_ROWS)
    kept = rows[~rows["skipped"].astype(bool)].sort_values("feature")
    drawn = np.random.default_rng(seed).permutation(len(kept))[:TABLE_ROWS]
    return kept.iloc[np.sort(drawn)]


def _row(run: RunStore, id: str, row: dict) -> list[str | Anchor]:
    name = f"{int(row['layer'])}-{int(row['feature']):04d}"
    where = Anchor(name, links.url("feature", dictionary=id, feature=int(row["feature"])))
    first = where if run.dictionary(id).role == "main" else name
    if row["skipped"]:
        return [first, f"skipped: {row['explanation']}", "", ""]
    return [first, row["explanation"], f"{row['score']:.2f}", f"{row['lower']:.2f} to {row['upper']:.2f}"]


# ---- single scores


def single_scores(run: RunStore, setting: str) -> None:
    """Every feature's score by method, for one layer; a click opens the feature."""
    asked = reading(run, setting)
    layer = chosen_layer(asked.scores)
    chosen = asked.beside("resid_post")
    averages = means(asked.scores, chosen[chosen["layer"] == layer], asked.scheme)
    averages = averages[averages["n"] > 0]
    if averages.empty:
        raise MissingTable(f"features with a score in layer {layer}", "none", f"Make them: {command(run, 'rules')}")
    rows = pd.concat([asked.of(id, asked.scheme) for id in averages["id"]])
    drawn = figures.score_strip(rows[~rows["skipped"].astype(bool)], averages, state.colours(), run.manifest.spec.seed)
    title = f"Layer {layer}, {SCHEMES[asked.scheme]}, explained by {asked.explainer}"
    plots.show_plot(title, drawn, "single_scores", help=explain("scores", "score"), on_select=lambda: None)
    _open_clicked(run)


def _open_clicked(run: RunStore) -> None:
    """Open the feature of the chosen point; a feature without a page is named instead."""
    point = plots.clicked("single_scores")
    if not point or "customdata" not in point:
        return
    id, feature = str(point["customdata"][0]), int(point["customdata"][1])
    if run.dictionary(id).role == "main":
        links.go("feature", dictionary=id, feature=feature)
    explained = html.unescape(point["customdata"][4])  # the figure's text is escaped for plotly
    plots.note(f"Feature {feature} of {id} has no page: only dictionaries with all tables have one. {explained}")


# ---- Table 2, detection


def table_2(run: RunStore, setting: str) -> None:
    """Correlation of the moments of activation with the score."""
    asked = reading(run, setting)
    with made_by(run, "moments"):
        rows = run.read("moments_scores")
    keys = (asked.explainer, asked.scheme, setting)
    rows = rows[(rows[["explainer", "scheme", "setting"]] == keys).all(axis=1)]
    if rows.empty:
        raise MissingTable(
            f"moments against scores of {', '.join(keys)}", "none", f"Make it: {command(run, 'moments')}"
        )
    pooled = {"headline": "all headline dictionaries"}
    ids = sorted(rows["dictionary"].unique(), key=lambda id: (id not in pooled, id))
    id = st.selectbox(
        "Features of", ids, format_func=lambda id: pooled.get(id, id), **links.bound("moments", ids[0], options=ids)
    )
    rows = moment_rows(rows[rows["dictionary"] == id])
    plots.show_plot("", figures.correlations(rows, TABLE_2, state.colours()), "table_2")
    plots.note(
        "Uncentred: E[c³] / variance^1.5 and E[c⁴] / variance², the forms that the authors' code computes and the "
        "paper's numbers belong to (the second diamond: the text of App. C.4). Centred: around the mean, as usually "
        f"defined. n = {int(rows['n'].iloc[0]):,} features with a score."
    )
    show_claims(
        [
            claims.heavy_tails(rows, ("skew_uncentred", "kurtosis_uncentred"), "uncentred"),
            claims.heavy_tails(rows, ("skew", "kurtosis"), "centred"),
        ]
    )


def moment_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of MOMENTS, with their names."""
    ordered = rows.set_index("moment").reindex(list(MOMENTS)).dropna(subset="r").reset_index()
    return ordered.assign(name=ordered["moment"].map(MOMENTS))


def detection(run: RunStore, setting: str) -> None:
    """Accuracy of a language model that reads the explanations only; how to make it where there is none."""
    frame = detection_scores(run, setting)
    if frame.empty:
        plots.note(
            f"No language model has explained features of this run: {command(run, 'explain')} --spend asks one, with "
            "its key from the environment; without --spend it tells what that would cost."
        )
        return
    frame = _of_explainer(frame, reading(run, setting).explainer)
    plots.show_plot(
        "", figures.detection_means(frame, state.colours()), "detection", help=explain("detection", "accuracy")
    )
    show_claims([claims.above_chance(frame, scorer) for scorer in sorted(frame["scorer"].unique())])


def _of_explainer(frame: pd.DataFrame, explainer: str) -> pd.DataFrame:
    found = sorted(frame["explainer"].unique())
    if explainer in found:
        return frame[frame["explainer"] == explainer]
    fix = f"Choose {', '.join(found)} under Explained by"
    raise MissingTable("detection by the chosen explainer", f"none by {explainer}", fix)
