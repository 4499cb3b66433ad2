"""The features step on a tiny model against a brute-force pass with dense codes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from precompute import features
from precompute.features import Args
from sae_core import code_index
from sae_core.errors import DictionaryError
from sae_core.schemas import OTHER_TOKEN
from sae_core.store import RunStore
from tests.precompute.tiny_run import BATCH, CONTEXT, dense_codes, tiny_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run with its feature tables, harvested in several shards."""
    patch = pytest.MonkeyPatch()
    patch.setattr(code_index, "SHARD_TOKENS", 2 * BATCH * CONTEXT)
    run = tiny_run(tmp_path_factory.mktemp("features") / "run")
    features.run(run, Args(device="cpu", batch=BATCH))
    patch.undo()
    return run


@pytest.fixture(scope="module", params=[0, 2])
def case(store: RunStore, request: pytest.FixtureRequest) -> tuple[str, np.ndarray, np.ndarray]:
    """A dictionary (of the residual, of neurons), the token ids and the dense codes."""
    id = store.main_dictionaries[request.param].id
    return id, *dense_codes(store, id)


def test_counts_and_statistics(store: RunStore, case: tuple) -> None:
    id, _, codes = case
    found = store.read("features", id)
    c = codes.astype(np.float64)
    assert found["feature"].tolist() == list(range(codes.shape[1]))
    assert found["n_active"].tolist() == (codes != 0).sum(0).tolist()
    np.testing.assert_allclose(found["density"], (codes != 0).mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["max_activation"], codes.max(0), rtol=1e-4)
    np.testing.assert_allclose(found["mean"], c.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["variance"], c.var(0), rtol=1e-3)
    alive = codes.max(0) > 0
    centred = c - c.mean(0)
    np.testing.assert_allclose(found["mean_active"][alive], c.sum(0)[alive] / (c != 0).sum(0)[alive], rtol=1e-4)
    variance = c.var(0)[alive]
    np.testing.assert_allclose(found["kurtosis"][alive], (centred**4).mean(0)[alive] / variance**2, rtol=1e-3)
    np.testing.assert_allclose(found["skew_uncentred"][alive], (c**3).mean(0)[alive] / variance**1.5, rtol=1e-3)
    assert found["dead"].tolist() == (~alive).tolist() and found["dead"][1]
    assert found["dense"].tolist() == ((codes != 0).mean(0) > 0.1).tolist() and found["dense"].any()


def test_top_tokens_and_entropy(store: RunStore, case: tuple) -> None:
    id, tokens, codes = case
    found, names = store.read("features", id), store.vocabulary()
    for feature, row in found.iterrows():
        sums, counts = Counter(), Counter()
        for token, code in zip(tokens.tolist(), codes[:, feature].tolist(), strict=True):
            if code:
                sums[token] += code
                counts[token] += 1
        best = sums.most_common(5)
        assert [sums[token] for token in row["top_token_ids"]] == pytest.approx([value for _, value in best])
        assert list(row["top_tokens"]) == [names[token] for token in row["top_token_ids"]]
        n = counts.total()
        entropy = -sum(k / n * math.log2(k / n) for k in counts.values())
        assert row["entropy"] == pytest.approx(entropy, abs=1e-5)


def test_histograms_equal_a_count_by_hand_and_add_up(store: RunStore, case: tuple) -> None:
    id, tokens, codes = case
    found, table = store.read("token_histograms", id), store.read("features", id)
    totals = found.groupby("feature")["count"].sum().reindex(range(codes.shape[1]), fill_value=0)
    assert totals.tolist() == table["n_active"].tolist()
    for feature in range(codes.shape[1]):
        rows = found[found["feature"] == feature]
        expected: dict[int, Counter] = {bin: Counter() for bin in range(10)}
        top = float(codes[:, feature].max())
        for token, code in zip(tokens.tolist(), codes[:, feature].tolist(), strict=True):
            if code:
                expected[min(max(math.ceil(code / top * 10) - 1, 0), 9)][token] += 1
        for bin, counts in expected.items():
            listed = rows[(rows["bin"] == bin) & (rows["token_id"] != OTHER_TOKEN)]
            assert {t: counts[t] for t in listed["token_id"]} == dict(
                zip(listed["token_id"], listed["count"], strict=True)
            )
            assert sorted(counts.values(), reverse=True)[:9] == listed["count"].tolist()
            assert rows[rows["bin"] == bin]["count"].sum() == counts.total()
        sparkline = np.log10(1 + np.array([c.total() for c in expected.values()]))
        np.testing.assert_allclose(table["sparkline"][feature], sparkline, rtol=1e-6)


def test_token_features_are_the_strongest_of_every_token(store: RunStore, case: tuple) -> None:
    id, tokens, codes = case
    found = store.read("token_features", id)
    n_active = (codes != 0).sum(0)
    for token in np.unique(tokens):
        rows, here = found[found["token_id"] == token], codes[tokens == token].astype(np.float64)
        best = np.sort(here.sum(0))[::-1][:30]
        np.testing.assert_allclose(
            np.sort(rows["mean_activation"] * rows["count"])[::-1], best[best > 0], rtol=1 / 256 + 1e-3
        )
        f = rows["feature"].to_numpy()
        assert rows["count"].tolist() == (here != 0).sum(0)[f].tolist()
        np.testing.assert_allclose(rows["share_of_token"], (here[:, f] != 0).mean(0), rtol=1 / 256 + 1e-3)
        np.testing.assert_allclose(rows["share_of_feature"], (here != 0).sum(0)[f] / n_active[f], rtol=1 / 256 + 1e-3)


def test_state_and_skipping(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert features.state(store) == "ready"
    monkeypatch.setattr(features, "code_indexes", lambda *_: pytest.fail("a ready step must not work"))
    features.run(store, Args(device="cpu"))


def test_other_settings_or_dictionaries_make_it_stale(store: RunStore) -> None:
    shorter = RunStore(store.folder, replace(store.manifest, spec=replace(store.manifest.spec, table_tokens=64)))
    assert features.state(shorter) == "stale"
    first, *others = store.dictionaries
    changed = RunStore(store.folder, replace(store.manifest, dictionaries=(replace(first, hash="x"), *others)))
    assert features.state(changed) == "stale"
    added = replace(first, id=first.id + "-copy")
    more = RunStore(store.folder, replace(store.manifest, dictionaries=(*store.dictionaries, added)))
    assert features.state(more) == "partial"


def test_a_run_without_main_dictionaries_says_what_to_do(store: RunStore) -> None:
    none = RunStore(store.folder, replace(store.manifest, dictionaries=()))
    assert features.state(none) == "missing"
    with pytest.raises(DictionaryError, match="precompute train"):
        features.run(none, Args(device="cpu"))


def test_readable_names(store: RunStore) -> None:
    found = store.read("token_histograms", store.main_dictionaries[0].id)
    names = store.vocabulary()
    expected = pd.Series(found["token_id"].map(names)).fillna("all others")
    assert found["token"].tolist() == expected.tolist()
