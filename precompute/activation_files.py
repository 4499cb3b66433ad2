"""Activations of a text in files: computed once where many dictionaries read them one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from precompute.common import bar
from precompute.workers import side_by_side
from sae_core.code_shards import reserve
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from sae_core.store import RunStore, storage_errors

CONTEXTS_AT_ONCE = 16
BYTES = 4

Activations = Callable[[slice], dict[Site, Tensor]]
"""Activations [rows, t, width] at each site, on some of the contexts of a text."""


def from_model(model: LanguageModel, sites: Sequence[Site], contexts: np.ndarray) -> Activations:
    """Computed as they are asked for; contexts: token ids [n, t]."""
    return lambda rows: model.sites(torch.from_numpy(contexts[rows].astype(np.int64)), sites)


@dataclass(frozen=True)
class ActivationFiles:
    """Activations [n, t, width] of each site on n contexts, float32, in one file each.

    They are read and not mapped, so that memory holds no more than was asked for.
    """

    folder: Path
    widths: dict[Site, int]
    n: int
    t: int
    device: torch.device

    def path(self, site: Site) -> Path:
        """The file of a site."""
        return self.folder / f"{list(self.widths).index(site)}.float32"

    def reserve(self) -> None:
        """Make the files, with the room that they will take. Raises StorageError if there is none."""
        for site, width in self.widths.items():
            with storage_errors(self.folder), self.path(site).open("wb") as file:
                reserve(file, self.n * self.t * width * BYTES)

    def write(self, start: int, found: dict[Site, Tensor]) -> None:
        """Activations [rows, t, width] of each site from context `start` on."""
        for site, x in found.items():
            with storage_errors(self.folder), self.path(site).open("r+b") as file:
                file.seek(start * self.t * self.widths[site] * BYTES)
                x.float().cpu().contiguous().numpy().tofile(file)

    def read(self, site: Site, rows: slice) -> Tensor:
        """Activations [rows, t, width] of a site, on the CPU."""
        start, stop, _ = rows.indices(self.n)
        size = self.t * self.widths[site]
        found = np.fromfile(self.path(site), np.float32, max(0, stop - start) * size, offset=start * size * BYTES)
        return torch.from_numpy(found.reshape(-1, self.t, self.widths[site]))

    def of(self, sites: Sequence[Site]) -> Activations:
        """Those of some sites, on the model's device."""
        return lambda rows: {site: self.read(site, rows).to(self.device) for site in sites}


@contextmanager
def activation_files(
    store: RunStore, model: LanguageModel, sites: Sequence[Site], contexts: np.ndarray, scratch: str, what: str
) -> Iterator[ActivationFiles]:
    """Activations of each site on contexts of token ids [n, t], in files that are removed afterwards."""
    widths = {site: model.width(site) for site in dict.fromkeys(sites)}
    files = ActivationFiles(store.scratch(scratch), widths, *contexts.shape, model.device)
    read = from_model(model, list(widths), contexts)
    starts = range(0, len(contexts), CONTEXTS_AT_ONCE)

    def write(start: int) -> None:
        files.write(start, read(slice(start, start + CONTEXTS_AT_ONCE)))

    try:
        files.reserve()
        for _ in bar(side_by_side(write, starts, model.device), what, len(starts), "batch"):
            pass
        yield files
    finally:
        store.clear_scratch(scratch)
