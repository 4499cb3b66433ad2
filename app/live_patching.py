"""What the Patching page asks of the model: two sentences in, orders, curves and predictions out. Loads torch.

Nothing is kept that one reader could change for another: runs and curves are kept by all that they depend on, the
pruning order by reader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import pandas as pd
import streamlit as st

from app import live, state
from app.live import Edit, Sentence
from sae_core.effects import kl
from sae_core.errors import InputError
from sae_core.intervention import CleanRun
from sae_core.ioi.ordering import acdc_order, log_thresholds, magnitude_order
from sae_core.ioi.patching import Patching, TypedPair, curve, curve_sizes, read_pairs
from sae_core.ioi.prompts import PromptPair, prompt_pairs
from sae_core.specs import LINEAR_KINDS
from sae_core.store import DictionaryEntry, RunStore

THRESHOLDS = 20
PRUNED = "pruned"  # session state: pruning orders of this reader, by what they depend on
KEPT_ORDERS = 8
LIKELIEST = 5


# ---- sentences


def preset(run: RunStore, seed: int) -> PromptPair:
    """A pair of indirect-object prompts of the model's own names. Raises InputError if its tokenizer splits them."""
    return prompt_pairs(state.live_model(run).encode, 1, seed)[0]


def read_sentences(run: RunStore, base: str, target: str) -> tuple[Sentence, Sentence]:
    """Both sentences cut into tokens. Raises InputError for an empty one, or one longer than the context."""
    for what, text in (("base", base), ("target", target)):
        if not text.strip():
            raise InputError("a base and a target sentence", f"an empty {what}", "Type a sentence into both boxes")
    one_a_line = "\n".join(text.replace("\n", "↵") for text in (base, target))
    found = live.sentences(run, one_a_line)
    return found[0], found[1]


def differences(base: Sequence[int], target: Sequence[int]) -> tuple[list[float], list[float]]:
    """1 for each token of the base, and of the target, that the other sentence does not have there, else 0.

    Of equal length: position by position. Else: what has to be replaced, removed or added to get the other.
    """
    marks = [0.0] * len(base), [0.0] * len(target)
    if len(base) == len(target):
        differs = [float(a != b) for a, b in zip(base, target, strict=True)]
        return differs, list(differs)
    for kind, *ends in SequenceMatcher(None, base, target, autojunk=False).get_opcodes():
        if kind != "equal":
            for line, (start, stop) in zip(marks, (ends[:2], ends[2:]), strict=True):
                line[start:stop] = [1.0] * (stop - start)
    return marks


# ---- two runs of one pair


@dataclass(frozen=True)
class Reading:
    """A pair read with a dictionary, and the order of its features that differ.

    order: feature numbers, the first to be patched first. signed: a feature is both sides of a direction.
    """

    entry: DictionaryEntry
    base: Sentence
    target: Sentence
    patching: Patching
    order: tuple[int, ...]
    signed: bool
    curve: pd.DataFrame


def reading(
    run: RunStore,
    entry: DictionaryEntry,
    base: Sentence,
    target: Sentence,
    order: str,
    progress: Callable[[float], None] | None = None,
) -> Reading:
    """Read the pair, put the features in order (by `magnitude`, or `acdc`) and draw up the curve.

    Two-sided dictionaries are patched direction by direction, as the paper patches PCA.
    """
    signed = entry.spec.kind in LINEAR_KINDS
    of_run = str(run.folder), run.manifest.model.get("hash", ""), live.first(run)
    key = (*of_run, entry.hash, base.ids, target.ids, signed)
    patching = _patching(key, run, entry.id)
    ranked = _order(key, patching, order, progress)
    return Reading(entry, base, target, patching, ranked, signed, _curve(key, ranked, patching))


@st.cache_resource(max_entries=8, show_spinner="Reading both sentences")
def _patching(key: tuple, _run: RunStore, _dictionary: str) -> Patching:
    *_, base, target, signed = key
    model, dictionary = state.live_model(_run), state.live_dictionary(_run, _dictionary)
    return read_pairs(model, dictionary, [TypedPair(base, target)], signed=signed, first=live.first(_run))


def _order(key: tuple, patching: Patching, order: str, progress: Callable[[float], None] | None) -> tuple[int, ...]:
    if order == "magnitude":
        return _features(patching, magnitude_order(patching).tolist())
    kept = st.session_state.setdefault(PRUNED, {})
    if key not in kept:
        if len(kept) >= KEPT_ORDERS:
            kept.clear()
        found = acdc_order(patching, log_thresholds(THRESHOLDS), progress=progress)
        kept[key] = _features(patching, found.order.tolist())
    return kept[key]


def _features(patching: Patching, indices: Sequence[int]) -> tuple[int, ...]:
    return tuple(patching.features[list(indices)].tolist())


