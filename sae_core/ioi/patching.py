"""Feature values of target runs patched into base runs, many pairs and many alternatives at once.

    resid' = resid + (decode(codes with the patched features' target codes) - decode(codes))

at every position (sae_core.intervention, operation `patch`); the reconstruction error of the base run stays. Read is
KL(patched || target) at the last token of each pair. A feature whose codes are the same in both runs adds exactly 0,
so only those that differ somewhere are kept. The last block is run for the last token's query alone.

A two-sided dictionary (`sae_core.baselines`) is patched either feature by feature, or signed: both sides of a direction
together, so that the code is the projection itself (the paper's PCA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core.dictionaries import Dictionary, signed_codes
from sae_core.effects import kl
from sae_core.errors import FeatureError, InputError
from sae_core.intervention import log_softmax
from sae_core.ioi.prompts import check_lengths
from sae_core.language_model import KeysValues, LanguageModel

ROWS_AT_ONCE = 128
ROWS_A_PASS = 20
SIZES_BEFORE_GROWTH = 16
GROWTH = 1.15


class Pair(Protocol):
    """A base and a target prompt as token ids (`prompts.PromptPair`, or `TypedPair`)."""

    base_ids: Sequence[int]
    target_ids: Sequence[int]


@dataclass(frozen=True)
class TypedPair:
    """Two sentences that somebody typed."""

    base_ids: Sequence[int]
    target_ids: Sequence[int]


@dataclass(frozen=True)
class Patching:
    """p pairs read once. t: the longest pair; k: features whose codes differ somewhere, ascending.

    Pairs are padded on the right; `change` is 0 there.
    """

    model: LanguageModel
    dictionary: Dictionary
    lengths: Tensor  # [p]
    resid: Tensor  # [p, t, d], base runs, the stream of the dictionary's site
    target_logprobs: Tensor  # [p, V], at the last token
    features: Tensor  # [k]
    change: Tensor  # [p, t, k], target codes - base codes
    directions: Tensor  # [k, d], what a code of 1 adds to resid_post

    @property
    def n_pairs(self) -> int:
        return len(self.lengths)

    def differs(self) -> Tensor:
        """Which features differ in which pair; [k, p]."""
        return self.change.ne(0).any(1).T

    def delta(self, keep: Tensor) -> Tensor:
        """What patching the features `keep` (a mask or indices into `features`) adds to resid_post; [p, t, d]."""
        return self.change[..., keep] @ self.directions[keep]

    @cached_property
    def first(self) -> Tensor:
        """The first position of each pair at which a feature differs, its last one if none does; [p]."""
        differs = self.change.ne(0).any(-1)
        return torch.where(differs.any(1), differs.int().argmax(1), self.lengths - 1)

    @cached_property
    def past(self) -> dict[int, KeysValues]:
        """Keys and values of the base runs, by block: nothing changes them before `first`."""
        keep: dict[int, KeysValues] = {}
        self.model.blocks(self.resid, self.dictionary.site.layer + 1, self.model.n_layers, keep=keep)
        return keep

    def divergence(self, pairs: Tensor, deltas: Tensor) -> Tensor:
        """KL(patched || target) at the last token, nats, of changes deltas [n, t, d] of the base runs `pairs` [n].

        deltas: 0 before `first`. Rows of like length and start are run together, on the positions between.
        """
        found = deltas.new_zeros(len(pairs))
        alike = (self.lengths[pairs] * deltas.shape[1] + self.first[pairs]).argsort()
        for rows in alike.tensor_split(max(1, round(len(pairs) / ROWS_A_PASS))) if len(pairs) else ():
            found[rows] = self._divergence(pairs[rows], deltas[rows])
        return found

    @torch.inference_mode()
    def _divergence(self, pairs: Tensor, deltas: Tensor) -> Tensor:
        start, stop = int(self.first[pairs].min()), int(self.lengths[pairs].max())
        resid = self.resid[pairs, start:stop] + deltas[:, start:stop]
        past = {layer: tuple(each[pairs, :, :start] for each in both) for layer, both in self.past.items()}
        last = last_resid(self.model, resid, self.dictionary.site.layer, self.lengths[pairs] - 1 - start, past)
        return kl(log_softmax(self.model.unembed(last))[0], self.target_logprobs[pairs])

    def alone(self, pair: int = 0) -> Tensor:
        """KL(patched || target) of one pair with each feature patched by itself, nats; [k]."""
        change = self.change[pair].T  # [k, t]
        rows = torch.full((len(change),), pair, device=change.device)
        parts = zip(
            rows.split(ROWS_AT_ONCE), change.split(ROWS_AT_ONCE), self.directions.split(ROWS_AT_ONCE), strict=True
        )
        found = [self.divergence(n, c[..., None] * d[:, None]) for n, c, d in parts]
        return torch.cat(found) if found else change.new_zeros(0)

    def magnitude(self, delta: Tensor) -> Tensor:
        """Mean Euclidean norm of a change [p, t, d] over all positions of all pairs."""
        return delta.norm(dim=-1).sum() / self.lengths.sum()


@torch.inference_mode()
def read_pairs(
    model: LanguageModel,
    dictionary: Dictionary,
    pairs: Sequence[Pair],
    features: Sequence[int] | None = None,
    signed: bool = False,
    first: int = 0,
) -> Patching:
    """Read both prompts of every pair. `features`: None for those that differ, else exactly these.

    signed: a feature is both sides of a direction, numbered as its positive side. Nothing is patched before position
    `first`. Raises InputError for no pair or prompts of unequal length, DictionaryError for another width.
    """
    if not pairs:
        raise InputError("at least one pair of prompts", "none", "Ask for some")
    for pair in pairs:
        check_lengths(pair.base_ids, pair.target_ids)
    lengths = torch.tensor([len(pair.base_ids) for pair in pairs], device=model.device)
    inside = torch.arange(int(lengths.max()), device=model.device) < lengths[:, None]
    site, stream = dictionary.site, dictionary.site.stream
    base, target = (model.sites(_padded(model, ids), [site, stream]) for ids in zip(*map(_ids, pairs), strict=True))
    codes, target_codes = (dictionary.encode(run[site].to(dictionary.W_dec.dtype)) for run in (base, target))
    change = (target_codes - codes) * inside[..., None]
    change[:, :first] = 0
    change = signed_codes(change) if signed else change
    chosen = _chosen(change, features)
    directions = model.to_resid(dictionary.W_dec[chosen], site).to(base[stream].dtype)
    last = last_resid(model, target[stream], site.layer, lengths - 1)
    logprobs = log_softmax(model.unembed(last))[0]
    change = change[..., chosen].to(base[stream].dtype)
    return Patching(model, dictionary, lengths, base[stream], logprobs, chosen, change, directions)


def _ids(pair: Pair) -> tuple[Sequence[int], Sequence[int]]:
    return pair.base_ids, pair.target_ids


def _padded(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Ids [p, t], padded on the right, where causality keeps them out of what comes before."""
    rows = [torch.as_tensor(ids, dtype=torch.long) for ids in prompts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.eos_id)


