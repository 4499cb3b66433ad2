"""Step `ioi`: patching one indirect-object run into another, feature by feature (paper Sec. 4, App. F; Figs 3, 17).

For every layer: the headline dictionary, those nearest in price to the authors', alpha 0, and PCA (signed, and with
the two sides of a component apart). Rows are written dictionary by dictionary, so a killed run continues.

As published, the curve has a point for each set of features that pruning leaves after one of 50 thresholds, and for
all and for none. As corrected, the features are put in an order (what is pruned last comes first), fewer thresholds
do for that, and the order by magnitude stands beside it. Two differences from the authors' code have no effect or are
left out of both: they visit all features of the dictionary, but one that differs in no pair never changes anything;
and their edit magnitude is that of the last candidate that was tried, by mistake, where here it is that of the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from precompute.common import bar, load_entry, load_model
from precompute.paper.states import summary, with_weights
from precompute.workers import side_by_side
from sae_core.autointerp.fragments import AS_PUBLISHED, CORRECTED
from sae_core.dictionaries import Dictionary
from sae_core.errors import DictionaryError
from sae_core.ioi.ordering import acdc_order, log_thresholds, magnitude_order
from sae_core.ioi.patching import Curve, Patching, curve, curve_sizes, read_pairs
from sae_core.ioi.prompts import PromptPair, prompt_pairs
from sae_core.language_model import LanguageModel
from sae_core.schemas import PATCHING
from sae_core.store import DictionaryEntry, RunStore

STEP = "ioi"
TABLE = "patching"
METHODS = {"pca": (("pca", True), ("pca_nonneg", False))}
"""Of a kind: the methods drawn from it, each with whether a component's sides are patched together."""
PRICES = (1.02, 0.31, 0.10)
"""The authors' alphas 1e-3, 3e-4, 1e-4 times their d = 1,024: alpha x d is what compares between widths (Eq. 4)."""
RESAMPLES = 999
THRESHOLDS = {CORRECTED: 6, AS_PUBLISHED: 50}


