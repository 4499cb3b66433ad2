"""Token contexts x language model x sites -> shuffled batches of activations, with flat memory.

The corpus is passed in blocks: some hundreds of contexts, drawn in a shuffled order, whose activations fill a buffer
of bounded size and are dealt out as shuffled batches. When the corpus is exhausted it is passed again in another order.
A block depends on its number only, so a stream can start at any batch: it recomputes one block at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sae_core.errors import CorpusError
from sae_core.specs import Site

FLOAT_BYTES = 4


class HasSites(Protocol):
    """What a stream needs of a LanguageModel."""

    device: torch.device

    def width(self, site: Site) -> int:
        """Number of coordinates at a site."""

    def sites(self, ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Activations [b, t, width] at each site for ids [b, t]."""


@dataclass(frozen=True)
class ActivationStream:
    """Batches of activations at several sites for the same tokens.

    tokens: [n, context] token ids, a memory map; every position from `first` on is used (0: all of them, as in the
    paper). The last contexts of a pass that do not fill a batch are left out, and with a `first` above 0 the last
    tokens of a block; another pass has others there.
    """

    model: HasSites
    tokens: np.ndarray
    sites: tuple[Site, ...]
    batch_size: int
    seed: int = 0
    contexts_at_once: int = 16
    buffer_bytes: int = 512 * 2**20
    first: int = 0

    def batches(self, start: int, stop: int) -> Iterator[dict[Site, Tensor]]:
        """Batches number start .. stop-1, each {site: [batch_size, width]} in float32 on the model's device.

        Raises CorpusError if the tokens do not fill one batch.
        """
        self._check_size()
        buffers = {site: self._buffer(site) for site in self.sites}
        number = start
        while number < stop:
            epoch, within = divmod(number, self._batches_in_pass)
            block, first = divmod(within, self._batches_in_block)
            rows = self._block_contexts(epoch, block)
            order = self._fill(buffers, rows, (self.seed, epoch, block))
            last = min(len(order), first + stop - number)
            for picked in order[first:last]:
                yield {site: buffer[picked] for site, buffer in buffers.items()}
            number += last - first

    # ---- sizes

    @property
    def _context(self) -> int:
        return self.tokens.shape[1]

    @property
    def _used(self) -> int:
        """Tokens used of each context."""
        return self._context - self.first

    @property
    def _group(self) -> int:
        """Contexts that go together: they hold a whole number of batches, or, without position 0, at least one."""
        return -(-self.batch_size // self._used) if self.first else lcm(self._context, self.batch_size) // self._context

    @property
    def _usable_contexts(self) -> int:
        """Contexts of one pass."""
        return len(self.tokens) // self._group * self._group

    @property
    def _batches_in_pass(self) -> int:
        whole, rest = divmod(self._usable_contexts, self._contexts_in_block)
        return whole * self._batches_in_block + rest * self._used // self.batch_size

    @cached_property
    def _contexts_in_block(self) -> int:
        group, width = self._group, sum(map(self.model.width, self.sites))
        fitting = self.buffer_bytes // (FLOAT_BYTES * width * self._context)
        return min(max(group, fitting // group * group), self._usable_contexts)

    @property
    def _batches_in_block(self) -> int:
        return self._contexts_in_block * self._used // self.batch_size

    def _check_size(self) -> None:
        if self._usable_contexts == 0:
            raise CorpusError(
                f"enough text for one batch of {self.batch_size} tokens in whole contexts of {self._context}",
                f"{self.tokens.size} tokens",
                "Use more text, or a smaller batch",
            )

    # ---- one block

    def _buffer(self, site: Site) -> Tensor:
        shape = self._contexts_in_block * self._used, self.model.width(site)
        return torch.empty(shape, dtype=torch.float32, device=self.model.device)

    def _block_contexts(self, epoch: int, block: int) -> np.ndarray:
        """Which contexts a block consists of."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.tokens))[: self._usable_contexts]
        return order[block * self._contexts_in_block : (block + 1) * self._contexts_in_block]

    def _fill(self, buffers: dict[Site, Tensor], rows: np.ndarray, seed: tuple[int, ...]) -> Tensor:
        """Fill the buffers with the activations of a block; how to deal them out: [batches, batch_size]."""
        for i in range(0, len(rows), self.contexts_at_once):
            ids = self.tokens[rows[i : i + self.contexts_at_once]].astype(np.int64)
            found = self.model.sites(torch.from_numpy(ids).to(self.model.device), self.sites)
            for site, buffer in buffers.items():
                used = found[site][:, self.first :].flatten(0, 1)
                buffer[i * self._used :][: len(used)] = used
        n = len(rows) * self._used
        order = np.random.default_rng(seed).permutation(n)[: n // self.batch_size * self.batch_size]
        return torch.from_numpy(order).view(-1, self.batch_size).to(self.model.device)
