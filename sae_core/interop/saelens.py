"""SAELens folders of any version: cfg.json (flat before 6.0, with `metadata` since) + sae_weights.safetensors.

standard  relu(x' W_enc + b_enc)          gated     [x' W_enc + b_gate > 0] relu(x' (W_enc e^r_mag) + b_mag)
jumprelu  relu(h) [h > threshold]         topk      the k largest of relu(h)
x' = x - b_dec if apply_b_dec_to_input, else x; decode: c W_dec + b_dec
layer_norm, constant_norm_rescale: x standardised first, and the decoded brought back, as `Dictionary` writes it out
a fixed scale or whitening of x, in a file of its own: folded into the weights
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_core.dictionaries.reading import read_json, read_safetensors
from sae_core.dictionaries.saelens_config import current_form, space_of
from sae_core.dictionaries.standardisation import STANDARDISATIONS
from sae_core.errors import DictionaryError
from sae_core.interop.foreign import Foreign, edges, gated, input_scaled, refuse, standardised, whitened

MARK, SCALER, WHITENING = "sae_weights.safetensors", "activation_scaler.json", "activation_whitening.safetensors"
FILES = ("cfg.json", MARK, SCALER, WHITENING)
NORMALIZATIONS = ("none", "expected_average_only_in", "covariance_whitening", *STANDARDISATIONS)
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
SETTINGS = (
    "context_size", "dataset_path", "prepend_bos", "exclude_special_tokens", "seqpos_slice", "sae_lens_version",
    "sae_lens_training_version", "neuronpedia_id", "model_class_name", "model_from_pretrained_kwargs",
    "normalize_activations", "dtype",
)  # fmt: skip

Tensors = dict[str, Tensor]


def load(file: Path) -> list[Foreign]:
    """The dictionary of one folder. Raises DictionaryError for missing, broken or foreign files."""
    config = current_form(read_json(file.parent / "cfg.json"))
    tensors = read_safetensors(file)
    _check(config, tensors, file)
    found = Foreign(
        **FORMS[config["architecture"]](config, tensors, file),
        b_dec=_get(tensors, "b_dec", file),
        file=file,
        architecture=config["architecture"],
        hook=config.get("hook_name") or "",
        space=space_of(config),
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        model_name=config.get("model_name") or "",
        settings={key: config[key] for key in SETTINGS if config.get(key) is not None},
    )
    return [_folded(found, config, tensors)]


def _check(config: dict[str, Any], tensors: Tensors, file: Path) -> None:
    architecture, out = config["architecture"], config.get("hook_name_out")
    if architecture in TRANSCODERS or "W_skip" in tensors or (out and out != config.get("hook_name")):
        raise refuse(file, f"a transcoder ({architecture}, hook_name_out {out})")
    if architecture not in FORMS:
        fix = "Save it for inference with SAELens (batchtopk and matryoshka become jumprelu), then import that"
        raise DictionaryError(f"architecture {', '.join(FORMS)} in {file.parent}", repr(architecture), fix)
    if config["activation_fn"] != "relu":
        raise refuse(file, f"activation_fn {config['activation_fn']}")
    if config["normalize_activations"] not in NORMALIZATIONS:
        wanted = f"normalize_activations {', '.join(NORMALIZATIONS)} in {file.parent}"
        raise DictionaryError(wanted, repr(config["normalize_activations"]), "Leave it out")
    if config.get("hook_head_index") is not None or config["reshape_activations"] != "none":
        raise refuse(file, "a single head or reshaped heads")


# ---- one function for each architecture


def _standard(config: dict[str, Any], tensors: Tensors, file: Path) -> dict[str, Any]:
    return {name: _get(tensors, name, file) for name in ("W_enc", "b_enc", "W_dec")}


def _jumprelu(config: dict[str, Any], tensors: Tensors, file: Path) -> dict[str, Any]:
    if "log_threshold" in tensors and "threshold" not in tensors:
        tensors = {**tensors, "threshold": tensors["log_threshold"].exp()}
    return {**_standard(config, tensors, file), "threshold": edges(_get(tensors, "threshold", file))}


def _gated(config: dict[str, Any], tensors: Tensors, file: Path) -> dict[str, Any]:
    encoder = gated(*(_get(tensors, name, file) for name in ("W_enc", "r_mag", "b_gate", "b_mag")))
    return {**encoder, "W_dec": _get(tensors, "W_dec", file), "notes": ("gated: kept as the equal jumprelu",)}


def _topk(config: dict[str, Any], tensors: Tensors, file: Path) -> dict[str, Any]:
    if not isinstance(config["k"], int) or isinstance(config["k"], bool):
        raise DictionaryError(f"a whole number k in {file.parent / 'cfg.json'}", repr(config["k"]), "Mend the file")
    found = {**_standard(config, tensors, file), "k": config["k"], "expected_k": config["k"]}
    if not config.get("rescale_acts_by_decoder_norm"):
        return found
    norm = found["W_dec"].float().norm(dim=1)
    scaled = {"W_enc": found["W_enc"].float() * norm, "b_enc": found["b_enc"].float() * norm}
    note = "rescale_acts_by_decoder_norm: decoder norms moved into the encoder, as SAELens counts codes"
    return {**found, **scaled, "W_dec": found["W_dec"].float() / norm[:, None], "notes": (note,)}


FORMS: dict[str, Callable[[dict[str, Any], Tensors, Path], dict[str, Any]]] = {
    "standard": _standard,
    "jumprelu": _jumprelu,
    "gated": _gated,
    "topk": _topk,
}


def _get(tensors: Tensors, name: str, file: Path) -> Tensor:
    if name not in tensors:
        raise DictionaryError(f"a tensor {name} in {file}", ", ".join(sorted(tensors)) or "none", "Use whole files")
    return tensors[name]


# ---- what is folded or kept


def _folded(found: Foreign, config: dict[str, Any], tensors: Tensors) -> Foreign:
    if config.get("finetuning_scaling_factor") and "scaling_factor" in tensors:
        rows = found.W_dec.float() * tensors["scaling_factor"].float()[:, None]
        found = found.noted("finetuning_scaling_factor: folded into the decoder", W_dec=rows)
    setting = config["normalize_activations"]
    if setting in STANDARDISATIONS:
        return standardised(found, setting, "SAELens'", setting)
    if setting == "none":
        return found
    if setting == "covariance_whitening":
        return _whitened(found)
    scaler = found.file.parent / SCALER
    factor = read_json(scaler).get("scaling_factor") if scaler.exists() else None
    if factor is None:
        return found.noted("the activations it was trained on were scaled by a factor that its folder does not name")
    return input_scaled(found, factor, f"activations scaled by {factor}")


def _whitened(found: Foreign) -> Foreign:
    file = found.file.parent / WHITENING
    fix = f"Put {WHITENING} of the training beside it, or let SAELens' training end, which folds the whitening in"
    tensors = read_safetensors(file, fix)
    return whitened(found, *(_get(tensors, name, file) for name in ("mean", "matrix", "inverse_matrix")), file)
