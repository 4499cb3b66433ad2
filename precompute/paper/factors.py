"""Step `factors`: for labelled text, the feature of each dictionary that best tells whether a token has a property."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from precompute.activation_files import ActivationFiles, activation_files
from precompute.common import bar, load_entry, load_model
from precompute.held_out import batches, held_out_labels
from precompute.paper.states import summary, with_weights
from precompute.workers import side_by_side
from sae_core.dictionaries import Dictionary
from sae_core.factors import F1, Detector, Properties, best_detectors, count_above, properties, score_detectors
from sae_core.schemas import FACTOR_MIN_POSITIVES, FACTORS
from sae_core.specs import RunSpec
from sae_core.store import DictionaryEntry, Provenance, RunStore

STEP = "factors"


@dataclass(frozen=True)
class Args:
    """Hold every dictionary against the known factors of a labelled corpus."""

    device: str = "auto"
    """auto, cpu, cuda or mps"""


def run(store: RunStore, args: Args) -> None:
    """Write `factors` of every dictionary that lacks it. Raises CorpusError for a corpus without labels."""
    ids, labels = held_out_labels(store)
    waiting = [entry for entry in with_weights(store) if _state(store, entry.id) != "ready"]
    if not waiting:
        return
    wanted = properties(labels)
    if not wanted.names:
        print(f"factors: no value of a factor has {FACTOR_MIN_POSITIVES} tokens in both halves; the tables stay empty")
    model = load_model(store, args.device)
    sites = list(dict.fromkeys(entry.spec.site for entry in waiting))
    with activation_files(store, model, sites, ids, STEP, "activations of held-out contexts") as files:

        def rows(entry: DictionaryEntry) -> pd.DataFrame:
            return factor_rows(load_entry(store, entry), files, wanted, store.manifest.spec)

        made = zip(waiting, side_by_side(rows, waiting), strict=True)
        for entry, frame in bar(made, "factors", len(waiting), "dictionary"):
            store.write_table("factors", frame, entry.id, _provenance(store, entry.id))


def state(store: RunStore) -> str:
    """State of the tables of all dictionaries."""
    return summary({_state(store, entry.id) for entry in with_weights(store)})


def factor_rows(dictionary: Dictionary, files: ActivationFiles, wanted: Properties, spec: RunSpec) -> pd.DataFrame:
    """Rows of `factors`: detectors chosen on the first half of the contexts, F1 on the second."""
    if not wanted.names:
        return pd.DataFrame(columns=FACTORS.column_names)
    half = files.n // 2
    first, second = (
        batches(files, dictionary.site, wanted.wanted, rows, spec.first) for rows in (slice(half), slice(half, None))
    )
    detectors = best_detectors(count_above(dictionary, first))
    found = score_detectors(dictionary, detectors, second, spec.seed)
    n_tokens = (files.n - half) * (files.t - spec.first)
    rows = zip(wanted.names, detectors, found, strict=True)
    return pd.DataFrame([_row(name, detector, f1, n_tokens) for name, detector, f1 in rows])


def _row(name: tuple[str, str], detector: Detector, f1: F1, n_tokens: int) -> dict:
    factor, value = name
    chosen = {"feature": detector.feature, "sign": detector.sign, "threshold": detector.threshold}
    return {"factor": factor, "value": value, **chosen, **vars(f1), "n_tokens": n_tokens}


def _provenance(store: RunStore, id: str) -> Provenance:
    return store.provenance(id, seed=store.manifest.spec.seed)


def _state(store: RunStore, id: str) -> str:
    return store.table_state("factors", id, **_provenance(store, id).settings)
