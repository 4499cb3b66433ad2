"""The paper's own files: learned_dicts.pt, a list of (dictionary, hyperparameters), one entry for each L1 of a sweep.

    TiedSAE     y = (R (x - t)) * s;  c = relu(E y + b), rows of E of norm 1 if norm_encoder
                x_hat = R^T ((c E1) / s) + t, rows of E1 always of norm 1
    UntiedSAE   c = relu(E x + b);  x_hat = c D1, rows of D1 of norm 1

t, R and s are folded into the two matrices, which is exact for any R: W_enc = (E diag(s) R)^T,
W_dec = E1 diag(1/s) R, b_dec = t. The file is a pickle of these objects: classes of the same names without any code
stand in for them, and nothing in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.errors import DictionaryError
from sae_core.interop.files import read_torch
from sae_core.interop.foreign import Foreign, refuse

MARK, FILES = "learned_dicts.pt", ("*.pt",)
MODULES = {
    "autoencoders.learned_dict": (
        "TiedSAE", "UntiedSAE", "ReverseSAE", "Identity", "IdentityPositive", "IdentityReLU", "RandomDict",
        "AddedNoise", "Rotation",
    ),
    "autoencoders.topk_encoder": ("TopKLearnedDict",),
    "autoencoders.mlp_tests": ("ThresholdingSAE",),
    "autoencoders.sae_ensemble": ("ThresholdingSAE",),
    "autoencoders.pca": ("PCAEncoder", "BatchedPCA"),
    "autoencoders.ica": ("ICAEncoder",),
    "autoencoders.nmf": ("NMFEncoder",),
}  # fmt: skip
SMALLEST_NORM = 1e-8
PLACES = {
    "residual": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.mlp.hook_post",
    "mlpout": "blocks.{}.hook_mlp_out",
    "attn": "blocks.{}.hook_resid_post",  # as the authors' activation_dataset.make_tensor_name has it
    "attn_concat": "blocks.{}.attn.hook_z",
}
FOLDER = re.compile(r"(?:tied|untied)_(residual|mlpout|mlp|attn_concat|attn)_l(\d+)_r[\d.]+")
FILE = re.compile(r".*layers\.(\d+)\.pt")
STAND_INS = [
    type(name, (), {"__module__": module, "__qualname__": name}) for module, names in MODULES.items() for name in names
]


def load(file: Path) -> list[Foreign]:
    """All dictionaries of a sweep that are tied or untied SAEs; one of another class is refused if it is alone.

    Raises DictionaryError for a file without any, for one that is broken, and for one whose pickle asks for more than
    tensors and these classes.
    """
    entries = list(_entries(read_torch(file, STAND_INS), file))
    known = [(entry, facts) for entry, facts in entries if type(entry).__name__ in FORMS]
    if not known:
        names = ", ".join(sorted({type(entry).__name__ for entry, _ in entries})) or "nothing"
        raise refuse(file, f"only {names}", "Import files of TiedSAE or UntiedSAE")
    left_out = sorted({type(entry).__name__ for entry, _ in entries if type(entry).__name__ not in FORMS})
    notes = (f"left out of its file: {', '.join(left_out)}",) if left_out else ()
    return [_foreign(entry, facts, file, notes) for entry, facts in known]


def _entries(saved: Any, file: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The pairs of a sweep; a file with one dictionary alone is a sweep of one."""
    for entry in saved if isinstance(saved, list) else [saved]:
        pair = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, {})
        if type(pair[0]) not in STAND_INS or not isinstance(pair[1], dict):
            found = type(pair[0]).__name__
            raise DictionaryError(f"(dictionary, hyperparameters) pairs in {file}", found, "Name a learned_dicts.pt")
        yield pair


def _foreign(entry: Any, facts: dict[str, Any], file: Path, notes: tuple[str, ...]) -> Foreign:
    form = type(entry).__name__
    if "_attn_l" in _folder(file):
        notes = (*notes, "a folder named attn: the authors' code reads hook_resid_post there")
    return Foreign(
        **FORMS[form](entry, file),
        file=file,
        architecture=form,
        hook=hook_of(file),
        # Trained on TransformerLens weights, which had the mean over d removed from all that blocks write.
        space="raw" if hook_of(file).endswith("mlp.hook_post") else "centred",
        alpha=float(facts.get("l1_alpha") or 0.0),
        settings={key: _plain(value) for key, value in facts.items()},
        notes=notes,
    )


# ---- one function for each class


def _tied(entry: Any, file: Path) -> dict[str, Any]:
    raw, bias = _tensor(entry, "encoder", file), _tensor(entry, "encoder_bias", file)
    unit, width = _unit(raw), raw.shape[1]
    encoder = unit if getattr(entry, "norm_encoder", True) else raw
    shift = getattr(entry, "center_trans", None)
    turn, scale = getattr(entry, "center_rot", None), getattr(entry, "center_scale", None)
    turn = torch.eye(width, dtype=torch.float64) if turn is None else turn.double()
    scale = torch.ones(width, dtype=torch.float64) if scale is None else scale.double()
    if (scale == 0).any():
        raise refuse(file, "a center_scale of 0, which cannot be undone,")
    return {
        "W_enc": ((encoder * scale) @ turn).T.float(),
        "b_enc": bias.float(),
        "W_dec": ((unit / scale) @ turn).float(),
        "b_dec": torch.zeros(width) if shift is None else shift.float(),
    }


def _untied(entry: Any, file: Path) -> dict[str, Any]:
    encoder, decoder = _tensor(entry, "encoder", file), _tensor(entry, "decoder", file)
    bias, origin = _tensor(entry, "encoder_bias", file).float(), torch.zeros(encoder.shape[1])
    return {"W_enc": encoder.T.float(), "b_enc": bias, "W_dec": _unit(decoder).float(), "b_dec": origin}


FORMS = {"TiedSAE": _tied, "UntiedSAE": _untied}


def _tensor(entry: Any, name: str, file: Path) -> Tensor:
    value = getattr(entry, name, None)
    if not isinstance(value, Tensor):
        raise DictionaryError(f"a tensor {name} in {type(entry).__name__} of {file}", repr(type(value)), "Use another")
    return value.detach().double()


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)


def _plain(value: Any) -> Any:
    """A hyperparameter as JSON knows it."""
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() < 10 else list(value.shape)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


# ---- where it reads


def hook_of(file: Path) -> str:
    """`tied_residual_l2_r6/_63/learned_dicts.pt` -> `blocks.2.hook_resid_post`; empty where no name tells."""
    if folder := _folder(file):
        kind, layer = FOLDER.fullmatch(folder).groups()
        return PLACES[kind].format(layer)
    match = FILE.fullmatch(file.name)
    return PLACES["residual"].format(match.group(1)) if match else ""


def _folder(file: Path) -> str:
    return next((part for part in reversed(file.parent.parts) if FOLDER.fullmatch(part)), "")
