"""Step `published`: one layer as the paper did it, to compare with the corrected results.

Dictionaries trained by the authors' recipe (App. B): tied, twice as many features as coordinates, alpha at its literal
value (their mean squared error is over coordinates, so it means less at a small width), batches of 2,048, a learning
rate of 1e-3 without warm-up, Adam with the bias correction their code froze, one pass over the text. They are variants
`published`. With them and with the comparison dictionaries of the layer: explanations of the first 150 features on the
authors' choice of windows, PCA and ICA with their sign, the default basis and random directions by positive sides;
moments in the authors' form; patching with their 50 thresholds.

Not as published: PCA codes are centred here (a shift, which no correlation sees, but the rules explain what lies above
the mean), and random directions have norm 1 (a scale, which no score sees).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from precompute import metrics, train
from precompute.common import bar, load_entry
from precompute.features import FeatureTables
from precompute.harvest import HarvestArgs, code_indexes, drop_codes
from precompute.paper import explain, ioi, moments, rules
from precompute.paper.states import summary, with_weights
from precompute.passes import Settings
from sae_core.autointerp.fragments import AS_PUBLISHED
from sae_core.corpus import load_windows
from sae_core.errors import DictionaryError, SaeError
from sae_core.feature_stats import is_outlier_direction
from sae_core.specs import COMPARISON_KINDS, DictionarySpec
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import provenance, table_text, token_names

STEP = "published"
VARIANT = "published"
RATIO = 2.0
BATCH = 2048


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Train, explain, score and patch dictionaries of one layer as published."""

    layer: int | None = None
    """layer; none: the middle one of those with a headline dictionary"""
    alphas: tuple[float, ...] = (3.4e-4, 8.6e-4, 2.2e-3, 5.4e-3)
    """the paper's 8.6e-4 and others of the authors' grid, every third of logspace(-4, -2, 16)"""
    spend: bool = False
    """also ask the language model that the environment names; see the step explain"""


def run(store: RunStore, args: Args) -> None:
    """Do what is missing. A part that cannot be done is reported in a sentence, and the rest goes on."""
    layer = _layer(store, args.layer)
    train.train_missing(store, _specs(store, layer, args.alphas), (_one_pass(store),), _recipe(args))
    harvest = {"device": args.device, "batch": args.batch}
    trained, compared = _trained(store, layer), _compared(store, layer)
    both = tuple(entry.id for entry in (*trained, *compared))
    patched = tuple(entry.id for entry in trained) + tuple(e.id for e in compared if e.spec.kind in ioi.METHODS)
    parts: dict[str, Callable[[], None]] = {
        "metrics": lambda: _measure(store, trained, args),
        "features": lambda: _features(store, trained, args),
        "rules": lambda: rules.run(store, rules.Args(**harvest, dictionaries=both, setting=AS_PUBLISHED)),
        "explain": lambda: _explain(store, both, args),
        "moments": lambda: moments.run(store, moments.Args()),
        "ioi": lambda: ioi.run(store, ioi.Args(device=args.device, dictionaries=patched, setting=AS_PUBLISHED)),
    }
    for name, part in parts.items():
        try:
            part()
        except SaeError as error:
            print(f"{STEP}: {name} left out: {error}", file=sys.stderr)


def state(store: RunStore) -> str:
    """State of the dictionaries' tables; explanations by a language model are no part of it."""
    entries = [entry for entry in with_weights(store) if entry.spec.variant == VARIANT]
    if not entries:
        return "missing"
    found = {store.table_state("metrics", entry.id) for entry in entries}
    found |= {rules.rows_state(store, entry, AS_PUBLISHED) for entry in entries}
    return summary(found | {ioi.rows_state(store, entries, AS_PUBLISHED), moments.state(store)})


# ---- dictionaries


def _layer(store: RunStore, layer: int | None) -> int:
    layers = sorted(entry.spec.site.layer for entry in store.dictionaries if entry.headline)
    if layer is None and not layers:
        fix = f"Run first: python -m precompute metrics --run {store.folder}, or name a layer"
        raise DictionaryError("a headline dictionary", "none", fix)
    return layers[(len(layers) - 1) // 2] if layer is None else layer


def _specs(store: RunStore, layer: int, alphas: Sequence[float]) -> list[DictionarySpec]:
    return train.grid(
        store, str(layer), "resid_post", kinds=("tied",), ratios=(RATIO,), alphas=alphas, ks=(1,), variant=VARIANT
    )


def _recipe(args: Args) -> Settings:
    """The authors' training (App. B, and their code)."""
    return Settings(
        batch_size=BATCH, lr=1e-3, warmup_steps=0, frozen_bias_correction=True, device=args.device, batch=args.batch
    )


def _one_pass(store: RunStore) -> int:
    """Tokens of the training text in whole batches."""
    return load_windows(store.folder, "train").tokens.size // BATCH * BATCH


def _of_layer(store: RunStore, layer: int) -> list[DictionaryEntry]:
    return [e for e in with_weights(store) if (e.spec.site.layer, e.spec.site.name) == (layer, "resid_post")]


def _trained(store: RunStore, layer: int) -> list[DictionaryEntry]:
    return [entry for entry in _of_layer(store, layer) if entry.spec.variant == VARIANT]


def _compared(store: RunStore, layer: int) -> list[DictionaryEntry]:
    """The layer's dictionaries to compare with; the frozen one is a control of later work."""
    kinds = [kind for kind in COMPARISON_KINDS if kind != "frozen"]
    return [entry for entry in _of_layer(store, layer) if entry.spec.kind in kinds and not entry.spec.variant]


# ---- parts


def _measure(store: RunStore, entries: Sequence[DictionaryEntry], args: Args) -> None:
    if any(store.table_state("metrics", entry.id) != "ready" for entry in entries):
        tokens = store.manifest.spec.metric_tokens
        metrics.run(store, metrics.Args(metric_tokens=tokens, device=args.device, batch=args.batch))


def _features(store: RunStore, entries: Sequence[DictionaryEntry], args: Args) -> None:
    """The table `features` of the dictionaries trained, for their moments."""
    waiting = [entry for entry in entries if store.table_state("features", entry.id) != "ready"]
    indexes = code_indexes(store, waiting, args.device, args.batch) if waiting else {}
    for entry in waiting:
        tables = FeatureTables(table_text(store), token_names(store), _outliers(store, entry))
        features = bar(indexes[entry.id].features(), f"features of {entry.id}", entry.n_features)
        deque(tables.add(features), maxlen=0)
        store.write_table("features", pd.DataFrame(tables.rows), entry.id, provenance(store, "features", entry))
    drop_codes(store, [entry for entry in waiting if rules.rows_state(store, entry, AS_PUBLISHED) == "ready"])


def _outliers(store: RunStore, entry: DictionaryEntry) -> np.ndarray:
    return is_outlier_direction(load_entry(store, entry).W_dec.cpu().numpy())


def _explain(store: RunStore, ids: tuple[str, ...], args: Args) -> None:
    """Only where the user is ready to spend: `paper explain` tells the price."""
    if args.spend:
        settings = {"device": args.device, "batch": args.batch, "dictionaries": ids, "setting": AS_PUBLISHED}
        explain.run(store, explain.Args(spend=True, **settings))
