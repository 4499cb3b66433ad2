"""Run by the Python that has sae-lens (test_saelens_package): its view of our folders, and folders of its own.

python with_saelens.py FOLDER      FOLDER/ours/*: loaded; FOLDER/x.npy: activations [n, d]
                                   writes FOLDER/codes/NAME.npy, FOLDER/decoded/NAME.npy, FOLDER/ablated/NAME.npy
                                   (decoded without feature ABLATED) and FOLDER/theirs/NAME, as a training saves it,
                                   and folded/NAME, as the end of a training folds it, where it whitens activations
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.activation_scaler import ActivationScaler

HOOK = "blocks.1.hook_resid_post"
WIDTH, FEATURES, ABLATED = 32, 48, 3


def main(folder: Path) -> None:
    x = torch.from_numpy(np.load(folder / "x.npy"))
    for path in sorted((folder / "ours").iterdir()):
        _answer(folder, path.name, SAE.load_from_disk(str(path), device="cpu"), x)
    for name, sae in _theirs().items():
        sae.save_model(str(folder / "theirs" / name))
        if sae.cfg.normalize_activations != "covariance_whitening":
            _answer(folder, f"theirs-{name}", sae, x)
            continue
        scaler = _whitening(x)
        scaler.save(str(folder / "theirs" / name / "activation_scaler.json"))
        _answer(folder, f"theirs-{name}", sae, x, scaler)
        whitening = scaler.whitening
        sae.fold_activation_whitening(whitening.mean, whitening.matrix, whitening.inverse_matrix)
        _answer(folder, f"folded-{name}", sae, x)


def _whitening(x: torch.Tensor) -> ActivationScaler:
    """As a training estimates it from its activations, here those that are compared."""
    scaler = ActivationScaler()
    scaler.estimate_whitening(x.shape[1], iter([x] * 2), n_batches_for_norm_estimate=2)
    return scaler


@torch.no_grad()
def _answer(folder: Path, name: str, sae: SAE, x: torch.Tensor, scaler: ActivationScaler | None = None) -> None:
    """scaler: what a training does to activations around the dictionary."""
    scaler = scaler or ActivationScaler()
    codes = sae.encode(scaler.scale(x))
    decoded = scaler.unscale(sae.decode(codes))
    without = sae.encode(scaler.scale(x))  # again: decoding forgets what x was standardised by
    without[:, ABLATED] = 0
    for kind, values in (("codes", codes), ("decoded", decoded), ("ablated", scaler.unscale(sae.decode(without)))):
        (folder / kind).mkdir(exist_ok=True)
        np.save(folder / kind / f"{name}.npy", values.numpy())


def _theirs() -> dict[str, SAE]:
    common = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu",
              "metadata": SAEMetadata(model_name="pythia-70m-deduped", hook_name=HOOK, prepend_bos=False)}  # fmt: skip
    found = {
        "standard": StandardSAE(StandardSAEConfig(**common)),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**common, apply_b_dec_to_input=False)),
        "topk": TopKSAE(TopKSAEConfig(**common, k=5, rescale_acts_by_decoder_norm=False)),
    }
    for setting in ("layer_norm", "constant_norm_rescale", "covariance_whitening"):
        common["normalize_activations"] = setting
        found |= {
            setting: StandardSAE(StandardSAEConfig(**common)),
            f"{setting}-jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**common, apply_b_dec_to_input=False)),
            f"{setting}-topk": TopKSAE(TopKSAEConfig(**common, k=5, rescale_acts_by_decoder_norm=False)),
        }
    found |= {
        "covariance_whitening-gated": GatedSAE(GatedSAEConfig(**common)),
        "covariance_whitening-rescaled": TopKSAE(TopKSAEConfig(**common, k=5, rescale_acts_by_decoder_norm=True)),
    }
    generator = torch.Generator().manual_seed(0)
    for sae in found.values():
        for parameter in sae.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        if hasattr(sae, "threshold"):
            sae.threshold.data = sae.threshold.data.abs()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
