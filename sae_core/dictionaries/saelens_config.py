"""SAELens' cfg.json of any version as one flat dict: flat before 6.0 under other names, with `metadata` since."""

from __future__ import annotations

from typing import Any

OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


def current_form(config: dict[str, Any]) -> dict[str, Any]:
    """One flat dict with the names and values of SAELens 6, whichever version wrote it; `metadata` never overrules.

    Always there: architecture, activation_fn, k (None without one), normalize_activations, reshape_activations.
    """
    flat = {OLD_NAMES.get(key, key): value for key, value in config.items() if key != "metadata"}
    flat = (config.get("metadata") or {}) | flat
    normalize = flat.get("normalize_activations")
    flat |= {
        "architecture": flat.get("architecture") or "standard",
        "activation_fn": flat.get("activation_fn") or "relu",
        "k": flat.get("k") or (flat.get("activation_fn_kwargs") or {}).get("k"),
        "normalize_activations": "expected_average_only_in" if normalize is True else normalize or "none",
        "reshape_activations": flat.get("reshape_activations") or "none",
    }
    topk = flat["architecture"] == "topk" or flat["architecture"] == "standard" and flat["k"]
    if flat["activation_fn"] == "topk" and topk:
        flat |= {"architecture": "topk", "activation_fn": "relu"}
    return flat


def space_of(config: dict[str, Any]) -> str:
    """Of a `current_form`: `centred` where it says so, or that the model's writing weights were centred."""
    kwargs = config.get("model_from_pretrained_kwargs") or {}
    return config.get("space") or ("centred" if kwargs.get("center_writing_weights") else "raw")