@st.cache_data(max_entries=32, show_spinner="Patching more and more features")
def _curve(key: tuple, order: tuple[int, ...], _patching: Patching) -> pd.DataFrame:
    """n_patched, kl (nats, at the last token), magnitude (mean edit norm over all positions)."""
    del key  # part of the cache key only
    place = {f: i for i, f in enumerate(_patching.features.tolist())}
    sizes = curve_sizes(len(order))
    found = curve(_patching, _patching.features.new_tensor([place[f] for f in order]), sizes)
    return pd.DataFrame(
        {
            "n_patched": sizes,
            "kl": found.kl[:, 0].float().clamp(min=0).cpu().numpy(),  # rounding may leave -1e-8
            "magnitude": found.magnitude.float().cpu().numpy(),
        }
    )


# ---- some features patched


@dataclass(frozen=True)
class Patched:
    """What patching some features does. before, after: KL to the target run at each position [t], nats.

    magnitude: mean Euclidean norm of the edit over all positions.
    """

    features: tuple[int, ...]
    base: CleanRun
    target: CleanRun
    outcome: live.Outcome
    before: np.ndarray
    after: np.ndarray
    magnitude: float


def patched(run: RunStore, reading: Reading, features: Sequence[int]) -> Patched:
    """Patch the features at all positions: KL(base || target) and KL(patched || target) at every position."""
    id = reading.entry.id
    base, target = (live.clean(run, id, line) for line in (reading.base, reading.target))
    found = live.outcome(run, reading.base, Edit(id, tuple(features), "patch", source=reading.target))
    before, after = (
        kl(logprobs, target.logprobs).clamp(min=0).cpu().numpy()
        for logprobs in (base.logprobs, found.effect.edited_logprobs)
    )
    return Patched(tuple(features), base, target, found, before, after, float(found.effect.delta_norm.mean()))


def predictions(run: RunStore, found: Patched, position: int) -> pd.DataFrame:
    """Next tokens after a position, by id: token, and of base, patched and target the probability and the logit.

    Columns: token_id, token, base_p, patched_p, target_p, base_logit, patched_logit, target_logit.
    """
    effect, n = found.outcome.effect, state.live_model(run).n_tokens
    runs = {
        "base": (found.base.logprobs[position], found.base.log_z[position]),
        "patched": (effect.edited_logprobs[position], effect.edited_log_z[position]),
        "target": (found.target.logprobs[position], found.target.log_z[position]),
    }
    columns: dict[str, object] = {"token_id": range(n), "token": live.vocabulary(run)[:n]}
    columns |= {f"{name}_p": logprobs[:n].exp().cpu().numpy() for name, (logprobs, _) in runs.items()}
    columns |= {f"{name}_logit": (logprobs[:n] + log_z).cpu().numpy() for name, (logprobs, log_z) in runs.items()}
    return pd.DataFrame(columns)


def likeliest(frame: pd.DataFrame, each: int = LIKELIEST) -> list[int]:
    """Ids of the tokens that are among the `each` likeliest of any of the three runs, likeliest in the target first."""
    tops = [frame[column].nlargest(each).index for column in ("target_p", "base_p", "patched_p")]
    ids = list(dict.fromkeys(int(i) for top in tops for i in top))
    return sorted(ids, key=lambda i: -frame["target_p"].iloc[i])


def by_feature(run: RunStore, reading: Reading) -> pd.DataFrame:
    """The features that differ, in order, each at the position where it differs most.

    Columns: rank, feature, position, base, target (codes there), change, n_positions, magnitude (mean norm of its
    edit over all positions), kl_alone (nats: KL(patched || target) at the last token with this one patched alone).
    """
    patching, features = reading.patching, list(reading.order)
    place = {f: i for i, f in enumerate(patching.features.tolist())}
    rows = [place[f] for f in reading.order]
    change = patching.change[0].T[rows].float().cpu()
    position = change.abs().argmax(1)
    both = (live.clean(run, reading.entry.id, line).codes for line in (reading.base, reading.target))
    base, target = (codes[position.to(codes.device), features].float().cpu().numpy() for codes in both)
    norms = patching.directions[rows].norm(dim=1).float().cpu()
    return pd.DataFrame(
        {
            "rank": range(1, len(rows) + 1),
            "feature": features,
            "position": position.numpy(),
            "base": base,
            "target": target,
            "change": target - base,
            "n_positions": change.ne(0).sum(1).numpy(),
            "magnitude": (change.abs().mean(1) * norms).numpy(),
            "kl_alone": patching.alone()[rows].float().clamp(min=0).cpu().numpy(),
        }
    )


def changes(reading: Reading, features: Sequence[int]) -> np.ndarray:
    """Target code minus base code of some features that differ, at every position; [features, t]."""
    place = {f: i for i, f in enumerate(reading.patching.features.tolist())}
    return reading.patching.change[0].T[[place[f] for f in features]].float().cpu().numpy()


def answer_ids(run: RunStore, words: Sequence[str]) -> list[int]:
    """Ids of the words that are one token."""
    found = [state.live_model(run).encode(word) for word in words]
    return [ids[0] for ids in found if len(ids) == 1]
