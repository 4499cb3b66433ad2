"""The hand-written gradient against autograd of the plain formula, loss and gradient, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_core.losses import Block, ensemble_gradients, loss, row_norms, through_unit_rows, unit_rows

A, B, F, D = 3, 10, 12, 5
ALPHA = torch.tensor([0.0, 1e-3, 0.3], dtype=torch.float64)
BLOCKS = [Block(A, B), Block(1, 4), Block(2, 3)]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_formula(x: Tensor, raw: Tensor, encoder: Tensor | None, bias: Tensor, alpha: Tensor) -> Tensor:
    """Total loss of one dictionary, written out element by element from the contract's sentence."""
    rows = torch.stack([row / row.norm().clamp_min(1e-8) for row in raw])
    matrix = rows if encoder is None else encoder
    total = x.new_zeros(())
    for example in x:
        codes = [torch.clamp(matrix[j] @ example + bias[j], min=0) for j in range(len(raw))]
        x_hat = sum(c * rows[j] for j, c in enumerate(codes))
        total = total + ((x_hat - example) ** 2).sum() / len(example) + alpha * sum(c.abs() for c in codes)
    return total / len(x)


@pytest.mark.parametrize("block", BLOCKS)
def test_tied_loss_and_gradient_equal_autograd(block: Block) -> None:
    x, raw, bias = drawn(B, D, seed=0), drawn(A, F, D, seed=1), 0.3 * drawn(A, F, seed=2)
    unit, norms = unit_rows(raw), row_norms(raw)
    parts, found = ensemble_gradients(x, unit, unit, bias, ALPHA, torch.float64, block)
    for a in range(A):
        leaf, leaf_bias = raw[a].clone().requires_grad_(), bias[a].clone().requires_grad_()
        expected = by_formula(x, leaf, None, leaf_bias, ALPHA[a])
        expected.backward()
        torch.testing.assert_close(parts.total(ALPHA)[a], expected.detach(), rtol=1e-5, atol=0)
        by_raw = through_unit_rows(found.decoder[a], unit[a], norms[a])
        torch.testing.assert_close(by_raw, leaf.grad, rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(found.bias[a], leaf_bias.grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_untied_loss_and_gradient_equal_autograd(block: Block) -> None:
    x, raw, encoder = drawn(B, D, seed=3), drawn(A, F, D, seed=4), drawn(A, F, D, seed=5)
    bias, unit, norms = 0.3 * drawn(A, F, seed=6), unit_rows(raw), row_norms(raw)
    parts, found = ensemble_gradients(x, encoder, unit, bias, ALPHA, torch.float64, block)
    for a in range(A):
        leaves = [t[a].clone().requires_grad_() for t in (raw, encoder, bias)]
        expected = by_formula(x, leaves[0], leaves[1], leaves[2], ALPHA[a])
        expected.backward()
        torch.testing.assert_close(parts.total(ALPHA)[a], expected.detach(), rtol=1e-5, atol=0)
        by_raw = through_unit_rows(found.decoder[a], unit[a], norms[a])
        for value, leaf in zip((by_raw, found.encoder[a], found.bias[a]), leaves, strict=True):
            torch.testing.assert_close(value, leaf.grad, rtol=1e-5, atol=1e-12)


def test_differentiable_loss_is_the_formula() -> None:
    x, raw, bias = drawn(B, D, seed=7), drawn(F, D, seed=8), drawn(F, seed=9)
    parts = loss(x, unit_rows(raw), unit_rows(raw), bias)
    expected = by_formula(x, raw, None, bias, torch.tensor(0.2, dtype=torch.float64))
    torch.testing.assert_close(parts.total(0.2), expected, rtol=1e-10, atol=0)


def test_by_hand() -> None:
    """x = (3, 4), one feature along the first axis, bias -1: c = 2, x_hat = (2, 0), error (-1, -4)."""
    one = torch.ones(1, dtype=torch.float64)
    direction = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    parts, found = ensemble_gradients(x, direction, direction, -one[None], 0.5 * one, torch.float64, Block(1, 8))
    assert (parts.mse.item(), parts.l1.item()) == pytest.approx((8.5, 2.0))
    # d loss / d c = 2/d * (error . direction) + alpha = -1 + 0.5
    assert found.bias.item() == pytest.approx(-0.5)


def test_a_silent_feature_has_no_gradient_and_a_zero_row_is_finite() -> None:
    x, raw = drawn(B, D, seed=1), drawn(1, 2, D, seed=2)
    raw[0, 1] = 0
    unit = unit_rows(raw)
    _, found = ensemble_gradients(
        x, unit, unit, torch.tensor([[-1e3, 0.1]]).double(), ALPHA[:1], torch.float64, Block(1, B)
    )
    assert found.decoder[0, 0].abs().max() == 0
    assert torch.isfinite(through_unit_rows(found.decoder, unit, row_norms(raw))).all()


def test_bf16_products_stay_near_fp32() -> None:
    x, raw, bias = drawn(64, D, seed=0).float(), drawn(A, F, D, seed=1).float(), torch.zeros(A, F)
    unit, alpha = unit_rows(raw), ALPHA.float()
    exact, by = ensemble_gradients(x, unit, unit, bias, alpha, torch.float32, Block(1, 16))
    low, by_low = ensemble_gradients(x, unit, unit, bias, alpha, torch.bfloat16, Block(1, 16))
    torch.testing.assert_close(low.mse, exact.mse, rtol=0.03, atol=0)
    assert by_low.decoder.dtype == torch.float32
    assert torch.cosine_similarity(by_low.decoder.flatten(1), by.decoder.flatten(1)).min() > 0.999
