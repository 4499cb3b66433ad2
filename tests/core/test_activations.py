"""The stream of activations: what it deals out, in which order, and that it can start anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.activations import ActivationStream
from sae_core.errors import CorpusError
from sae_core.specs import Site

RESID, MLP = Site(1), Site(2, "mlp_post")
CONTEXT, D = 8, 2


class Echo:
    """A model whose activations tell which token they belong to: resid = (id, position), mlp_post = -id, 8 wide."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.contexts, self.largest = 0, 0

    def width(self, site: Site) -> int:
        return 4 * D if site == MLP else D

    def sites(self, ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
        self.contexts += len(ids)
        self.largest = max(self.largest, len(ids))
        position = torch.arange(ids.shape[1]).expand_as(ids)
        acts = {RESID: torch.stack([ids, position], -1).float(), MLP: -ids[..., None].float().expand(*ids.shape, 4 * D)}
        return {site: acts[site] for site in sites}


def stream(n_contexts: int = 24, batch_size: int = 16, **settings: int) -> ActivationStream:
    tokens = np.arange(n_contexts * CONTEXT, dtype=np.uint16).reshape(n_contexts, CONTEXT)
    return ActivationStream(Echo(), tokens, (RESID, MLP), batch_size, **{"contexts_at_once": 4, **settings})


def ids(batch: dict[Site, Tensor]) -> list[int]:
    return batch[RESID][:, 0].int().tolist()


# Four contexts a block: 4 x 8 tokens x (2 + 8) numbers x 4 bytes.
SMALL = 4 * CONTEXT * 5 * D * 4


def test_one_pass_gives_every_token_once_and_sites_stay_together() -> None:
    seen = []
    for batch in stream(buffer_bytes=SMALL).batches(0, 12):
        assert batch[RESID].shape == (16, D) and batch[MLP].shape == (16, 4 * D)
        assert torch.equal(batch[MLP][:, 0], -batch[RESID][:, 0])
        assert torch.equal(batch[RESID][:, 1], batch[RESID][:, 0] % CONTEXT)
        seen += ids(batch)
    assert sorted(seen) == list(range(24 * CONTEXT)) and seen != sorted(seen)


def test_a_batch_mixes_contexts() -> None:
    first = next(stream().batches(0, 1))
    assert len({i // CONTEXT for i in ids(first)}) > 8


def test_passes_differ_in_order_and_seeds_too() -> None:
    batches = [ids(b) for b in stream().batches(0, 24)]
    assert sorted(sum(batches[:12], [])) == sorted(sum(batches[12:], []))
    assert batches[0] != batches[12]
    assert ids(next(stream(seed=1).batches(0, 1))) != batches[0]


@pytest.mark.parametrize("buffer_bytes", [SMALL, 2**20])
@pytest.mark.parametrize("start", [0, 1, 2, 11, 12, 17])
def test_it_can_start_anywhere(buffer_bytes: int, start: int) -> None:
    whole = [ids(b) for b in stream(buffer_bytes=buffer_bytes).batches(0, 20)]
    assert [ids(b) for b in stream(buffer_bytes=buffer_bytes).batches(start, 20)] == whole[start:]


def test_the_buffer_and_the_passes_through_the_model_are_bounded() -> None:
    small = stream(buffer_bytes=SMALL)
    next(small.batches(0, 12))
    assert small.model.contexts == 4 and small.model.largest == 4


def test_contexts_that_fill_no_batch_are_left_out_of_a_pass() -> None:
    """5 contexts of 8 tokens and batches of 16: two batches a pass, one context left out, not always the same."""
    batches = [ids(b) for b in stream(n_contexts=5).batches(0, 40)]
    passes = [set(batches[i] + batches[i + 1]) for i in range(0, 40, 2)]
    assert all(len(p) == 32 for p in passes)
    assert set().union(*passes) == set(range(40))


def test_a_batch_may_be_smaller_than_a_context() -> None:
    seen = sum((ids(b) for b in stream(n_contexts=3, batch_size=6).batches(0, 4)), [])
    assert len(seen) == len(set(seen)) == 24


def test_too_little_text_is_a_sentence() -> None:
    with pytest.raises(CorpusError, match="one batch of 16 tokens.*8 tokens"):
        next(stream(n_contexts=1).batches(0, 1))


def test_nothing_is_asked_of_the_model_for_an_empty_range() -> None:
    empty = stream()
    assert list(empty.batches(7, 7)) == [] and empty.model.contexts == 0
