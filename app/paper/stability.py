"""Stability and controls (later work): another seed, a decoder that is never trained, a model that never was."""

from __future__ import annotations

from contextlib import suppress

import pandas as pd
import streamlit as st

from app import links, state
from app.components import layout, plots
from app.figures import paper_stability as figures
from app.figures.paper_case_studies import matched_cosines
from app.glossary import explain
from app.paper import Result
from app.paper import ground_truth_frames as factors
from app.paper import stability_claims as judge
from app.paper.claims import show_claims
from app.paper.interpretability_claims import control
from app.paper.interpretability_frames import beside
from app.paper.interpretability_scores import CONTROL_RUNS, TOP_AND_RANDOM, control_runs, explainers, read_scores
from app.paper.missing import command, made_by
from sae_core.errors import MissingTable, TableError
from sae_core.results import all_metrics, kind_name
from sae_core.store import RunStore

ALL_LAYERS = "all"
ORDERS = {"density": "density", "score": "score of its explanation"}
CONTROLS = {
    "frozen": (
        "A dictionary whose random decoder is never trained finds known factors about as well as the SAE.",
        "Not in this paper. Korznikov et al. (2026): probing 0.69 against 0.72, scores 0.87 against 0.90.",
    ),
    "reinitialised": (
        "Dictionaries of a model with re-initialised weights find known factors about as well as the SAE.",
        "Not in this paper. Heap et al. (2025): scores of explanations are similar on Pythia models.",
    ),
}


# ---- another seed


def live_features(run: RunStore) -> pd.DataFrame:
    """Rows of `stability` of live features of every headline dictionary that has a twin, with layer, id and density."""
    rows = []
    with made_by(run, "stability"):
        ready = [e for e in run.dictionaries if e.headline and run.table_state("stability", e.id) == "ready"]
        for entry in ready:
            density = run.read("features", entry.id, columns=["feature", "density"])
            found = run.read("stability", entry.id).merge(density, on="feature")
            layer = entry.spec.site.layer
            rows.append(found[found["alive"]].assign(layer=layer, id=entry.id, pair=f"layer {layer}"))
        if not rows:
            raise MissingTable("a headline dictionary and its twin trained with another seed", "none", "")
    return pd.concat(rows, ignore_index=True)


def seeds(run: RunStore, setting: str) -> None:
    """Share of live features found again by layer, and the matched cosines."""
    live = live_features(run)
    left, right = layout.stacking_columns(2, "seeds")
    with left:
        drawn = figures.found_again(judge.found_by_layer(live), state.colours())
        plots.show_plot("Found again", drawn, "found-again", help=explain("stability", "found"))
    with right:
        drawn = matched_cosines(live, state.colours())
        plots.show_plot("Cosines of matched features", drawn, "twins", help=explain("stability", "cosine"))
    show_claims([judge.mostly_the_same(live)])


def by_fifths(run: RunStore, setting: str) -> None:
    """Are commoner features, or those with better explanations, found again more closely?"""
    live = scored(run, live_features(run), setting)
    left, right = layout.stacking_columns(2, "fifths-choice", "small")
    layers = [ALL_LAYERS, *(str(layer) for layer in sorted(live["layer"].unique()))]
    bound = links.bound("twin_layer", ALL_LAYERS, options=layers)
    layer = left.selectbox("Layer", layers, **bound, format_func=lambda n: "All" if n == ALL_LAYERS else f"Layer {n}")
    column = right.selectbox(
        "Ordered by", list(ORDERS), format_func=ORDERS.get, **links.bound("order", "density", options=list(ORDERS))
    )
    here = live if layer == ALL_LAYERS else live[live["layer"] == int(layer)]
    here = here.dropna(subset=[column])
    fifths = judge.by_fifths(here, column)
    if fifths.empty:
        plots.note(f"Fewer than {judge.FEWEST} live features here have a {ORDERS[column]}.")
    else:
        plots.show_plot("", figures.against_fifths(fifths, ORDERS[column], state.colours()), f"fifths-{column}")
    show_claims([judge.more_stable(fifths, ORDERS[column])])


def scored(run: RunStore, live: pd.DataFrame, setting: str) -> pd.DataFrame:
    """`live` with the column score: of the first explainer there is (rules first), NaN where a feature has none."""
    with suppress(TableError):
        scores = read_scores(run, setting)
        chosen = (scores["explainer"] == explainers(scores)[0]) & (scores["scheme"] == TOP_AND_RANDOM)
        kept = scores.loc[chosen & ~scores["skipped"].astype(bool), ["id", "feature", "score"]]
        return live.merge(kept, on=["id", "feature"], how="left")
    return live.assign(score=float("nan"))


# ---- controls


