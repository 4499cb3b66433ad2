"""Section 3, App. A, C and G: are the features of sparse autoencoders easier to explain than other directions?

The reader chooses in the address who explained, on which fragments explanations are scored, how the two sides of a
direction count, and the layer of Table 1 and of the single scores.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, state
from app.components import layout, plots
from app.figures import paper_interpretability as figures
from app.glossary import explain
from app.paper import AS_PUBLISHED, Result
from app.paper import interpretability_claims as claims
from app.paper.claims import show_claims
from app.paper.interpretability_features import detection, single_scores, table_1, table_2
from app.paper.interpretability_frames import BETTER, EACH, TAIL, by_ratio, fall, means
from app.paper.interpretability_scores import (
    RANDOM_ONLY,
    SCHEMES,
    TOP_AND_RANDOM,
    Reading,
    control_runs,
    default_layer,
    explainers,
    layers_of,
    read_scores,
    reading,
)
from app.paper.missing import command
from sae_core.errors import MissingTable
from sae_core.specs import TOPK_KINDS
from sae_core.store import RunStore

SIDES = {TAIL: "the heavier tail", EACH: "each its own", BETTER: "the better one"}
SIDES_HELP = (
    "PCA, ICA, the default basis and random directions have two sides, each a feature here. The heavier tail: of "
    "each direction of PCA and ICA the side with the larger third moment, chosen without looking at scores. The better "
    "one: the side with the higher score, which favours them. As published: positive sides only."
)


# ---- what the reader chooses


def controls(run: RunStore, setting: str) -> None:
    """Selectors of the section. Raises TableError if the run has no scores in this setting."""
    scores = read_scores(run, setting)
    names, layers = explainers(scores), layers_of(scores)
    with st.container(horizontal=True, gap="medium"):
        st.selectbox(
            "Explained by", names, width=220, help="`rule`: a rule fitted to the text, without a language model",
            **links.bound("explainer", names[0], options=names),
        )  # fmt: skip
        st.segmented_control(
            "Fragments scored on", list(SCHEMES), format_func=SCHEMES.get, required=True, width="content",
            help=explain("scores", "scheme"), **links.bound("scheme", TOP_AND_RANDOM, options=list(SCHEMES)),
        )  # fmt: skip
        st.segmented_control(
            "Sides of a direction", list(SIDES), format_func=SIDES.get, required=True, width="content", help=SIDES_HELP,
            disabled=setting == AS_PUBLISHED, **links.bound("sides", TAIL, options=list(SIDES)),
        )  # fmt: skip
        st.selectbox(
            "Layer of single features", layers, width=190,
            **links.bound("layer", default_layer(layers), int, layers),
        )  # fmt: skip
    plots.note(reading(run, setting).population)


# ---- mean scores by layer and by ratio


def figure_2(run: RunStore, setting: str) -> None:
    """Mean score by layer of the SAE, its baselines and its controls."""
    asked = reading(run, setting)
    frame = _with_control(asked, asked.means("resid_post", asked.scheme, without=TOPK_KINDS))
    _show_means(asked, frame, asked.scheme, "figure_2")
    judged = [
        claims.above_baselines(
            frame,
            "SAE features score above the default basis, random directions, PCA and ICA.",
            "Figure 2: far above in early layers, comparable to ICA in layer 4, minimal gain in the last layer "
            "(Pythia-70M, R = 2, alpha 8.6e-4, 150 features each; no table of numbers is printed).",
        ),
        claims.early_lead(frame),
        claims.residual_basis(frame),
    ]
    show_claims([*judged, *_controls(frame)])


def _with_control(asked: Reading, frame: pd.DataFrame) -> pd.DataFrame:
    """The SAE of the run on a re-initialised model, if there is one with scores by the same explainer."""
    found = [asked.control(other, frame) for other in control_runs(asked.run)]
    return pd.concat([frame, *found[:1]], ignore_index=True)


def _controls(frame: pd.DataFrame) -> list[claims.Claim]:
    later = {
        "frozen": (
            "An SAE whose random decoder is never trained scores nearly as high as a trained one.",
            "Not in this paper: Korznikov et al. (2026) report 0.87 against 0.90.",
        ),
        "reinitialised": (
            "SAEs on a model with re-initialised weights score about as high as on the trained one.",
            "Not in this paper: Heap et al. (2025) report similar scores on Pythia models.",
        ),
    }
    return [claims.control(frame, kind, *texts) for kind, texts in later.items() if kind in set(frame["kind"])]


def figure_9(run: RunStore, setting: str) -> None:
    """As Figure 2, scored on drawn fragments only."""
    asked = reading(run, setting)
    frame = asked.means("resid_post", RANDOM_ONLY, without=TOPK_KINDS)
    _show_means(asked, frame, RANDOM_ONLY, "figure_9")
    early = frame[frame["layer"].isin(sorted(frame["layer"].unique())[: (frame["layer"].nunique() + 1) // 2])]
    show_claims(
        [
            claims.lower_at_random(fall(asked.scores, frame, (TOP_AND_RANDOM, RANDOM_ONLY))),
            claims.above_baselines(
                early,
                "On random fragments too, SAE features score above the baselines in early layers.",
                "Figure 9: still consistently above, especially in early layers (Pythia-70M).",
            ),
        ]
    )


def figure_10(run: RunStore, setting: str) -> None:
    """MLP layers, both schemes side by side."""
    asked = reading(run, setting)
    by_scheme = {scheme: asked.means("mlp_post", scheme) for scheme in SCHEMES}
    for column, (scheme, frame) in zip(layout.stacking_columns(2, "mlp"), by_scheme.items(), strict=True):
        with column:
            _show_means(asked, frame, scheme, f"figure_10_{scheme}", SCHEMES[scheme].capitalize())
    residual = asked.means("resid_post", TOP_AND_RANDOM)
    show_claims([claims.mixed(by_scheme), claims.skipped_in_mlp(by_scheme[TOP_AND_RANDOM], residual)])


def figure_18(run: RunStore, setting: str) -> None:
    """The SAE, PCA and ICA, and their Top-K forms."""
    asked = reading(run, setting)
    frame = asked.means("resid_post", asked.scheme)
    frame = frame[frame["ours"] | frame["kind"].isin(("pca", "ica", *TOPK_KINDS))]
    if not frame["kind"].isin(TOPK_KINDS).any():
        raise MissingTable("scores of Top-K PCA or ICA", "none", _make(run))
    _show_means(asked, frame, asked.scheme, "figure_18")
    show_claims([claims.top_k_explains_little(frame)])


def _show_means(asked: Reading, frame: pd.DataFrame, scheme: str, key: str, title: str = "") -> None:
    if frame.empty:
        raise MissingTable("scores of dictionaries at this site", "none", _make(asked.run))
    plots.show_plot(title, figures.means_by_layer(frame, state.colours(), scheme), key)


def _make(run: RunStore) -> str:
    return f"Make them: {command(run, 'baselines')}, then {command(run, 'rules')}"


def figure_8(run: RunStore, setting: str) -> None:
    """Mean score against the ratio of features to width."""
    asked = reading(run, setting)
    frame = means(asked.scores, by_ratio(asked.dictionaries, setting), asked.scheme)
    if frame.empty:
        fix = f"Train another ratio: python -m precompute train --run {run.folder} --ratio 2, then metrics, "
        raise MissingTable(
            "scores of dictionaries of one layer at two ratios", "one ratio", fix + command(run, "rules")
        )
    plots.show_plot("", figures.means_by_ratio(frame, state.colours(), asked.scheme), "figure_8")
    nearest = "alpha" if setting == AS_PUBLISHED else "L0"
    plots.note(f"Of several dictionaries with a ratio the one nearest in {nearest} to the headline.")
    show_claims([claims.flat_in_ratio(frame)])


RESULTS = (
    Result("Table 1", "Explanations and scores of five features", table_1),
    Result("Figure 2", "Mean score by layer", figure_2),
    Result("Beside Figure 2", "The scores of single features", single_scores),
    Result("Figure 8", "Score against the size of the dictionary", figure_8),
    Result("Figure 9", "Mean score by layer on random fragments only", figure_9),
    Result("Figure 10", "Mean score in MLP layers", figure_10),
    Result("Figure 18", "Top-K forms of PCA and ICA", figure_18),
    Result("Table 2", "Moments of activation against score", table_2),
    Result("Later work", "Detection and fuzzing", detection),
)
