"""This project's trainers on the stored activations: one dictionary of one kind at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice

from torch import Tensor

from sae_core.k_ensemble import ensemble_class
from sae_core.specs import K_KINDS, L1_KINDS, DictionarySpec, Site, TrainSpec
from tests.benchmarks.trainers.stored import RATIO, Job, batches, main

KINDS = (*(kind for kind in L1_KINDS if kind != "frozen"), *K_KINDS)
AUX = 1 / 32
"""The weight that `precompute train` gives the auxiliary loss of the kinds trained to k."""


def train(kind: str, job: Job, activations: Tensor) -> tuple[Mapping[str, Tensor], bool]:
    """The weights of `sae_core`'s own trainer after the job."""
    sparsity = {"k": int(job.sparsity)} if kind in K_KINDS else {"alpha": job.sparsity}
    spec = DictionarySpec(Site(0), kind, RATIO, **sparsity)
    aux = AUX if kind in K_KINDS else 0.0
    settings = TrainSpec(job.vectors, job.batch, job.lr, job.share(job.warmup), job.seed, job.decay, aux)
    ensemble = ensemble_class(kind)([spec], activations.shape[1], settings)
    for x in islice(batches(activations, job.batch, job.seed), job.steps):
        ensemble.step(x)
    dictionary = ensemble.dictionaries()[0]
    return dictionary.tensors, dictionary.apply_b_dec_to_input


TRAINERS: dict[str, Callable[[Job, Tensor], tuple[Mapping[str, Tensor], bool]]] = {
    f"ours-{kind}": partial(train, kind) for kind in KINDS
}

if __name__ == "__main__":
    main(TRAINERS)
