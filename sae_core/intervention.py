"""The one place where a forward pass is changed.

    resid' = resid + (decode(edit(codes)) - decode(codes))

The dictionary's reconstruction error stays in the residual. Decoding is affine, so the bracket is the change of the
edited codes times their decoder rows: exactly zero wherever the edit changes no code. Positions before the first
change keep the clean run's numbers, bit for bit, because attention is causal; only the positions after it are run
again, from the dictionary's layer on, over the clean run's keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import FeatureError, InputError
from sae_core.language_model import KeysValues, LanguageModel
from sae_core.specs import Site

OPERATIONS = {
    "remove": "the code becomes 0",
    "remove_to_threshold": "x moves against the decoder direction until the feature is just silent",
    "scale": "the code times the value",
    "set": "the code becomes the value",
    "add": "the code plus the value: steering along the decoder direction",
    "patch": "the code becomes that of another sentence at the same position",
}
LOGITS_AT_ONCE = 1 << 26  # numbers of one batch of alternatives: 256 MB in float32


@dataclass(frozen=True)
class FeatureEdit:
    """One change of one feature's code; `positions` None means every position."""

    feature: int
    operation: str = "remove"
    value: float = 0.0
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CleanRun:
    """A sentence read without any edit, with all that later edits of it need. t tokens, V vocabulary rows.

    Positions before `first` are read and count nowhere: codes and error are 0 there, and no edit changes them.
    """

    ids: Tensor  # [t]
    site: Site
    resid: Tensor  # [t, d], the site's stream: resid_post of its layer, or the embedding
    x: Tensor  # [t, width], the activations the dictionary reads
    codes: Tensor  # [t, F]
    error: Tensor  # [t, width], x - reconstruct(x, codes)
    past: dict[int, KeysValues]  # keys and values of the later blocks
    logprobs: Tensor  # [t, V], nats
    log_z: Tensor  # [t], so that logits = logprobs + log_z
    first: int = 0

    @cached_property
    def fvu(self) -> float:
        """Fraction of variance unexplained on this sentence: sum |x - x_hat|^2 / sum |x - mean x|^2."""
        x = self.x[self.first :]
        return float(self.error.square().sum() / (x - x.mean(0)).square().sum())


@dataclass(frozen=True)
class Effect:
    """Clean and edited prediction at p positions of one sentence."""

    positions: Tensor  # [p]
    clean_logprobs: Tensor  # [p, V]
    edited_logprobs: Tensor  # [p, V]
    clean_log_z: Tensor  # [p]
    edited_log_z: Tensor  # [p]
    delta: Tensor  # [t, d], what was added to resid_post

    @property
    def delta_norm(self) -> Tensor:
        """Euclidean norm of what was added at each position; [t]."""
        return self.delta.norm(dim=-1)


# ---- codes -> change


@torch.inference_mode()
def edited_delta(
    dictionary: Dictionary, codes: Tensor, edits: Sequence[FeatureEdit], patch_codes: Tensor | None = None
) -> Tensor:
    """decode(edit(codes)) - decode(codes) [..., t, width] for codes [..., t, F]; edits act in their order.

    Raises FeatureError for a feature, InputError for an operation, value or position that does not exist.
    """
    for edit in edits:
        check_edit(dictionary, codes, edit, patch_codes)
    features = sorted({edit.feature for edit in edits})
    before = codes[..., features]
    after = before.clone()
    for edit in edits:
        at = (..., slice(None) if edit.positions is None else list(edit.positions), features.index(edit.feature))
        patch = None if patch_codes is None else patch_codes[..., at[1], edit.feature]
        after[at] = _operate(dictionary, edit, after[at], patch)
    return (after - before) @ dictionary.W_dec[features]


def _operate(dictionary: Dictionary, edit: FeatureEdit, code: Tensor, patch: Tensor | None) -> Tensor:
    match edit.operation:
        case "remove":
            return torch.zeros_like(code)
        case "remove_to_threshold":
            return to_threshold(dictionary, edit.feature, code)
        case "scale":
            return code * edit.value
        case "set":
            return torch.full_like(code, edit.value)
        case "add":
            return code + edit.value
        case "patch":
            return patch
    raise InputError(f"an operation out of {sorted(OPERATIONS)}", repr(edit.operation), "Choose one of these")


