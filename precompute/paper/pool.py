"""Which windows the fragments of a dictionary come from: the same for explanations by rules and by a model."""

from __future__ import annotations

import numpy as np

from sae_core.autointerp.fragments import AS_PUBLISHED, fragment_pool
from sae_core.contexts import TokenText
from sae_core.corpus import load_windows
from sae_core.store import DictionaryEntry, RunStore


def dictionary_pool(store: RunStore, entry: DictionaryEntry, text: TokenText, setting: str) -> np.ndarray:
    """The windows that fragments of a dictionary come from."""
    documents = load_windows(store.folder, "train").documents.reshape(-1)[: text.n_windows]
    return fragment_pool(documents, store.manifest.spec.seed, entry.id if setting == AS_PUBLISHED else "")