def _chosen(change: Tensor, features: Sequence[int] | None) -> Tensor:
    if features is None:
        return change.ne(0).any(0).any(0).nonzero()[:, 0]
    chosen = torch.as_tensor(features, dtype=torch.long, device=change.device)
    outside = [f for f in chosen.tolist() if not 0 <= f < change.shape[-1]]
    if outside:
        fix = "Choose features of the dictionary"
        raise FeatureError(f"features from 0 to {change.shape[-1] - 1}", str(outside[:5]), fix)
    return chosen


@torch.inference_mode()
def last_resid(
    model: LanguageModel, resid: Tensor, layer: int, last: Tensor, past: Mapping[int, KeysValues] | None = None
) -> Tensor:
    """The last block's resid_post [n, d] at position last [n] of each row, from resid_post [n, t, d] of `layer`.

    past: keys and values, by block, of the positions before resid's first; `last` is counted from that one.
    """
    rows = torch.arange(len(resid), device=resid.device)
    final = model.n_layers - 1
    if layer == final:
        return resid[rows, last]
    resid = model.blocks(resid, layer + 1, final, past)
    start = past[final][0].shape[2] if past else 0
    stop = start + resid.shape[1]
    q, k, v = model.query_keys_values(final, resid, slice(start, stop))
    if past:
        k, v = (torch.cat(both, 2) for both in zip(past[final], (k, v), strict=True))
    seen = model.mask[start + last, :stop][:, None, None]
    z = F.scaled_dot_product_attention(q[rows, :, last][:, :, None], k, v, attn_mask=seen)
    x = resid[rows, last]
    attn_out = model.layers[final].attention_out(z.transpose(1, 2).flatten(1))
    return model.after_attention(final, x, attn_out)["resid_post"]


