"""Activations of the labelled held-out contexts, computed once for all dictionaries and kept on disk while in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from precompute.common import bar
from sae_core.corpus import load_windows
from sae_core.errors import CorpusError
from sae_core.factors import Batches
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from sae_core.store import RunStore, storage_errors

CONTEXTS_AT_ONCE = 16


def held_out_labels(store: RunStore) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Token ids [n, t] of the held-out contexts and each factor's values [n, t]. Raises CorpusError without labels."""
    windows = load_windows(store.folder, "held_out")
    labels = windows.labels(slice(None))
    if labels is None:
        fix = "Use a run made with --corpus miniature, whose generator knows the factors of every token"
        raise CorpusError("a run whose corpus has factor labels", "none", fix)
    return np.asarray(windows.tokens), labels


@contextmanager
def site_activations(
    store: RunStore, model: LanguageModel, sites: Sequence[Site], ids: np.ndarray, scratch: str
) -> Iterator[dict[Site, np.ndarray]]:
    """Activations [n, t, width] of each site on contexts ids [n, t], as files that are removed afterwards."""
    folder = store.scratch(scratch)
    try:
        shapes = {site: (*ids.shape, model.width(site)) for site in sites}
        with storage_errors(folder):
            files = {site: _array(folder / f"{i}.npy", shapes[site]) for i, site in enumerate(sites)}
        for start in bar(range(0, len(ids), CONTEXTS_AT_ONCE), "activations of held-out contexts", unit="batch"):
            rows = slice(start, start + CONTEXTS_AT_ONCE)
            found = model.sites(torch.from_numpy(ids[rows].astype(np.int64)), sites)
            for site, array in files.items():
                array[rows] = found[site].float().cpu().numpy()
        yield files
    finally:
        store.clear_scratch(scratch)


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, "w+", np.float32, shape)


def batches(x: np.ndarray, wanted: np.ndarray, rows: slice, first: int = 0) -> Batches:
    """Passes over some contexts of activations x [n, t, width] and properties wanted [n, t, V], from `first` on."""
    begin, last, _ = rows.indices(len(x))

    def passing() -> Iterable[tuple[Tensor, Tensor]]:
        for start in range(begin, last, CONTEXTS_AT_ONCE):
            part = slice(start, min(start + CONTEXTS_AT_ONCE, last)), slice(first, None)
            yield torch.from_numpy(np.array(x[part])), torch.from_numpy(wanted[part])

    return passing