@dataclass(frozen=True)
class Args:
    """Patch features of the target prompts into the base prompts, for the dictionaries of every layer."""

    pairs: int = 50
    """prompt pairs (the authors: 50)"""
    thresholds: int | None = None
    """KL thresholds of the pruning, evenly spaced in log from 1e-5 to 1; none: 6, or the authors' 50 as published"""
    alphas: int = 3
    """of the authors' prices alpha x d 1.02, 0.31 and 0.10 so many, the nearest dictionary of the layer each; the
    headline and alpha 0 come on top"""
    dictionaries: tuple[str, ...] = ()
    """ids of dictionaries, in place of those of every layer"""
    setting: Literal["corrected", "as-published"] = CORRECTED
    """corrected (one order of features) or as-published (only the sets that pruning leaves)"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""

    @property
    def n_thresholds(self) -> int:
        return self.thresholds or THRESHOLDS[self.setting]


def run(store: RunStore, args: Args) -> None:
    """Write `patching` of every dictionary that lacks it.

    Raises DictionaryError for a run without headline dictionaries, InputError for a tokenizer that splits all names.
    """
    entries = [store.dictionary(id) for id in args.dictionaries] or chosen(store, args.alphas)
    if not entries:
        fix = f"Run first: python -m precompute metrics --run {store.folder}"
        raise DictionaryError("a headline dictionary with weights", "none", fix)
    made = _made(store, args.setting, _settings(store, args))
    waiting = sorted((entry for entry in entries if entry.id not in made), key=_n_methods, reverse=True)
    if not waiting:
        return
    model, seed = load_model(store, args.device), store.manifest.spec.seed
    pairs = prompt_pairs(model.encode, args.pairs, seed)

    def rows(entry: DictionaryEntry) -> pd.DataFrame:
        return dictionary_rows(model, entry.id, load_entry(store, entry, model.device), pairs, args, seed)

    found = zip(waiting, side_by_side(rows, waiting, model.device), strict=True)
    for entry, frame in bar(found, "patching", len(entries), "dictionary", len(entries) - len(waiting)):
        made[entry.id] = frame
        _write(store, args, made)


def state(store: RunStore) -> str:
    """State of the curves as `corrected`: `partial` where dictionaries have been added, or the step was stopped."""
    settings = _stored(store).get(CORRECTED)
    return rows_state(store, chosen(store, settings["alphas"] if settings else 0), CORRECTED)


def rows_state(store: RunStore, entries: Sequence[DictionaryEntry], setting: str) -> str:
    """State of the rows of some dictionaries in a setting."""
    if store.table_state(TABLE) == "stale":
        return "stale"
    made = _stored(store).get(setting, {"dictionaries": {}})["dictionaries"]
    return summary({"ready" if made.get(entry.id) == entry.hash else "missing" for entry in entries})


# ---- which dictionaries


def chosen(store: RunStore, alphas: int) -> list[DictionaryEntry]:
    """Of each layer with a headline dictionary: it, the nearest to each of `alphas` PRICES, alpha 0, and PCA."""
    here = with_weights(store)
    layers = sorted({entry.spec.site.layer for entry in here if entry.headline})
    return [entry for layer in layers for entry in _of_layer(here, store.headline(layer), PRICES[:alphas])]


def _of_layer(
    entries: Sequence[DictionaryEntry], headline: DictionaryEntry, prices: Sequence[float]
) -> Iterator[DictionaryEntry]:
    main = headline.spec
    width = headline.n_features / main.ratio
    same = (main.site, main.kind, main.ratio, "")
    alike = [e for e in entries if (e.spec.site, e.spec.kind, e.spec.ratio, e.spec.variant) == same]
    priced = [e for e in alike if e.spec.alpha > 0]
    nearest = [min(priced, key=lambda e: abs(log(e.spec.alpha * width / price))).id for price in prices if priced]
    yield from (e for e in alike if e.headline or e.spec.alpha == 0 or e.id in nearest)
    yield from (e for e in entries if e.spec.site == main.site and e.spec.kind in METHODS and not e.spec.variant)


def _methods(kind: str) -> tuple[tuple[str, bool], ...]:
    return METHODS.get(kind, (("sae", False),))


def _n_methods(entry: DictionaryEntry) -> int:
    """What takes longest is begun first, so that no worker is left alone with it at the end."""
    return len(_methods(entry.spec.kind))


# ---- rows


def dictionary_rows(
    model: LanguageModel, id: str, dictionary: Dictionary, pairs: Sequence[PromptPair], args: Args, seed: int
) -> pd.DataFrame:
    """Rows of `patching` of one dictionary, by all methods that its kind stands for."""
    kind = dictionary.spec.kind if dictionary.spec else ""
    frames = []
    for method, signed in _methods(kind):
        patching = read_pairs(model, dictionary, pairs, signed=signed)
        if not len(patching.features):
            print(f"{id}: no feature differs between the runs of any pair (no live feature?); nothing can be patched")
        frames.append(rows_of(patching, args, seed).assign(method=method))
    return pd.concat(frames).assign(dictionary=id)[PATCHING.column_names]


def rows_of(patching: Patching, args: Args, seed: int) -> pd.DataFrame:
    """Rows of `patching` without the columns dictionary and method, for the orders of the setting."""
    k = len(patching.features)
    pruned = acdc_order(patching, log_thresholds(args.n_thresholds), seed)
    if args.setting == AS_PUBLISHED:
        curves = {"acdc": curve(patching, pruned.order, sorted({0, *pruned.sizes, k}))}
    else:
        orders = {"acdc": pruned.order, "magnitude": magnitude_order(patching)}
        curves = {name: curve(patching, order, curve_sizes(k)) for name, order in orders.items()}
    frames = [_curve_rows(found, seed).assign(order=name) for name, found in curves.items()]
    return pd.concat(frames).assign(setting=args.setting, n_pairs=patching.n_pairs, n_differing=k)


def _curve_rows(found: Curve, seed: int) -> pd.DataFrame:
    kl = found.kl.double().cpu().numpy()
    lower, upper = interval(kl, seed)
    return pd.DataFrame(
        {
            "n_patched": found.sizes,
            "mean_kl": kl.mean(1),
            "lower": lower,
            "upper": upper,
            "mean_magnitude": found.magnitude.double().cpu().numpy(),
            "kl_floor": kl[-1].mean(),
        }
    )


def interval(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap of the mean over the last axis; values [n, pairs] -> lower and upper, each [n]."""
    if values.shape[1] < 2:
        return values[:, 0], values[:, 0]
    rng = np.random.default_rng(seed)
    found = bootstrap((values,), np.mean, axis=1, n_resamples=RESAMPLES, method="percentile", rng=rng)
    return found.confidence_interval.low, found.confidence_interval.high


# ---- what is there already


def _write(store: RunStore, args: Args, made: dict[str, pd.DataFrame]) -> None:
    """The rows of this setting in place of those there were, beside those of the other setting."""
    hashes = {entry.id: entry.hash for entry in store.dictionaries if entry.id in made}
    here = {args.setting: {**_settings(store, args), "alphas": args.alphas, "dictionaries": hashes}}
    others = [rows for other in THRESHOLDS if other != args.setting for rows in _made(store, other, {}).values()]
    table = pd.concat([*made.values(), *others], ignore_index=True)
    store.write_table(TABLE, table, provenance=store.provenance(**(_stored(store) | here)))


def _settings(store: RunStore, args: Args) -> dict[str, Any]:
    """What decides the rows of a dictionary, besides the setting."""
    return {"pairs": args.pairs, "thresholds": args.n_thresholds, "seed": store.manifest.spec.seed}


def _stored(store: RunStore) -> dict[str, Any]:
    """By setting, what the rows in the table were made with; empty where there is no table of this model and text."""
    return store.table_info(TABLE).settings if store.table_state(TABLE) == "ready" else {}


def _made(store: RunStore, setting: str, wanted: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Rows of a setting by dictionary id, of dictionaries that are still the same, if made as wanted."""
    found = _stored(store).get(setting)
    if found is None or not wanted.items() <= found.items():
        return {}
    table, now = store.read(TABLE), {entry.id: entry.hash for entry in store.dictionaries}
    rows = table[table["setting"] == setting]
    return {id: part for id, part in rows.groupby("dictionary") if now.get(id) == found["dictionaries"].get(id)}
