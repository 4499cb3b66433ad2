"""A dictionary on disk: a SAELens folder (cfg.json + sae_weights.safetensors), written in the form of SAELens 6.

Read are "standard", "jumprelu" and "topk" folders of any SAELens version, their activations as they are or standardised
("layer_norm", "constant_norm_rescale"). What this project knows beyond SAELens (its DictionarySpec, the space, how it
was trained) is kept under `metadata`, where SAELens allows any key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_core.dictionaries.dictionary import NORMALIZATIONS, WEIGHTS, Dictionary
from sae_core.dictionaries.reading import read_json, read_safetensors
from sae_core.dictionaries.saelens_config import current_form, space_of
from sae_core.errors import DictionaryError
from sae_core.specs import DictionarySpec, Site
from sae_core.store import atomic

CONFIG, TENSORS = "cfg.json", "sae_weights.safetensors"
SAE_LENS_VERSION = "6.0.0"
ARCHITECTURES = ("standard", "jumprelu", "topk")
FIX = "Train it again, or put a complete SAELens folder of architecture `standard`, `jumprelu` or `topk` there"
# Settings under which `Dictionary` would compute something else than SAELens does: refused unless one of these.
ALLOWED = {
    "architecture": ARCHITECTURES,
    "activation_fn": ("relu",),
    "normalize_activations": NORMALIZATIONS,
    "reshape_activations": ("none",),
    "rescale_acts_by_decoder_norm": (False, None),
    "finetuning_scaling_factor": (False, None),
}


def save_dictionary(dictionary: Dictionary, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the folder; each file atomically, cfg.json last, so a folder with a cfg.json is complete.

    `metadata` is JSON-ready: model_name, context_size, training settings, ...; hook name, space and spec are added.
    Raises StorageError if the disk is full, DictionaryError for weights that are not finite.
    """
    tensors = {n: t.detach().to("cpu", torch.float32).contiguous() for n, t in dictionary.tensors.items()}
    _check_tensors(tensors, dictionary.n_features, dictionary.width, folder, list(tensors))
    with atomic(folder / TENSORS) as temporary:
        save_file(tensors, temporary)
    with atomic(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(_config(dictionary, metadata), indent=1, ensure_ascii=False), encoding="utf-8")


def _config(dictionary: Dictionary, metadata: dict[str, Any]) -> dict[str, Any]:
    site = dictionary.site
    known = {
        "sae_lens_version": SAE_LENS_VERSION,
        "hook_name": site.hook,
        "hook_head_index": None,
        "model_class_name": "HookedTransformer",
        # `raw` activations are those of TransformerLens without its recentring of what blocks write.
        "model_from_pretrained_kwargs": {"center_writing_weights": site.space == "centred"},
        "prepend_bos": False,
        "space": site.space,
        "spec": dictionary.spec.to_dict() if dictionary.spec else None,
        "hash": dictionary.hash,
    }
    topk = {} if dictionary.k is None else {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    return {
        "architecture": dictionary.architecture,
        "normalize_activations": dictionary.normalize_activations,
        "reshape_activations": "none",
        **topk,
        "d_in": dictionary.width,
        "d_sae": dictionary.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.apply_b_dec_to_input,
        "metadata": {**metadata, **known},
    }


def load_dictionary(folder: Path, device: torch.device | str = "cpu") -> Dictionary:
    """Read a SAELens "standard", "jumprelu" or "topk" folder in float32.

    Raises DictionaryError for missing, truncated or foreign files, other architectures, tensors of the wrong
    shape or with values that are not finite, and SpecError for a hook this project has no site for.
    """
    folder = Path(folder)
    config = current_form(read_json(folder / CONFIG, FIX))
    _check_config(config, folder)
    names = (*WEIGHTS, "threshold") if config["architecture"] == "jumprelu" else WEIGHTS
    tensors = read_safetensors(folder / TENSORS, FIX)
    _check_tensors(tensors, config.get("d_sae"), config.get("d_in"), folder, names)
    return Dictionary(
        site=_site(config, folder),
        **{name: tensors[name].to(device, torch.float32) for name in names},
        k=_k(config, folder) if config["architecture"] == "topk" else None,
        spec=DictionarySpec.from_dict(config["spec"]) if config.get("spec") else None,
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        normalize_activations=config["normalize_activations"],
    )


def read_metadata(folder: Path) -> dict[str, Any]:
    """The `metadata` of a folder's cfg.json. Raises DictionaryError if it is missing or not JSON."""
    return read_json(Path(folder) / CONFIG, FIX).get("metadata") or {}


def _check_config(config: dict[str, Any], folder: Path) -> None:
    for key, allowed in ALLOWED.items():
        if (value := config.get(key, allowed[0])) not in allowed:
            names = ", ".join(f"`{name}`" for name in allowed if name is not None)
            raise DictionaryError(f"{key} {names} in {folder / CONFIG}", repr(value), FIX)


def _k(config: dict[str, Any], folder: Path) -> int:
    if not isinstance(config["k"], int) or isinstance(config["k"], bool):
        raise DictionaryError(f"a whole number k in {folder / CONFIG}", repr(config["k"]), FIX)
    return config["k"]


def _check_tensors(
    tensors: dict[str, Tensor], n_features: int | None, width: int | None, folder: Path, names: Sequence[str] = WEIGHTS
) -> None:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise DictionaryError(f"the tensors {list(names)} in {folder}", f"no {missing}", FIX)
    f, w = n_features or tensors["b_enc"].shape[0], width or tensors["b_dec"].shape[0]
    shapes = {"W_enc": (w, f), "b_enc": (f,), "W_dec": (f, w), "b_dec": (w,), "threshold": (f,)}
    for name in names:
        if tuple(tensors[name].shape) != shapes[name]:
            found = f"{list(tensors[name].shape)}"
            raise DictionaryError(f"{name} of shape {list(shapes[name])} in {folder}", found, FIX)
        if not torch.isfinite(tensors[name]).all():
            raise DictionaryError(f"finite numbers in {name} of {folder}", "NaN or infinity", FIX)


def _site(config: dict[str, Any], folder: Path) -> Site:
    if not config.get("hook_name"):
        raise DictionaryError(f"a hook_name in {folder / CONFIG}", "none", FIX)
    return Site.from_hook(config["hook_name"], space_of(config))
