"""One pass of the model that trains many dictionaries, also as they are after fewer tokens; train and sweep use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sae_core import running
from sae_core.activations import ActivationStream
from sae_core.dictionaries import Dictionary
from sae_core.ensemble import Ensemble, quick_precision
from sae_core.errors import SpecError
from sae_core.k_ensemble import ensemble_class
from sae_core.language_model import LanguageModel
from sae_core.losses import LossParts
from sae_core.specs import K_KINDS, DictionarySpec, TrainSpec
from sae_core.training import fingerprint, train

STEPS_BETWEEN_READINGS = 50


@dataclass(frozen=True)
class Settings:
    """How dictionaries are trained, whichever they are."""

    batch_size: int = 1024
    """activation vectors a step"""
    lr: float = 1e-3
    """Adam's learning rate, constant between warm-up and decay"""
    warmup_steps: int = 100
    """steps in which the learning rate rises linearly"""
    decay: float = 0.0
    """last share of the steps, in which the learning rate falls linearly to 0"""
    aux: float = 1 / 32
    """weight of the auxiliary loss that revives dead features of batchtopk and jumprelu; 0: none"""
    dead_tokens: int = 200_000
    """tokens without activity after which that loss takes a feature for dead"""
    frozen_bias_correction: bool = False
    """Adam as the authors' code ran it: steps of up to 2 x lr at first, of 0.32 x lr in the long run"""
    seed: int = 0
    """of the initial weights and of the order of the text"""
    precision: str = "fp32"
    """matrix products in fp32 or bf16, or auto: bf16 where it is quicker here; weights and sums are always fp32"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    batch: int = 16
    """contexts passed through the model at once"""


def check(settings: Settings, lengths: Sequence[int]) -> None:
    """Raise SpecError for settings out of range, and for lengths (tokens) that they do not allow."""
    if not 0 <= settings.decay <= 1:
        raise SpecError("a decay from 0 to 1, a share of the steps", str(settings.decay), "For example --decay 0.2")
    if settings.aux < 0 or settings.dead_tokens < 1:
        found = f"{settings.aux} and {settings.dead_tokens}"
        raise SpecError("aux of 0 or more and dead_tokens of 1 or more", found, "For example --aux 0.03")
    if not lengths or settings.batch_size < 1 or min(lengths) < settings.batch_size:
        found = f"{', '.join(map(str, lengths)) or 'no'} tokens in batches of {settings.batch_size}"
        raise SpecError("tokens for at least one batch", found, "Ask for more tokens or a smaller batch")
    if settings.decay and len(lengths) > 1:
        expected = "no decay with several lengths: a training that ends sooner has its decay sooner"
        raise SpecError(expected, f"a decay of {settings.decay}", "Leave --decay out, or train one length at a time")


def settled(settings: Settings, device: torch.device) -> Settings:
    """The same with the precision that auto stands for on a device."""
    return replace(settings, precision=quick_precision(device)) if settings.precision == "auto" else settings


def train_spec(settings: Settings, kind: str, tokens: int) -> TrainSpec:
    """How a dictionary of this kind is trained on so many tokens."""
    general = settings.batch_size, settings.lr, settings.warmup_steps, settings.seed, settings.decay
    spec = TrainSpec(tokens, *general, frozen_bias_correction=settings.frozen_bias_correction)
    revives = kind in K_KINDS and settings.aux
    return replace(spec, aux=settings.aux, dead_tokens=settings.dead_tokens) if revives else spec


def trained(
    model: LanguageModel,
    windows: np.ndarray,
    specs: Sequence[DictionarySpec],
    lengths: Sequence[int],
    settings: Settings,
    scratch: Path,
    made_from: dict[str, str],
    first: int = 0,
) -> Iterator[tuple[int, float, list[Dictionary]]]:
    """Train all specs on the same batches; at each length: it (tokens), the seconds so far, and the dictionaries.

    windows: [n, context] token ids, used from position `first` on; lengths: ascending. A killed run continues from its
    checkpoint in `scratch`, which goes after the last length.
    """
    ensembles = _ensembles(specs, model, settings, lengths[-1])
    checkpoint = scratch / f"{fingerprint(ensembles, **made_from)}.safetensors"
    sites = tuple(dict.fromkeys(e.site for e in ensembles))
    stream = ActivationStream(model, windows, sites, settings.batch_size, settings.seed, settings.batch, first=first)
    for length in lengths:
        seconds = _train(ensembles, stream, length // settings.batch_size, checkpoint)
        yield length, seconds, [dictionary for e in ensembles for dictionary in e.dictionaries()]
    checkpoint.unlink(missing_ok=True)


def _ensembles(
    specs: Sequence[DictionarySpec], model: LanguageModel, settings: Settings, tokens: int
) -> list[Ensemble]:
    """One ensemble for each site, kind and ratio."""
    groups: dict[tuple, list[DictionarySpec]] = {}
    for spec in specs:
        groups.setdefault((spec.site, spec.kind, spec.ratio), []).append(spec)
    return [
        ensemble_class(kind)(
            group, model.width(site), train_spec(settings, kind, tokens), model.device, settings.precision
        )
        for (site, kind, _), group in groups.items()
    ]


def _train(ensembles: list[Ensemble], stream: ActivationStream, steps: int, checkpoint: Path) -> float:
    total = steps * stream.batch_size
    with tqdm(total=total, desc="train", unit="tok", unit_scale=True, dynamic_ncols=True) as bar:
        return train(ensembles, stream, steps, checkpoint, _reporter(bar, stream.batch_size))


def _reporter(bar: tqdm, batch_size: int) -> Callable[[int, list[LossParts]], None]:
    """Moves the bar; shows now and then the range of the losses over all dictionaries."""

    def report(step: int, parts: list[LossParts]) -> None:
        bar.update(step * batch_size - bar.n)
        running.tell("dictionaries", step * batch_size, bar.total)
        if step % STEPS_BETWEEN_READINGS == 0:
            mse = torch.cat([p.mse for p in parts])
            bar.set_postfix_str(f"{len(mse)} dictionaries, mse {mse.min():.3g} .. {mse.max():.3g}")

    return report
