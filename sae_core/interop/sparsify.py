"""sparsify: {hookpoint}/cfg.json + sae.safetensors.

c = the k largest of relu((x - b_dec) W^T + b);   x_hat = c W_dec + b_dec,   W, W_dec: [F, width]
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sae_core.dictionaries.reading import read_json, read_safetensors
from sae_core.errors import DictionaryError
from sae_core.interop.foreign import TOKEN_EMBEDDING, Foreign, refuse

MARK, FILES = "sae.safetensors", ("cfg.json", "sae.safetensors")
TENSORS = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
PLACES = {None: "hook_resid_post", "mlp": "hook_mlp_out", "attention": "hook_attn_out"}
HOOKPOINT = re.compile(r"(?:.*\.)?layers\.(\d+)(?:\.(mlp|attention))?")


def load(file: Path) -> list[Foreign]:
    """The dictionary of one hookpoint. Raises DictionaryError for other forms and for files that are not whole."""
    config, tensors = read_json(file.parent / "cfg.json"), read_safetensors(file)
    _check(config, set(tensors), file)
    found = Foreign(
        W_enc=tensors["encoder.weight"].T,
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],  # [F, width] in the file as here: not transposed
        b_dec=tensors["b_dec"],  # always subtracted, whether or not the decoder was normalised
        file=file,
        architecture=f"sparsify {config.get('activation', 'topk')}",
        hook=hook_of(file.parent.name),
        k=_k(config, file),
        expected_k=_k(config, file),
        settings=config,
    )
    if (n := len(found.b_enc)) != (wanted := _width(config, found)):
        raise DictionaryError(f"{wanted} latents, as cfg.json says, in {file}", str(n), "Use whole files")
    return [found]


def _check(config: dict[str, Any], tensors: set[str], file: Path) -> None:
    if config.get("transcode") or config.get("skip_connection") or "W_skip" in tensors:
        raise refuse(file, "a transcoder (transcode, skip_connection or W_skip)")
    for flag in ("signed", "embed_skip", "gram_lookup"):
        if config.get(flag):
            raise refuse(file, f"{flag} true")
    if config.get("activation", "topk") != "topk":
        raise refuse(file, f"activation {config['activation']}")
    if tensors != TENSORS:
        raise DictionaryError(f"the tensors {sorted(TENSORS)} in {file}", str(sorted(tensors)), "Use whole files")


def _k(config: dict[str, Any], file: Path) -> int:
    if not isinstance(config.get("k"), int) or isinstance(config["k"], bool):
        raise DictionaryError(f"a whole number k beside {file}", repr(config.get("k")), "Mend cfg.json")
    return config["k"]


def _width(config: dict[str, Any], found: Foreign) -> int:
    return config.get("num_latents") or len(found.b_dec) * config.get("expansion_factor", 32)


def hook_of(hookpoint: str) -> str:
    """`layers.3.mlp` -> `blocks.3.hook_mlp_out`; empty for a name that tells no place."""
    if hookpoint.rsplit(".", 1)[-1] in ("embed_tokens", "embed_in", "wte"):
        return TOKEN_EMBEDDING
    match = HOOKPOINT.fullmatch(hookpoint)
    return f"blocks.{match.group(1)}.{PLACES[match.group(2)]}" if match else ""
