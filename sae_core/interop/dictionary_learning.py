"""dictionary_learning: ae.pt (a state dict) + config.json, its seven classes told apart by the names of their tensors.

    AutoEncoder            relu(W (x - bias) + b), + bias           AutoEncoderNew  relu(W x + b), + decoder.bias
    GatedAutoEncoder       [u + gate_bias > 0] relu(e^r_mag u + mag_bias), u = W (x - decoder_bias)
    AutoEncoderTopK        the k largest of relu(W (x - b_dec) + b)
    BatchTopKSAE           relu(W (x - b_dec) + b) where above one threshold, also with W_enc (MatryoshkaBatchTopKSAE)
    JumpReluAutoEncoder    relu(h) [h > threshold], h = x W_enc + b_enc, without b_dec unless a flag says so

An interrupted training leaves {step, ae, optimizer, config, norm_factor} in place of the state dict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.dictionaries.reading import read_json
from sae_core.errors import DictionaryError
from sae_core.interop.files import read_torch
from sae_core.interop.foreign import TOKEN_EMBEDDING, Foreign, edges, gated, norm_scaled, refuse

MARK, FILES = "ae.pt", ("config.json", "ae.pt")
HOOKS = (
    (r"(?:resid|resid_post|resid_out)_layer_?(\d+)", "blocks.{}.hook_resid_post"),
    (r"resid_pre_layer_?(\d+)", "blocks.{}.hook_resid_pre"),
    (r"(?:attn|attn_out|attention_out)_layer_?(\d+)", "blocks.{}.hook_attn_out"),
    (r"(?:mlp|mlp_out)_layer_?(\d+)", "blocks.{}.hook_mlp_out"),
    (r"(?:.*\.)?layers\.(\d+)", "blocks.{}.hook_resid_post"),
    (r"(?:.*\.)?layers\.(\d+)\.attention", "blocks.{}.hook_attn_out"),
    (r"(?:.*\.)?layers\.(\d+)\.mlp", "blocks.{}.hook_mlp_out"),
    (r"(?:.*\.)?(?:embed|embed_in|embed_tokens|wte)", TOKEN_EMBEDDING),
)
"""Names of submodules, and of folders, with the place they stand for; the output of the module."""
TRAINER = ("lr", "l1_penalty", "steps", "warmup_steps", "sparsity_warmup_steps", "decay_start", "seed", "k",
           "trainer_class", "dict_class", "submodule_name", "layer", "wandb_name")  # fmt: skip

State = Mapping[str, Tensor]


def load(file: Path) -> list[Foreign]:
    """The dictionary of one ae.pt. Raises DictionaryError for files that are broken, foreign, or no autoencoder."""
    saved = read_torch(file)
    state, config = _state(saved, file), _config(saved, file)
    trainer, buffer = _section(config, "trainer"), _section(config, "buffer")
    form = class_of(state, trainer.get("dict_class"), file)
    _check_io(buffer, file)
    found = Foreign(
        **FORMS[form](state, trainer),
        file=file,
        architecture=form,
        hook=hook_of(trainer, buffer, file),
        model_name=str(trainer.get("lm_name") or ""),
        settings={key: trainer[key] for key in TRAINER if trainer.get(key) is not None} | _context(buffer),
    )
    factor = saved.get("norm_factor") if isinstance(saved.get("ae"), Mapping) else None
    if factor is None:
        return [found]
    return [norm_scaled(found, float(factor), f"from an interrupted training on activations / {float(factor):g}")]


# ---- the two files


def _state(saved: Any, file: Path) -> State:
    state = saved.get("ae", saved) if isinstance(saved, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        found = f"a {type(saved).__name__}" if not isinstance(saved, Mapping) else ", ".join(map(str, saved))
        raise DictionaryError(f"a state dict, or a checkpoint with `ae`, in {file}", found, "Name an ae.pt")
    return state


def _config(saved: Mapping, file: Path) -> dict[str, Any]:
    """config.json beside the weights or above `checkpoints/`, else the checkpoint's own, else nothing."""
    for folder in (file.parent, file.parent.parent if file.parent.name == "checkpoints" else file.parent):
        if (folder / "config.json").exists():
            return read_json(folder / "config.json")
    return saved["config"] if isinstance(saved.get("config"), dict) else {}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of the configuration; old ones are flat."""
    part = config.get(name)
    return part if isinstance(part, dict) else {} if name == "buffer" else config


def _context(buffer: dict[str, Any]) -> dict[str, Any]:
    return {"context_size": buffer["ctx_len"]} if buffer.get("ctx_len") else {}


def _check_io(buffer: dict[str, Any], file: Path) -> None:
    if buffer.get("io", "out") not in ("out", "in"):
        raise refuse(file, f"a transcoder (io {buffer['io']})")


# ---- which class


def class_of(state: State, named: str | None, file: Path) -> str:
    """The class of a state dict, by its tensors; `named` (dict_class) tells TopK and BatchTopK apart."""
    if named is not None and named not in FORMS:
        raise refuse(file, f"a {named}")
    found = next((form for form, keys in KEYS.items() if keys <= set(state)), None)
    if found is None:
        raise DictionaryError(f"an autoencoder of dictionary_learning in {file}", ", ".join(sorted(state)), "Name one")
    if found != "AutoEncoderTopK":
        return found
    if named in ("AutoEncoderTopK", "BatchTopKSAE"):
        return named
    # Without a configuration: only training by batches needs a threshold, but both classes keep one.
    return "BatchTopKSAE" if float(state.get("threshold", torch.tensor(-1.0))) >= 0 else "AutoEncoderTopK"


KEYS = {
    "AutoEncoder": {"bias", "encoder.weight", "encoder.bias", "decoder.weight"},
    "AutoEncoderNew": {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"},
    "GatedAutoEncoder": {"decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "group_sizes"},
    "AutoEncoderTopK": {"encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k"},
    "JumpReluAutoEncoder": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"},
}


# ---- one function for each class


def _linear(state: State, bias: str) -> dict[str, Any]:
    encoder = {"W_enc": state["encoder.weight"].T, "b_enc": state["encoder.bias"]}
    return {**encoder, "W_dec": state["decoder.weight"].T, "b_dec": state[bias]}


def _new(state: State, trainer: dict[str, Any]) -> dict[str, Any]:
    return {**_linear(state, "decoder.bias"), "apply_b_dec_to_input": False}


def _gated(state: State, trainer: dict[str, Any]) -> dict[str, Any]:
    encoder = gated(state["encoder.weight"].T, state["r_mag"], state["gate_bias"], state["mag_bias"])
    decoder = {"W_dec": state["decoder.weight"].T, "b_dec": state["decoder_bias"]}
    return {**encoder, **decoder, "notes": ("gated: kept as the equal jumprelu",)}


def _topk(state: State, trainer: dict[str, Any]) -> dict[str, Any]:
    k = int(state["k"])
    return {**_linear(state, "b_dec"), "k": k, "expected_k": k, "stored_threshold": _scalar(state)}


def _batchtopk(state: State, trainer: dict[str, Any]) -> dict[str, Any]:
    return _linear(state, "b_dec") | _one_threshold(state)


def _matryoshka(state: State, trainer: dict[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")} | _one_threshold(state)


def _jumprelu(state: State, trainer: dict[str, Any]) -> dict[str, Any]:
    weights = {name: state[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    flag = bool(trainer.get("apply_b_dec_to_input", False))
    return {**weights, "threshold": edges(state["threshold"].float()), "apply_b_dec_to_input": flag}


def _one_threshold(state: State) -> dict[str, Any]:
    """One number for all features; -1, as training starts with, cuts nothing off."""
    value, n_features = _scalar(state), len(state["encoder.bias" if "encoder.bias" in state else "b_enc"])
    k = {"expected_k": int(state["k"])} if "k" in state else {}
    note = () if value is not None else ("its threshold is not set: every positive code counts",)
    return {"threshold": torch.full((n_features,), value or 0.0), "notes": note, **k}


def _scalar(state: State) -> float | None:
    """The threshold of a BatchTopK or TopK dictionary; None where training never set it."""
    value = float(state.get("threshold", torch.tensor(-1.0)))
    return value if value >= 0 else None


FORMS: dict[str, Callable[[State, dict[str, Any]], dict[str, Any]]] = {
    "AutoEncoder": lambda state, trainer: _linear(state, "bias"),
    "AutoEncoderNew": _new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batchtopk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jumprelu,
}


# ---- where it reads


def hook_of(trainer: dict[str, Any], buffer: dict[str, Any], file: Path) -> str:
    """The hook that the submodule's name tells, else a folder's; empty where neither does.

    `resid_out_layer3` is the output of block 3. A residual dictionary of a module's input reads the layer before.
    """
    names = [str(trainer.get("submodule_name") or ""), *reversed(file.parent.parts)]
    hook = next((hook for name in names if (hook := _hook(name))), "")
    if buffer.get("io") != "in":
        return hook
    return hook.replace("hook_resid_post", "hook_resid_pre") if "resid" in hook else ""


def _hook(name: str) -> str:
    for pattern, hook in HOOKS:
        if match := re.fullmatch(pattern, name):
            return hook.format(*match.groups())
    return ""
