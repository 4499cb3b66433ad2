"""The training loop: several ensembles fed by one stream of activations, so one forward pass serves them all.

The state of a run (weights, Adam's moments, position in the stream) is one safetensors file. A killed run continues
from it bit for bit, because a batch of the stream depends on its position only.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_core.ensemble import Ensemble
from sae_core.errors import DictionaryError
from sae_core.losses import LossParts
from sae_core.specs import Site
from sae_core.store import atomic

SECONDS_BETWEEN_CHECKPOINTS = 60.0
START_ANEW = "Delete it to train from the start"
Report = Callable[[int, list[LossParts]], None]


class Batches(Protocol):
    """What `train` needs of an ActivationStream."""

    def batches(self, start: int, stop: int) -> Iterator[dict[Site, Tensor]]:
        """Batches number start .. stop-1; each a function of its number only."""


def train(
    ensembles: Sequence[Ensemble],
    stream: Batches,
    steps: int,
    checkpoint: Path,
    report: Report = lambda step, parts: None,
    seconds_between: float = SECONDS_BETWEEN_CHECKPOINTS,
) -> float:
    """Train all ensembles for `steps` steps, from `checkpoint` where there is one; the seconds it took in all.

    `report(step, parts)` is called after every step with each ensemble's losses (on the device: reading them waits).
    A checkpoint is left every `seconds_between` seconds and at the end. Raises DictionaryError if weights diverge, or
    if the checkpoint is already further on.
    """
    done, before = load_checkpoint(checkpoint, ensembles)
    if done > steps:
        raise DictionaryError(f"a checkpoint of at most {steps} steps", f"{done} in {checkpoint}", START_ANEW)
    started = saved = time.monotonic()
    for step, batch in enumerate(stream.batches(done, steps), done + 1):
        report(step, [ensemble.step(batch[ensemble.site]) for ensemble in ensembles])
        if time.monotonic() - saved > seconds_between:
            save_checkpoint(checkpoint, ensembles, step, before + time.monotonic() - started)
            saved = time.monotonic()
    seconds = before + time.monotonic() - started
    if done < steps:
        save_checkpoint(checkpoint, ensembles, steps, seconds)
    return seconds


def fingerprint(ensembles: Sequence[Ensemble], **made_from: Any) -> str:
    """Names a run of training by everything that decides its result: specs, settings, precision, `made_from`."""
    settings = [[[s.to_dict() for s in e.specs], e.train.to_dict(), str(e.precision)] for e in ensembles]
    return hashlib.sha256(json.dumps([settings, made_from], sort_keys=True).encode()).hexdigest()[:16]


def save_checkpoint(path: Path, ensembles: Sequence[Ensemble], step: int, seconds: float) -> None:
    """Write the state after `step` steps, atomically. Raises DictionaryError rather than keep diverged weights."""
    for ensemble in ensembles:
        ensemble.dictionaries()
    state = {f"{i}.{name}": t for i, ensemble in enumerate(ensembles) for name, t in ensemble.state().items()}
    with atomic(path) as temporary:
        save_file(state, temporary, metadata={"step": str(step), "seconds": f"{seconds:.3f}"})


def load_checkpoint(path: Path, ensembles: Sequence[Ensemble]) -> tuple[int, float]:
    """Put the ensembles where a checkpoint left them; (steps done, seconds so far), (0, 0) without a checkpoint."""
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise DictionaryError(f"a whole checkpoint in {path}", str(error), START_ANEW) from None
    for i, ensemble in enumerate(ensembles):
        own = {name.removeprefix(f"{i}."): t for name, t in state.items() if name.startswith(f"{i}.")}
        ensemble.load_state(own, int(facts["step"]))
    return int(facts["step"]), float(facts["seconds"])
