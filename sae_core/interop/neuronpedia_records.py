"""One Neuronpedia record a feature, a context and an explanation, from the tables of a run. Light.

The group of strongest contexts is marked by binMin = binContains = -1; a bin's binContains is its share of the active
positions. Activations are written to 5 decimals. lossValues and logitContributions hold causal numbers
(`neuronpedia_effects`) or stay empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from sae_core import labels
from sae_core.annotations import Annotations
from sae_core.errors import TableError
from sae_core.imported_labels import ImportedLabels
from sae_core.interop.neuronpedia import Names, Record, record_id
from sae_core.labels import RULE
from sae_core.schemas import HISTOGRAM_BINS, TABLES
from sae_core.store import DictionaryEntry, RunStore

DECIMALS = 5
ALIGNED = 3
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
NO_LOGITS: Record = {
    "neg_str": [], "neg_values": [], "pos_str": [], "pos_values": [],
    "logits_hist_data_bar_heights": [], "logits_hist_data_bar_values": [],
}  # fmt: skip
EXPLAINER_TYPE = "oai_token-act-pair"
"""Neuronpedia's name for explanations from tokens and activations, the way of the paper."""


@dataclass(frozen=True)
class ContextEffects:
    """Causal numbers of n contexts: loss change by position [n][t], and logit contributions as JSON text [n]."""

    losses: list[list[float]]
    contributions: list[str]


Effects = Callable[[int, np.ndarray], ContextEffects]  # feature, token ids [n, t]


