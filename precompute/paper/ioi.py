"""Step `ioi`: patching one indirect-object run into another, feature by feature (paper Sec. 4, App. F; Figs 3, 17).

For every layer: the headline dictionary, those of other alphas nearest to it, alpha 0, and PCA (signed, and with the
two sides of a component apart). Rows are written dictionary by dictionary, so a killed run continues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import pandas as pd
from scipy.stats import bootstrap
from torch import Tensor

from precompute.common import bar, load_entry, load_model
from precompute.paper.states import with_weights
from sae_core.dictionaries import Dictionary
from sae_core.errors import DictionaryError, TableError
from sae_core.ioi.ordering import acdc_order, log_thresholds, magnitude_order
from sae_core.ioi.patching import Curve, Patching, curve, read_pairs
from sae_core.ioi.prompts import PromptPair, prompt_pairs
from sae_core.language_model import LanguageModel
from sae_core.schemas import PATCHING
from sae_core.store import DictionaryEntry, RunStore

STEP = "ioi"
TABLE = "patching"
METHODS = {"pca": (("pca", True), ("pca_nonneg", False))}
"""Of a kind: the methods drawn from it, each with whether a component's sides are patched together."""
SIZES_BEFORE_GROWTH = 16
GROWTH = 1.15
RESAMPLES = 999


@dataclass(frozen=True)
class Args:
    """Patch features of the target prompts into the base prompts, for the dictionaries of every layer."""

    pairs: int = 50
    """prompt pairs (the authors: 50)"""
    thresholds: int = 20
    """KL thresholds of the pruning, evenly spaced in log from 1e-5 to 1 (the authors: 50, at 2.5 times the cost)"""
    alphas: int = 3
    """dictionaries of a layer: the headline and the nearest in alpha; alpha 0 comes on top"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""


def run(store: RunStore, args: Args) -> None:
    """Write `patching` of every dictionary that lacks it.

    Raises DictionaryError for a run without headline dictionaries, InputError for a tokenizer that splits all names.
    """
    entries = {entry.id: entry for entry in chosen(store, args.alphas)}
    if not entries:
        fix = f"Run first: python -m precompute metrics --run {store.folder}"
        raise DictionaryError("a headline dictionary with weights", "none", fix)
    made = {id: rows for id, rows in _made(store, args).items() if id in entries}
    waiting = [entry for entry in entries.values() if entry.id not in made]
    if not waiting:
        return
    model, seed = load_model(store, args.device), store.manifest.spec.seed
    pairs = prompt_pairs(model.encode, args.pairs, seed)
    for entry in bar(waiting, "patching", len(entries), "dictionary", len(made)):
        made[entry.id] = dictionary_rows(model, entry.id, load_entry(store, entry, model.device), pairs, args, seed)
        done = {id: entries[id].hash for id in made}
        table = pd.concat(made.values(), ignore_index=True)
        store.write_table(TABLE, table, provenance=store.provenance(**_settings(store, args), dictionaries=done))


def state(store: RunStore) -> str:
    """`partial` where dictionaries have been added since, or the step was stopped."""
    found = store.table_state(TABLE)
    if found != "ready":
        return found
    settings = store.table_info(TABLE).settings
    wanted = {entry.id: entry.hash for entry in chosen(store, settings["alphas"])}
    return "ready" if wanted.items() <= settings["dictionaries"].items() else "partial"


# ---- which dictionaries


def chosen(store: RunStore, alphas: int) -> list[DictionaryEntry]:
    """Of each layer with a headline dictionary: it and its `alphas` - 1 nearest in log alpha, alpha 0, and PCA."""
    here = with_weights(store)
    layers = sorted({entry.spec.site.layer for entry in here if entry.headline})
    return [entry for layer in layers for entry in _of_layer(here, store.headline(layer), alphas)]


def _of_layer(entries: Sequence[DictionaryEntry], headline: DictionaryEntry, alphas: int) -> Iterator[DictionaryEntry]:
    main = headline.spec
    same = (main.site, main.kind, main.ratio, "")
    alike = [e for e in entries if (e.spec.site, e.spec.kind, e.spec.ratio, e.spec.variant) == same]
    priced = [e for e in alike if e.spec.alpha > 0]
    priced.sort(key=lambda e: (not e.headline, abs(log(e.spec.alpha / main.alpha)) if main.alpha else e.spec.alpha))
    yield from (e for e in alike if e.spec.alpha == 0)
    yield from priced[:alphas]
    yield from (e for e in entries if e.spec.site == main.site and e.spec.kind in METHODS and not e.spec.variant)


# ---- rows


def dictionary_rows(
    model: LanguageModel, id: str, dictionary: Dictionary, pairs: Sequence[PromptPair], args: Args, seed: int
) -> pd.DataFrame:
    """Rows of `patching` of one dictionary, by all methods that its kind stands for."""
    kind = dictionary.spec.kind if dictionary.spec else ""
    frames = []
    for method, signed in METHODS.get(kind, (("sae", False),)):
        patching = read_pairs(model, dictionary, pairs, signed=signed)
        frames.append(rows_of(id, method, patching, args.thresholds, seed))
    return pd.concat(frames)


def rows_of(id: str, method: str, patching: Patching, thresholds: int, seed: int) -> pd.DataFrame:
    """Rows of `patching` of one dictionary and method, for both orders."""
    k = len(patching.features)
    if not k:
        print(f"{id}: no feature differs between the two runs of any pair (no live feature?); nothing can be patched")
    acdc = acdc_order(patching, log_thresholds(thresholds), seed).order
    orders: dict[str, Tensor] = {"acdc": acdc, "magnitude": magnitude_order(patching)}
    frames = [_curve_rows(curve(patching, order, sizes(k)), seed).assign(order=name) for name, order in orders.items()]
    facts = {"dictionary": id, "method": method, "n_pairs": patching.n_pairs, "n_differing": k}
    return pd.concat(frames).assign(**facts)[PATCHING.column_names]


def sizes(k: int) -> list[int]:
    """Numbers of patched features on the curve: every one at first, then growing by 15 %; 0 and k always among them."""
    found = list(range(min(k, SIZES_BEFORE_GROWTH) + 1))
    while found[-1] < k:
        found.append(min(k, int(np.ceil(found[-1] * GROWTH))))
    return found


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


def _settings(store: RunStore, args: Args) -> dict:
    wanted = {"pairs": args.pairs, "thresholds": args.thresholds, "alphas": args.alphas}
    return wanted | {"seed": store.manifest.spec.seed}


def _made(store: RunStore, args: Args) -> dict[str, pd.DataFrame]:
    """Rows by dictionary id, of dictionaries that are still the same, made with these settings."""
    try:
        settings, table = store.table_info(TABLE).settings, store.read(TABLE)
    except TableError:
        return {}
    hashes = settings["dictionaries"]
    if settings != {**_settings(store, args), "dictionaries": hashes}:
        return {}
    now = {entry.id: entry.hash for entry in store.dictionaries}
    return {id: rows for id, rows in table.groupby("dictionary") if now.get(id) == hashes.get(id)}
