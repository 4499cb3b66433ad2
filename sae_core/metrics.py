"""How good dictionaries are on held-out text: L0, FVU, alive features, and the loss of the model they are spliced into.

All dictionaries of a layer are measured in one pass: the clean activations and the clean loss are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import CorpusError
from sae_core.specs import Site

ALIVE_ABOVE = 10
DENSITY_BINS = 12
LOWEST_DENSITY = 1e-6
LOGIT_NUMBERS = 2**25
UNEMBEDDED_AT_ONCE = 128  # positions: logits that stay in the processor's cache take half the time

Each = Callable[[Callable[[Any], float], Iterable[Any]], Iterable[float]]


class Spliceable(Protocol):
    """What the metrics need of a LanguageModel."""

    device: torch.device
    d_vocab: int
    n_layers: int

    def sites(self, ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Activations [b, t, width] at each site for ids [b, t]."""

    def blocks(self, resid: Tensor, start: int, stop: int) -> Tensor:
        """The residual [b, t, d] after blocks start .. stop-1."""

    def unembed(self, resid: Tensor) -> Tensor:
        """Logits [..., d_vocab] of the last block's resid_post [..., d]."""

    def to_resid(self, delta: Tensor, site: Site) -> Tensor:
        """A change [b, t, width] at a site as the change [b, t, d] of its layer's resid_post."""


@dataclass(frozen=True)
class CodeMetrics:
    """l0: mean active features a token; fvu: sum |x - x_hat|^2 / sum |x - mean x|^2, one ratio over all tokens.

    mean_l1: mean over tokens of the sum of codes; n_active: tokens on which each feature is active, [F].
    """

    n_tokens: int
    l0: float
    fvu: float
    mean_l1: float
    n_active: np.ndarray

    @property
    def n_alive(self) -> int:
        """Features active on more than 10 of the tokens (the authors' definition)."""
        return int((self.n_active > ALIVE_ABOVE).sum())

    @property
    def density_hist(self) -> list[int]:
        """Features per half-decade of density from 1e-6 to 1; rarer ones are in the first bin, silent ones in none."""
        density = self.n_active[self.n_active > 0] / max(self.n_tokens, 1)
        edges = np.linspace(np.log10(LOWEST_DENSITY), 0.0, DENSITY_BINS + 1)
        return np.histogram(np.log10(density).clip(edges[0], edges[-1]), edges)[0].tolist()


@dataclass(frozen=True)
class SpliceLosses:
    """Nats per predicted token: model untouched; site replaced by x_hat; site set to 0. At all positions."""

    clean: float
    spliced: float
    zero: float

    @property
    def ce_recovered(self) -> float:
        """(CE_zero - CE_sae) / (CE_zero - CE_clean); 0 where setting the site to 0 changes nothing."""
        return (self.zero - self.spliced) / (self.zero - self.clean) if self.zero != self.clean else 0.0


@dataclass(frozen=True)
class Metrics:
    """All metrics of one dictionary."""

    codes: CodeMetrics
    losses: SpliceLosses


@dataclass
class Variation:
    """Running sum |x - mean x|^2, merged batch by batch in float64 (Chan's formula: one pass, no cancellation)."""

    n: int = 0
    total: float = 0.0
    mean: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """x: [n, width]."""
        x = _exact(x)
        mean = x.mean(0)
        shift = mean - self.mean
        self.total += float((x - mean).square().sum() + shift.square().sum() * (self.n * len(x) / (self.n + len(x))))
        self.mean = self.mean + shift * (len(x) / (self.n + len(x)))
        self.n += len(x)


@dataclass
class CodeSums:
    """Running sums of one dictionary's codes and of its squared error."""

    n_active: Tensor
    l1: float = 0.0
    squared_error: float = 0.0

    @classmethod
    def of(cls, dictionary: Dictionary) -> CodeSums:
        return cls(torch.zeros(dictionary.n_features, dtype=torch.int64, device=dictionary.device))

    def add(self, codes: Tensor, error: Tensor) -> None:
        """codes: [n, F]; error = x - x_hat: [n, width]."""
        self.n_active += (codes != 0).sum(0)
        self.l1 += float(_exact(codes.sum(0)).sum())
        self.squared_error += float(_exact(error).square().sum())

    def result(self, variation: Variation) -> CodeMetrics:
        n = variation.n
        fvu = self.squared_error / variation.total if variation.total else float("inf")
        active = self.n_active.cpu().numpy()
        return CodeMetrics(n, float(active.sum() / n), fvu, self.l1 / n, active)


def _exact(x: Tensor) -> Tensor:
    """float64 on the CPU: some accelerators have no float64."""
    return x.to("cpu", torch.float64)