@dataclass
class Batch:
    """The tables of some features, read once. Missing tables are empty; the table `features` must be there."""

    store: RunStore
    entry: DictionaryEntry
    names: Names
    features: Sequence[int]
    vectors: np.ndarray  # [features of the batch, width], decoder directions
    words: Mapping[int, str]  # token by id, as it stands in the text
    logits: dict[int, Record] = field(default_factory=dict)
    effects: Effects | None = None

    def read(self, table: str) -> pd.DataFrame:
        """Rows of these features. Raises TableError for a table made from something else."""
        if self.store.table_state(table, self.entry.id) == "missing":
            return pd.DataFrame(columns=TABLES[table].column_names)
        return self.store.read(table, self.entry.id, key=list(self.features))

    @cached_property
    def histograms(self) -> pd.DataFrame:
        """Count by bin: feature, bin, bin_low, bin_high, count."""
        columns = ["feature", "bin", "bin_low", "bin_high"]
        return self.read("token_histograms").groupby(columns, as_index=False)["count"].sum()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Rows of `features`, by feature."""
        return self.store.read("features", self.entry.id, key=list(self.features)).set_index("feature")

    def common(self, feature: int) -> Record:
        """What every record of a feature begins with."""
        return {"modelId": self.names.model, "layer": self.names.source, "index": int(feature)}


# ---- features


def feature_records(batch: Batch) -> list[Record]:
    """One record a feature, in the order of the batch."""
    near = batch.read("neighbours")
    near = near[near["relation"] == "same"]
    return [
        _feature(batch, int(f), batch.rows.loc[f], vector, near[near["feature"] == f])
        for f, vector in zip(batch.features, batch.vectors, strict=True)
    ]


def _feature(batch: Batch, feature: int, row: pd.Series, vector: np.ndarray, near: pd.DataFrame) -> Record:
    bars = batch.histograms[batch.histograms["feature"] == feature]
    largest = _round(row["max_activation"])
    aligned = np.argsort(-np.abs(vector), kind="stable")[:ALIGNED]
    unknown = ("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1",
               "correlated_features_indices", "correlated_features_pearson", "correlated_features_l1")  # fmt: skip
    return {
        **batch.common(feature), "creatorId": batch.names.creator_id, "createdAt": batch.names.created,
        "maxActApprox": largest, "hasVector": True, "vector": _rounded(vector), "vectorLabel": None,
        "vectorDefaultSteerStrength": largest, "hookName": batch.entry.spec.site.hook,
        "topkCosSimIndices": near["other"].astype(int).tolist(), "topkCosSimValues": _rounded(near["similarity"]),
        "neuron_alignment_indices": aligned.tolist(), "neuron_alignment_values": _rounded(vector[aligned]),
        "neuron_alignment_l1": _rounded(np.abs(vector[aligned]) / np.abs(vector).sum()),
        **{name: [] for name in unknown}, **batch.logits.get(feature, NO_LOGITS),
        "frac_nonzero": float(row["density"]),
        "freq_hist_data_bar_heights": bars["count"].astype(int).tolist(),
        "freq_hist_data_bar_values": _rounded((bars["bin_low"] + bars["bin_high"]) / 2),
        "decoder_weights_dist": [], "sourceSetName": batch.names.set,
    }  # fmt: skip


# ---- activations


def activation_records(batch: Batch) -> list[Record]:
    """One record a stored context with activity, strongest group first; contexts without activity have no group."""
    contexts = batch.read("contexts")
    contexts = contexts[contexts["band"] != "none"]
    if contexts.empty:
        return []
    windows = batch.store.read("windows", key=contexts["window"].unique()).set_index("window")
    found = []
    for feature, own in contexts.groupby("feature", sort=True):
        strongest_first = own.assign(order=own["band"] != "top").sort_values(["order", "band", "rank"], kind="stable")
        found += _activations(batch, int(feature), strongest_first, windows)
    return found


def _activations(batch: Batch, feature: int, contexts: pd.DataFrame, windows: pd.DataFrame) -> list[Record]:
    ids = np.stack([np.asarray(ids, np.int64) for ids in windows.loc[contexts["window"], "token_ids"]])
    effects = batch.effects(feature, ids) if batch.effects else ContextEffects([[]] * len(ids), [None] * len(ids))
    bars = batch.histograms[batch.histograms["feature"] == feature].set_index("bin")["count"]
    largest = float(batch.rows.loc[feature, "max_activation"])
    rows = zip(contexts.itertuples(index=False), ids, effects.losses, effects.contributions, strict=True)
    return [
        {
            **_activation(batch, row, tokens, windows.loc[row.window, "source"]),
            "lossValues": [_round(loss) for loss in losses], "logitContributions": contributions,
            **_group(row.band, bars, largest), "qualifyingTokenIndex": int(row.position),
            "zIndices": None, "zValues": None,
        }
        for row, tokens, losses, contributions in rows
    ]  # fmt: skip


def _activation(batch: Batch, row: tuple, ids: np.ndarray, source: str) -> Record:
    values = dense_values(row, len(ids))
    peak = int(values.argmax())
    key = (batch.names.model, batch.names.source, row.feature, row.band, row.rank)
    return {
        "id": record_id("activation", *key), "tokens": [batch.words.get(int(id), UNKNOWN) for id in ids],
        "index": int(row.feature), "layer": batch.names.source, "modelId": batch.names.model,
        "maxValue": _round(values[peak]), "maxValueTokenIndex": peak,
        "minValue": _round(values.min()), "values": _rounded(values),
        "creatorId": batch.names.creator_id, "dataSource": source or None, "dataIndex": str(row.window),
        "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None, "createdAt": batch.names.created,
    }  # fmt: skip


def dense_values(row: tuple, n: int) -> np.ndarray:
    """Codes [n] of a row of `contexts`. The peak is stored exactly, the others rounded: none may pass a `top` peak."""
    values = np.zeros(n, np.float64)
    values[np.asarray(row.active_positions, dtype=int)] = np.asarray(row.active_values, np.float64)
    if row.band == "top":
        values = np.minimum(values, float(row.activation))
    if row.activation:
        values[row.position] = float(row.activation)
    return values


def _group(band: str, counts: pd.Series, largest: float) -> Record:
    """Edges of the bin and its share of the active positions (null where nobody counted). counts: by bin."""
    if band == "top":
        return {"binMin": -1, "binMax": -1, "binContains": -1}
    bin, width = int(band.removeprefix("bin")), largest / HISTOGRAM_BINS
    share = _round(counts.get(bin, 0) / counts.sum()) if len(counts) else None
    return {"binMin": _round(bin * width), "binMax": _round((bin + 1) * width), "binContains": share}


# ---- explanations


def explanation_records(batch: Batch) -> list[Record]:
    """One's own labels, imported ones, and the best explanation by rule or model, of each feature that has any."""
    own = Annotations(batch.store).labels(batch.entry.id)
    imported = ImportedLabels(batch.store).frame(batch.entry.id, list(batch.features))
    found = [_explanation(batch, f, own[f], None, None, "own label") for f in batch.features if f in own]
    for row in imported.itertuples(index=False):
        found.append(_explanation(batch, row.feature, row.text, None, None, labels.origin(row)))
    for row in _best_scored(batch).itertuples(index=False):
        by_rule = row.explainer == RULE
        note = f"by a rule, score {row.score:.3f}" if by_rule else f"score {row.score:.3f} ({row.simulator})"
        kind, model = (None, None) if by_rule else (EXPLAINER_TYPE, row.explainer)
        found.append(_explanation(batch, row.feature, row.explanation, kind, model, note))
    return sorted(found, key=lambda record: record["index"])


def _best_scored(batch: Batch) -> pd.DataFrame:
    try:
        return labels.best_explanations(batch.store, batch.entry.id, list(batch.features))
    except TableError:
        return pd.DataFrame()


def _explanation(batch: Batch, feature: int, text: str, kind: str | None, model: str | None, note: str) -> Record:
    key = (batch.names.model, batch.names.source, feature, note, text)
    return {
        "id": record_id("explanation", *key), **batch.common(feature), "description": text,
        "authorId": batch.names.creator_id, "embedding": [], "triggeredById": batch.names.creator_id,
        "typeName": kind, "explanationModelName": model, "notes": note, "createdAt": batch.names.created,
    }  # fmt: skip


def _round(value: float) -> float:
    return round(float(value), DECIMALS)


def _rounded(values: np.ndarray | pd.Series) -> list[float]:
    return [_round(value) for value in values]
