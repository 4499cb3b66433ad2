"""The labelled held-out contexts, and passes over their activations (precompute.activation_files)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from precompute.activation_files import CONTEXTS_AT_ONCE, ActivationFiles
from sae_core.corpus import load_windows
from sae_core.errors import CorpusError
from sae_core.factors import Batches
from sae_core.specs import Site
from sae_core.store import RunStore


def held_out_labels(store: RunStore) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Token ids [n, t] of the held-out contexts and each factor's values [n, t]. Raises CorpusError without labels."""
    windows = load_windows(store.folder, "held_out")
    labels = windows.labels(slice(None))
    if labels is None:
        fix = "Use a run made with --corpus miniature, whose generator knows the factors of every token"
        raise CorpusError("a run whose corpus has factor labels", "none", fix)
    return np.asarray(windows.tokens), labels


def batches(files: ActivationFiles, site: Site, wanted: np.ndarray, rows: slice, first: int = 0) -> Batches:
    """Passes over some contexts of a site's activations and of properties wanted [n, t, V], from `first` on."""
    begin, last, _ = rows.indices(files.n)

    def passing() -> Iterable[tuple[Tensor, Tensor]]:
        for start in range(begin, last, CONTEXTS_AT_ONCE):
            part = slice(start, min(start + CONTEXTS_AT_ONCE, last))
            yield files.read(site, part)[:, first:], torch.from_numpy(wanted[part, first:])

    return passing
