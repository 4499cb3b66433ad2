"""What a page reads, at 2,048 and at 262,144 features, against reading the whole file with pandas in the same run.

Goals: all tables of one feature in under 50 ms, a sorted and filtered Browse page in under 300 ms. The first read of a
process opens the files; it is shown apart from the later ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from sae_core import browse
from sae_core.store import RunStore
from tests.synthetic_run import write_synthetic_run

OF_A_FEATURE = (
    "features",
    "token_histograms",
    "contexts",
    "logit_effects",
    "next_token_drops",
    "causal_edges",
    "neighbours",
)
QUERY = browse.Query("density", True, ("dead", "dense"), {"entropy": (1.0, None)})
# Fewer rows a feature than the schema's caps keep the large run's files at a size that can be written in a minute.
SMALLER = {"contexts_per_bin": 1, "top_contexts": 5, "effect_tokens": 5, "parents": 5, "histogram_tokens": 3}


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def read_feature(store: RunStore, dictionary: str, feature: int) -> None:
    """Every table the Feature page reads of one feature."""
    for table in OF_A_FEATURE:
        store.read(table, dictionary, key=feature)


def read_page(store: RunStore, dictionary: str) -> None:
    """What Browse shows first, sorted and filtered."""
    browse.page(browse.feature_index(store, dictionary), QUERY, number=3)


def measure(store: RunStore, n_features: int) -> None:
    """Print first and later reads, and their ratio to reading the features table whole."""
    dictionary = store.main_dictionaries[-1].id
    rng = np.random.default_rng(0)
    first = milliseconds(lambda: read_feature(store, dictionary, 5))
    drawn = rng.integers(n_features, size=40).tolist()
    later = [milliseconds(lambda f=f: read_feature(store, dictionary, f)) for f in drawn]
    first_page = milliseconds(lambda: read_page(store, dictionary))
    page = min(milliseconds(lambda: read_page(store, dictionary)) for _ in range(9))
    path = store.table_path("features", dictionary)
    whole = min(milliseconds(lambda: pd.read_parquet(path)) for _ in range(3))
    print(f"{n_features:,} features; floor: the features table read whole {whole:.1f} ms")
    for name, ms, goal in (
        ("a feature's tables, first", first, None),
        ("a feature's tables, later (median)", float(np.median(later)), 50),
        ("a feature's tables, later (slowest of 40)", max(later), 50),
        ("Browse page, first", first_page, 300),
        ("Browse page, later", page, 300),
    ):
        print(f"  {name:42} {ms:8.1f} ms   {ms / whole:6.2f} of the floor   goal {goal or '-'}")


def main() -> None:
    """Both sizes."""
    for n_features, sizes in ((2048, {}), (262_144, SMALLER)):
        with tempfile.TemporaryDirectory() as folder:
            measure(write_synthetic_run(Path(folder) / "run", n_features, 2, **sizes), n_features)


if __name__ == "__main__":
    main()
