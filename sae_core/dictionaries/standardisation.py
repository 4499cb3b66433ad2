"""How each activation is standardised before it is read, by SAELens' name of the setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standardisation:
    """x is read as (x - mu) / (sigma + eps); moments: [..., width] -> mu and sigma, [..., 1] each.

    sigma_is: what sigma is, in words.
    """

    moments: Callable[[Tensor], tuple[Tensor, Tensor]]
    eps: float
    sigma_is: str

    def __call__(self, x: Tensor) -> Tensor:
        """Standardised activations; [..., width] both."""
        mu, sigma = self.moments(x)
        return divided(x - mu, sigma + self.eps)


def by_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n - 1) of each activation over its coordinates; [..., width] -> two [..., 1]."""
    mu = x.mean(-1, keepdim=True)
    return mu, (x - mu).std(-1, keepdim=True)


def by_norm(x: Tensor) -> tuple[Tensor, Tensor]:
    """0 and |x| / sqrt(width), which brings every activation to norm sqrt(width); [..., width] -> two [..., 1]."""
    norm = x.norm(dim=-1, keepdim=True)
    return torch.zeros_like(norm), norm / x.shape[-1] ** 0.5


STANDARDISATIONS = {
    "layer_norm": Standardisation(by_deviation, 1e-5, "standard deviation"),
    "constant_norm_rescale": Standardisation(by_norm, 0.0, "norm / sqrt(width)"),
}


def divided(values: Tensor, by: Tensor) -> Tensor:
    """values / by; where `by` is 0, as for an activation of zeros, values are 0 too and stay 0 instead of NaN."""
    return values / by.where(by != 0, 1)
