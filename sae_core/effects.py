"""What an edit did, from its Effect: divergence, tokens lowered and raised, loss, features downstream, dose-response.

A change is always edited minus clean. Logarithms are natural. Rows of the vocabulary at or above `n_tokens`
(padding of the unembedding) take part in the softmax, as in the model, and in no ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import InputError
from sae_core.intervention import CleanRun, Effect, FeatureEdit, apply_many
from sae_core.language_model import LanguageModel

STRENGTHS = tuple(i / 8 for i in range(17))  # 0 to 2
DOWNSTREAM_COLUMNS = ("dictionary", "feature", "position", "clean", "edited", "change")


@dataclass(frozen=True)
class LossChange:
    """Log-probability of the token that really came next, before and after; nats. Position i predicts token i + 1."""

    positions: Tensor  # [p], those that have a next token
    next_ids: Tensor  # [p]
    clean: Tensor  # [p]
    edited: Tensor  # [p]

    @property
    def per_token(self) -> Tensor:
        """Change of the loss, clean minus edited log-probability, at each position; positive = worse; [p]."""
        return self.clean - self.edited

    @property
    def total(self) -> float:
        """Sum of `per_token`, nats."""
        return float(self.per_token.sum())


def kl(clean_logprobs: Tensor, edited_logprobs: Tensor) -> Tensor:
    """KL(clean || edited) = sum_v p_v (log p_v - log q_v), nats; [n, V] -> [n]."""
    # Row by row: a row of the vocabulary stays in the processor's cache, a whole sentence does not.
    rows = zip(clean_logprobs, edited_logprobs, strict=True)
    return torch.stack([torch.dot(clean.exp(), clean - edited) for clean, edited in rows])


def entropy(logprobs: Tensor) -> Tensor:
    """-sum_v p_v log p_v, nats; [..., V] -> [...]."""
    return -(logprobs.exp() * logprobs).sum(-1)


def effect_kl(effect: Effect) -> Tensor:
    """KL(clean || edited) at each of the effect's positions, nats; [p]."""
    return kl(effect.clean_logprobs, effect.edited_logprobs)


def token_changes(effect: Effect, position: int, n_tokens: int) -> pd.DataFrame:
    """Every token's prediction at one position before and after, one row a token id below n_tokens.

    Columns: token_id, clean_logprob, edited_logprob, change_logprob (nats), change_logit, clean_p, edited_p.
    """
    row = row_of(effect, position)
    clean, edited = effect.clean_logprobs[row, :n_tokens].cpu(), effect.edited_logprobs[row, :n_tokens].cpu()
    change, shift = edited - clean, float(effect.edited_log_z[row] - effect.clean_log_z[row])
    columns = {
        "clean_logprob": clean,
        "edited_logprob": edited,
        "change_logprob": change,
        "change_logit": change + shift,
        "clean_p": clean.exp(),
        "edited_p": edited.exp(),
    }
    return pd.DataFrame({"token_id": range(len(clean)), **{name: column.numpy() for name, column in columns.items()}})


def top_changes(effect: Effect, position: int, n_tokens: int, k: int = 10) -> pd.DataFrame:
    """The k most lowered and k most raised tokens at a position by log-probability, most lowered first.

    A token is in the lower part only if its log-probability fell, in the upper only if it rose.
    """
    ordered = token_changes(effect, position, n_tokens).sort_values("change_logprob", kind="stable")
    lowered, raised = ordered[ordered["change_logprob"] < 0], ordered[ordered["change_logprob"] > 0]
    return pd.concat([lowered.head(k), raised.tail(k)], ignore_index=True)


def row_of(effect: Effect, position: int) -> int:
    """Row of the effect that holds a position. Raises InputError if it was not computed."""
    rows = (effect.positions == position).nonzero()
    if not len(rows):
        known = effect.positions.tolist()
        raise InputError(f"a position out of {known}", str(position), "Ask for this position when applying the edit")
    return int(rows[0])


