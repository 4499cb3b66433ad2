"""Moments against score: scipy is the oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, pearsonr

from precompute import features
from precompute.paper import moments
from precompute.paper.moments import MOMENTS, Args
from precompute.paper.score_rows import merge_scores
from sae_core.store import RunStore
from tests.precompute.tiny_run import BATCH, tiny_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = tiny_run(tmp_path_factory.mktemp("moments") / "run")
    features.run(run, features.Args(device="cpu", batch=BATCH))
    return run


def write_scores(store: RunStore, index: int, explainer: str = "rule", n_skipped: int = 2) -> pd.DataFrame:
    entry = store.main_dictionaries[index]
    rng = np.random.default_rng(index)
    density = store.read("features", entry.id)["density"].to_numpy()
    frame = pd.DataFrame(
        {
            "feature": range(entry.n_features),
            "explainer": explainer,
            "scheme": "random_only",
            "setting": "corrected",
            "simulator": explainer,
            "kind": "token",
            "explanation": "",
            "score": density + 0.05 * rng.random(entry.n_features),
            "lower": 0.0,
            "upper": 1.0,
            "n_fragments": 5,
            "skipped": np.arange(entry.n_features) < n_skipped,
        }
    )
    merge_scores(store, entry, frame, store.provenance(entry.id))
    return frame


def test_correlations_equal_scipy(store: RunStore, capsys: pytest.CaptureFixture) -> None:
    first, second = (write_scores(store, index) for index in (0, 1))
    moments.run(store, Args())
    assert f"{store.main_dictionaries[2].id} has no scores" in capsys.readouterr().out
    found = store.read("moments_scores").set_index(["dictionary", "moment"])
    ids = [entry.id for entry in store.main_dictionaries[:2]]
    assert set(found.index.get_level_values(0)) == {*ids, "headline"}
    tables = [store.read("features", id).loc[2:] for id in ids]
    scores = [frame["score"].to_numpy()[2:] for frame in (first, second)]
    for moment in MOMENTS:
        for id, table, score in zip(ids, tables, scores, strict=True):
            row = found.loc[(id, moment)]
            assert row.r == pytest.approx(pearsonr(table[moment], score).statistic, abs=1e-5) and row.n == len(score)
            assert row.lower <= row.r <= row.upper
        pooled = pearsonr(np.concatenate([t[moment] for t in tables]), np.concatenate(scores)).statistic
        assert found.loc[("headline", moment)].r == pytest.approx(pooled, abs=1e-5)
    row = found.loc[(ids[0], "mean")]
    drawn = bootstrap(
        (tables[0]["mean"].to_numpy(), scores[0]), lambda x, y: pearsonr(x, y).statistic, paired=True,
        vectorized=False, n_resamples=400, method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    assert [row.lower, row.upper] == pytest.approx(list(drawn), abs=0.12)


def test_new_scores_make_it_stale(store: RunStore) -> None:
    write_scores(store, 0)
    moments.run(store, Args())
    assert moments.state(store) == "ready"
    write_scores(store, 2)
    assert moments.state(store) == "stale"
    moments.run(store, Args())
    assert moments.state(store) == "ready"
    assert store.main_dictionaries[2].id in set(store.read("moments_scores")["dictionary"])


def test_too_few_scored_features_are_named_and_left_out(store: RunStore, capsys: pytest.CaptureFixture) -> None:
    n = store.main_dictionaries[0].n_features
    write_scores(store, 0, "few", n_skipped=n - 19)
    moments.run(store, Args())
    assert "19 features" in capsys.readouterr().out
    found = store.read("moments_scores")
    assert not ((found["explainer"] == "few") & (found["dictionary"] == store.main_dictionaries[0].id)).any()


def test_equal_scores_correlate_with_nothing() -> None:
    frame = pd.DataFrame({"score": [0.5] * 30} | {moment: range(30) for moment in MOMENTS})
    frame = frame.assign(explainer="e", scheme="s", setting="corrected")
    assert {row["r"] for row in moments.correlations("d", frame, 0)} == {0.0}
