"""Run by the Python that has sae-lens (test_saelens_package): its view of our folders, and folders of its own.

python with_saelens.py FOLDER      FOLDER/ours/*: loaded; FOLDER/x.npy: activations [n, d]
                                   writes FOLDER/codes/NAME.npy, FOLDER/decoded/NAME.npy, FOLDER/ablated/NAME.npy
                                   (decoded without feature ABLATED) and FOLDER/theirs/NAME
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata

HOOK = "blocks.1.hook_resid_post"
WIDTH, FEATURES, ABLATED = 32, 48, 3


def main(folder: Path) -> None:
    x = torch.from_numpy(np.load(folder / "x.npy"))
    for path in sorted((folder / "ours").iterdir()):
        _answer(folder, path.name, SAE.load_from_disk(str(path), device="cpu"), x)
    for name, sae in _theirs().items():
        sae.save_model(str(folder / "theirs" / name))
        _answer(folder, f"theirs-{name}", sae, x)


@torch.no_grad()
def _answer(folder: Path, name: str, sae: SAE, x: torch.Tensor) -> None:
    codes = sae.encode(x)
    decoded = sae.decode(codes)
    without = sae.encode(x)  # again: decoding forgets the mean and standard deviation of x
    without[:, ABLATED] = 0
    for kind, values in (("codes", codes), ("decoded", decoded), ("ablated", sae.decode(without))):
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
    common["normalize_activations"] = "layer_norm"
    found |= {
        "layer_norm": StandardSAE(StandardSAEConfig(**common)),
        "layer_norm-jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**common, apply_b_dec_to_input=False)),
        "layer_norm-topk": TopKSAE(TopKSAEConfig(**common, k=5, rescale_acts_by_decoder_norm=False)),
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