@dataclass
class Measurement:
    """The running sums of all dictionaries of one layer."""

    dictionaries: Sequence[Dictionary]
    first: int = 0
    n_predicted: int = 0
    clean: float = 0.0
    variation: dict[Site, Variation] = field(default_factory=dict)
    codes: list[CodeSums] = field(default_factory=list)
    spliced: list[float] = field(default_factory=list)
    zero: dict[Site, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sites = {d.site for d in self.dictionaries}
        self.variation = {site: Variation() for site in sites}
        self.zero = dict.fromkeys(sites, 0.0)
        self.codes = [CodeSums.of(d) for d in self.dictionaries]
        self.spliced = [0.0] * len(self.dictionaries)

    def add(self, model: Spliceable, ids: Tensor, each: Each = map) -> None:
        """Count contexts ids [b, t]."""
        resid_site = self.dictionaries[0].site.stream
        acts = model.sites(ids, [*{resid_site, *self.variation}])
        loss = _splice_loss(model, ids, acts[resid_site], resid_site.layer, self.first)
        self.n_predicted += ids[:, self.first + 1 :].numel()
        self.clean += loss(None, resid_site)
        for site, variation in self.variation.items():
            variation.add(acts[site][:, self.first :].flatten(0, 1))
            self.zero[site] += loss(-acts[site], site)

        def spliced(dictionary: Dictionary, sums: CodeSums) -> float:
            x = acts[dictionary.site]
            codes = dictionary.encode(x)
            change = dictionary.reconstruct(x, codes) - x
            sums.add(*(part[:, self.first :].flatten(0, 1) for part in (codes, change)))
            return loss(change, dictionary.site)

        pairs = zip(self.dictionaries, self.codes, strict=True)
        for i, found in enumerate(each(lambda pair: spliced(*pair), pairs)):
            self.spliced[i] += found

    def results(self) -> list[Metrics]:
        """Metrics in the order of the dictionaries."""
        n, found = self.n_predicted, []
        for d, codes, spliced in zip(self.dictionaries, self.codes, self.spliced, strict=True):
            losses = SpliceLosses(self.clean / n, spliced / n, self.zero[d.site] / n)
            found.append(Metrics(codes.result(self.variation[d.site]), losses))
        return found


@torch.inference_mode()
def measure(
    model: Spliceable,
    dictionaries: Sequence[Dictionary],
    batches: Iterable[Tensor],
    first: int = 0,
    each: Each = map,
) -> list[Metrics]:
    """Metrics of dictionaries of one layer on contexts; batches: token ids [b, t] on the model's device.

    each: goes through the dictionaries as `map` does, if wanted several at a time.

    The first token of a context is not predicted, so losses average over t - 1 positions and codes over t;
    positions before `first` are not spliced, and neither their codes nor their predictions count.
    """
    measurement = Measurement(dictionaries, first)
    for ids in batches:
        measurement.add(model, ids, each)
    return measurement.results()


def held_out_batches(
    tokens: np.ndarray, n_tokens: int, d_vocab: int, contexts: int, device: torch.device
) -> Iterator[Tensor]:
    """The first contexts of tokens [n, context], at least `n_tokens` of them, in batches of ids [b, context].

    `contexts` at once, fewer where their logits would take more than 128 MB. Raises CorpusError if there are none.
    """
    context = tokens.shape[1]
    n = min(len(tokens), -(-n_tokens // context))
    if n == 0:
        raise CorpusError(f"at least {context} held-out tokens", f"{tokens.size}", "Use more text")
    size = max(1, min(contexts, LOGIT_NUMBERS // (context * d_vocab)))
    for i in range(0, n, size):
        yield torch.from_numpy(tokens[i : min(n, i + size)].astype(np.int64)).to(device)


def _splice_loss(
    model: Spliceable, ids: Tensor, resid: Tensor, layer: int, first: int
) -> Callable[[Tensor | None, Site], float]:
    """Summed next-token loss of contexts as a function of a change [b, t, width] at a site of the layer."""
    wanted = ids[:, first + 1 :].flatten()

    def loss(change: Tensor | None, site: Site) -> float:
        changed = resid if change is None else resid + model.to_resid(change, site)
        if first:
            changed = torch.cat([resid[:, :first], changed[:, first:]], dim=1)
        last = model.blocks(changed, layer + 1, model.n_layers)[:, first:-1].flatten(0, 1)
        parts = zip(last.split(UNEMBEDDED_AT_ONCE), wanted.split(UNEMBEDDED_AT_ONCE), strict=True)
        losses = [F.cross_entropy(model.unembed(x).float(), next_ids, reduction="sum") for x, next_ids in parts]
        return float(_exact(torch.stack(losses)).sum())

    return loss
