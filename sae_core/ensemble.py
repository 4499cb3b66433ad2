"""Ensembles: dictionaries of one site that differ in alpha, trained together with Adam (paper Sec. 2.2, App. B)."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence
from functools import cache

import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import DictionaryError, SpecError
from sae_core.losses import Block, LossParts, ensemble_gradients, row_norms, through_unit_rows
from sae_core.specs import L1_KINDS, DictionarySpec, Site, TrainSpec

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORTHWHILE = 0.8
"""Share of fp32's time that a bf16 matrix product may take for bf16 to be chosen."""
CACHE_BYTES = 2**20
FEWEST_ROWS = 512
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Ensemble:
    """Dictionaries of one site, L1 kind and size that differ in alpha, trained on the same batches.

    Weights: `decoder` [A, F, width] with its rows normalised in every forward pass, `bias` [A, F] and, if untied,
    `encoder` [A, F, width]. Raw rows start Xavier-uniform, drawn from the seed and the dictionary's id, so that a
    dictionary does not depend on what is trained beside it; biases start at 0. Of a `frozen` one the decoder stays as
    drawn (Korznikov et al. 2026).

    With train.frozen_bias_correction the moments grow as ever, but are corrected as if every step were the first:
    lr m_t / (1 - b1) / (sqrt(v_t / (1 - b2)) + eps), as the authors' code did.
    """

    kinds = L1_KINDS
    moments_decay = (0.9, 0.999)

    def __init__(
        self,
        specs: Sequence[DictionarySpec],
        width: int,
        train: TrainSpec,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        _check_alike(specs, precision, self.kinds)
        self.specs, self.train, self.width = tuple(specs), train, width
        self.n_features = max(1, round(specs[0].ratio * width))
        self.precision = PRECISIONS[precision]
        self.alpha = torch.tensor([s.alpha for s in specs], dtype=torch.float32, device=device)
        self.weights = {name: t.to(device) for name, t in self._start().items()}
        self.block = choose_block(
            len(specs), self.n_features, train.batch_size, self.precision, torch.device(device).type
        )
        self.steps = 0
        trained = [w for name, w in self.weights.items() if not (self.frozen and name == "decoder")]
        self.optimiser = torch.optim.Adam(trained, lr=train.lr, betas=self.moments_decay, fused=True)

    @property
    def site(self) -> Site:
        return self.specs[0].site

    @property
    def tied(self) -> bool:
        return self.specs[0].kind == "tied"

    @property
    def frozen(self) -> bool:
        return self.specs[0].kind == "frozen"

    def _start(self) -> dict[str, Tensor]:
        names = ("decoder",) if self.tied else ("decoder", "encoder")
        drawn = [
            _xavier(len(names), self.n_features, self.width, self.train.seed + zlib.crc32(spec.id.encode()))
            for spec in self.specs
        ]
        matrices = torch.stack(drawn, dim=1)
        return dict(zip(names, matrices, strict=True)) | {"bias": torch.zeros(len(self.specs), self.n_features)}

    @torch.no_grad()
    def step(self, x: Tensor) -> LossParts:
        """One Adam step on a batch x [B, width]; the losses [A] before it."""
        decoder, bias = self.weights["decoder"], self.weights["bias"]
        norms = row_norms(decoder)
        unit = decoder / norms
        encoder = unit if self.tied else self.weights["encoder"]
        parts, gradient = ensemble_gradients(x, encoder, unit, bias, self.alpha, self.precision, self.block)
        bias.grad = gradient.bias
        if not self.frozen:
            decoder.grad = through_unit_rows(gradient.decoder, unit, norms)
        if not self.tied:
            self.weights["encoder"].grad = gradient.encoder
        self._advance()
        return parts

    def _advance(self) -> None:
        """One step of Adam with the gradients that the weights hold."""
        self.steps += 1
        self.optimiser.param_groups[0]["lr"] = self.train.lr_at(self.steps)
        if self.train.frozen_bias_correction:
            for moments in self.optimiser.state.values():
                moments["step"].zero_()
        self.optimiser.step()

    @torch.no_grad()
    def dictionaries(self) -> list[Dictionary]:
        """The inference form of every dictionary, on the CPU. Raises DictionaryError if training has diverged."""
        found = []
        for i, spec in enumerate(self.specs):
            unit = self.weights["decoder"][i] / row_norms(self.weights["decoder"][i])
            encoder = unit if self.tied else self.weights["encoder"][i]
            tensors = [t.cpu().clone() for t in (encoder.T, self.weights["bias"][i], unit, unit.new_zeros(self.width))]
            check_finite(spec, tensors)
            found.append(Dictionary(spec.site, *tensors, spec=spec))
        return found

    # ---- state

    def state(self) -> dict[str, Tensor]:
        """Weights and Adam's moments, by name."""
        moments = {
            f"{name}.{moment}": self.optimiser.state[weight][moment]
            for name, weight in self.weights.items()
            for moment in MOMENTS
            if weight in self.optimiser.state
        }
        return {**self.weights, **moments}

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        """Continue from what `state` gave after `steps` steps."""
        self.steps = steps
        for name, weight in self.weights.items():
            weight.copy_(state[name])
            if f"{name}.step" in state:
                self.optimiser.state[weight] = {m: state[f"{name}.{m}"].to(weight.device) for m in MOMENTS}


@cache
def quick_precision(device: torch.device | str) -> str:
    """The name of the precision whose matrix products are quicker on a device: timed there, once.

    Processors without bf16 units compute it many times slower than fp32 (measured: 15 to 80 times on one of 2023).
    """
    seconds = {name: _product_seconds(dtype, device) for name, dtype in PRECISIONS.items()}
    return "bf16" if seconds["bf16"] < WORTHWHILE * seconds["fp32"] else "fp32"


def _product_seconds(dtype: torch.dtype, device: torch.device | str, size: int = 512, rounds: int = 5) -> float:
    """Least seconds of a product of two square matrices; the first, which may set things up, does not count."""
    x = torch.ones(size, size, dtype=dtype, device=device)
    found = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        (x @ x)[0, 0].item()  # waits for the device
        found.append(time.perf_counter() - started)
    return min(found[1:])


def choose_block(n_dictionaries: int, n_features: int, batch: int, precision: torch.dtype, device: str) -> Block:
    """On a CPU one dictionary at a time, and the rows whose codes fit a core's cache if these are not too few.

    Elsewhere everything at once. Small blocks lose more in the matrix products than the cache gives (measured).
    """
    if device != "cpu":
        return Block(n_dictionaries, batch)
    fitting = CACHE_BYTES // (precision.itemsize * n_features)
    return Block(1, fitting if fitting >= FEWEST_ROWS else batch)


def _xavier(n: int, n_features: int, width: int, seed: int) -> Tensor:
    bound = (6 / (n_features + width)) ** 0.5
    uniform = torch.rand(n, n_features, width, generator=torch.Generator().manual_seed(seed))
    return (2 * uniform - 1) * bound


def _check_alike(specs: Sequence[DictionarySpec], precision: str, kinds: tuple[str, ...]) -> None:
    found = {(s.site, s.kind, s.ratio) for s in specs}
    if len(found) != 1 or specs[0].kind not in kinds:
        raise SpecError(f"dictionaries of one site, one kind out of {kinds} and one ratio", str(found), "Split them")
    if precision not in PRECISIONS:
        raise SpecError(f"a precision out of {sorted(PRECISIONS)}", repr(precision), "Choose one of them")


def check_finite(spec: DictionarySpec, tensors: Iterable[Tensor]) -> None:
    """Raise DictionaryError if training has diverged."""
    if not all(torch.isfinite(t).all() for t in tensors):
        raise DictionaryError(
            f"finite weights for {spec.id}", "NaN or infinity: training has diverged", "Train with a smaller --lr"
        )