# ---- curves


@dataclass(frozen=True)
class Curve:
    """What patching the first n features of an order does, for each n of `sizes`."""

    sizes: list[int]
    kl: Tensor  # [sizes, p], nats: KL(patched || target) at the last token
    magnitude: Tensor  # [sizes], mean edit norm over all positions


def curve(patching: Patching, order: Tensor, sizes: Sequence[int]) -> Curve:
    """order: indices into patching.features, the first to be patched first; sizes: numbers of features patched."""
    at_once = max(1, ROWS_AT_ONCE // patching.n_pairs)
    parts = [_curve(patching, order, sizes[i : i + at_once]) for i in range(0, len(sizes), at_once)]
    divergence, magnitude = (torch.cat(part) for part in zip(*parts, strict=True))
    return Curve(list(sizes), divergence, magnitude)


def _curve(patching: Patching, order: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """KL [sizes, p] and magnitude [sizes] of a few sizes, run together."""
    everywhere = torch.arange(patching.n_pairs, device=patching.resid.device).repeat(len(sizes))
    deltas = [patching.delta(order[:n]) for n in sizes]
    divergence = patching.divergence(everywhere, torch.cat(deltas)).view(len(sizes), -1)
    return divergence, torch.stack([patching.magnitude(delta) for delta in deltas])


def curve_sizes(k: int) -> list[int]:
    """Numbers of patched features on a curve: every one at first, then growing by 15 %; 0 and k always among them."""
    found = list(range(min(k, SIZES_BEFORE_GROWTH) + 1))
    while found[-1] < k:
        found.append(min(k, int(np.ceil(found[-1] * GROWTH))))
    return found


def patch_curve(
    model: LanguageModel,
    dictionary: Dictionary,
    base_ids: Sequence[int],
    target_ids: Sequence[int],
    order: Sequence[int],
    first: int = 0,
) -> pd.DataFrame:
    """KL(patched || target) at the last token after the first 0 .. n features of `order` are patched.

    Columns: n_patched, feature (the one added last, -1 for none), kl (nats), magnitude (mean edit norm).
    Raises InputError for sentences of unequal length, FeatureError for a feature that does not exist.
    """
    patching = read_pairs(model, dictionary, [TypedPair(base_ids, target_ids)], order, first=first)
    steps = torch.einsum("tk,kd->ktd", patching.change[0], patching.directions)
    deltas = torch.cat([torch.zeros_like(patching.resid), steps.cumsum(0)])
    divergence = patching.divergence(torch.zeros(len(deltas), dtype=torch.long, device=deltas.device), deltas)
    columns = {"kl": divergence, "magnitude": deltas.norm(dim=-1).mean(-1)}
    frame = pd.DataFrame({"n_patched": range(len(deltas)), "feature": [-1, *map(int, order)]})
    return frame.assign(**{name: values.float().cpu().numpy() for name, values in columns.items()})
