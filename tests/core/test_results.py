"""Frames that several results read: every dictionary described, joined with its rows, and the interval of a mean."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sae_core.results import (
    DESCRIBED,
    KIND_NAMES,
    all_metrics,
    all_scores,
    described,
    kind_name,
    mean_interval,
)
from sae_core.schemas import TABLES
from sae_core.specs import COMPARISON_KINDS, K_KINDS, L1_KINDS, DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.synthetic_run import write_synthetic_run

SPEC = DictionarySpec(Site(3, "mlp_post"), "pca_topk", 2.0, k=23, variant="seed1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_synthetic_run(tmp_path_factory.mktemp("results") / "synthetic", 16, 2, n_windows=100, sweep=(3e-3,))


def score_rows(score: list[float], skipped: list[bool], setting: str = "corrected") -> pd.DataFrame:
    n = len(score)
    frame = pd.DataFrame({"feature": range(n), "score": score, "lower": score, "upper": score, "skipped": skipped})
    return frame.assign(
        explainer="rule", scheme="random_only", setting=setting, simulator="rule", kind="token", explanation="x",
        n_fragments=5,
    )  # fmt: skip


def test_a_dictionary_is_described_by_its_spec() -> None:
    entry = DictionaryEntry(SPEC.id, SPEC, 96, "hash", "baseline", False)
    assert described(entry) == {
        "id": "L3-mlp_post-pca_topk-r2-k23-seed1", "layer": 3, "site": "mlp_post", "kind": "pca_topk", "ratio": 2.0,
        "alpha": 0.0, "k": 23, "variant": "seed1", "role": "baseline", "headline": False, "n_features": 96,
    }  # fmt: skip
    without_k = replace(entry, spec=DictionarySpec(Site(0), "tied", 4, 1e-3))
    assert math.isnan(described(without_k)["k"])


def test_every_kind_has_a_name_of_its_own() -> None:
    assert {*L1_KINDS, *K_KINDS, *COMPARISON_KINDS} <= set(KIND_NAMES)
    assert len(set(KIND_NAMES.values())) == len(KIND_NAMES)
    assert kind_name("pca") == "PCA" and kind_name("gated") == "gated"


def test_metrics_of_every_dictionary(run: RunStore) -> None:
    found = all_metrics(run)
    assert list(found["id"]) == list(found["dictionary"]) == [d.id for d in run.dictionaries]
    for entry in run.dictionaries:
        row = found[found["id"] == entry.id].iloc[0]
        assert row["l0"] == run.read("metrics", entry.id)["l0"].iloc[0]
        assert (row["layer"], row["role"]) == (entry.spec.site.layer, entry.role)
    assert found["k"].isna().all() and found.columns.is_unique


def test_dictionaries_without_a_table_are_left_out(run: RunStore, tmp_path: Path) -> None:
    bare = RunStore.create(tmp_path / "bare", run.manifest)
    assert all_metrics(bare).empty and set(DESCRIBED) < set(all_metrics(bare).columns)
    scores = all_scores(bare, "corrected")
    assert scores.empty and set(DESCRIBED) | set(TABLES["scores"].column_names) - {"kind"} < set(scores.columns)


def test_scores_keep_skipped_rows_and_one_setting(run: RunStore, tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "scored", run.manifest)
    first, second = store.dictionaries[:2]
    published = score_rows([0.9], [False], "as-published")
    store.write_table("scores", pd.concat([score_rows([0.5, 0.0], [False, True]), published]), first.id)
    store.write_table("scores", score_rows([0.25], [False]), second.id)
    found = all_scores(store, "corrected")
    assert list(found["id"]) == [first.id, first.id, second.id]
    assert list(found["score"]) == [0.5, 0.0, 0.25] and list(found["skipped"]) == [False, True, False]
    assert set(found["kind"]) == {"tied"} and set(found["rule_kind"]) == {"token"}
    assert list(all_scores(store, "as-published")["score"]) == [pytest.approx(0.9)]


def test_scores_made_from_another_dictionary_are_left_out(run: RunStore, tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "stale", run.manifest)
    store.write_table("scores", score_rows([0.5], [False]), store.dictionaries[0].id)
    changed = (replace(store.dictionaries[0], hash="another"), *store.dictionaries[1:])
    store.update_manifest(dictionaries=changed)
    assert all_scores(store, "corrected").empty


def test_the_interval_is_the_authors_formula() -> None:
    values = [0.1, 0.4, 0.7, 0.2]
    mean, lower, upper = mean_interval(values)
    spread = math.sqrt(sum((v - 0.35) ** 2 for v in values) / 3)
    assert mean == pytest.approx(0.35)
    assert upper - mean == pytest.approx(1.96 * spread / 2) == pytest.approx(mean - lower)
    assert mean_interval([*values, math.nan]) == (mean, lower, upper)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    ends = [mean_interval(rng.normal(3.0, 2.0, 150))[1:] for _ in range(2000)]
    assert 0.935 < np.mean([lower < 3.0 < upper for lower, upper in ends]) < 0.965


def test_too_few_values_have_no_interval() -> None:
    assert all(map(math.isnan, mean_interval([])))
    mean, lower, upper = mean_interval([0.5])
    assert mean == 0.5 and math.isnan(lower) and math.isnan(upper)