def to_threshold(dictionary: Dictionary, feature: int, code: Tensor) -> Tensor:
    """code - t, with t = (code - theta) / (w_enc . d) where the feature is active; 0 where that cannot silence it.

    Moving x by -t d, d the decoder direction, brings an active feature to its threshold theta: 0 for a relu (the
    paper's less-than-rank-one ablation, footnote 5). For the tied dictionary w_enc . d is 1 and t is the code.
    """
    if falls_back_to_remove(dictionary, feature):
        return torch.zeros_like(code)
    theta = 0.0 if dictionary.threshold is None else dictionary.threshold[feature].clamp(min=0)
    return torch.where(code > 0, code - (code - theta) / _slope(dictionary, feature), code)


def falls_back_to_remove(dictionary: Dictionary, feature: int) -> bool:
    """Whether `remove_to_threshold` is done as `remove`.

    So it is where moving against d cannot silence the feature (w_enc . d <= 0), for topk, whose edge is another
    feature's code, and where x is standardised, because moving x changes what it is standardised by.
    """
    return dictionary.k is not None or dictionary.standardises or _slope(dictionary, feature) <= 0


def _slope(dictionary: Dictionary, feature: int) -> float:
    """w_enc . d, by which the pre-activation falls per step against the decoder direction d."""
    return float(dictionary.W_enc[:, feature] @ dictionary.W_dec[feature])


def removal_delta(dictionary: Dictionary, codes: Tensor, features: Tensor) -> Tensor:
    """`edited_delta` of removing one feature from each of n windows: -codes * d.

    codes: [n, t], each window's code of its feature; features: [n]. Returns [n, t, width].
    """
    return -codes[..., None] * dictionary.W_dec[features][:, None]


def check_edit(dictionary: Dictionary, codes: Tensor, edit: FeatureEdit, patch_codes: Tensor | None) -> None:
    """Raise FeatureError or InputError if the edit cannot be applied to these codes [..., t, F]."""
    n, t = dictionary.n_features, codes.shape[-2]
    if not 0 <= edit.feature < n:
        raise FeatureError(f"a feature from 0 to {n - 1}", str(edit.feature), "Choose one of the dictionary's features")
    if not torch.isfinite(torch.tensor(edit.value)):
        raise InputError("a finite value", str(edit.value), "Type an ordinary number")
    outside = [p for p in edit.positions or () if not 0 <= p < t]
    if outside:
        raise InputError(f"positions from 0 to {t - 1}", str(outside), "Choose positions inside the sentence")
    if edit.operation == "patch" and (patch_codes is None or patch_codes.shape != codes.shape):
        found = "none" if patch_codes is None else f"{patch_codes.shape[-2]} tokens"
        raise InputError(f"another sentence of {t} tokens to patch from", found, "Type one of equal token length")


# ---- runs


@torch.inference_mode()
def clean_run(model: LanguageModel, dictionary: Dictionary, ids: Sequence[int] | Tensor, first: int = 0) -> CleanRun:
    """Read a sentence once: one forward pass. Positions before `first` count nowhere (CleanRun).

    Raises InputError (length) or DictionaryError (wrong width, layer).
    """
    ids = torch.as_tensor(ids, dtype=torch.long)
    site = dictionary.site
    stream = site.stream
    found = model.sites(ids[None], [site, stream])
    x = found[site][0].to(dictionary.W_dec.dtype)
    codes = dictionary.encode(x)
    past: dict[int, KeysValues] = {}
    last = model.blocks(found[stream], site.layer + 1, model.n_layers, keep=past)
    logprobs, log_z = log_softmax(model.unembed(last[0]))
    error = x - dictionary.reconstruct(x, codes)
    codes[:first], error[:first] = 0, 0
    return CleanRun(ids, site, found[stream][0], x, codes, error, past, logprobs, log_z, first)


