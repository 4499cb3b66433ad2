"""Which features to patch first: the ACDC-like pruning of the paper (Sec. 4.2), and an order that costs nothing.

Pruning starts with all features patched. For each threshold, in ascending order, the features that are left are
visited in a fresh random order, and a feature is dropped for good if the mean KL rises by less than the threshold
without it. What is dropped last matters most. A drop leaves alone the pairs in which the feature does not differ, so
their divergences are kept instead of being computed again: the result is that of the plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sae_core.ioi.patching import ROWS_A_PASS, ROWS_AT_ONCE, Patching


def log_thresholds(n: int = 50) -> list[float]:
    """n thresholds of KL in nats, evenly spaced in log from 1e-5 to 1 (the authors': 50)."""
    return np.logspace(-5, 0, n).tolist()


@dataclass(frozen=True)
class Ordering:
    """order: indices into Patching.features, the most important first; sizes: features left after each threshold.

    The first sizes[i] of `order` are the set left after threshold i.
    """

    order: Tensor  # [k]
    sizes: list[int]


def magnitude_order(patching: Patching) -> Tensor:
    """By mean edit norm of the feature alone, |target code - base code| |d|, largest first; [k]."""
    norms = patching.change.abs().sum((0, 1)) * patching.directions.norm(dim=1)
    return norms.argsort(descending=True, stable=True)


def acdc_order(
    patching: Patching, thresholds: Sequence[float], seed: int = 0, progress: Callable[[float], None] | None = None
) -> Ordering:
    """The pruning order; deterministic for a seed. Leaving features out that never differ changes nothing.

    Ties in importance (features left after the last threshold) go by how much KL rises without them.
    progress: told the share of the thresholds that are done, after each.
    """
    pruning = Pruning.start(patching)
    rng, sizes = np.random.default_rng(seed), []
    for threshold in sorted(thresholds):
        # Every feature of the dictionary has its rank, so that leaving some out does not reorder the others.
        rank = rng.permutation(patching.dictionary.n_features)[patching.features.cpu().numpy()]
        pruning.visit([i for i in np.argsort(rank).tolist() if pruning.kept[i]], threshold)
        sizes.append(int(pruning.kept.sum()))
        if progress:
            progress(len(sizes) / len(thresholds))
    left = pruning.kept.nonzero()[:, 0].tolist()
    left.sort(key=pruning.rise, reverse=True)
    return Ordering(torch.tensor([*left, *reversed(pruning.dropped)], dtype=torch.long), sizes)


@dataclass
class Pruning:
    """The set of features still patched, and KL of each pair with it and without each feature, as far as known."""

    patching: Patching
    differs: Tensor  # [k, p]
    kept: Tensor  # [k]
    delta: Tensor  # [p, t, d], of the features kept
    kl: Tensor  # [p]
    kl_without: Tensor  # [k, p]; equal to kl where the feature does not differ
    known: Tensor  # [k, p]
    most_ahead: int  # candidates that make a batch of rows; more would be computed in vain wherever one is dropped
    ahead: int = 1  # candidates computed together, before it is known whether the first of them are dropped
    dropped: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, patching: Patching) -> Pruning:
        """All features patched."""
        differs = patching.differs().cpu()
        kept = torch.ones(len(differs), dtype=torch.bool)
        delta = patching.delta(kept)
        kl = patching.divergence(torch.arange(patching.n_pairs), delta).cpu()
        most_ahead = max(1, ROWS_A_PASS * len(differs) // max(1, int(differs.sum())))
        return cls(patching, differs, kept, delta, kl, kl.repeat(len(differs), 1), ~differs, most_ahead)

    def visit(self, candidates: list[int], threshold: float) -> None:
        """Drop, in this order, each candidate without which the mean KL rises by less than the threshold."""
        at = 0
        while at < len(candidates):
            self._learn(candidates[at : at + self.ahead])
            decided = 0
            for i in candidates[at : at + self.ahead]:
                if not self.known[i].all():
                    break
                if self.rise(i) < threshold:
                    self._drop(i)
                decided += 1
            self.ahead = min(self.ahead * 2, self.most_ahead) if decided == self.ahead else max(1, decided)
            at += decided

    def rise(self, i: int) -> float:
        """How much the mean KL rises without feature i."""
        return float((self.kl_without[i] - self.kl).sum()) / len(self.kl)

    def _learn(self, candidates: list[int]) -> None:
        """Compute what is not known of KL without each candidate, pairs in which it differs only."""
        feature, pair = (~self.known[candidates]).nonzero(as_tuple=True)
        feature = torch.tensor(candidates)[feature]
        for f, p in zip(feature.split(ROWS_AT_ONCE), pair.split(ROWS_AT_ONCE), strict=True):
            step = self.patching.change[p, :, f][..., None] * self.patching.directions[f][:, None]
            self.kl_without[f, p] = self.patching.divergence(p, self.delta[p] - step).cpu()
        self.known[candidates] = True

    def _drop(self, i: int) -> None:
        self.kept[i] = False
        self.dropped.append(i)
        touched = self.differs[i]
        self.kl = torch.where(touched, self.kl_without[i], self.kl)
        self.delta[touched] = self.patching.change[touched][..., self.kept] @ self.patching.directions[self.kept]
        # Where a feature does not differ, KL without it is KL of the pair, which this drop has changed.
        self.kl_without[:, touched] = self.kl[touched]
        self.known[:, touched] = ~self.differs[:, touched]
