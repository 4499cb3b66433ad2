"""Ablate, third part: what the edit did. Loads torch."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app import links, live, live_effects, state
from app.components import live_views
from app.components.plots import clicked, show_plot
from app.components.tokens import token_strip
from app.figures import ablation
from app.figures.axes import SCALE_WIDTH, tokens_width
from app.live import Edit, Outcome, Sentence
from sae_core.store import RunStore

SHOWN_CHANGES = 8
RANKS = {"change_logprob": "log-probability", "change_p": "probability"}
RANK_HELP = (
    "By log-probability a rare token counts like a common one; by probability only likely tokens can come first."
)
PREDICTION_COLUMNS = {
    "token": st.column_config.TextColumn("next token"),
    "clean_p": st.column_config.NumberColumn("p clean (%)", format="%.3g", help="probability before the edit"),
    "edited_p": st.column_config.NumberColumn("p edited (%)", format="%.3g", help="probability after the edit"),
    "change_logprob": st.column_config.NumberColumn("Δ log p", format="%+.3f", help="edited − clean, nats"),
    "change_logit": st.column_config.NumberColumn("Δ logit", format="%+.3f", help="edited − clean, before the softmax"),
}


def compute(run: RunStore, sentence: Sentence, edit: Edit) -> Outcome:
    """Run the edit."""
    with st.spinner("Running the edited model"):
        return live.outcome(run, sentence, edit)


def section(
    run: RunStore, lines: Sequence[Sentence], sentence: Sentence, edit: Edit, found: Outcome, position: int
) -> None:
    """Everything below the edit."""
    st.subheader("What changes")
    if not edit.features and edit.keep_error:
        st.info("Choose a feature above, or click one in the grid, to see what the model does without it.")
        return
    notes(run, edit, found)
    numbers(found, position)
    by_position(sentence, found, position)
    predictions(run, sentence, found, position)
    live_views.section(run, lines, found, position)


def notes(run: RunStore, edit: Edit, found: Outcome) -> None:
    """What a reader should know before trusting the numbers."""
    if edit.features and found.moved_most is None:
        st.info("This edit changes nothing here: none of the chosen features fires on the chosen tokens.")
    silent = live.cannot_reach_threshold(run, edit)
    if silent:
        st.info(f"Removed, as a move along their direction cannot bring them to their threshold: {_list(silent)}.")
    if not edit.keep_error:
        alone = live.outcome(run, found.sentence, Edit(edit.dictionary, (), keep_error=False))
        st.warning(
            f"The reconstruction error is dropped as well. That alone, with no feature changed, gives a KL of "
            f"{alone.kl.max():.3g} nats at most and changes the loss of the sentence by {alone.loss.total:+.3g} nats.",
            icon=":material/warning:",
        )


def _list(features: Sequence[int]) -> str:
    return ", ".join(f"#{f}" for f in features)


def numbers(found: Outcome, position: int) -> None:
    """The row of measured numbers."""
    loss, here, most, error = st.container(key="live_numbers").columns(4)
    loss.metric(
        "Loss of the sentence", f"{found.loss.total:+.3g} nats", border=True,
        help="Edited minus clean, summed over the tokens that really came next; positive = the model is worse off.",
    )  # fmt: skip
    loss.caption(f"{found.loss.total / found.n_predicted:+.3g} nats a token, {found.n_predicted} tokens")
    here.metric(
        "KL at the token", f"{found.kl[position]:.3g} nats", border=True,
        help="KL(clean ‖ edited) = Σ p (log p − log q) over all next tokens: p clean, q edited.",
    )  # fmt: skip
    here.caption(f"at position {position}")
    most.metric("Largest KL", f"{found.kl.max():.3g} nats", border=True, help="Over all positions of the sentence.")
    most.caption(f"at position {int(found.kl.argmax())}")
    error.metric(
        "Reconstruction error", "kept" if found.edit.keep_error else "dropped", border=True,
        help="FVU: variance of this sentence that the dictionary misses, Σ|x − x̂|² / Σ|x − mean x|². "
        "Norm: |x − x̂| / |x|. Kept means that this part stays in the model, so only the chosen features change.",
    )  # fmt: skip
    error.caption(f"FVU {found.clean.fvu:.3f} on this sentence; {found.error_share:.0%} of the norm")


def by_position(sentence: Sentence, found: Outcome, position: int) -> None:
    """The sentence coloured by KL, and the same as bars to click."""
    titles = [
        f"{t}\nposition {i}\nKL {k:.4g} nats" for i, (t, k) in enumerate(zip(sentence.tokens, found.kl, strict=True))
    ]
    st.html(
        token_strip(sentence.tokens, found.kl.tolist(), state.colours(), meaning="edited", peak=position, titles=titles)
    )
    key = f"kl-{position}"
    drawn = ablation.kl_by_position(found.kl, sentence.tokens, position, state.colours())
    width = tokens_width(len(sentence.tokens), SCALE_WIDTH)
    show_plot("Change of the prediction, token by token", drawn, key, None, lambda: _bar_clicked(key), width)


def _bar_clicked(key: str) -> None:
    point = clicked(key)
    if point:
        st.query_params["position"] = str(int(point["x"]))


def predictions(run: RunStore, sentence: Sentence, found: Outcome, position: int) -> None:
    """Lowered and raised next tokens at the chosen position, as bars and as numbers."""
    changes = live_effects.token_changes(run, found, position)
    moved = changes[changes["change_logprob"] != 0]
    if moved.empty:
        st.info("The prediction after this token is the clean one, bit for bit. Choose a token with a bar above.")
        return
    bound = links.bound("by", "change_logprob", options=RANKS)
    by = st.segmented_control("Strongest by", RANKS, **bound, format_func=RANKS.get, required=True, help=RANK_HELP)
    shown = live_effects.most_changed(moved, SHOWN_CHANGES, by)
    percent = shown.assign(clean_p=100 * shown["clean_p"], edited_p=100 * shown["edited_p"])
    bars, table = st.columns([1, 1], gap="large")
    with bars:
        drawn = ablation.changed_tokens(shown, position, sentence.tokens[position], state.colours())
        show_plot(f"Next tokens after position {position}: raised and lowered", drawn, "changes")
    with table:
        st.dataframe(
            percent[list(PREDICTION_COLUMNS)], column_config=PREDICTION_COLUMNS, hide_index=True, height="content",
            key="prediction_table",
        )  # fmt: skip
        st.download_button(
            f"All {len(changes):,} next tokens (CSV)", lambda: changes.to_csv(index=False), "next_tokens.csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
