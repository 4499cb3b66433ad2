"""A dictionary of another project in this project's form, with what its own file says about it.

What `Dictionary` has no field for is folded into the weights where that is exact:

    gated           [u + b_gate > 0] relu(e^r u + b_mag) = relu(h) [h > b_mag - e^r b_gate],   h = e^r u + b_mag
    input scale     D(s x) / s has the weights s W_enc, W_dec / s, b_dec / s and the codes of D(s x)
    norm factor     n D(x / n) has the biases and the threshold times n, and the codes of D(x / n) times n
    whitening       D((x - m) M) N + m has the weights M W_enc, b_enc - (m M + b_dec) W_enc, W_dec N, b_dec N + m, the
                    codes of D((x - m) M), and takes no b_dec from its input; m M alone where D takes none

and refused by name where it is not. Only that every activation is standardised before it is read is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.dictionaries.standardisation import STANDARDISATIONS
from sae_core.errors import DictionaryError, SpecError
from sae_core.specs import EMBED, EMBEDDING, Site

RESID_PRE = re.compile(r"blocks\.(\d+)\.hook_resid_pre")
TOKEN_EMBEDDING = "hook_embed"
"""TransformerLens name of what the embedding module gives, before learned positions are added."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """One dictionary as a loader hands it over; F features of activations of `width` coordinates.

    hook: TransformerLens name of where it reads, empty where the file does not say. space: `raw` or `centred`. label:
    what tells it from others in the same file. settings: what else its file says. notes: what was done to it here.
    """

    W_enc: Tensor  # [width, F]
    b_enc: Tensor  # [F]
    W_dec: Tensor  # [F, width]
    b_dec: Tensor  # [width]
    file: Path
    architecture: str  # as its own project calls it
    hook: str = ""
    space: str = "raw"
    apply_b_dec_to_input: bool = True
    threshold: Tensor | None = None  # [F]
    k: int | None = None
    normalize_activations: str = "none"
    expected_k: int | None = None  # active features a token that training aimed at
    stored_threshold: float | None = None  # of a topk dictionary: its other form at inference
    alpha: float = 0.0
    label: str = ""
    model_name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def noted(self, note: str, **changes: Any) -> Foreign:
        """With changes, and the sentence that says so."""
        return replace(self, notes=(*self.notes, note), **changes)

    def facts(self) -> dict[str, Any]:
        """What a dictionary's metadata keeps of all this; JSON-ready."""
        norms = self.W_dec.float().norm(dim=1)
        return {
            "architecture": self.architecture,
            "model_name": self.model_name,
            "hook_name": self.hook,
            "decoder_norm": {name: float(getattr(norms, name)()) for name in ("min", "median", "max")},
            "settings": self.settings,
            "notes": list(self.notes),
        }

    def dictionary(self, site: Site) -> Dictionary:
        """It, reading at `site`. Raises DictionaryError for weights that do not fit each other or are not finite."""
        names = ("k", "apply_b_dec_to_input", "normalize_activations")
        return Dictionary(site, **self.tensors(), **{name: getattr(self, name) for name in names})

    def tensors(self) -> dict[str, Tensor]:
        """Its weights in float32. Raises DictionaryError where they do not fit each other or are not finite."""
        tensors = {n: getattr(self, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
        whole = {n: t.detach().to(torch.float32).contiguous() for n, t in tensors.items() if t is not None}
        n, width = self.W_dec.shape if self.W_dec.ndim == 2 else (0, 0)
        shapes = {"W_enc": (width, n), "b_enc": (n,), "W_dec": (n, width), "b_dec": (width,), "threshold": (n,)}
        check_tensors(whole, shapes, self.file)
        return whole


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Raises DictionaryError where a tensor of the file is of another shape, or has values that are not finite."""
    fix = "Use files that belong together"
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise DictionaryError(f"{name} of shape {list(shapes[name])} in {file}", str(list(tensor.shape)), fix)
        if not torch.isfinite(tensor).all():
            raise DictionaryError(f"finite numbers in {name} of {file}", "NaN or infinity", fix)


# ---- where it reads


def site_of(hook: str, space: str, learned_positions: bool = False) -> tuple[Site, str]:
    """The site of a hook, and a sentence where it goes by another name here.

    learned_positions: whether the model adds them to its token embeddings. Raises SpecError for hooks without a site:
    single heads, the middle of a block, token embeddings before such positions are added.
    """
    match = RESID_PRE.fullmatch(hook)
    layer = int(match.group(1)) - 1 if match else EMBEDDING
    if layer == EMBEDDING and hook != TOKEN_EMBEDDING:
        return Site.from_hook(hook, space), ""
    if layer == EMBEDDING and learned_positions:
        expected = "a hook at the residual stream, which begins with embedding + positions in this model"
        fix = "Leave it out: the embedding without its positions cannot be read here"
        raise SpecError(expected, f"{hook}, the embedding alone", fix)
    site = Site(layer, EMBED if layer == EMBEDDING else "resid_post", space)
    return site, f"{hook} is the same tensor as {site.hook}"


# ---- folding


def gated(u_matrix: Tensor, r_mag: Tensor, b_gate: Tensor, b_mag: Tensor) -> dict[str, Tensor]:
    """W_enc, b_enc and threshold that give a gated encoder's codes; u_matrix: [width, F], the others [F]."""
    gain, b_gate, b_mag = r_mag.double().exp(), b_gate.double(), b_mag.double()
    found = {"W_enc": u_matrix.double() * gain, "b_enc": b_mag, "threshold": edges(b_mag - gain * b_gate)}
    return {name: tensor.float() for name, tensor in found.items()}


def edges(threshold: Tensor) -> Tensor:
    """Thresholds of 0 or more with the same codes: what is below 0 is cut by the relu anyway."""
    return threshold.clamp(min=0)


def input_scaled(found: Foreign, scale: float, why: str) -> Foreign:
    """The dictionary of x that was made for scale * x; codes stay as they were."""
    _check_factor(scale, found)
    weights = {"W_enc": found.W_enc.float() * scale, "W_dec": found.W_dec.float() / scale}
    return found.noted(f"{why}: folded into the weights", **weights, b_dec=found.b_dec.float() / scale)


def norm_scaled(found: Foreign, factor: float, why: str) -> Foreign:
    """The dictionary of x that was made for x / factor; codes become factor times as large."""
    _check_factor(factor, found)
    names = [n for n in ("b_enc", "b_dec", "threshold", "stored_threshold") if getattr(found, n) is not None]
    return found.noted(why, **{name: getattr(found, name) * factor for name in names})


def whitened(found: Foreign, mean: Tensor, matrix: Tensor, inverse: Tensor, file: Path) -> Foreign:
    """The dictionary of x that was made for (x - mean) @ matrix, its x_hat brought back by @ inverse + mean.

    mean: [width]; matrix, inverse: [width, width], inverses of each other or not. Codes stay as they were. Raises
    DictionaryError for other shapes and for values that are not finite in `file`.
    """
    own = {name: tensor.double() for name, tensor in found.tensors().items()}
    width = len(own["b_dec"])
    shapes = {"mean": (width,), "matrix": (width, width), "inverse_matrix": (width, width)}
    check_tensors({"mean": mean, "matrix": matrix, "inverse_matrix": inverse}, shapes, file)
    mean, matrix, inverse = mean.double(), matrix.double(), inverse.double()
    taken = mean @ matrix + (own["b_dec"] if found.apply_b_dec_to_input else 0)
    weights = {
        "W_enc": matrix @ own["W_enc"],
        "b_enc": own["b_enc"] - taken @ own["W_enc"],
        "W_dec": own["W_dec"] @ inverse,
        "b_dec": own["b_dec"] @ inverse + mean,
    }
    note = "covariance_whitening: activations whitened before they are read, folded into the weights"
    return found.noted(note, **{name: w.float() for name, w in weights.items()}, apply_b_dec_to_input=False)


def standardised(found: Foreign, setting: str, whose: str, normalize_activations: str = "layer_norm") -> Foreign:
    """The dictionary that standardises each activation before it reads it, as its file says by `setting`."""
    note = (
        f"{setting}: each activation is standardised before it is read; codes here are in the activation's units, so "
        f"{whose} times the {STANDARDISATIONS[normalize_activations].sigma_is} of the token's activation"
    )
    return found.noted(note, normalize_activations=normalize_activations)


def _check_factor(factor: float, found: Foreign) -> None:
    if found.normalize_activations != "none":
        what = f"a factor of {factor} for {found.file}, which standardises them"
        fix = "Leave the factor out: it would change nothing"
        raise DictionaryError("a dictionary that reads activations as they are", what, fix)
    if not (isinstance(factor, int | float) and 0 < factor < float("inf")):
        raise DictionaryError(f"a factor above 0 for {found.file}", repr(factor), "Give a positive number")


def with_threshold(found: Foreign, value: float, why: str) -> Foreign:
    """Codes of `value` or less set to 0, in place of keeping a token's k largest; before they are brought back to the
    activation's units, where it is standardised."""
    threshold = torch.full_like(found.b_enc, value, dtype=torch.float32)
    return found.noted(why, threshold=edges(threshold), k=None)


def refuse(file: Path, what: str, fix: str = "Leave it out") -> DictionaryError:
    """A dictionary of a form that cannot be had here exactly."""
    wanted = "a dictionary that reconstructs what it reads, in a form that can be had exactly"
    return DictionaryError(wanted, f"{what} in {file}", fix)
