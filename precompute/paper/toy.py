"""Step `toy`: are known directions found again? Dictionaries on the toy data of Sharkey et al., against price and size.

The form is theirs (untied, an encoder bias, unit decoder rows, Adam at 1e-3, batches of 256), and so is the grid of
coefficients; this project's start is Xavier-uniform where theirs is orthogonal. Their coefficient is divided by the
size of the dictionary: alpha = coefficient / size.

Full size means their data, 512 directions in 256 coordinates. Smaller by default are the largest dictionary (1,024
features, theirs 8,192) and the training (about 1 million samples, theirs 2 to 13 million); both are options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from sae_core.dictionaries import Dictionary
from sae_core.ensemble import Ensemble
from sae_core.errors import SpecError
from sae_core.matching import largest_cosines, mmcs
from sae_core.schemas import FOUND_AGAIN
from sae_core.specs import DictionarySpec, Site, TrainSpec
from sae_core.store import Provenance, RunStore
from sae_core.toy_data import TOY_SITE, ToyData, measure_on
from sae_core.training import fingerprint, train

STEP = "toy"
MEASURED_BATCHES = 80


@dataclass(frozen=True)
class Args:
    """Train dictionaries on toy data with known directions.

    The data are at full size by default (256 coordinates, 512 directions); the authors train on more samples.
    """

    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """features of the dictionaries; the authors go up to 8192"""
    coefficients: tuple[float, ...] = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-4, 5))
    """prices as the authors give them: alpha x size"""
    width: int = 256
    """coordinates of a sample"""
    n_ground_truth: int = 512
    """known directions"""
    active: float = 5.0
    """mean number of directions active in a sample if none were rarer than the first"""
    decay: float = 0.99
    """each direction is this much rarer than the one before"""
    correlated: bool = False
    """directions that are active together more often than by chance"""
    samples: int = 1_024_000
    """samples each dictionary is trained on; the authors use 2 to 13 million"""
    batch_size: int = 256
    """samples a step"""
    lr: float = 1e-3
    """Adam's learning rate"""
    seed: int = 0
    """of the directions, the samples and the initial weights"""
    device: str = "cpu"
    """cpu, cuda or mps"""

    @property
    def data(self) -> ToyData:
        names = [f.name for f in dataclasses.fields(ToyData)]
        return ToyData(**{name: getattr(self, name) for name in names})


def run(store: RunStore, args: Args) -> None:
    """Write `toy`; a killed run continues from its checkpoint. Other settings replace the table."""
    _check(args)
    made_from = provenance(store, args)
    if store.table_state("toy", **made_from.settings) == "ready":
        return
    data, steps = args.data, args.samples // args.batch_size
    rows = [row for size in args.sizes for row in _rows(store, args, data, size, steps)]
    store.write_table("toy", pd.DataFrame(rows), provenance=made_from)
    store.clear_scratch(STEP)


def state(store: RunStore) -> str:
    """State of the table, whatever its settings."""
    return store.table_state("toy")


def provenance(store: RunStore, args: Args) -> Provenance:
    """The settings that decide the result: all but the device."""
    settings = dataclasses.asdict(args)
    settings.pop("device")
    return store.provenance(**{name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()})


def _rows(store: RunStore, args: Args, data: ToyData, size: int, steps: int) -> list[dict]:
    ensemble = toy_ensemble(args, size)
    checkpoint = store.scratch(STEP) / f"{fingerprint([ensemble], **provenance(store, args).settings)}.safetensors"
    with tqdm(total=steps, desc=f"toy dictionaries of {size}", unit="step", dynamic_ncols=True) as bar:
        train([ensemble], _OnDevice(data, args.device), steps, checkpoint, _report(bar))
    found = zip(args.coefficients, ensemble.dictionaries(), strict=True)
    return [toy_row(args, data, coefficient, dictionary, steps) for coefficient, dictionary in found]


def toy_ensemble(args: Args, size: int) -> Ensemble:
    """One dictionary for each coefficient, all of one size."""
    specs = [DictionarySpec(TOY_SITE, "untied", size / args.width, c / size) for c in args.coefficients]
    settings = TrainSpec(args.samples, args.batch_size, args.lr, warmup_steps=0, seed=args.seed)
    return Ensemble(specs, args.width, settings, args.device)


def toy_row(args: Args, data: ToyData, coefficient: float, dictionary: Dictionary, steps: int) -> dict:
    """What a dictionary found, on batches after those it was trained on."""
    truth, learned = data.directions.numpy(), dictionary.W_dec.numpy()
    measured = measure_on(dictionary, data, steps, steps + MEASURED_BATCHES)
    probabilities = data.probabilities.numpy()
    return {
        "alpha": coefficient / dictionary.n_features,
        "size": dictionary.n_features,
        "seed": args.seed,
        "coefficient": coefficient,
        "mmcs": mmcs(truth, learned),
        "mmcs_weighted": mmcs(truth, learned, probabilities),
        "n_found": int((largest_cosines(truth, learned) > FOUND_AGAIN).sum()),
        "l0": measured.l0,
        "fvu": measured.fvu,
        "n_dead": int((measured.n_active == 0).sum()),
        "true_l0": float(probabilities.sum()),
        "n_ground_truth": args.n_ground_truth,
        "width": args.width,
        "n_samples": steps * args.batch_size,
        "correlated": args.correlated,
    }


class _OnDevice:
    """The toy data as batches on a device."""

    def __init__(self, data: ToyData, device: str) -> None:
        self.data, self.device = data, device

    def batches(self, start: int, stop: int) -> Iterator[dict[Site, Tensor]]:
        for batch in self.data.batches(start, stop):
            yield {site: x.to(self.device) for site, x in batch.items()}


def _report(bar: tqdm) -> Callable:
    return lambda step, parts: bar.update(step - bar.n)


def _check(args: Args) -> None:
    if not args.sizes or min(args.sizes) < 1 or not args.coefficients or min(args.coefficients) < 0:
        found = f"sizes {args.sizes} and coefficients {args.coefficients}"
        raise SpecError("sizes of 1 or more and coefficients of 0 or more", found, "For example 512 and 0.1")
    if args.samples < args.batch_size:
        found = f"{args.samples} samples in batches of {args.batch_size}"
        raise SpecError("samples for at least one batch", found, "Ask for more samples or a smaller batch")
    if len(set(args.coefficients)) < len(args.coefficients) or len(set(args.sizes)) < len(args.sizes):
        raise SpecError("sizes and coefficients that differ", f"{args.sizes}, {args.coefficients}", "Name each once")
