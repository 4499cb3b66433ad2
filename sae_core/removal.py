"""What removing one feature does to the next-token prediction, averaged over windows that are run on their own.

    resid' = resid - code * direction at all positions of the window (sae_core.intervention)

Windows are read once for many features. A position whose final normalised vector h moves by dh can lose at most
(max_v |w_v - m| + |w_y - m|) |dh| of the log-probability of token y (w: rows of the unembedding, m: their mean), so
positions for which this bound is too small are left out of the search for drops without changing its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.effects import kl
from sae_core.intervention import log_softmax, removal_delta
from sae_core.language_model import LanguageModel
from sae_core.sampling import draw
from sae_core.schemas import DROP_THRESHOLD, EFFECT_POSITIONS

WINDOWS_AT_ONCE = 64
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class CleanWindows:
    """n windows of t tokens read without any edit, with what removals of `features` need."""

    ids: Tensor  # [n, t]
    resid: Tensor  # [n, t, d], the stream of the dictionary's site
    codes: Tensor  # [features, n, t]
    last: Tensor  # [n, t, d], the last block's resid_post


@dataclass(frozen=True)
class MeanChange:
    """Edited minus clean prediction, averaged over the sampled active positions. V = vocabulary rows."""

    logprob: np.ndarray  # [V], nats
    logit: np.ndarray  # [V]
    stderr: np.ndarray  # [V], of logprob, clustered by window; NaN for a single window
    kl: float  # nats, mean of KL(clean || edited)
    n_positions: int
    n_windows: int


@dataclass(frozen=True)
class Drops:
    """Drops above the threshold of the log-probability of the token that really came next, and that token."""

    drops: np.ndarray  # [k], nats
    token_ids: np.ndarray  # [k]
    n_positions: int  # positions looked at


@dataclass(frozen=True)
class Removal:
    """Effect of removing one feature; `change` and `direct` are None where no window shows it active."""

    change: MeanChange | None
    direct: np.ndarray | None  # [V], logit change along the direct path, over the same positions
    drops_active: Drops
    drops_all: Drops


@torch.inference_mode()
def read_windows(
    model: LanguageModel, dictionary: Dictionary, ids: Tensor, features: Sequence[int], first: int = 0
) -> CleanWindows:
    """Read windows ids [n, t] once, for removals of any of `features`; they count as silent before `first`."""
    parts = [_read(model, dictionary, part, features) for part in ids.to(model.device).split(WINDOWS_AT_ONCE)]
    resid, codes, last = zip(*parts, strict=True)
    for part in codes:
        part[..., :first] = 0
    return CleanWindows(ids.to(model.device), torch.cat(resid), torch.cat(codes, dim=1), torch.cat(last))


def _read(
    model: LanguageModel, dictionary: Dictionary, ids: Tensor, features: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    stream = dictionary.site.stream
    found = model.sites(ids, [dictionary.site, stream])
    codes = dictionary.encode(found[dictionary.site].to(dictionary.W_dec.dtype))[..., list(features)]
    last = model.blocks(found[stream], dictionary.site.layer + 1, model.n_layers)
    return found[stream], codes.permute(2, 0, 1).contiguous(), last


class Unembedding:
    """The final norm and the unembedding, and how far a log-probability can fall when the normalised vector moves."""

    def __init__(self, model: LanguageModel) -> None:
        self.norm, self.W_U = model.final_norm, model.W_U
        self.from_mean = (self.W_U - self.W_U.mean(0)).norm(dim=1)
        self.furthest = self.from_mean.max()

    def logits(self, h: Tensor) -> Tensor:
        """Logits [k, V] of normalised vectors h [k, d]."""
        return h @ self.W_U.T

    def largest_drop(self, moved: Tensor, next_ids: Tensor) -> Tensor:
        """Upper bound of the drop of next_ids [...] for a move |dh| [...]."""
        return moved * (self.furthest + self.from_mean[next_ids])

    def next_logprob(self, h: Tensor, next_ids: Tensor) -> Tensor:
        """log p(next) [k] at normalised vectors h [k, d]."""
        logits = self.logits(h).float()
        return logits.gather(1, next_ids[:, None])[:, 0] - logits.logsumexp(1)

    def mean_change(self, before: Tensor, after: Tensor, windows: Tensor) -> MeanChange:
        """Means over n positions whose normalised vectors went from before to after [n, d]; windows: [n]."""
        (clean, clean_z), (edited, edited_z) = (log_softmax(self.logits(h)) for h in (before, after))
        change = edited - clean
        mean = change.mean(0)
        return MeanChange(
            logprob=mean.cpu().numpy(),
            logit=(mean + (edited_z - clean_z).mean()).cpu().numpy(),
            stderr=clustered_stderr(change, windows).cpu().numpy(),
            kl=float(kl(clean, edited).mean()),
            n_positions=len(change),
            n_windows=len(windows.unique()),
        )

    def drops(self, before: Tensor, after: Tensor, ids: Tensor) -> Tensor:
        """Drop of the next token's log-probability [n, t - 1]: exact where it can exceed DROP_THRESHOLD, else 0."""
        next_ids = ids[:, 1:]
        bound = self.largest_drop((after - before).norm(dim=-1)[:, :-1], next_ids)
        drops = torch.zeros_like(bound, dtype=torch.float32)
        for part in (bound > DROP_THRESHOLD).nonzero().split(max(1, LOGITS_AT_ONCE // len(self.W_U))):
            row, position = part.T
            wanted = next_ids[row, position]
            clean, edited = (self.next_logprob(h[row, position], wanted) for h in (before, after))
            drops[row, position] = clean - edited
        return drops


class Remover:
    """Removes features of one dictionary, one at a time, in windows that were read before.

    Positions before `first` are read, not edited, and not counted.
    """

    def __init__(self, model: LanguageModel, dictionary: Dictionary, first: int = 0) -> None:
        self.model, self.dictionary, self.first = model, dictionary, first
        self.unembedding = Unembedding(model)

    def read(self, ids: Tensor, features: Sequence[int]) -> CleanWindows:
        """`read_windows` of this dictionary."""
        return read_windows(self.model, self.dictionary, ids, features, self.first)

    @torch.inference_mode()
    def remove(
        self, clean: CleanWindows, feature: int, codes: Tensor, rows: Tensor, rng: np.random.Generator
    ) -> Removal:
        """Remove `feature`, whose codes in all of clean's windows are codes [n, t], at every position of `rows`.

        The change is averaged over at most EFFECT_POSITIONS active positions, drawn uniformly with rng. Positions
        without a next token in the window take no part in the drops.
        """
        n_all = len(rows) * (clean.ids.shape[1] - 1 - self.first)
        rows = rows[codes[rows].ne(0).any(1)]
        if not len(rows):
            return Removal(None, None, _no_drops(0), _no_drops(n_all))
        here, ids, last = codes[rows], clean.ids[rows], clean.last[rows]
        before, after = self.unembedding.norm(last), self.unembedding.norm(self._rerun(clean, feature, here, rows))
        sampled = sample(here.ne(0), EFFECT_POSITIONS, rng)
        change = self.unembedding.mean_change(before[sampled], after[sampled], sampled.nonzero()[:, 0])
        denominator = self.model.norm_denominator(last[sampled]).mean()
        direct = -here[sampled].mean() * self._written(feature) / denominator
        drops = self.unembedding.drops(before, after, ids)
        everywhere = torch.ones_like(sampled)
        return Removal(
            change,
            direct.float().cpu().numpy(),
            _kept(drops, ids, sampled, int(sampled[:, :-1].sum())),
            _kept(drops, ids, everywhere, n_all),
        )

    def _rerun(self, clean: CleanWindows, feature: int, codes: Tensor, rows: Tensor) -> Tensor:
        """The last block's resid_post [n, t, d] with the feature's codes [n, t] removed."""
        features = torch.full((len(rows),), feature, device=rows.device)
        delta = removal_delta(self.dictionary, codes, features).to(clean.resid.dtype)
        site = self.dictionary.site
        resid = clean.resid[rows] + self.model.to_resid(delta, site)
        return self.model.blocks(resid, site.layer + 1, self.model.n_layers)

    def _written(self, feature: int) -> Tensor:
        """Logits [V] that the feature's direction writes along the direct path, for a norm of 1."""
        direction = self.dictionary.W_dec[feature : feature + 1].to(self.model.W_U.dtype)
        return self.model.direct_logits(self.model.to_resid(direction, self.dictionary.site), 1.0)[0]


def sample(where: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """At most n of the true entries of a mask, drawn uniformly, as a mask of the same shape."""
    indices = where.flatten().nonzero()[:, 0]
    chosen = torch.zeros(where.numel(), dtype=torch.bool, device=where.device)
    chosen[indices[torch.from_numpy(draw(len(indices), n, rng)).to(where.device)]] = True
    return chosen.view_as(where)


def clustered_stderr(values: Tensor, clusters: Tensor) -> Tensor:
    """sqrt(G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))^2) / n: standard error of the mean over G clusters.

    values: [n, V]; clusters: [n] integers. Returns [V]; NaN for one cluster.
    """
    _, group = clusters.unique(return_inverse=True)
    n_groups = int(group.max()) + 1
    sums = torch.zeros(n_groups, values.shape[1], device=values.device)
    sums.index_add_(0, group, values - values.mean(0))
    scale = n_groups / (n_groups - 1) if n_groups > 1 else float("nan")
    return (scale * sums.square().sum(0)).sqrt() / len(values)


def _no_drops(n_positions: int) -> Drops:
    return Drops(np.zeros(0), np.zeros(0, np.int64), n_positions)


def _kept(drops: Tensor, ids: Tensor, where: Tensor, n_positions: int) -> Drops:
    kept = (drops > DROP_THRESHOLD) & where[:, :-1]
    return Drops(drops[kept].double().cpu().numpy(), ids[:, 1:][kept].cpu().numpy(), n_positions)
