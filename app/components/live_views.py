"""Ablate, last part: further views of one edit, one at a time. Loads torch."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app import links, live_effects, names, state
from app.components.plots import note, show_plot
from app.components.tokens import token_strip
from app.figures import ablation
from app.live import Outcome, Sentence
from sae_core.store import RunStore

VIEWS = {
    "downstream": "Features downstream",
    "continuation": "Continuation",
    "dose": "Dose-response",
    "loss": "Loss",
    "code": "Code",
}
LOSS_COLUMNS = {
    "sentence": st.column_config.TextColumn(width=240),
    "tokens": st.column_config.NumberColumn(),
    "loss_change": st.column_config.NumberColumn("loss change", format="%+.4f", help="nats, summed over the sentence"),
    "loss_change_per_token": st.column_config.NumberColumn("a token", format="%+.4f", help="nats per predicted token"),
    "mean_kl": st.column_config.NumberColumn("mean KL", format="%.4f", help="nats, over all positions"),
    "max_kl": st.column_config.NumberColumn("largest KL", format="%.4f", help="nats"),
}


def section(run: RunStore, lines: Sequence[Sentence], found: Outcome, position: int) -> None:
    """The choice of view, and the view."""
    bound = links.bound("view", "downstream", options=VIEWS)
    view = st.segmented_control("More", VIEWS, **bound, format_func=VIEWS.get, required=True)
    DRAW[view](run, lines, found, position)


def downstream(run: RunStore, lines: Sequence[Sentence], found: Outcome, position: int) -> None:
    """Features of later layers that the edit moves."""
    changes = live_effects.downstream(run, found)
    if changes.empty:
        st.info(
            "No feature of a later layer changes: the edit is in the last layer that has a dictionary, or does nothing."
        )
        return
    changes["name"] = names.full_names(run, changes)
    show_plot("Activations in later layers", ablation.downstream(changes, state.colours()), "downstream")


def continuation(run: RunStore, lines: Sequence[Sentence], found: Outcome, position: int) -> None:
    """What the model writes next, clean and edited, greedy and sampled."""
    length_box, heat_box, seed_box = st.columns(3)
    length = length_box.number_input("New tokens", 1, 60, **links.bound("length", 24, int, range(1, 61)))
    heat = heat_box.number_input(
        "Temperature", 0.1, 2.0, step=0.1, **links.bound("temperature", 0.8, _temperature),
        help="Of the sampled continuations: below 1 keeps to likely tokens, above 1 spreads out.",
    )  # fmt: skip
    seed = seed_box.number_input("Seed", 0, 9999, **links.bound("seed", 0, int, range(10000)))
    for title, temperature in (
        ("Greedy (always the likeliest token)", 0.0),
        (f"Sampled at {heat:g}, seed {seed}", heat),
    ):
        st.markdown(f"**{title}**")
        with st.spinner("Writing"):
            before, after = live_effects.continuations(run, found.sentence, found.edit, length, temperature, seed)
        for name, tokens, other in (("clean", before, after), ("edited", after, before)):
            differs = [float(i >= len(other) or other[i] != t) for i, t in enumerate(tokens)]
            st.html(live_line(name, tokens, differs))
    note(
        "Tokens that differ between the two lines are marked. The edit acts on every new token as well, unless "
        "it is limited to chosen tokens or is a patch; both lines draw with the same seed."
    )


def _temperature(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 2:
        raise ValueError(text)
    return value


def live_line(name: str, tokens: Sequence[str], marks: Sequence[float]) -> str:
    """One continuation as HTML with its name before it."""
    strip = token_strip(tokens, [0.45 * m for m in marks], state.colours(), scale=1.0, meaning="edited", titles=tokens)
    return f"<div class='sae-context'><div class='sae-context-side'>{name}</div>{strip}</div>"


def dose(run: RunStore, lines: Sequence[Sentence], found: Outcome, position: int) -> None:
    """KL and one token's log-probability against the strength of the chosen features."""
    if not found.edit.features:
        st.info("Choose a feature first.")
        return
    changes = live_effects.token_changes(run, found, position)
    asked = st.query_params.get("follow")
    options = live_effects.tokens_to_follow(changes, found.sentence, position, asked)
    bound = links.bound("follow", next(iter(options)), int, options)
    token = st.selectbox(
        "Token to follow",
        options,
        **bound,
        format_func=options.get,
        help="Its log-probability as the next token after the token you look at.",
    )
    frame = live_effects.dose_response(run, found.sentence, found.edit, position, token)
    name = changes.set_index("token_id").loc[token, "token"]
    show_plot("Dose-response", ablation.dose_response(frame, name, state.colours()), "dose")


def loss(run: RunStore, lines: Sequence[Sentence], found: Outcome, position: int) -> None:
    """Loss change of every sentence, and token by token for this one."""
    comparable = not found.edit.positions and found.edit.operation != "patch"
    if len(lines) > 1 and comparable:
        st.dataframe(
            live_effects.loss_table(run, lines, found.edit),
            column_config=LOSS_COLUMNS,
            hide_index=True,
            key="loss_table",
        )
        note("The same edit on every sentence. Loss change: edited minus clean, positive = worse.")
    gains = [0.0, *(-found.loss.per_token).tolist()]
    titles = [f"{t}\nlog-probability {g:+.4g} nats" for t, g in zip(found.sentence.tokens, gains, strict=True)]
    st.html(token_strip(found.sentence.tokens, gains, state.colours(), meaning="change", titles=titles))
    note(
        "Each token by how the edit changes the log-probability that the model had given it: raised or lowered. "
        "Hover for nats; the first token is predicted from nothing."
    )


def code(run: RunStore, lines: Sequence[Sentence], found: Outcome, position: int) -> None:
    """A script that gives the same numbers with TransformerLens."""
    st.code(live_effects.reproduction(run, found.sentence, found.edit), language="python", height=420)
    note("Needs torch, safetensors and transformer_lens; it prints the KL at every position, as in the bars above.")


DRAW = {"downstream": downstream, "continuation": continuation, "dose": dose, "loss": loss, "code": code}
