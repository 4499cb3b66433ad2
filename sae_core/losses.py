"""The loss of a dictionary and its gradient, for one dictionary or for several alphas stacked.

The gradient is written by hand. It is the same five matrix products that autograd does, without the graph between
them, so that blocks of rows stay in the cache and several dictionaries share the activations they read; where few codes
are active, `sparse_gradients` takes over after the first. Tests hold loss and gradient against autograd of `loss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sae_core.sparse_gradients import Sums, active_sums, is_worthwhile

SMALLEST_NORM = 1e-8


@dataclass(frozen=True)
class LossParts:
    """mse: mean over batch and d of (x_hat - x)^2; l1: mean over batch of the sum of |c|. Each [A] or a scalar."""

    mse: Tensor
    l1: Tensor

    def total(self, alpha: Tensor | float) -> Tensor:
        """mse + alpha * l1: the convention of the authors' code; Eq. 4 of the paper has alpha * d in its place."""
        return self.mse + alpha * self.l1


@dataclass(frozen=True)
class Gradients:
    """Of the total loss by the matrices as used in the forward pass (decoder rows of norm 1) and the bias.

    encoder, decoder: [A, F, width]; bias: [A, F]. For tied dictionaries both fields are one tensor, their sum.
    """

    encoder: Tensor
    decoder: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Block:
    """How much is worked on at once: so many dictionaries x so many rows of the batch."""

    dictionaries: int
    rows: int


class Scratch:
    """Memory for the codes, their gradient and the error of one block, used again by every block of a batch.

    Fresh memory is cleared by the system first and is in no cache: an elementwise operation takes three times as long.
    """

    def __init__(self, rows: int, decoder: Tensor) -> None:
        _, n_features, width = decoder.shape
        self.parts = [decoder.new_empty(rows * n) for n in (n_features, n_features, width)]
        self.shape = n_features, n_features, width

    def of(self, dictionaries: int, rows: int) -> list[Tensor]:
        """Codes [a, b, F], their gradient [a, b, F] and error [a, b, width], not cleared."""
        sizes = ((dictionaries, rows, n) for n in self.shape)
        return [part[: prod(size)].view(size) for part, size in zip(self.parts, sizes, strict=True)]


def loss(x: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor) -> LossParts:
    """c = relu(x E^T + b), x_hat = c D; mean (x_hat - x)^2 and mean_batch sum |c| (paper Eq. 1-4).

    x: [B, width]; encoder E, decoder D: [F, width]; bias b: [F]. Differentiable by autograd.
    """
    codes = torch.relu(x @ encoder.T + bias)
    return LossParts((codes @ decoder - x).square().mean(), codes.abs().sum(-1).mean())


