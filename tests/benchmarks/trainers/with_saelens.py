"""SAELens's own trainer, `SAETrainer`, on the stored activations; runs in an environment with sae-lens."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from tests.benchmarks.trainers.stored import RATIO, Job, batches, main

NORM_BATCHES = 100


def standard(job: Job, activations: Tensor) -> tuple[Mapping[str, Tensor], bool]:
    """L1 weighted by decoder norms, its price rising at first; `sparsity` is l1_coefficient."""
    warmup = job.share(job.sparsity_warmup)
    settings = _common(activations) | {"l1_coefficient": job.sparsity, "l1_warm_up_steps": warmup}
    return _fit(job, activations, lambda: StandardTrainingSAE(StandardTrainingSAEConfig(**settings)))


def batchtopk(job: Job, activations: Tensor) -> tuple[Mapping[str, Tensor], bool]:
    """`sparsity` is k."""
    settings = _common(activations) | {"k": job.sparsity}
    return _fit(job, activations, lambda: BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**settings)))


def _common(activations: Tensor) -> dict[str, Any]:
    width = activations.shape[1]
    return {"d_in": width, "d_sae": RATIO * width, "normalize_activations": "expected_average_only_in"}


def _fit(job: Job, activations: Tensor, make: Any) -> tuple[Mapping[str, Tensor], bool]:
    """Train, then take the weights as SAELens would save them for inference (norms and thresholds folded in)."""
    torch.manual_seed(job.seed)
    sae = make()
    # The batches that measure the norm are drawn on top, so that as many as everybody has are trained on.
    stream = islice(batches(activations, job.batch, job.seed), NORM_BATCHES + job.steps)
    trained = SAETrainer(_config(job), sae, stream).fit()
    state = {name: tensor.detach().clone() for name, tensor in trained.state_dict().items()}
    trained.process_state_dict_for_saving_inference(state)
    return state, trained.cfg.apply_b_dec_to_input


def _config(job: Job) -> SAETrainerConfig:
    return SAETrainerConfig(
        total_training_samples=job.steps * job.batch,
        train_batch_size_samples=job.batch,
        lr=job.lr,
        lr_end=job.lr / 10,
        lr_warm_up_steps=job.share(job.warmup),
        lr_decay_steps=job.share(job.decay),
        n_batches_for_norm_estimate=NORM_BATCHES,
        logger=LoggingConfig(log_to_wandb=False),
    )


TRAINERS = {"saelens-standard": standard, "saelens-batchtopk": batchtopk}

if __name__ == "__main__":
    main(TRAINERS, "sae-lens")
