"""Contexts, effects and edges computed now hold the rows of the steps, and read no more text than they must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from precompute import contexts, edges, effects, features
from precompute.common import load_entry, load_model
from sae_core import compute_now
from sae_core.compute_now import STRONG, contexts_now, edges_now, effects_now, find_windows
from sae_core.errors import CorpusError
from sae_core.rounding import round_column
from sae_core.sampling import window_priorities
from sae_core.schemas import EFFECT_WINDOWS, TABLES
from sae_core.store import RunStore
from sae_core.table_making import MAKES, add_rows, made, parent_of, table_text
from tests.precompute.tiny_run import BATCH, CONTEXT, WINDOW, dense_codes, tiny_run

N_CONTEXTS = 80


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run with the tables of the steps and without left-over codes."""
    store = tiny_run(tmp_path_factory.mktemp("now") / "run", n_contexts=N_CONTEXTS, density=0.15)
    for step in (features, contexts, effects, edges):
        step.run(store, step.Args(device="cpu", batch=BATCH))
    store.clear_scratch("codes")
    return store


def now(store: RunStore, id: str, feature: int) -> dict:
    model, told = load_model(store, "cpu"), []
    rows = effects_now(
        store, store.dictionary(id), model, load_entry(store, store.dictionary(id)), feature, told.append
    )
    assert told[-1] == 1.0 and all(0 <= share <= 1 for share in told)
    return rows


def contexts_of(store: RunStore, id: str, feature: int) -> pd.DataFrame:
    entry, told = store.dictionary(id), []
    rows = contexts_now(store, entry, load_model(store, "cpu"), load_entry(store, entry), feature, told.append)
    assert told[-1] == 1.0 and all(0 <= share <= 1 for share in told) and list(rows) == ["contexts"]
    table, place = rows["contexts"], TABLES["contexts"].column_names.index("active_values")
    rounded = round_column(table.column(place), TABLES["contexts"].columns[place].bits)  # as a table is stored
    return table.set_column(place, table.schema.field(place), rounded).to_pandas()


def edges_of(store: RunStore, id: str, some: list[int]) -> dict:
    entry = store.dictionary(id)
    parent, child = (load_entry(store, each) for each in (parent_of(store, entry), entry))
    return edges_now(store, entry, load_model(store, "cpu"), parent, child, some, lambda share: None)


