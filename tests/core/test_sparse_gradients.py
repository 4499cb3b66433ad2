"""Gradients in compressed rows against autograd of the loss, and when they are chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_core.losses import Block, ensemble_gradients, loss, unit_rows
from sae_core.sparse_gradients import FEWEST_FEATURES, SPARSE_SHARE, active_sums, is_worthwhile

B, D, F = 24, 16, FEWEST_FEATURES
ALPHA = torch.tensor([3e-3])


def problem(quantile: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, encoder, decoder and a bias under which a share 1 - quantile of the codes is active."""
    generator = torch.Generator().manual_seed(seed)
    x, encoder, decoder = (torch.randn(n, D, generator=generator) for n in (B, F, F))
    encoder, decoder = unit_rows(encoder), unit_rows(decoder)
    pre = x @ encoder.T
    highest = pre.max() + 1 if quantile == 1 else torch.quantile(pre, quantile)
    return x, encoder, decoder, torch.full((F,), -float(highest))


@pytest.mark.parametrize("rows", [B, 7])
@pytest.mark.parametrize("quantile", [0.98, 1.0])
def test_equal_to_autograd(quantile: float, rows: int) -> None:
    x, encoder, decoder, bias = problem(quantile)
    assert is_worthwhile(torch.relu(x @ encoder.T + bias))
    leaves = [t.clone().requires_grad_() for t in (encoder, decoder, bias)]
    expected = loss(x, *leaves)
    expected.total(ALPHA[0]).backward()
    stacked = (t[None] for t in (encoder, decoder, bias))
    parts, found = ensemble_gradients(x, *stacked, ALPHA, torch.float32, Block(1, rows))
    torch.testing.assert_close((parts.mse[0], parts.l1[0]), (expected.mse.detach(), expected.l1.detach()))
    for value, leaf in zip((found.encoder, found.decoder, found.bias), leaves, strict=True):
        torch.testing.assert_close(value[0], leaf.grad, rtol=1e-4, atol=1e-7)


def test_tied_adds_both_parts() -> None:
    x, _, decoder, bias = problem(0.98, seed=1)
    leaf = decoder.clone().requires_grad_()
    loss(x, leaf, leaf, bias).total(ALPHA[0]).backward()
    unit = decoder[None]
    _, found = ensemble_gradients(x, unit, unit, bias[None], ALPHA, torch.float32, Block(1, B))
    torch.testing.assert_close(found.decoder[0], leaf.grad, rtol=1e-4, atol=1e-7)


def test_a_negative_error_and_price_by_hand() -> None:
    """One row, one active feature: e = c d - x, and the gradient by c is 2 e.d / D + alpha."""
    codes, decoder = torch.zeros(1, F), torch.zeros(F, D)
    codes[0, 3], decoder[3, 0] = 2.0, 1.0
    x = torch.zeros(1, D)
    x[0, 0] = 5.0
    found = active_sums(codes, x, decoder, ALPHA[0], 1)
    by_code = 2 * (2 - 5) / D + ALPHA.item()
    assert found.mse.item() == pytest.approx(9 / D) and found.l1.item() == 2
    assert found.bias[3].item() == pytest.approx(by_code) and found.bias.count_nonzero() == 1
    assert found.encoder[3, 0].item() == pytest.approx(5 * by_code) and found.encoder.count_nonzero() == 1
    assert found.decoder[3, 0].item() == pytest.approx(2 * 2 * (2 - 5) / D)


def test_only_sparse_codes_of_large_dictionaries_on_a_cpu_are_worth_it() -> None:
    codes = torch.zeros(100, F)
    assert is_worthwhile(codes)
    codes.view(-1)[: int(SPARSE_SHARE * codes.numel()) + 1] = 1
    assert not is_worthwhile(codes)
    assert not is_worthwhile(torch.zeros(100, F - 1)) and not is_worthwhile(torch.zeros(100, F).bfloat16())
