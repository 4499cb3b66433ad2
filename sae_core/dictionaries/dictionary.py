"""A trained dictionary as everything after training sees it: codes = encode(x), x_hat = decode(codes)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sae_core.errors import DictionaryError
from sae_core.specs import DictionarySpec, Site

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """c = relu((x - b_dec) W_enc + b_enc), x_hat = c W_dec + b_dec: SAELens' "standard" architecture.

    W_enc: [width, F]; b_enc: [F]; W_dec: [F, width]; b_dec: [width], subtracted from the input only where
    `apply_b_dec_to_input`. Dictionaries trained here have b_dec = 0 and rows of W_dec of norm 1 (paper Eq. 1-3);
    the tied ones have W_enc = W_dec^T. `spec` is None for a dictionary that was not trained here.
    """

    site: Site
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    spec: DictionarySpec | None = None
    apply_b_dec_to_input: bool = True

    @property
    def n_features(self) -> int:
        return self.W_dec.shape[0]

    @property
    def width(self) -> int:
        """Number of coordinates of its site."""
        return self.W_dec.shape[1]

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @cached_property
    def tied(self) -> bool:
        """Whether encoder and decoder are the same matrix."""
        return torch.equal(self.W_enc, self.W_dec.T)

    @cached_property
    def hash(self) -> str:
        """sha256 of the weights; tables name it, so that tables of another dictionary are refused."""
        return weights_hash({name: getattr(self, name) for name in WEIGHTS})

    def pre_activations(self, x: Tensor) -> Tensor:
        """(x - b_dec) W_enc + b_enc; x: [..., width] -> [..., F]."""
        self._check_width(x)
        centred = x - self.b_dec if self.apply_b_dec_to_input else x
        return centred @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Codes [..., F] of activations x [..., width]; a feature is active where its code is not 0."""
        return torch.relu(self.pre_activations(x))

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruction [..., width] of codes [..., F]."""
        return codes @ self.W_dec + self.b_dec

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in WEIGHTS})

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.width:
            raise DictionaryError(
                f"activations of width {self.width} (the dictionary reads {self.site.hook})",
                f"width {x.shape[-1]}",
                "Use a dictionary that was trained on this model and site",
            )


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """sha256 over name, shape and float32 bytes of each tensor, by name: independent of order and device."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
