"""Training step: an ensemble of 8 alphas against one plain autograd step of one dictionary, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from sae_core.ensemble import PRECISIONS, Ensemble
from sae_core.losses import loss, unit_rows
from sae_core.specs import DictionarySpec, Site, TrainSpec

ALPHAS = tuple(1e-4 * 2**i for i in range(8))
BATCH = 1024
SHAPES = ((128, 512), (512, 2048))
TARGET = 6.0


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


def ensemble_step(width: int, n_features: int, x: torch.Tensor, precision: str) -> Callable[[], object]:
    """The same step for all alphas at once."""
    specs = [DictionarySpec(Site(0), "tied", n_features / width, alpha) for alpha in ALPHAS]
    ensemble = Ensemble(specs, width, TrainSpec(batch_size=len(x)), x.device, precision)
    return lambda: ensemble.step(x)


def side_by_side(steps: dict[str, Callable[[], object]], device: torch.device, rounds: int = 12) -> dict[str, float]:
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
    """Print the ratios; at d = 128 in fp32 the project aims at 6 or less."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{len(ALPHAS)} alphas, batch {BATCH}, {device}, {torch.get_num_threads()} threads; aim: {TARGET:g} in fp32")
    for width, n_features in SHAPES:
        x = torch.randn(BATCH, width, device=device)
        steps = {"plain": plain_step(width, n_features, x, ALPHAS[3])}
        steps |= {precision: ensemble_step(width, n_features, x, precision) for precision in PRECISIONS}
        found = side_by_side(steps, device)
        for precision in PRECISIONS:
            ratio, ms = found[precision] / found["plain"], 1e3 * found[precision]
            print(
                f"d {width:4} F {n_features:5} {precision}: {ratio:5.2f} x one plain fp32 step "
                f"({ms:.1f} ms against {1e3 * found['plain']:.1f} ms)"
            )


if __name__ == "__main__":
    main()
