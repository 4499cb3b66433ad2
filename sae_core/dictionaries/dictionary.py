"""A trained dictionary as everything after training sees it: codes = encode(x), x_hat = reconstruct(x, codes)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sae_core.dictionaries.standardisation import STANDARDISATIONS, Standardisation, divided
from sae_core.errors import DictionaryError
from sae_core.specs import DictionarySpec, Site

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
NORMALIZATIONS = ("none", *STANDARDISATIONS)


@dataclass(frozen=True, eq=False)
class Dictionary:
    """c = f((x - b_dec) W_enc + b_enc), x_hat = c W_dec + b_dec.

    f is a relu (SAELens' "standard" architecture); with `threshold` [F] it keeps only what is above it ("jumprelu");
    with `k` it keeps a token's k largest ("topk").
    W_enc: [width, F]; b_enc: [F]; W_dec: [F, width]; b_dec: [width], subtracted from the input only where
    `apply_b_dec_to_input`. Dictionaries trained here have rows of W_dec of norm 1; the L1 ones have b_dec = 0 (paper
    Eq. 1-3); the tied ones have W_enc = W_dec^T. `spec` is None for a dictionary that was not made here.

    With normalize_activations, in SAELens' words, every activation is standardised by its own mu and sigma before it is
    read, and codes are brought back:

        c = sigma f(((x - mu) / (sigma + eps) - b_dec) W_enc + b_enc),   x_hat = c W_dec + sigma b_dec + mu

        "layer_norm" (mlsae: standardize)   mean and standard deviation (n - 1) over coordinates, eps 1e-5
        "constant_norm_rescale"             mu 0, sigma |x| / sqrt(width), eps 0

    So a code is sigma times SAELens', in the units of the activation, and an edit is (c' - c) W_dec as everywhere: x
    changes as where SAELens decodes other codes with the mu and sigma of the token as it was. `threshold` is in f's
    units, before sigma. Codes and x_hat of an activation of zeros are 0 (constant_norm_rescale in SAELens: NaN).
    """

    site: Site
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    spec: DictionarySpec | None = None
    apply_b_dec_to_input: bool = True
    threshold: Tensor | None = None
    k: int | None = None
    normalize_activations: str = "none"

    def __post_init__(self) -> None:
        if self.normalize_activations not in NORMALIZATIONS:
            wanted = f"normalize_activations out of {', '.join(NORMALIZATIONS)}"
            raise DictionaryError(wanted, repr(self.normalize_activations), "Fold a fixed scale into the weights")
        if self.k is not None and not 1 <= self.k <= self.n_features:
            raise DictionaryError(f"a k from 1 to {self.n_features}, the features there are", str(self.k), "Lower k")

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

    @property
    def architecture(self) -> str:
        """SAELens' name for f: standard, jumprelu or topk."""
        return "topk" if self.k is not None else "standard" if self.threshold is None else "jumprelu"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by SAELens' names."""
        tensors = {name: getattr(self, name) for name in WEIGHTS}
        return tensors if self.threshold is None else {**tensors, "threshold": self.threshold}

    @property
    def standardisation(self) -> Standardisation | None:
        """How each activation is standardised before it is read; None where it is read as it is."""
        return STANDARDISATIONS.get(self.normalize_activations)

    @property
    def standardises(self) -> bool:
        """Whether each activation is standardised before it is read."""
        return self.standardisation is not None

    @cached_property
    def tied(self) -> bool:
        """Whether encoder and decoder are the same matrix."""
        return torch.equal(self.W_enc, self.W_dec.T)

    @cached_property
    def hash(self) -> str:
        """sha256 of the weights, k and standardisation; tables of a dictionary with another hash are refused."""
        k = {} if self.k is None else {"k": torch.tensor(self.k)}
        standardised = {self.normalize_activations: torch.tensor(self.standardisation.eps)} if self.standardises else {}
        return weights_hash(self.tensors | k | standardised)

    def pre_activations(self, x: Tensor) -> Tensor:
        """What f reads: (x - b_dec) W_enc + b_enc, of the standardised x where it is; x: [..., width] -> [..., F]."""
        self._check_width(x)
        return self._read(x) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Codes [..., F] of activations x [..., width]; a feature is active where its code is not 0."""
        codes = self.activate(self.pre_activations(x))
        return self.standardisation.moments(x)[1] * codes if self.standardises else codes

    def activate(self, pre: Tensor) -> Tensor:
        """f: codes [..., F] of pre-activations [..., F]."""
        if self.k is not None:
            return keep_largest(torch.relu(pre), self.k)
        return torch.relu(pre) if self.threshold is None else jump(pre, self.threshold)

    def code(self, x: Tensor, feature: int) -> Tensor:
        """`encode(x)[..., feature]`, without the other features where they have no say (all but topk); [...]."""
        if self.k is not None:
            return self.encode(x)[..., feature]
        pre = self._read(x) @ self.W_enc[:, feature] + self.b_enc[feature]
        code = torch.relu(pre) if self.threshold is None else jump(pre, self.threshold[feature])
        return self.standardisation.moments(x)[1][..., 0] * code if self.standardises else code

    def reconstruct(self, x: Tensor, codes: Tensor) -> Tensor:
        """x_hat [..., width] of codes [..., F], whichever they are, of activations x [..., width]."""
        if not self.standardises:
            return self.decode(codes)
        mu, sigma = self.standardisation.moments(x)
        return codes @ self.W_dec + sigma * self.b_dec + mu

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruction [..., width] of codes [..., F]. Raises DictionaryError where that takes x as well."""
        if self.standardises:
            wanted = "activations beside the codes, as the dictionary standardises them"
            raise DictionaryError(wanted, "codes only", "Call reconstruct(x, codes)")
        return codes @ self.W_dec + self.b_dec

    def in_own_units(self, x: Tensor, codes: Tensor) -> Tensor:
        """Codes [..., F] of x [..., width] as f gave them, which is what `threshold` is compared with."""
        return divided(codes, self.standardisation.moments(x)[1]) if self.standardises else codes

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def _read(self, x: Tensor) -> Tensor:
        """What W_enc is multiplied with."""
        if self.standardises:
            x = self.standardisation(x)
        return x - self.b_dec if self.apply_b_dec_to_input else x

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.width:
            raise DictionaryError(
                f"activations of width {self.width} (the dictionary reads {self.site.hook})",
                f"width {x.shape[-1]}",
                "Use a dictionary that was trained on this model and site",
            )


def jump(pre: Tensor, threshold: Tensor) -> Tensor:
    """relu(pre) where pre > threshold, else 0 (Rajamanoharan et al. 2024b, Eq. 2)."""
    return torch.relu(pre) * (pre > threshold)


def keep_largest(codes: Tensor, k: int) -> Tensor:
    """The k largest of the last axis in their places, 0 elsewhere (Gao et al. 2024)."""
    values, indices = codes.topk(k, dim=-1)
    return torch.zeros_like(codes).scatter(-1, indices, values)


def signed_codes(codes: Tensor) -> Tensor:
    """Codes of side + minus codes of side -, [..., 2n] -> [..., n]: the signed projection of the paper's figures.

    For the two-sided dictionaries of `sae_core.baselines`: all positive sides come first, then all negative ones.
    """
    positive, negative = codes.chunk(2, dim=-1)
    return positive - negative


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """sha256 over name, shape and float32 bytes of each tensor, by name: independent of order and device."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
