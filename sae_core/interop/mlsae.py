"""mlsae: config.json + model.safetensors of a TopK autoencoder, alone or inside its transformer (keys `autoencoder.*`).

    c = relu of the k largest of W (x - pre_encoder_bias);   x_hat = c D^T + pre_encoder_bias

With `standardize`, the default, x is standardised first and x_hat brought back, by the formula of SAELens' layer_norm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae_core.dictionaries.reading import read_json, read_safetensors
from sae_core.errors import DictionaryError
from sae_core.interop.foreign import Foreign, refuse, standardised

MARK, FILES = "model.safetensors", ("config.json", "model.safetensors")
PREFIX = "autoencoder."


def load(file: Path) -> list[Foreign]:
    """One dictionary; of several layers, the hook has to be named. Raises DictionaryError for other forms."""
    config, tensors = read_json(file.parent / "config.json"), read_safetensors(file)
    own = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)} or tensors
    _check(config, set(own), file)
    encoder, layers = own["encoder.weight"], config.get("layers") or []
    found = Foreign(
        W_enc=encoder.T,
        b_enc=torch.zeros(len(encoder)),
        W_dec=own["decoder.weight"].T,
        b_dec=own["pre_encoder_bias"],
        file=file,
        architecture="mlsae topk",
        hook=f"blocks.{layers[0]}.hook_resid_post" if len(layers) == 1 else "",
        k=config["k"],
        expected_k=config["k"],
        model_name=str(config.get("model_name") or ""),
        settings=config,
    )
    return [standardised(found, "standardize", "mlsae's") if config.get("standardize", True) else found]


def _check(config: dict[str, Any], tensors: set[str], file: Path) -> None:
    for flag in ("lens", "tuned_lens"):
        if config.get(flag):
            raise refuse(file, f"{flag} true, a transformation of its own for each layer,")
    if not isinstance(config.get("k"), int):
        raise DictionaryError(f"a whole number k beside {file}", repr(config.get("k")), "Mend config.json")
    missing = {"encoder.weight", "decoder.weight", "pre_encoder_bias"} - tensors
    if missing:
        raise DictionaryError(f"the tensors {sorted(missing)} in {file}", str(sorted(tensors)[:6]), "Use whole files")
