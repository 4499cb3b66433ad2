"""What the live pages ask of the model: a typed text in, frames and small results out.

The only module of the dashboard that loads torch when it is imported, so pages import it inside a function, after
they have drawn what needs no model. Clean runs are kept, so a later edit of the same sentence costs one suffix.
Where the run skips position 0, so does a typed sentence: there features are silent and nothing is edited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st
from torch import Tensor

from app import state
from sae_core import effects
from sae_core.effects import LossChange
from sae_core.errors import InputError
from sae_core.intervention import CleanRun, Effect, FeatureEdit, apply_edits, clean_run, falls_back_to_remove
from sae_core.store import RunStore

MAX_SENTENCES = 20
KEPT_CLEAN_RUNS = 8  # one of 256 tokens on a vocabulary of 50,304 holds about 52 MB of log-probabilities
BREAKS = {"↵": "\n", "⇥": "\t"}


@dataclass(frozen=True)
class Sentence:
    """One line of the text box: the text the model reads, its token ids, and the tokens made readable."""

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Edit:
    """What the Ablate page is asked to do: one operation on some features of one dictionary.

    positions: () stands for every position. source: the sentence that `patch` takes codes from.
    """

    dictionary: str
    features: tuple[int, ...]
    operation: str = "remove"
    value: float = 0.0
    positions: tuple[int, ...] = ()
    keep_error: bool = True
    source: Sentence | None = None

    def feature_edits(self) -> tuple[FeatureEdit, ...]:
        """The same for sae_core.intervention."""
        positions = self.positions or None
        return tuple(FeatureEdit(f, self.operation, self.value, positions) for f in self.features)


@dataclass(frozen=True)
class Outcome:
    """One edit of one sentence. kl: nats at each position [t]."""

    sentence: Sentence
    edit: Edit
    clean: CleanRun
    effect: Effect
    kl: np.ndarray
    loss: LossChange

    @property
    def moved_most(self) -> int | None:
        """Position of the largest KL; None if the edit adds nothing anywhere."""
        return int(self.kl.argmax()) if bool(self.effect.delta.any()) else None

    @property
    def error_share(self) -> float:
        """|x - x_hat| / |x| over all positions that count: how much the dictionary misses, by norm."""
        return float(self.clean.error.norm() / self.clean.x[self.clean.first :].norm())

    @property
    def n_predicted(self) -> int:
        """Tokens that are predicted at a position that counts; at least 1, as a divisor."""
        return max(1, len(self.clean.ids) - 1 - self.clean.first)

    @property
    def mean_kl(self) -> float:
        """Mean KL over all positions that count, nats; 0 where none does."""
        counted = self.kl[self.clean.first :]
        return float(counted.mean()) if len(counted) else 0.0


# ---- text


def sentences(run: RunStore, text: str) -> list[Sentence]:
    """The lines of a text, each cut into tokens; ↵ and ⇥ stand for a line break and a tab inside a line.

    Raises InputError for no text, too many lines, or a line longer than the context: nothing is cut silently.
    """
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise InputError("at least one sentence", "an empty text box", "Type a sentence, one a line")
    if len(lines) > MAX_SENTENCES:
        raise InputError(f"at most {MAX_SENTENCES} sentences, one a line", f"{len(lines)}", "Remove some lines")
    return [_sentence(run, number, line) for number, line in enumerate(lines, start=1)]


def _sentence(run: RunStore, number: int, line: str) -> Sentence:
    for mark, character in BREAKS.items():
        line = line.replace(mark, character)
    model, readable = state.live_model(run), vocabulary(run)
    ids = model.encode(line)
    limit = min(model.n_ctx, run.manifest.spec.context)
    if len(ids) > limit:
        raise InputError(
            f"at most {limit} tokens a sentence (the context the dictionaries were trained on)",
            f"{len(ids)} tokens in sentence {number}",
            f"Shorten it by {len(ids) - limit} tokens; nothing is cut silently",
        )
    return Sentence(line, tuple(ids), tuple(readable[i] for i in ids))


@st.cache_resource(max_entries=4, show_spinner=False)
def _token_strings(model_hash: str, _run: RunStore) -> list[str]:
    del model_hash  # part of the cache key only
    return state.live_model(_run).token_strings()


def vocabulary(run: RunStore) -> list[str]:
    """Every token made readable, by id."""
    return _token_strings(_model_key(run), run)


def _model_key(run: RunStore) -> str:
    return f"{run.folder} {run.manifest.model.get('hash', '')}"


def one_line(run: RunStore, ids: list[int]) -> str:
    """Text of token ids as it can be typed into the box: line breaks and tabs as ↵ and ⇥."""
    text = state.live_model(run).tokenizer.decode(ids)
    for mark, character in BREAKS.items():
        text = text.replace(character, mark)
    return text


# ---- what counts


def first(run: RunStore) -> int:
    """The first position of a sentence that counts: that of the run's contexts."""
    return run.manifest.spec.first


