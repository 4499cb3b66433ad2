"""Dictionaries trained to k active features a token: BatchTopK and JumpReLU, each with a decoder bias of its own.

Settings follow the reference implementations (Bussmann et al. 2024; Rajamanoharan et al. 2024b; Gao et al. 2024 for
the auxiliary loss). Activations are scaled to a mean squared norm of 1 while training, so that bandwidth and loss
weights mean the same at every layer; the dictionaries that come out read and write activations as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.ensemble import Ensemble, check_finite
from sae_core.errors import SpecError
from sae_core.losses import LossParts, heaviside, jump_relu, row_norms, unit_rows
from sae_core.specs import K_KINDS, L1_KINDS, DictionarySpec, TrainSpec

BANDWIDTH = 1e-2
FIRST_THRESHOLD = 1e-3
THRESHOLD_RATE = 0.01
L0_WARMUPS = 10
MEDIAN_ITERATIONS = 10


class KEnsemble(Ensemble):
    """Dictionaries of one site, one of `K_KINDS` and one size that differ in k, trained on the same batches.

    Loss, with E|x|^2 = 1: |x - x_hat|^2 summed over d, mean over the batch; jumprelu adds (L0 / k - 1)^2, rising over
    L0_WARMUPS x the warm-up of the learning rate; both add train.aux x the auxiliary loss. Weights as in Ensemble, and
    `b_dec` [A, width], at first the geometric median of the first batch, subtracted from the input; the encoder starts
    as the decoder. Decoder rows are set back to norm 1 after every step: rows that grow turn less at the same rate.
    jumprelu learns `threshold` [A, F]; batchtopk keeps a running mean of the smallest code it let pass.
    """

    kinds = K_KINDS

    def __init__(
        self,
        specs: Sequence[DictionarySpec],
        width: int,
        train: TrainSpec,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        super().__init__(specs, width, train, device, precision)
        _check_k(specs, self.n_features)
        self.k = torch.tensor([s.k for s in specs], dtype=torch.float32, device=device)
        shape = len(specs), self.n_features
        self.buffers = {
            "scale": torch.ones((), device=device),
            "passed": torch.zeros(len(specs), device=device),
            "silent": torch.zeros(shape, device=device),  # tokens since the feature was last active
        }

    @property
    def jumps(self) -> bool:
        return self.specs[0].kind == "jumprelu"

    def _start(self) -> dict[str, Tensor]:
        drawn = super()._start()
        unit = unit_rows(drawn["decoder"])
        start = {"decoder": unit, "encoder": unit.clone(), "bias": drawn["bias"]}
        start["b_dec"] = torch.zeros(len(self.specs), self.width)
        threshold = {"threshold": torch.full_like(drawn["bias"], FIRST_THRESHOLD)} if self.jumps else {}
        return start | threshold

    @torch.no_grad()
    def step(self, x: Tensor) -> LossParts:
        """One Adam step on a batch x [B, width]; the losses [A] before it, in the activations' own units."""
        if self.steps == 0:
            self._read_first(x)
        scale = self.buffers["scale"]
        with torch.enable_grad():
            leaves = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
            loss, error, codes = self._loss(leaves, x / scale)
            loss.sum().backward()
        for name, weight in self.weights.items():
            weight.grad = leaves[name].grad
        self._advance()
        self.weights["decoder"].div_(row_norms(self.weights["decoder"]))
        self._count_silent(codes)
        return LossParts(error.square().mean((1, 2)) * scale**2, codes.sum(-1).mean(-1) * scale)

    def _loss(self, weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss [A], error x_hat - x [A, B, width] and codes [A, B, F] of a scaled batch."""
        unit = unit_rows(weights["decoder"])
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            centred = x - weights["b_dec"][:, None]
            pre = torch.baddbmm(weights["bias"][:, None], centred, weights["encoder"].mT)
            codes = self._codes(pre, weights)
            error = torch.bmm(codes, unit) - centred
            loss = error.float().square().sum(-1).mean(-1)
            if self.jumps:
                loss = loss + self._l0_price(pre, weights["threshold"])
            if self.train.aux:
                loss = loss + self.train.aux * self._auxiliary(torch.relu(pre), unit, -error.detach())
        return loss, error.detach().float(), codes.detach().float()

    def _codes(self, pre: Tensor, weights: dict[str, Tensor]) -> Tensor:
        if self.jumps:
            return jump_relu(pre, weights["threshold"][:, None], BANDWIDTH)
        codes = torch.relu(pre)
        least = batch_threshold(codes.detach(), [spec.k for spec in self.specs])
        self._remember(least)
        return codes * (codes >= least[:, None, None])

    def _remember(self, least: Tensor) -> None:
        passed = self.buffers["passed"]
        passed.lerp_(least.float(), THRESHOLD_RATE if self.steps else 1.0)

    def _l0_price(self, pre: Tensor, threshold: Tensor) -> Tensor:
        """(L0 / k - 1)^2 [A], with the straight-through gradient by the threshold."""
        l0 = heaviside(pre, threshold[:, None], BANDWIDTH).float().sum(-1).mean(-1)
        rising = min(1.0, (self.steps + 1) / max(1, L0_WARMUPS * self.train.warmup_steps))
        return rising * (l0 / self.k - 1).square()

    def _auxiliary(self, codes: Tensor, unit: Tensor, missing: Tensor) -> Tensor:
        """|e - e_hat|^2 / |e - mean e|^2 [A], e_hat from the width/2 strongest dead features; 0 where none is dead."""
        dead = self.buffers["silent"] >= self.train.dead_tokens
        if not dead.any():
            return torch.zeros_like(self.k)
        values, indices = (codes * dead[:, None]).topk(min(max(1, self.width // 2), self.n_features), dim=-1)
        revived = torch.zeros_like(codes).scatter(-1, indices, values)
        left = (missing - torch.bmm(revived, unit)).float().square().sum((1, 2))
        spread = (missing - missing.mean(1, keepdim=True)).float().square().sum((1, 2))
        return left / spread.clamp_min(torch.finfo(torch.float32).tiny) * dead.any(-1)

    def _count_silent(self, codes: Tensor) -> None:
        active = codes.ne(0).any(1)
        silent = self.buffers["silent"]
        silent.add_(codes.shape[1]).masked_fill_(active, 0)

    def _read_first(self, x: Tensor) -> None:
        """Scale and decoder bias from the first batch."""
        self.buffers["scale"].copy_(x.square().sum(-1).mean().sqrt().clamp_min(torch.finfo(x.dtype).tiny))
        self.weights["b_dec"].copy_(geometric_median(x / self.buffers["scale"]))

    @torch.no_grad()
    def dictionaries(self) -> list[Dictionary]:
        """The inference form, a JumpReLU, of every dictionary, on the CPU, for activations as they are."""
        scale, found = self.buffers["scale"].cpu(), []
        for i, spec in enumerate(self.specs):
            weights = {name: weight[i].cpu() for name, weight in self.weights.items()}
            unit = weights["decoder"] / row_norms(weights["decoder"])
            passed = self.buffers["passed"][i].cpu().expand(self.n_features)
            threshold = weights["threshold"].clamp_min(0) if self.jumps else passed
            biases = [scale * weights["bias"], scale * weights["b_dec"], scale * threshold]
            check_finite(spec, [weights["encoder"], unit, *biases])
            encoder = weights["encoder"].T.clone()
            found.append(Dictionary(spec.site, encoder, biases[0], unit, biases[1], spec, threshold=biases[2]))
        return found

    def state(self) -> dict[str, Tensor]:
        """Weights, Adam's moments and running quantities, by name."""
        return {**super().state(), **{f"buffer.{name}": value for name, value in self.buffers.items()}}

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        """Continue from what `state` gave after `steps` steps."""
        super().load_state(state, steps)
        for name, buffer in self.buffers.items():
            buffer.copy_(state[f"buffer.{name}"])


def ensemble_class(kind: str) -> Callable[..., Ensemble]:
    """The class that trains dictionaries of a kind. Raises SpecError for a kind that is not trained."""
    if kind in K_KINDS:
        return KEnsemble
    if kind in L1_KINDS:
        return Ensemble
    raise SpecError(f"one kind out of {(*L1_KINDS, *K_KINDS)} to train", repr(kind), "Choose one of them")


def batch_threshold(codes: Tensor, ks: Sequence[int]) -> Tensor:
    """The smallest of the B k largest codes of each dictionary's batch; [A, B, F] -> [A], always above 0."""
    rows = codes.flatten(1)
    places = [rows.shape[1] - k * codes.shape[1] for k in ks]
    least = [_at_rank(row, place) for row, place in zip(rows, places, strict=True)]
    return torch.stack(least).clamp_min(torch.finfo(codes.dtype).tiny)


def _at_rank(row: Tensor, place: int) -> Tensor:
    """The number that would stand at `place` if the row were sorted. On a CPU numpy takes half of torch's time."""
    if row.device.type == "cpu" and row.dtype == torch.float32:
        return row.new_tensor(np.partition(row.numpy(), place)[place])
    return row.kthvalue(place + 1).values


def geometric_median(x: Tensor) -> Tensor:
    """The point of least summed distance to the rows of x [n, width], by Weiszfeld's iteration from the mean."""
    point = x.mean(0)
    for _ in range(MEDIAN_ITERATIONS):
        weights = 1 / (x - point).norm(dim=-1, keepdim=True).clamp_min(1e-8)
        point = (weights * x).sum(0) / weights.sum()
    return point


def _check_k(specs: Sequence[DictionarySpec], n_features: int) -> None:
    if max(spec.k for spec in specs) > n_features:
        found = str([spec.k for spec in specs])
        raise SpecError(f"a k of at most {n_features}, the features there are", found, "Lower --ks or raise --ratio")
