"""dictionary_learning's own `trainSAE` on the stored activations; runs in an environment with dictionary-learning."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.training import trainSAE
from torch import Tensor

from tests.benchmarks.trainers.stored import RATIO, Job, batches, main


def standard(job: Job, activations: Tensor) -> tuple[Mapping[str, Tensor], bool]:
    """Unit-norm decoder, L1 price rising at first; `sparsity` is l1_penalty."""
    return _autoencoder(_fit(job, activations, StandardTrainer, **_priced(job)))


def april(job: Job, activations: Tensor) -> tuple[Mapping[str, Tensor], bool]:
    """Free decoder norm, L1 weighted by it; `sparsity` is l1_penalty."""
    return _autoencoder(_fit(job, activations, StandardTrainerAprilUpdate, **_priced(job)))


def batchtopk(job: Job, activations: Tensor) -> tuple[Mapping[str, Tensor], bool]:
    """`sparsity` is k."""
    # Its defaults (a threshold remembered for 1000 steps, from step 1000 on) are made for much longer trainings.
    threshold = {"threshold_start_step": job.share(job.warmup), "threshold_beta": 0.99}
    state = _fit(job, activations, BatchTopKTrainer, k=int(job.sparsity), **threshold)
    weights = _weights(state, state["b_dec"])
    return weights | {"threshold": state["threshold"].expand(len(weights["b_enc"]))}, True


def _priced(job: Job) -> dict[str, Any]:
    return {"l1_penalty": job.sparsity, "sparsity_warmup_steps": job.share(job.sparsity_warmup)}


def _fit(job: Job, activations: Tensor, trainer: type, **own: Any) -> dict[str, Tensor]:
    """The state that trainSAE saves: scaled for activations as they are."""
    width = activations.shape[1]
    config = {
        "trainer": trainer,
        "steps": job.steps,
        "activation_dim": width,
        "dict_size": RATIO * width,
        "layer": 0,
        "lm_name": "stored",
        "lr": job.lr,
        "warmup_steps": job.share(job.warmup),
        "decay_start": job.steps - job.share(job.decay),
        "seed": job.seed,
        "device": "cpu",
        **own,
    }
    with tempfile.TemporaryDirectory() as folder:
        # trainSAE iterates the data anew after it measured the norm: a list would keep all in memory, so a class.
        trainSAE(
            _Anew(activations, job), [config], job.steps, save_dir=folder, normalize_activations=True, device="cpu"
        )
        return torch.load(Path(folder) / "trainer_0" / "ae.pt")


class _Anew:
    """Batches from the first one at every `iter`."""

    def __init__(self, activations: Tensor, job: Job) -> None:
        self.activations, self.job = activations, job

    def __iter__(self) -> Any:
        return batches(self.activations, self.job.batch, self.job.seed)


def _autoencoder(state: dict[str, Tensor]) -> tuple[Mapping[str, Tensor], bool]:
    return _weights(state, state["bias"]), True


def _weights(state: dict[str, Tensor], b_dec: Tensor) -> dict[str, Tensor]:
    return {
        "W_enc": state["encoder.weight"].T,
        "b_enc": state["encoder.bias"],
        "W_dec": state["decoder.weight"].T,
        "b_dec": b_dec,
    }


TRAINERS = {"dl-standard": standard, "dl-april": april, "dl-batchtopk": batchtopk}

if __name__ == "__main__":
    main(TRAINERS, "dictionary-learning")