# ---- what fires


def firing(run: RunStore, sentence: Sentence) -> pd.DataFrame:
    """Active features of every dictionary with tables: dictionary, feature, position, activation."""
    hashes = tuple((d.id, d.hash) for d in run.main_dictionaries)
    found = _firing(_model_key(run), hashes, sentence.ids, run)
    return found[found["position"] >= first(run)].reset_index(drop=True)


@st.cache_data(max_entries=32, show_spinner="Reading the sentence")
def _firing(
    model: str, dictionaries: tuple[tuple[str, str], ...], ids: tuple[int, ...], _run: RunStore
) -> pd.DataFrame:
    del model  # part of the cache key only
    loaded = {name: state.live_dictionary(_run, name) for name, _ in dictionaries}
    return effects.firing_features(state.live_model(_run), loaded, ids)


# ---- edits


def clean(run: RunStore, dictionary: str, sentence: Sentence) -> CleanRun:
    """The sentence without any edit, kept for the next edits of it."""
    return _clean(_model_key(run), dictionary, run.dictionary(dictionary).hash, sentence.ids, first(run), run)


@st.cache_resource(max_entries=KEPT_CLEAN_RUNS, show_spinner="Reading the sentence")
def _clean(model: str, dictionary: str, hash: str, ids: tuple[int, ...], first: int, _run: RunStore) -> CleanRun:
    del model, hash  # parts of the cache key only
    return clean_run(state.live_model(_run), state.live_dictionary(_run, dictionary), ids, first)


def patch_codes(run: RunStore, edit: Edit) -> Tensor | None:
    """Codes [t, F] of the sentence that `patch` takes from, None without one."""
    return None if edit.source is None else clean(run, edit.dictionary, edit.source).codes


def outcome(run: RunStore, sentence: Sentence, edit: Edit) -> Outcome:
    """What the edit does to the sentence. Raises InputError or FeatureError for an edit that cannot be done."""
    before = clean(run, edit.dictionary, sentence)
    model, dictionary = state.live_model(run), state.live_dictionary(run, edit.dictionary)
    patch = patch_codes(run, edit)
    effect = apply_edits(model, dictionary, before, edit.feature_edits(), edit.keep_error, patch_codes=patch)
    kl = effects.effect_kl(effect).clamp(min=0).cpu().numpy()  # rounding may leave -1e-8
    return Outcome(sentence, edit, before, effect, kl, effects.loss_change(effect, before.ids))


def cannot_reach_threshold(run: RunStore, edit: Edit) -> list[int]:
    """Features of a `remove_to_threshold` that is done as `remove`, because encoder and decoder point apart."""
    if edit.operation != "remove_to_threshold":
        return []
    dictionary = state.live_dictionary(run, edit.dictionary)
    return [f for f in edit.features if falls_back_to_remove(dictionary, f)]