def loss_change(effect: Effect, ids: Tensor) -> LossChange:
    """Next-token log-probability of the sentence ids [t] at the effect's positions, the last token's left out."""
    has_next = effect.positions < len(ids) - 1
    positions = effect.positions[has_next]
    next_ids = ids[positions + 1]
    rows = has_next.nonzero()[:, 0]
    clean, edited = (lp[rows, next_ids].cpu() for lp in (effect.clean_logprobs, effect.edited_logprobs))
    return LossChange(positions, next_ids, clean, edited)


@torch.inference_mode()
def downstream_changes(
    model: LanguageModel, clean: CleanRun, effect: Effect, dictionaries: Mapping[str, Dictionary], limit: int = 50
) -> pd.DataFrame:
    """Codes of later layers' dictionaries that the edit changed, largest |change| first; both runs in one batch.

    Columns: dictionary, feature, position, clean, edited, change. Dictionaries of the edited layer or of earlier
    ones are left out: their codes do not depend on the edit.
    """
    later = {name: found for name, found in dictionaries.items() if found.site.layer > clean.site.layer}
    if not later:
        return pd.DataFrame(columns=list(DOWNSTREAM_COLUMNS))
    both = torch.stack([clean.resid, clean.resid + effect.delta])
    activations = model.sites_after(both, clean.site.layer, [found.site for found in later.values()])
    frames = []
    for name, dictionary in later.items():
        codes = dictionary.encode(activations[dictionary.site].to(dictionary.W_dec.dtype))
        frames.append(_largest_changes(name, codes[0], codes[1], limit))
    frame = pd.concat(frames, ignore_index=True)
    return frame.sort_values("change", key=abs, ascending=False, kind="stable", ignore_index=True).head(limit)


def _largest_changes(name: str, clean: Tensor, edited: Tensor, limit: int) -> pd.DataFrame:
    change = edited - clean
    top = change.abs().flatten().topk(min(limit, change.numel())).indices
    position, feature = top // clean.shape[-1], top % clean.shape[-1]
    values = {"clean": clean, "edited": edited, "change": change}
    frame = pd.DataFrame(
        {"dictionary": name, "feature": feature.cpu().numpy(), "position": position.cpu().numpy()}
        | {column: tensor.flatten()[top].cpu().numpy() for column, tensor in values.items()}
    )
    return frame[frame["change"] != 0]


def dose_response(
    model: LanguageModel,
    dictionary: Dictionary,
    clean: CleanRun,
    edits: Sequence[FeatureEdit],
    position: int,
    token_id: int,
    strengths: Sequence[float] = STRENGTHS,
) -> pd.DataFrame:
    """The edited features' codes times each strength (0 removed, 1 untouched, 2 doubled), read at one position.

    The edits give features and positions; their operation is not used. Columns: strength, kl (nats),
    logprob (nats, of the token), change_logprob.
    """
    doses = [[replace(edit, operation="scale", value=float(s)) for edit in edits] for s in strengths]
    rows = []
    for strength, effect in zip(
        strengths, apply_many(model, dictionary, clean, doses, positions=[position]), strict=True
    ):
        before, after = (float(lp[0, token_id]) for lp in (effect.clean_logprobs, effect.edited_logprobs))
        rows.append((strength, float(effect_kl(effect)[0]), after, after - before))
    return pd.DataFrame(rows, columns=["strength", "kl", "logprob", "change_logprob"])


@torch.inference_mode()
def firing_features(model: LanguageModel, dictionaries: Mapping[str, Dictionary], ids: Sequence[int]) -> pd.DataFrame:
    """Which features are active on which token, over all dictionaries in one pass (feature search, App. D.3).

    Columns: dictionary, feature, position, activation; one row for each code that is not 0.
    """
    found = model.sites(torch.as_tensor(ids)[None], [dictionary.site for dictionary in dictionaries.values()])
    frames = []
    for name, dictionary in dictionaries.items():
        codes = dictionary.encode(found[dictionary.site][0].to(dictionary.W_dec.dtype)).cpu()
        position, feature = codes.nonzero(as_tuple=True)
        columns = {"feature": feature.numpy(), "position": position.numpy(), "activation": codes[position, feature]}
        frames.append(pd.DataFrame({"dictionary": name, **columns}))
    return pd.concat(frames, ignore_index=True)
