"""What an edit did, as the live pages draw it: predictions, dose-response, later features, text, tree, code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from app import state
from app.live import Edit, Outcome, Sentence, clean, first, outcome, patch_codes, vocabulary
from app.trees import Growth
from sae_core import causal_tree, effects, generation
from sae_core.reproduction import transformer_lens_code
from sae_core.store import RunStore
from sae_core.tree_growth import Node


def token_changes(run: RunStore, found: Outcome, position: int) -> pd.DataFrame:
    """Every token's prediction at a position before and after, with the readable token; most lowered first."""
    frame = effects.token_changes(found.effect, position, state.live_model(run).n_tokens)
    frame["change_p"] = frame["edited_p"] - frame["clean_p"]
    frame.insert(1, "token", np.array(vocabulary(run), dtype=object)[frame["token_id"]])
    return frame.sort_values("change_logprob", kind="stable", ignore_index=True)


def most_changed(changes: pd.DataFrame, each: int, by: str = "change_logprob") -> pd.DataFrame:
    """The `each` most raised and the `each` most lowered tokens by a column, without overlap; largest rise first."""
    raised, lowered = changes[changes[by] > 0].nlargest(each, by), changes[changes[by] < 0].nsmallest(each, by)
    return pd.concat([raised, lowered]).sort_values("change_logprob", ascending=False, kind="stable", ignore_index=True)


def tokens_to_follow(
    changes: pd.DataFrame, sentence: Sentence, position: int, asked: str | None = None, each: int = 5
) -> dict[int, str]:
    """Next tokens worth a dose-response curve, by id: the one that came next, the likeliest, the most changed.

    asked: the id that the address names; it is offered too, if it exists.
    """
    groups = (
        ("came next", changes[changes["token_id"].isin(sentence.ids[position + 1 : position + 2])]),
        ("likely", changes.nlargest(each, "clean_p")),
        ("lowered", changes.head(each)),
        ("raised", changes.tail(each)[::-1]),
        ("chosen", changes[changes["token_id"].astype("str") == asked]),
    )
    found: dict[int, str] = {}
    for why, rows in groups:
        for token_id, token in zip(rows["token_id"], rows["token"], strict=True):
            found.setdefault(int(token_id), f"{token}  ({why})")
    return found


def dose_response(run: RunStore, sentence: Sentence, edit: Edit, position: int, token_id: int) -> pd.DataFrame:
    """Strengths 0 to 2 of the edit's features: strength, kl, logprob and change_logprob of one token at a position."""
    before = clean(run, edit.dictionary, sentence)
    model, dictionary = state.live_model(run), state.live_dictionary(run, edit.dictionary)
    return effects.dose_response(model, dictionary, before, edit.feature_edits(), position, token_id)


def downstream(run: RunStore, found: Outcome, limit: int = 24) -> pd.DataFrame:
    """Largest changes in later headline dictionaries: dictionary, feature, position, clean, edited, change."""
    later = [d.id for d in run.main_dictionaries if d.headline and d.spec.site.layer > found.clean.site.layer]
    loaded = {name: state.live_dictionary(run, name) for name in later}
    return effects.downstream_changes(state.live_model(run), found.clean, found.effect, loaded, limit)


def continuations(
    run: RunStore, sentence: Sentence, edit: Edit, n_new: int, temperature: float, seed: int
) -> tuple[list[str], list[str]]:
    """Readable tokens that follow the sentence, without and with the edit; the same seed draws both."""
    model, readable = state.live_model(run), vocabulary(run)
    patch = patch_codes(run, edit)
    dictionary = state.live_dictionary(run, edit.dictionary)
    edited = generation.Intervention(dictionary, edit.feature_edits(), edit.keep_error, patch, first(run))
    new = [generation.continuation(model, sentence.ids, n_new, i, temperature, seed) for i in (None, edited)]
    return tuple([readable[i] for i in ids] for ids in new)


def loss_table(run: RunStore, lines: list[Sentence], edit: Edit) -> pd.DataFrame:
    """The same edit on every sentence: its tokens, loss change (in all and a token), mean and largest KL; nats."""
    rows = []
    for line in lines:
        found = outcome(run, line, edit)
        each = found.loss.total / found.n_predicted
        rows.append((line.text, len(line.ids), found.loss.total, each, found.mean_kl, found.kl.max()))
    columns = ["sentence", "tokens", "loss_change", "loss_change_per_token", "mean_kl", "max_kl"]
    return pd.DataFrame(rows, columns=columns)


def tree(
    run: RunStore, sentence: Sentence, position: int, root: Node, growth: Growth
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Causal tree of `root` on the sentence, read at `position`: nodes and links as sae_core.tree_growth gives them."""
    headline = [d.id for d in run.main_dictionaries if d.headline]
    loaded = {id: state.live_dictionary(run, id) for id in headline}
    return causal_tree.live_tree(
        state.live_model(run), loaded, sentence.ids, position, root, growth.depth, growth.branching, growth.threshold,
        first(run),
    )  # fmt: skip


# ---- to take away


def reproduction(run: RunStore, sentence: Sentence, edit: Edit) -> str:
    """A script that gives the KL at every position with TransformerLens; paths are relative inside the repository."""
    name, revision = state.live_model(run).name, run.model_spec.revision
    if Path(name).is_dir():
        name, revision = _short(Path(name)), None
    folder, dictionary = _short(run.dictionary_folder(edit.dictionary)), state.live_dictionary(run, edit.dictionary)
    patch = None if edit.source is None else edit.source.ids
    return transformer_lens_code(
        name, folder, dictionary, sentence.text, sentence.ids, edit.feature_edits(), edit.keep_error, patch, revision,
        first(run),
    )  # fmt: skip


def _short(path: Path) -> str:
    return str(path.resolve().relative_to(state.ROOT) if path.resolve().is_relative_to(state.ROOT) else path.resolve())
