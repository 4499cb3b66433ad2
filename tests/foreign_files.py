"""Dictionaries of other projects as their own code writes them, and their formulae written out again, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.interop.foreign import Foreign, site_of

WIDTH, F = 6, 20


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 97 * sum(shape)))


def x(n: int = 200, width: int = WIDTH) -> Tensor:
    """Activations to compare codes on."""
    return 2 * draw(n, width, seed=5)


def parts(seed: int = 0, width: int = WIDTH, n: int = F) -> dict[str, Tensor]:
    """Tensors of an untied dictionary whose decoder rows are not of norm 1."""
    return {
        "W_enc": draw(width, n, seed=seed),
        "b_enc": draw(n, seed=seed + 1),
        "W_dec": draw(n, width, seed=seed + 2),
        "b_dec": draw(width, seed=seed + 3),
    }


def write_saelens(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """A SAELens folder; returns its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(dict(config)))
    file = folder / "sae_weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def write_ae(folder: Path, state: Mapping[str, Tensor] | dict, config: Mapping[str, Any] | None = None) -> Path:
    """A dictionary_learning folder; returns its ae.pt."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state), folder / "ae.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(dict(config)))
    return folder / "ae.pt"


def write_sparsify(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """A sparsify hookpoint folder; returns its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(dict(config)))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae.safetensors")
    return folder / "sae.safetensors"


def as_dictionary(found: Foreign, hook: str = "blocks.1.hook_resid_post") -> Dictionary:
    """It at the hook its file names, or at this one."""
    return found.dictionary(site_of(found.hook or hook, found.space)[0])


def check(found: Foreign, codes: Tensor, x_hat: Tensor, inputs: Tensor | None = None) -> Dictionary:
    """Codes and reconstructions are those of the oracle; some features are active, some are not."""
    dictionary, inputs = as_dictionary(found), x() if inputs is None else inputs
    ours = dictionary.encode(inputs)
    assert (codes != 0).any() and (codes == 0).any()
    torch.testing.assert_close(ours, codes, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(dictionary.decode(ours), x_hat, atol=5e-5, rtol=1e-5)
    return dictionary


def largest(codes: Tensor, k: int) -> Tensor:
    """The k largest of each row, by sorting."""
    kept = torch.zeros_like(codes)
    for row, out in zip(codes, kept, strict=True):
        for i in sorted(range(len(row)), key=lambda i: -row[i].item())[:k]:
            out[i] = row[i]
    return kept