def beside_controls(run: RunStore, setting: str) -> None:
    """SAE, frozen decoder and re-initialised model: reconstruction, mean F1 and mean score, layer by layer."""
    f1 = f1_of_controls(run, setting)
    shown = control_table(run, setting, f1)
    config = st.column_config
    columns = {
        "layer": config.NumberColumn("Layer", format="%d"),
        "name": config.TextColumn("Dictionary", width=160),
        "l0": config.NumberColumn("L0", format="%.1f", help=explain("metrics", "l0")),
        "fvu": config.NumberColumn("FVU", format="%.3f", help=explain("metrics", "fvu")),
        "ce_recovered": config.NumberColumn("CE recovered (%)", format="%.1f", help=explain("metrics", "ce_recovered")),
        "f1": config.NumberColumn(
            "Mean F1", format="%.3f", help="over values of known factors, where there are labels"
        ),
        "score": config.NumberColumn("Mean score", format="%.3f", help="of explanations, top-and-random; rules first"),
    }
    shown["ce_recovered"] *= 100
    measured = [name for name in columns if shown[name].notna().any()]
    st.dataframe(shown, column_order=measured, column_config=columns, hide_index=True, key="controls", placeholder="")
    for kind, text in missing_controls(run, shown).items():
        plots.note(f"No {kind_name(kind)}: {text}")
    links.button("Scores of the controls, with intervals", "paper", key="to-scores", icon=":material/article:",
                 run=run.folder.name, section="interpretability", setting=setting)  # fmt: skip
    if len(f1):
        show_claims([control(f1, kind, *texts) for kind, texts in CONTROLS.items()])
    else:
        plots.note(f"Known factors were not measured: {command(run, 'factors')} (text with labels only).")


def missing_controls(run: RunStore, shown: pd.DataFrame) -> dict[str, str]:
    """For each control that the run lacks, the command that makes it."""
    make, control = command(run, "baselines"), run.folder / CONTROL_RUNS / "reinitialised"
    commands = {
        "frozen": f"{make} --kinds frozen, then metrics, factors and rules",
        "reinitialised": f"{make} --reinitialised {control}, then factors and rules with that run",
    }
    return {kind: text for kind, text in commands.items() if kind not in set(shown["kind"])}


def near_ours(run: RunStore, other: RunStore, setting: str) -> pd.DataFrame:
    """Of another run, in each layer the dictionary nearest in L0 to this run's headline: as `beside`, kind renamed.

    Without CE recovered: a model whose weights were drawn anew predicts nothing that could be recovered.
    """
    ours = all_metrics(run)
    ours = ours[ours["headline"].astype(bool)].drop_duplicates("layer").set_index("layer")
    known = all_metrics(other).assign(headline=False, role="sweep")
    known = known[known["kind"].isin(ours["kind"])].assign(ce_recovered=float("nan"))
    return beside(known, "resid_post", setting, target=ours["l0"]).assign(kind="reinitialised", ours=False)


def chosen_controls(run: RunStore, setting: str) -> list[tuple[RunStore, pd.DataFrame]]:
    """Runs with the dictionaries to show: this run's SAE and frozen decoder, and the re-initialised run's SAE."""
    own = beside(all_metrics(run), "resid_post", setting)
    own = own[own["ours"] | (own["kind"] == "frozen")]
    return [(run, own), *((other, near_ours(run, other, setting)) for other in control_runs(run)[:1])]


def f1_of_controls(run: RunStore, setting: str) -> pd.DataFrame:
    """Mean F1 of the SAE and its controls by layer, as `ground_truth_frames.mean_f1`; empty where none is measured."""
    parts = []
    for where, chosen in chosen_controls(run, setting):
        found = factors.all_factors(where)
        if len(found):
            found = found.drop(columns="kind").merge(chosen[["id", "kind", "ours"]], on="id")
            parts.append(factors.mean_f1(found))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def control_table(run: RunStore, setting: str, f1: pd.DataFrame) -> pd.DataFrame:
    """One row a layer and control: layer, kind, name, id, l0, fvu, ce_recovered, f1, score (NaN where not measured)."""
    parts = []
    for where, chosen in chosen_controls(run, setting):
        scores = scored(where, every_feature(chosen), setting).groupby("id")["score"].mean()
        parts.append(chosen.assign(score=chosen["id"].map(scores), name=chosen["kind"].map(kind_name)))
    shown = pd.concat(parts, ignore_index=True)
    measured = f1[["id", "kind", "mean"]] if len(f1) else pd.DataFrame(columns=["id", "kind", "mean"])
    shown = shown.merge(measured.rename(columns={"mean": "f1"}), on=["id", "kind"], how="left")
    return shown.sort_values(["layer", "ours"], ascending=[True, False], kind="stable", ignore_index=True)


def every_feature(chosen: pd.DataFrame) -> pd.DataFrame:
    """id and feature of all features of some dictionaries."""
    sizes = zip(chosen["id"], chosen["n_features"], strict=True)
    return pd.DataFrame([(id, feature) for id, n in sizes for feature in range(int(n))], columns=["id", "feature"])


RESULTS = (
    Result("Another seed", "are the same features found again? (Paulo and Belrose 2025)", seeds),
    Result("Another seed", "which features are found again", by_fifths),
    Result(
        "Controls",
        "a frozen decoder (Korznikov et al. 2026), a re-initialised model (Heap et al. 2025)",
        beside_controls,
    ),
)
