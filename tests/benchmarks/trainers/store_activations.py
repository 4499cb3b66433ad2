"""Write the residual stream after a layer of a run's model over its tokens, as the trainers will read it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from precompute.common import bar, load_model
from sae_core.corpus import load_windows
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from sae_core.store import RunStore, atomic
from tests.benchmarks.trainers.stored import FILES

CONTEXTS = 64


def main() -> None:
    """FOLDER/train.npy and FOLDER/held_out.npy: [tokens, d_model] in float32, in the order of the text."""
    args = _parse()
    store = RunStore.open(args.run)
    model = load_model(store, "cpu")
    for split, name in FILES.items():
        if not (args.out / name).exists():
            with atomic(args.out / name) as temporary:
                write(temporary, model, Site(args.layer), load_windows(store.folder, split).tokens)


@torch.inference_mode()
def write(path: Path, model: LanguageModel, site: Site, tokens: np.ndarray) -> None:
    """Activations of tokens [n, context] at a site, as one .npy of [n x context, width]."""
    shape = (tokens.size, model.width(site))
    out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for i in bar(range(0, len(tokens), CONTEXTS), site.hook):
        ids = torch.from_numpy(tokens[i : i + CONTEXTS].astype(np.int64))
        out[i * tokens.shape[1] :][: ids.numel()] = model.sites(ids, [site])[site].flatten(0, 1).numpy()
    out.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("data/miniature"))
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