def assert_rows(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Equal but for the last bits, which depend on how many windows are read at once."""
    by = [name for name in ("population", "bin", "token_id", "parent") if name in found]
    found, expected = (frame.sort_values(by, ignore_index=True) for frame in (found, expected))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dictionary", [0, 2])
@pytest.mark.parametrize("feature", [0, 1, 30])
def test_contexts_are_the_rows_of_the_step(
    whole: RunStore, dictionary: int, feature: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute_now, "BATCH", BATCH)  # as the step: another one can change the last bit of a code
    id = whole.main_dictionaries[dictionary].id
    found, expected = contexts_of(whole, id, feature), whole.read("contexts", id, key=feature)
    assert len(expected) > (5 if feature != 1 else 4)  # a dead feature has its silent windows
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_contexts_of_codes_left_by_a_step_need_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny_run(tmp_path / "run", n_contexts=40, density=0.2)
    features.run(store, features.Args(device="cpu", batch=BATCH))
    id, given = store.headline(1).id, {"device": "cpu", "batch": BATCH, "features": "7"}
    monkeypatch.setattr(compute_now, "codes_of", lambda *_: pytest.fail("the codes are there"))
    found = contexts_of(store, id, 7)
    contexts.run(store, contexts.Args(**given))
    pd.testing.assert_frame_equal(found, store.read("contexts", id, key=7), check_exact=True)


@pytest.mark.parametrize("dictionary", [0, 1, 2])
@pytest.mark.parametrize("feature", [0, 1, 7, 30])
def test_effects_are_the_rows_of_the_step(whole: RunStore, dictionary: int, feature: int) -> None:
    id = whole.main_dictionaries[dictionary].id
    for table, rows in now(whole, id, feature).items():
        expected = whole.read(table, id, key=feature)
        assert_rows(rows.to_pandas(), expected)
        assert len(expected) or feature == 1 or table == "next_token_drops"


def test_edges_are_the_rows_of_the_step(whole: RunStore) -> None:
    id = whole.headline(1).id
    table = whole.read("causal_edges", id)
    some = sorted(table["feature"].unique()[:3].tolist())
    assert len(some) == 3
    assert_rows(edges_of(whole, id, some)["causal_edges"].to_pandas(), table[table["feature"].isin(some)])
    assert edges_of(whole, id, [1])["causal_edges"].num_rows == 0  # dead


def test_codes_left_by_a_step_are_read_instead_of_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny_run(tmp_path / "run", n_contexts=40, density=0.2)
    features.run(store, features.Args(device="cpu", batch=BATCH))
    entry = store.headline(1)
    from_text = compute_now.text_codes(
        load_model(store, "cpu"), load_entry(store, entry), table_text(store), [7], print, STRONG
    )
    monkeypatch.setattr(compute_now, "codes_of", lambda *_: pytest.fail("the codes are there"))
    tables = {**now(store, entry.id, 7), **edges_of(store, entry.id, [7])}
    assert tables["logit_effects"].num_rows and len(from_text[0].codes)
    kept = next(compute_now.kept_codes(store, entry, table_text(store)).features(7, 8))
    strong = kept.codes >= kept.codes.max() / 2
    np.testing.assert_array_equal(from_text[0].positions, kept.positions[strong])


def test_windows_are_those_of_lowest_rank_and_reading_stops_early(
    whole: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, text = whole.main_dictionaries[0], table_text(whole)
    codes = dense_codes(whole, entry.id)[1].reshape(-1, WINDOW, entry.n_features)
    priorities = window_priorities(len(codes), 5)
    model, dictionary = load_model(whole, "cpu"), load_entry(whole, entry)
    read: list[int] = []
    original = compute_now.codes_of
    monkeypatch.setattr(compute_now, "codes_of", lambda *args: read.append(len(args[2])) or original(*args))
    for feature in range(0, 32, 3):
        read.clear()
        active = np.flatnonzero((codes[..., feature] != 0).any(1))
        wanted = np.sort(active[np.argsort(priorities[active])[:EFFECT_WINDOWS]])
        found = find_windows(model, dictionary, text, feature, priorities, None, lambda share: None)
        np.testing.assert_array_equal(found, wanted)
        if len(active) > 2 * EFFECT_WINDOWS:
            assert sum(read) < N_CONTEXTS
        n_active = int((codes[..., feature] != 0).sum())
        found = find_windows(model, dictionary, text, feature, priorities, n_active, lambda share: None)
        np.testing.assert_array_equal(found, wanted)
    assert CONTEXT == text.context


def test_computed_rows_are_added_to_the_table(whole: RunStore, tmp_path: Path) -> None:
    store = tiny_run(tmp_path / "run", n_contexts=N_CONTEXTS, density=0.15)
    entry = store.main_dictionaries[0]
    for feature in (7, 1, 3):
        rows = {table: [block] for table, block in now(store, entry.id, feature).items()}
        add_rows(store, "effects", entry, rows, np.array([feature]))
    assert made(store, "effects", entry).features.tolist() == [1, 3, 7]
    effects.run(store, effects.Args(device="cpu", batch=BATCH))
    assert effects.state(store) == "ready"
    for table in MAKES["effects"]:
        found, expected = store.read(table, entry.id), whole.read(table, entry.id)
        assert found["feature"].tolist() == expected["feature"].tolist()
        for feature in (3, 7):
            assert_rows(found[found["feature"] == feature], expected[expected["feature"] == feature])


def test_without_the_windows_it_says_so(tmp_path: Path) -> None:
    store = tiny_run(tmp_path / "run")
    model, entry = load_model(store, "cpu"), store.main_dictionaries[0]
    dictionary = load_entry(store, entry)
    (store.folder / "corpus" / "corpus.json").unlink()
    with pytest.raises(CorpusError, match="precompute corpus"):
        effects_now(store, entry, model, dictionary, 0, lambda share: None)
    with pytest.raises(CorpusError, match="precompute corpus"):
        contexts_now(store, entry, model, dictionary, 0, lambda share: None)