def jump_relu(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """relu(pre) where pre > threshold, else 0; gradient by the threshold: -theta / eps where |pre - theta| < eps / 2.

    The straight-through gradient of Rajamanoharan et al. 2024b, Eq. 11, with a rectangle of width eps = bandwidth.
    threshold broadcasts against pre.
    """
    return _Jump.apply(pre, threshold, bandwidth, True)


def heaviside(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where pre > threshold, else 0; gradient by the threshold: -1 / eps where |pre - theta| < eps / 2 (Eq. 12)."""
    return _Jump.apply(pre, threshold, bandwidth, False)


class _Jump(torch.autograd.Function):
    """pre (or 1) where pre > max(threshold, 0). No gradient by pre but that of the codes which pass."""

    @staticmethod
    def forward(ctx, pre: Tensor, threshold: Tensor, bandwidth: float, keeps_value: bool) -> Tensor:
        passing = pre > threshold.clamp_min(0)
        ctx.save_for_backward(pre, threshold, passing)
        ctx.bandwidth, ctx.keeps_value = bandwidth, keeps_value
        return pre * passing if keeps_value else passing.to(pre.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        pre, threshold, passing = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        height = threshold if ctx.keeps_value else torch.ones_like(threshold)
        by_threshold = (-gradient * near * height / ctx.bandwidth).sum_to_size(threshold.shape)
        return gradient * passing if ctx.keeps_value else None, by_threshold, None, None


def unit_rows(w: Tensor) -> Tensor:
    """w / max(|w|, 1e-8), row by row: [..., F, width]."""
    return w / row_norms(w)


def row_norms(w: Tensor) -> Tensor:
    """max(|w|, 1e-8) of every row: [..., F, 1]."""
    return torch.linalg.vector_norm(w, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)


def through_unit_rows(gradient: Tensor, unit: Tensor, norms: Tensor) -> Tensor:
    """Gradient by w of a loss whose gradient by u = w / |w| is given: (g - (g.u) u) / |w|, row by row.

    gradient, unit: [..., F, width]; norms: [..., F, 1].
    """
    along = (gradient * unit).sum(-1, keepdim=True)
    return torch.addcmul(gradient, along, unit, value=-1).div_(norms)


def ensemble_gradients(
    x: Tensor, encoder: Tensor, decoder: Tensor, bias: Tensor, alpha: Tensor, precision: torch.dtype, block: Block
) -> tuple[LossParts, Gradients]:
    """Losses [A] of A dictionaries on one batch, and the gradient of each one's mse + alpha * l1.

    x: [B, width]; encoder, decoder: [A, F, width], the same tensor if tied; bias: [A, F]; alpha: [A].
    Matrix products run in `precision`; sums over the batch are kept in the dtype of the weights.
    """
    gradient = torch.zeros_like(decoder)
    total = Gradients(gradient if encoder is decoder else torch.zeros_like(encoder), gradient, torch.zeros_like(bias))
    parts = LossParts(torch.zeros_like(alpha), torch.zeros_like(alpha))
    x_low, decoder_low, bias_low = (t.to(precision) for t in (x, decoder, bias))
    encoder_low = decoder_low if encoder is decoder else encoder.to(precision)
    scratch = Scratch(min(block.dictionaries, len(alpha)) * min(block.rows, len(x)), decoder_low)
    for start in range(0, len(alpha), block.dictionaries):
        a = slice(start, start + block.dictionaries)
        own = Gradients(total.encoder[a], total.decoder[a], total.bias[a])
        for rows in x_low.split(block.rows):
            mse, l1 = _add_block(own, rows, encoder_low[a], decoder_low[a], bias_low[a], alpha[a], len(x), scratch)
            parts.mse[a] += mse
            parts.l1[a] += l1
    return parts, total


def _add_block(
    total: Gradients,
    x: Tensor,
    encoder: Tensor,
    decoder: Tensor,
    bias: Tensor,
    alpha: Tensor,
    batch: int,
    scratch: Scratch,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of some rows x [b, width] of a batch; return their share of mse and l1, each [A]."""
    codes, d_pre, error = scratch.of(len(alpha), len(x))
    x = x.expand(len(alpha), *x.shape)
    torch.baddbmm(bias[:, None], x, encoder.mT, out=codes).relu_()
    if len(alpha) == 1 and is_worthwhile(codes[0]):
        return _add_sums(total, active_sums(codes[0], x[0], decoder[0], alpha[0], batch))
    torch.bmm(codes, decoder, out=error).sub_(x)
    share = 1 / (batch * x.shape[-1])
    mse = error.square().sum((1, 2), dtype=alpha.dtype) * share
    l1 = codes.sum((1, 2), dtype=alpha.dtype) / batch
    error.mul_(2 * share)
    price = (alpha / batch).to(x.dtype)[:, None, None]
    # Codes are not negative, so d|c|/dc = 1 wherever a gradient passes the relu.
    torch.bmm(error, decoder.mT, out=d_pre).add_(price)
    torch.ops.aten.threshold_backward(d_pre, codes, 0, grad_input=d_pre)
    _add_product(total.decoder, codes.mT, error)
    _add_product(total.encoder, d_pre.mT, x)
    total.bias.add_(d_pre.sum(1, dtype=total.bias.dtype))
    return mse, l1


def _add_sums(total: Gradients, found: Sums) -> tuple[Tensor, Tensor]:
    """Add what one dictionary's block gives; return its share of mse and l1, each [1]."""
    total.decoder.add_(found.decoder)
    total.encoder.add_(found.encoder)
    total.bias.add_(found.bias)
    return found.mse[None], found.l1[None]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in the dtype of `total`."""
    if left.dtype == total.dtype:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left, right))
