"""Dictionaries to compare with: directions that are fitted without any notion of sparsity, or drawn at random.

A direction has two sides. As a feature it is one-sided, so n directions make 2n features: the positive sides first,
then the negative ones in the same order (paper Sec. 3, App. G). `dictionaries.signed_codes` joins them again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import DictionaryError, SpecError
from sae_core.losses import unit_rows
from sae_core.specs import TOPK_KINDS, DictionarySpec, Site

ICA_MAX_VECTORS = 200_000
ICA_ITERATIONS = 200
SMALLEST_SHARE = 1e-6
"""Of the largest variance; directions below it are rounding noise (old TransformerLens weights have one)."""


@dataclass(frozen=True)
class Linear:
    """n directions with mean: side + has the code relu((x - mean) . encoder), side - that of -(x - mean).

    encoder, decoder: [n, width], decoder rows of norm 1; mean: [width]; facts: what fitting found, JSON-ready.
    """

    encoder: Tensor
    decoder: Tensor
    mean: Tensor
    facts: dict[str, Any]

    def dictionary(self, spec: DictionarySpec) -> Dictionary:
        """Both sides of every direction as features; with the k largest codes of a token kept where spec says so."""
        encoder, decoder = (torch.cat([t, -t]).float().contiguous() for t in (self.encoder, self.decoder))
        bias = torch.zeros(len(encoder))
        return Dictionary(spec.site, encoder.T.contiguous(), bias, decoder, self.mean.float(), spec, k=spec.k)


def linear_spec(site: Site, kind: str, k: int | None = None) -> DictionarySpec:
    """Spec of a two-sided dictionary: as many directions as the site has coordinates, hence a ratio of 2."""
    return DictionarySpec(site, kind, 2.0, k=k if kind in TOPK_KINDS else None)


# ---- default basis, random directions


def identity(width: int) -> Linear:
    """The coordinates themselves."""
    return _orthogonal(torch.eye(width), torch.zeros(width), {})


def random_directions(width: int, seed: int) -> Linear:
    """`width` directions drawn uniformly from the sphere. (The authors' rows keep their norm: codes scaled by it.)"""
    rows = unit_rows(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    return _orthogonal(rows, torch.zeros(width), {"seed": seed})


def _orthogonal(rows: Tensor, mean: Tensor, facts: dict[str, Any]) -> Linear:
    return Linear(rows, rows, mean, facts)


# ---- PCA


class Moments:
    """Mean and covariance of a stream of vectors, merged batch by batch in float64 (Chan's formula)."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """x: [b, width]."""
        x = x.to("cpu", torch.float64)
        mean = x.mean(0)
        shift, total = mean - self.mean, self.n + len(x)
        centred = x - mean
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * (self.n * len(x) / total)
        self.mean += shift * (len(x) / total)
        self.n = total

    @property
    def covariance(self) -> Tensor:
        """[width, width], divided by n."""
        return self.scatter / self.n


def pca(moments: Moments) -> Linear:
    """Eigenvectors of the covariance, largest variance first, each with its largest coordinate positive.

    Raises DictionaryError for activations that never change.
    """
    variance, vectors = torch.linalg.eigh(moments.covariance)
    if not variance[-1] > 0:
        raise _constant("PCA", len(variance), len(variance))
    rows = vectors.T.flip(0)
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    shares = (variance.flip(0).clamp_min(0) / variance.clamp_min(0).sum()).tolist()
    facts = {"n_vectors": moments.n, "explained_variance_ratio": [round(share, 6) for share in shares]}
    return _orthogonal(rows, moments.mean, facts)


# ---- ICA


def ica(x: Tensor, seed: int, max_iter: int = ICA_ITERATIONS) -> Linear:
    """scikit-learn's FastICA (logcosh, parallel) of standardised vectors x [n, width], as the authors ran it.

    As many components as the standardised vectors have dimensions. They are whitened in float64, and the rotation is
    sought in float32. Codes are divided by the norm of the component's column, so that decoder rows have norm 1.
    `facts` tells whether it converged. Raises DictionaryError for a constant coordinate, SpecError for more than
    200,000 vectors or too few.
    """
    n, width = x.shape
    if not width < n <= ICA_MAX_VECTORS:
        raise SpecError(f"{width + 1} to {ICA_MAX_VECTORS} vectors for ICA", str(n), "Ask for as many")
    x = x.to("cpu", torch.float64)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    constant = int((deviation <= SMALLEST_SHARE**0.5 * deviation.max()).sum())
    if constant:
        raise _constant("ICA", constant, width)
    standard = (x - mean) / deviation
    whitening = _whitening(standard)
    rotation, facts = _fast_ica((whitening @ standard.T).float().numpy(), seed, max_iter)
    unmixing = torch.from_numpy(rotation).double() @ whitening
    columns = torch.linalg.pinv(unmixing).T * deviation
    norms = columns.norm(dim=1, keepdim=True)
    return Linear(unmixing / deviation * norms, columns / norms, mean, {"n_vectors": n, **facts})


def _whitening(standard: Tensor) -> Tensor:
    """Principal axes over their standard deviations, largest first, with scikit-learn's signs; [dimensions, width].

    Dimensions that carry only rounding noise are left out. standard: [n, width], float64, of mean 0.
    """
    variance, axes = torch.linalg.eigh(standard.T @ standard / len(standard))
    kept = variance > SMALLEST_SHARE * variance[-1]
    axes = torch.where(axes[0] < 0, -axes, axes)
    return (axes[:, kept] / variance[kept].sqrt()).T.flip(0)


def _fast_ica(white: np.ndarray, seed: int, max_iter: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The rotation of whitened vectors [dimensions, n] into independent components, and how it was found."""
    fitted = FastICA(fun=_logcosh, whiten=False, max_iter=max_iter, random_state=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        fitted.fit(white.T)  # in this order of memory W x takes 0.18 s in place of 0.31
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    facts = {"converged": converged, "n_iter": int(fitted.n_iter_), "max_iter": max_iter, "tol": fitted.tol}
    return fitted.components_, {**facts, "n_components": len(white), "seed": seed}


def _logcosh(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """tanh x, in place, and the mean of its derivative 1 - tanh^2 x over the last axis; x: [n_components, n].

    scikit-learn's own `logcosh` by torch, whose tanh is quicker; equal but for rounding.
    """
    found = torch.from_numpy(x).tanh_()
    return x, (1 - torch.linalg.vector_norm(found, dim=1).square() / x.shape[1]).numpy()


def _constant(method: str, constant: int, width: int) -> DictionaryError:
    return DictionaryError(
        f"activations that vary in every coordinate for {method}",
        f"{constant} of {width} coordinates constant",
        "Choose another site or layer, or other kinds",
    )
