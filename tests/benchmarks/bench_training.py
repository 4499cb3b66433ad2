"""Training step: an ensemble of 8 alphas against one plain autograd step of one dictionary, measured side by side.

Once at the start, where half of the codes are active, and once as after some hundred steps, where few are: the plain
step takes as long in both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from sae_core.ensemble import Ensemble, quick_precision
from sae_core.losses import loss, unit_rows
from sae_core.specs import DictionarySpec, Site, TrainSpec

ALPHAS = tuple(1e-4 * 2**i for i in range(8))
BATCH = 1024
SHAPES = ((128, 512), (512, 2048))
TARGET = 6.0
ACTIVE = {"at the start": 0.5, "2 % active": 0.02}
"""Share of active codes that the ensemble's biases are set to."""


def plain_step(width: int, n_features: int, x: torch.Tensor, alpha: float) -> Callable[[], None]:
    """One tied dictionary as one would write it: autograd and torch.optim.Adam, fp32."""
    raw = torch.randn(n_features, width, device=x.device, requires_grad=True)
    bias = torch.zeros(n_features, device=x.device, requires_grad=True)
    optimiser = torch.optim.Adam([raw, bias])

    def step() -> None:
        rows = unit_rows(raw)
        optimiser.zero_grad()
        loss(x, rows, rows, bias).total(alpha).backward()
        optimiser.step()

    return step


def ensemble_step(
    width: int, n_features: int, x: torch.Tensor, precision: str, active: float = 0.5
) -> Callable[[], object]:
    """The same step for all alphas at once, with so large a share of the codes active."""
    specs = [DictionarySpec(Site(0), "tied", n_features / width, alpha) for alpha in ALPHAS]
    ensemble = Ensemble(specs, width, TrainSpec(batch_size=len(x)), x.device, precision)
    for rows, bias in zip(ensemble.weights["decoder"], ensemble.weights["bias"], strict=True):
        pre = x[:64] @ unit_rows(rows).T
        bias.fill_(-torch.quantile(pre, 1 - active))
    return lambda: ensemble.step(x)


def side_by_side(steps: dict[str, Callable[[], object]], device: torch.device, rounds: int = 8) -> dict[str, float]:
    """Median seconds of each, taken in turns so that a busy machine slows all alike; two rounds to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[2:]) for name, values in seconds.items()}


def main() -> None:
    """Print the ratios; in fp32 the project aims at 6 or less."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{len(ALPHAS)} alphas, batch {BATCH}, {device}, {torch.get_num_threads()} threads; aim: {TARGET:g} in fp32")
    precisions = dict.fromkeys(("fp32", quick_precision(device)))
    if len(precisions) == 1:
        print("bf16 left out: a matrix product in it is not quicker than in fp32 here")
    for width, n_features in SHAPES:
        x = torch.randn(BATCH, width, device=device)
        steps = {"plain": plain_step(width, n_features, x, ALPHAS[3])}
        for name, active in ACTIVE.items():
            steps |= {f"{p}, {name}": ensemble_step(width, n_features, x, p, active) for p in precisions}
        found = side_by_side(steps, device)
        for name in list(steps)[1:]:
            ratio, ms = found[name] / found["plain"], 1e3 * found[name]
            print(
                f"d {width:4} F {n_features:5} {name}: {ratio:5.2f} x one plain fp32 step "
                f"({ms:.1f} ms against {1e3 * found['plain']:.1f} ms)"
            )


if __name__ == "__main__":
    main()
