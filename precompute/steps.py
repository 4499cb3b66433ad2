"""The steps in order: what each needs and makes.

One file per step holds its Args, `run(store, args)` and `state(store)`.
"""

from __future__ import annotations

import importlib
import resource
import sys
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sae_core import running
from sae_core.store import RunStore


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline. `needs` and `makes` are shown by `list`; the module does the work."""

    name: str
    needs: str
    makes: str
    package: str = ""  # folder inside precompute, with a dot

    @property
    def module(self) -> ModuleType:
        """The step's module, imported only when it is used: `list` need not load torch for it."""
        return importlib.import_module(f"precompute.{self.package}{self.name}")

    def state(self, store: RunStore) -> str:
        """`missing`, `partial`, `stale` or `ready`."""
        return self.module.state(store)

    def run(self, store: RunStore, args: Any) -> None:
        """Do the work, marked as running, then note its cost in the manifest."""
        continued = self.state(store) == "partial"
        started = time.perf_counter()
        with running.marked(store.folder, self.name):
            self.module.run(store, args)
        seconds = time.perf_counter() - started
        store.reload()  # steps that do not need each other may run side by side
        before = store.manifest.steps.get(self.name, {})
        earlier = before.get("seconds", 0.0)
        cost = {
            # Work that goes on adds up; a step that found nothing to do keeps the cost of the run that did the work.
            "seconds": round(earlier + seconds if continued else max(seconds, earlier), 1),
            "peak_memory_mb": max(_peak_memory_mb(), before.get("peak_memory_mb", 0)),
        }
        store.update_manifest(steps={**store.manifest.steps, self.name: cost})


def _peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024) if sys.platform == "darwin" else peak // 1024


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("corpus", "a model and text", "token windows, vocabulary, the run's manifest"),
        Step("train", "corpus", "dictionaries"),
        Step("metrics", "dictionaries", "metrics; chooses main and headline dictionaries"),
        Step("features", "main dictionaries", "features, token_histograms, token_features"),
        Step("contexts", "features", "contexts, windows"),
        Step("effects", "features", "logit_effects, next_token_drops"),
        Step("edges", "features, headline dictionaries", "causal_edges"),
        Step("neighbours", "main dictionaries", "neighbours"),
    )
}
