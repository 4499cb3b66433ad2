"""The contexts step on a tiny model against dense codes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from precompute import contexts
from precompute.contexts import Args
from sae_core.context_rows import runs
from sae_core.corpus import load_windows
from sae_core.histograms import bin_of, token_histogram
from sae_core.store import RunStore
from tests.precompute.tiny_run import BATCH, CONTEXT, WINDOW, dense_codes, tiny_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = tiny_run(tmp_path_factory.mktemp("contexts") / "run")
    contexts.run(run, Args(device="cpu", batch=BATCH))
    return run


@pytest.fixture(scope="module")
def case(store: RunStore) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The table of one dictionary, the token ids and the dense codes."""
    id = store.main_dictionaries[1].id
    return store.read("contexts", id), *dense_codes(store, id)


def test_every_row_shows_the_codes_of_its_window(case: tuple) -> None:
    table, tokens, codes = case
    for row in table.itertuples():
        inside = codes[row.window * WINDOW : (row.window + 1) * WINDOW, row.feature]
        assert row.active_positions.tolist() == inside.nonzero()[0].tolist()
        np.testing.assert_allclose(row.active_values, inside[inside != 0], rtol=1 / 64 + 1e-3)
        assert row.activation == inside[row.position]
        assert row.token_id == tokens[row.window * WINDOW + row.position]


def lead(tokens: np.ndarray, position: int) -> tuple[int, ...]:
    """The at most 12 tokens of its context that end with a position."""
    return tuple(tokens[max(position // CONTEXT * CONTEXT, position - 11) : position + 1].tolist())


def test_top_rows_are_the_strongest_windows_without_repeats(case: tuple) -> None:
    table, tokens, codes = case
    for feature in range(codes.shape[1]):
        top = table[(table["feature"] == feature) & (table["band"] == "top")]
        by_window = codes[:, feature].reshape(-1, WINDOW)
        peaks = {w: (float(by_window[w].max()), w * WINDOW + int(by_window[w].argmax())) for w in range(len(by_window))}
        wanted: dict[tuple, int] = {}
        for value, position in sorted(peaks.values(), key=lambda peak: (-peak[0], peak[1])):
            if value > 0:
                wanted.setdefault(lead(tokens, position), position)
        assert (top["window"] * WINDOW + top["position"]).tolist() == list(wanted.values())[:20]
        assert top["rank"].tolist() == list(range(len(top)))


def test_bins_and_silent_windows(case: tuple) -> None:
    table, tokens, codes = case
    for feature in range(codes.shape[1]):
        rows, code = table[table["feature"] == feature], codes[:, feature]
        active = code != 0
        bins = bin_of(code[active], code.max()) if active.any() else np.zeros(0)
        histogram = token_histogram(code[active], tokens[active])
        for bin in range(10):
            band = rows[rows["band"] == f"bin{bin}"]
            members = np.flatnonzero(active)[bins == bin]
            assert len(band) >= min(5, len({lead(tokens, position) for position in members}))
            assert set(band["window"] * WINDOW + band["position"]) <= set(members)
            if len(band):
                assert set(bin_of(band["activation"].to_numpy(), code.max())) == {bin}
                assert set(histogram.listed(bin)) <= set(band["token_id"])
        silent = rows[rows["band"] == "none"]
        quiet = (code.reshape(-1, WINDOW) == 0).all(1)
        assert len(silent) == min(5, quiet.sum()) and quiet[silent["window"]].all()


def test_windows_are_all_those_referred_to_with_source_and_labels(store: RunStore) -> None:
    found = store.read("windows").set_index("window")
    referred = set()
    for entry in store.main_dictionaries:
        referred |= set(store.read("contexts", entry.id)["window"])
    assert set(found.index) == referred
    corpus = load_windows(store.folder, "train")
    kinds = corpus.labels(slice(None))["kind"].reshape(-1, WINDOW)
    documents = corpus.documents.ravel()
    for window, row in found.iterrows():
        assert row["token_ids"].tolist() == corpus.tokens.reshape(-1, WINDOW)[window].tolist()
        assert row["source"] == corpus.sources(documents[window]) and row["document"] == documents[window]
        spread = np.full(WINDOW, "", object)
        for first, stop, value in json.loads(row["labels"] or "{}").get("kind", []):
            spread[first:stop] = value
        assert spread.tolist() == kinds[window].tolist()
    assert (found["labels"] != "").any()


def test_runs_join_equal_neighbours() -> None:
    values = np.array(["a", "a", "", "b", "a"])
    assert runs(values) == [[0, 2, "a"], [3, 4, "b"], [4, 5, "a"]]
    assert runs(np.array(["", ""])) == []


def test_windows_are_made_again_when_they_are_gone(store: RunStore) -> None:
    before = store.read("windows")
    store.table_path("windows").unlink()
    assert contexts.state(store) == "partial"
    contexts.run(store, Args(device="cpu"))
    assert contexts.state(store) == "ready"
    pd.testing.assert_frame_equal(store.read("windows"), before)
