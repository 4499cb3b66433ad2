"""Frames that several results read: what the dictionaries of a run are, their metrics, and their features' scores.

Light: no torch. Means come with the authors' interval, so that every figure and every claim has the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan, sqrt

import numpy as np
import pandas as pd

from sae_core.schemas import TABLES
from sae_core.store import DictionaryEntry, RunStore

KIND_NAMES = {
    "tied": "SAE",
    "untied": "SAE (untied)",
    "batchtopk": "BatchTopK SAE",
    "jumprelu": "JumpReLU SAE",
    "pca": "PCA",
    "ica": "ICA",
    "identity": "default basis",
    "random": "random directions",
    "pca_topk": "Top-K PCA",
    "ica_topk": "Top-K ICA",
    "frozen": "frozen decoder",
    "saelens": "SAELens SAE",
    "dictionary_learning": "dictionary_learning SAE",
    "sparsify": "sparsify SAE",
    "learned_dicts": "SAE of the paper's authors",
    "mlsae": "mlsae SAE",
    "reinitialised": "re-initialised model",
}
"""Kind of dictionary in words. `reinitialised` is the SAE of a run on a model with re-initialised weights."""
DESCRIBED = (
    "id", "layer", "site", "kind", "ratio", "alpha", "k", "variant", "role", "headline", "n_features",
)  # fmt: skip
Z95 = 1.96


def kind_name(kind: str) -> str:
    """A kind in words; one that has no words stands for itself."""
    return KIND_NAMES.get(kind, kind)


def described(entry: DictionaryEntry) -> dict[str, object]:
    """What a dictionary is, by the names in DESCRIBED; k is NaN where the kind has none."""
    spec, site = entry.spec, entry.spec.site
    k = nan if spec.k is None else spec.k
    values = (entry.id, site.layer, site.name, spec.kind, spec.ratio, spec.alpha, k, spec.variant)
    return dict(zip(DESCRIBED, (*values, entry.role, entry.headline, entry.n_features), strict=True))


def all_metrics(run: RunStore) -> pd.DataFrame:
    """One row for each dictionary that has metrics: DESCRIBED, then the columns of `metrics`."""
    return _every(run, "metrics", TABLES["metrics"].column_names)


def all_scores(run: RunStore, setting: str) -> pd.DataFrame:
    """Rows of `scores` of every dictionary that has them: DESCRIBED, then the table's columns.

    The table's `kind` (token, previous, ..., llm) is called `rule_kind` here, because `kind` is the dictionary's.
    Rows of features that were skipped are kept with their flag: leave them out of means.
    """
    names = ["rule_kind" if name == "kind" else name for name in TABLES["scores"].column_names]
    found = _every(run, "scores", names)
    return found[found["setting"] == setting].reset_index(drop=True)


def _every(run: RunStore, table: str, names: Sequence[str]) -> pd.DataFrame:
    """A table of every dictionary that has it, joined with DESCRIBED. names: what to call the table's columns."""
    columns = list(dict.fromkeys((*DESCRIBED, *names)))
    frames = [
        run.read(table, entry.id).set_axis(list(names), axis=1).assign(**described(entry))
        for entry in run.dictionaries
        if run.table_state(table, entry.id) == "ready"
    ]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval, mean ± 1.96 sd / sqrt(n), sd with n - 1 (the authors' form, Sec. 3).

    Values that are not numbers are left out. The mean of none is NaN, and so are the ends for fewer than two.
    """
    given = np.asarray(values, dtype=np.float64)
    given = given[~np.isnan(given)]
    if len(given) < 2:
        return (float(given[0]) if len(given) else nan), nan, nan
    mean, half = float(given.mean()), Z95 * float(given.std(ddof=1)) / sqrt(len(given))
    return mean, mean - half, mean + half


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `hits` in `n`; 0 and 1 for no cases."""
    if n == 0:
        return 0.0, 1.0
    share, spread = hits / n, Z95 * Z95 / n
    centre = (share + spread / 2) / (1 + spread)
    half = sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return centre - half, centre + half
