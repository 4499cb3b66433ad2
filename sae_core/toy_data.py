"""Toy data whose features are known: sparse sums of random directions (Sharkey et al. 2022), and what is found of them.

x = sum_i a_i g_i. The g_i are more unit directions than x has coordinates; a_i is 0 or uniform on [0, 1).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import SpecError
from sae_core.metrics import CodeMetrics, CodeSums, Variation
from sae_core.specs import Site

TOY_SITE = Site(0)
SHARED_CAUSES = 8
SHARED_VARIANCE = 0.8


@dataclass(frozen=True)
class ToyData:
    """Samples of `width` coordinates from n_ground_truth unit directions; a batch depends on the seed and its number.

    Direction i is active with probability (active / n_ground_truth) x decay^i. `correlated`: whether it is active
    depends on SHARED_CAUSES hidden causes too (a Gaussian copula), so that some directions are active together; how
    often each is stays the same. The authors draw the copula once for a whole batch; here every sample has its own.
    """

    width: int = 256
    n_ground_truth: int = 512
    active: float = 5.0
    decay: float = 0.99
    correlated: bool = False
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.n_ground_truth, self.batch_size) < 1:
            found = f"{self.width}, {self.n_ground_truth} and {self.batch_size}"
            raise SpecError("a width, a number of directions and a batch size of 1 or more", found, "Use larger ones")
        if not (0 < self.active <= self.n_ground_truth and 0 < self.decay <= 1):
            found = f"{self.active} and {self.decay}"
            raise SpecError("0 < active <= n_ground_truth and 0 < decay <= 1", found, "For example 5 and 0.99")

    @cached_property
    def directions(self) -> Tensor:
        """The true directions, isotropic and of norm 1; [n_ground_truth, width]."""
        return _unit_rows(self._rng("directions"), self.n_ground_truth, self.width)

    @cached_property
    def probabilities(self) -> Tensor:
        """How often each direction is active; [n_ground_truth]."""
        return self.active / self.n_ground_truth * self.decay ** torch.arange(self.n_ground_truth).double()

    def coefficients(self, number: int) -> Tensor:
        """How much of each direction the samples of a batch have; [batch_size, n_ground_truth]."""
        rng, shape = self._rng("samples", number), (self.batch_size, self.n_ground_truth)
        values = torch.from_numpy(rng.random(shape, np.float32))
        chance = self._copula(rng) if self.correlated else torch.from_numpy(rng.random(shape, np.float32))
        return torch.where(chance < self.probabilities.to(chance.dtype), values, 0.0)

    def batches(self, start: int, stop: int) -> Iterator[dict[Site, Tensor]]:
        """Batches number start .. stop-1, each {TOY_SITE: [batch_size, width]}: a stream for `training.train`."""
        for number in range(start, stop):
            yield {TOY_SITE: self.coefficients(number) @ self.directions}

    @cached_property
    def _loadings(self) -> Tensor:
        return _unit_rows(self._rng("causes"), self.n_ground_truth, SHARED_CAUSES)

    def _copula(self, rng: np.random.Generator) -> Tensor:
        """Uniform numbers, correlated over directions by the causes they share; [batch_size, n_ground_truth]."""
        shared = torch.from_numpy(rng.standard_normal((self.batch_size, SHARED_CAUSES), np.float32))
        own = torch.from_numpy(rng.standard_normal((self.batch_size, self.n_ground_truth), np.float32))
        z = SHARED_VARIANCE**0.5 * shared @ self._loadings.T + (1 - SHARED_VARIANCE) ** 0.5 * own
        return torch.special.ndtr(z.double())

    def _rng(self, purpose: str, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode()), number])


def _unit_rows(rng: np.random.Generator, n: int, width: int) -> Tensor:
    """Isotropic directions of norm 1, [n, width]."""
    return torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((n, width), np.float32)), dim=1)


@torch.inference_mode()
def measure_on(dictionary: Dictionary, data: ToyData, start: int, stop: int) -> CodeMetrics:
    """L0, FVU and activity of a dictionary on batches start .. stop-1."""
    sums, variation = CodeSums.of(dictionary), Variation()
    for batch in data.batches(start, stop):
        x = batch[TOY_SITE].to(dictionary.device)
        codes = dictionary.encode(x)
        sums.add(codes, x - dictionary.reconstruct(x, codes))
        variation.add(x)
    return sums.result(variation)