def log_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [..., V] in nats, in float32, and log Z [...]."""
    logits = logits.float()
    logprobs = logits.log_softmax(-1)
    return logprobs, logits[..., 0] - logprobs[..., 0]


@torch.inference_mode()
def resid_change(
    model: LanguageModel,
    dictionary: Dictionary,
    clean: CleanRun,
    edits: Sequence[FeatureEdit],
    keep_error: bool = True,
    patch_codes: Tensor | None = None,
) -> Tensor:
    """What the edits add to resid_post; [t, d]. Without the error: decode(edit(codes)) - x at every position."""
    delta = edited_delta(dictionary, clean.codes, edits, patch_codes)
    delta[: clean.first] = 0  # `set` and `add` act on silent features too
    return model.to_resid(delta if keep_error else delta - clean.error, clean.site).to(clean.resid.dtype)


def apply_edits(
    model: LanguageModel,
    dictionary: Dictionary,
    clean: CleanRun,
    edits: Sequence[FeatureEdit],
    keep_error: bool = True,
    positions: Sequence[int] | None = None,
    patch_codes: Tensor | None = None,
) -> Effect:
    """Clean and edited prediction at the positions asked for (None: all); costs at most the blocks after the edit."""
    return next(apply_many(model, dictionary, clean, [edits], keep_error, positions, patch_codes))


def apply_many(
    model: LanguageModel,
    dictionary: Dictionary,
    clean: CleanRun,
    edit_sets: Sequence[Sequence[FeatureEdit]],
    keep_error: bool = True,
    positions: Sequence[int] | None = None,
    patch_codes: Tensor | None = None,
) -> Iterator[Effect]:
    """One Effect for each alternative set of edits of the same sentence, run in batches."""
    wanted = torch.arange(len(clean.ids)) if positions is None else torch.as_tensor(positions, dtype=torch.long)
    size = max(1, LOGITS_AT_ONCE // (max(1, len(wanted)) * model.d_vocab))
    for start in range(0, len(edit_sets), size):
        sets = edit_sets[start : start + size]
        deltas = [resid_change(model, dictionary, clean, edits, keep_error, patch_codes) for edits in sets]
        yield from effects_of(model, clean, torch.stack(deltas), wanted)


@torch.inference_mode()
def effects_of(model: LanguageModel, clean: CleanRun, deltas: Tensor, wanted: Tensor) -> list[Effect]:
    """Effects of n alternative changes [n, t, d] of resid_post, predictions at the positions `wanted` [p]."""
    changed = deltas.ne(0).any(-1).cpu()
    firsts = torch.where(changed.any(-1), changed.int().argmax(-1), deltas.shape[1])
    first = int(firsts.min())
    late = wanted >= first
    before = (clean.logprobs, clean.log_z)
    if not torch.equal(wanted, torch.arange(len(clean.ids))):
        before = (clean.logprobs[wanted], clean.log_z[wanted])
    if not late.any():
        return [Effect(wanted, *_pairs(before, before), delta) for delta in deltas]
    after = log_softmax(model.unembed(_rerun(model, clean, deltas, first)[:, wanted[late] - first]))
    effects = []
    for i, own_first in enumerate(firsts):
        edited = [_spliced(old, new[i], wanted >= own_first, late) for old, new in zip(before, after, strict=True)]
        effects.append(Effect(wanted, *_pairs(before, edited), deltas[i]))
    return effects


def _spliced(old: Tensor, new: Tensor, own: Tensor, late: Tensor) -> Tensor:
    """Rows of `old` [p, ...], but of `new` (its `late` rows) from the first change of this alternative on (`own`)."""
    if own.all():
        return new
    rows = old.clone()
    rows[own] = new[own[late]]
    return rows


def _pairs(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean and edited log-probabilities, clean and edited log Z: the order of Effect's fields."""
    return before[0], after[0], before[1], after[1]


def _rerun(model: LanguageModel, clean: CleanRun, deltas: Tensor, first: int) -> Tensor:
    """The last block's resid_post [n, t - first, d] with the changes added, from position `first` on."""
    past = {layer: (k[:, :, :first], v[:, :, :first]) for layer, (k, v) in clean.past.items()}
    return model.blocks(clean.resid[first:] + deltas[:, first:], clean.site.layer + 1, model.n_layers, past)
