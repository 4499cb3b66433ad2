"""What every environment shares: batches of the stored activations, and the neutral file a trained dictionary goes to.

Stands on numpy and torch alone, because the other libraries' environments have nothing else of ours.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILES = {"train": "train.npy", "held_out": "held_out.npy"}
RATIO = 4
"""Features per coordinate: the R of the comparison."""


@dataclass(frozen=True)
class Job:
    """One training: `sparsity` is the trainer's own coefficient or k, `lr` its learning rate.

    warmup, sparsity_warmup and decay are shares of the steps: the learning rate rises linearly at first and falls
    linearly to 0 at last; the price of a code rises linearly at first where a trainer has such a warm-up.
    """

    trainer: str
    sparsity: float
    lr: float
    seed: int
    vectors: int = 2_000_000
    batch: int = 1024
    warmup: float = 0.05
    sparsity_warmup: float = 0.05
    decay: float = 0.2

    @property
    def steps(self) -> int:
        return self.vectors // self.batch

    def share(self, share: float) -> int:
        """That share of the steps, as a number of steps."""
        return round(share * self.steps)

    @property
    def name(self) -> str:
        return f"{self.trainer}-{self.sparsity:g}-lr{self.lr:g}-b{self.batch}-s{self.seed}"


def load_activations(folder: Path, split: str = "train") -> Tensor:
    """All stored activations [n, width] of a split in memory, float32."""
    return torch.from_numpy(np.load(Path(folder) / FILES[split]))


def batches(activations: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches [batch, width]: pass after pass, each in an order of its own that depends on the seed only."""
    whole = len(activations) // batch * batch
    number = 0
    while True:
        order = np.random.default_rng([seed, number]).permutation(len(activations))[:whole]
        for rows in torch.from_numpy(order).view(-1, batch):
            yield activations[rows]
        number += 1


def save(folder: Path, job: Job, weights: Mapping[str, Tensor], applies_b_dec: bool, **facts: Any) -> Path:
    """Write c = f((x - b_dec) W_enc + b_enc), x_hat = c W_dec + b_dec for activations as they are.

    weights: W_enc [width, F], b_enc [F], W_dec [F, width], b_dec [width] and, for a JumpReLU, threshold [F].
    facts: more to remember, such as the seconds it took.
    """
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in weights.items()}
    path = Path(folder) / f"{job.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays, facts=json.dumps({**asdict(job), "applies_b_dec": applies_b_dec, **facts}))
    return path


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the weights that `save` wrote."""
    with np.load(path) as file:
        weights = {name: torch.from_numpy(file[name]) for name in file.files if name != "facts"}
        return json.loads(str(file["facts"])), weights


Trainer = Callable[[Job, Tensor], tuple[Mapping[str, Tensor], bool]]


def main(trainers: Mapping[str, Trainer], package: str = "torch") -> None:
    """Command line of a runner: train each sparsity, learning rate and seed asked for that has no file yet.

    package: the one whose trainers these are; its version is kept with the weights.
    """
    args = _parse(sorted(trainers))
    jobs = [
        Job(args.trainer, sparsity, lr, seed, args.vectors, args.batch)
        for seed in args.seeds
        for lr in args.lrs
        for sparsity in args.sparsities
    ]
    missing = [job for job in jobs if not (args.out / f"{job.name}.npz").exists()]
    activations = load_activations(args.data) if missing else None
    for job in missing:
        started = time.process_time()
        weights, applies_b_dec = trainers[job.trainer](job, activations)
        facts = {"seconds": round(time.process_time() - started, 1), "made_with": f"{package} {version(package)}"}
        path = save(args.out, job, weights, applies_b_dec, **facts)
        print(f"{path.name}: {facts['seconds']:.0f} s of processor time", flush=True)


def _parse(trainers: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder that store_activations wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained dictionaries")
    parser.add_argument("--trainer", choices=trainers, required=True)
    parser.add_argument("--sparsities", type=float, nargs="+", required=True, help="the trainer's coefficients, or ks")
    parser.add_argument("--lrs", type=float, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--vectors", type=int, default=Job.vectors)
    parser.add_argument("--batch", type=int, default=Job.batch)
    return parser.parse_args()
