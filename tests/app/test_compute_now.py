"""Contexts, effects and trees computed on a click: the rows of the steps, kept in the run for the next visitor."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app import computed
from precompute import contexts, edges, effects, features, neighbours
from sae_core.errors import StorageError
from sae_core.store import RunStore
from sae_core.table_making import MAKES, made
from tests.app.conftest import errors, texts
from tests.precompute.tiny_run import BATCH, tiny_run

ROOT = Path(__file__).resolve().parents[2]
SHOWN = "class='sae-context-side'"


def make(store: RunStore, *steps: object) -> None:
    for step in steps:
        step.run(store, step.Args(device="cpu", batch=BATCH))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A finished run."""
    store = tiny_run(tmp_path_factory.mktemp("whole") / "whole", n_contexts=24, density=0.2)
    make(store, features, contexts, neighbours, effects, edges)
    return store


@pytest.fixture
def run(whole: RunStore, tmp_path: Path) -> Iterator[RunStore]:
    """The same without contexts of layer 1 and its MLP, effects and edges."""
    shutil.copytree(whole.folder, tmp_path / "runs" / "tiny")
    store = RunStore.open(tmp_path / "runs" / "tiny")
    for table in (*MAKES["effects"], *MAKES["edges"]):
        shutil.rmtree(store.folder / "tables" / table)
    for entry in store.main_dictionaries[1:]:
        store.table_path("contexts", entry.id).unlink()
    st.cache_data.clear()
    st.cache_resource.clear()
    before = os.environ.get("SAE_RUNS")
    os.environ["SAE_RUNS"] = str(tmp_path / "runs")
    yield store
    os.environ.pop("SAE_RUNS") if before is None else os.environ.update(SAE_RUNS=before)


def page(name: str, **query: str) -> AppTest:
    test = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=120)
    for key, value in {"run": "tiny", **query}.items():
        test.query_params[key] = value
    return test.switch_page(f"app_pages/{name}.py").run()


def loudest(whole: RunStore, layer: int) -> int:
    """A feature with edges (layer 1) and effects."""
    if layer == 0:
        return int(whole.read("features", whole.headline(0).id)["n_active"].idxmax())
    return int(whole.read("causal_edges", whole.headline(1).id)["feature"].iloc[0])


def assert_rows(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    by = [name for name in ("population", "bin", "token_id", "parent") if name in expected]
    found, expected = (frame.sort_values(by, ignore_index=True) for frame in (found, expected))
    assert len(expected)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-5)


def buttons(test: AppTest) -> list[str]:
    return [button.key for button in test.button if (button.key or "").startswith("compute")]


def test_effects_are_computed_on_a_click_and_kept(run: RunStore, whole: RunStore) -> None:
    entry, feature = run.headline(1), loudest(whole, 1)
    query = {"dictionary": entry.id, "feature": str(feature)}
    test = page("feature", **query)
    assert not test.exception and not errors(test)
    assert "The effects of this feature are not computed yet" in texts(test)
    n = len(test.get("plotly_chart"))
    test.button(key="compute-effects").click().run()
    assert not test.exception and not errors(test) and "compute-effects" not in buttons(test)
    assert (
        len(test.get("plotly_chart")) == n + 3 if len(whole.read("next_token_drops", entry.id, key=feature)) else n + 2
    )
    for table in MAKES["effects"]:
        expected = whole.read(table, entry.id, key=feature)
        if len(expected):
            assert_rows(run.read(table, entry.id, key=feature), expected)
    assert made(run, "effects", entry).features.tolist() == [feature]
    again = page("feature", **query)
    assert "compute-effects" not in buttons(again) and len(again.get("plotly_chart")) == len(test.get("plotly_chart"))
    other = page("feature", dictionary=entry.id, feature=str(feature + 2))
    assert "the run has 1 of" in texts(other)


def test_contexts_are_computed_on_a_click_and_kept_as_the_command_writes_them(run: RunStore, whole: RunStore) -> None:
    entry, feature = run.headline(1), loudest(whole, 1)
    by_command = RunStore.open(shutil.copytree(run.folder, run.folder.parent.parent / "by_command"))
    query = {"dictionary": entry.id, "feature": str(feature)}
    test = page("feature", **query)
    assert not test.exception and not errors(test)
    assert "The contexts of this feature are not computed yet" in texts(test) and SHOWN not in texts(test)
    test.button(key="compute-contexts").click().run()
    assert not test.exception and not errors(test) and "compute-contexts" not in buttons(test)
    assert texts(test).count(SHOWN) == min(20, len(run.read("contexts", entry.id).query("band == 'top'")))
    chosen = contexts.Args(device="cpu", features=str(feature), only=entry.id)
    contexts.run(by_command, chosen)
    for table, id in (("contexts", entry.id), ("windows", None)):
        found, expected = run.read(table, id), by_command.read(table, id)
        assert len(expected)
        pd.testing.assert_frame_equal(found, expected)
        assert run.table_info(table, id).settings == by_command.table_info(table, id).settings
    assert made(run, "contexts", entry).features.tolist() == [feature]
    other = page("feature", dictionary=entry.id, feature=str(feature + 2))
    assert "compute-contexts" in buttons(other) and SHOWN in texts(page("feature", **query))


def test_contexts_of_a_run_that_cannot_be_written_are_shown_with_the_corpus_text(
    run: RunStore, whole: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunStore, "write_sorted", refuses)
    entry, feature = run.headline(1), loudest(whole, 1)
    shown = page("feature", dictionary=entry.id, feature=str(feature))
    shown.button(key="compute-contexts").click().run()
    assert not shown.exception and not errors(shown) and "compute-contexts" not in buttons(shown)
    assert not run.table_path("contexts", entry.id).exists()
    kept = shown.session_state[computed.KEPT][entry.hash, "contexts", feature]
    expected = whole.read("contexts", entry.id, key=feature)
    assert sorted(kept["window"]) == sorted(expected["window"])
    stored = page("feature", dictionary=entry.id, feature=str(feature))
    monkeypatch.undo()
    contexts.run(run, contexts.Args(device="cpu"))
    assert "compute-contexts" in buttons(stored)
    now = page("feature", dictionary=entry.id, feature=str(feature))
    before, after = (tokens_shown(test) for test in (shown, now))
    assert len(before) > 20 and before == after


def tokens_shown(test: AppTest) -> list[str]:
    return [found for html in texts(test).split(SHOWN)[1:] for found in re.findall("<bdi[^>]*>([^<]*)</bdi>", html)]


def refuses(*_: object, **__: object) -> None:
    raise StorageError("to write", "a read-only folder", "Check it")


def test_a_tree_is_computed_layer_by_layer(run: RunStore, whole: RunStore) -> None:
    entry, feature = run.headline(1), loudest(whole, 1)
    test = page("causal_tree", dictionary=entry.id, feature=str(feature), threshold="0")
    assert not test.exception and buttons(test) == ["compute-tree"] and not test.get("plotly_chart")
    test.button(key="compute-tree").click().run()
    assert not test.exception and not errors(test) and not buttons(test)
    assert len(test.get("plotly_chart")) == 1
    assert_rows(run.read("causal_edges", entry.id), whole.read("causal_edges", entry.id, key=feature))
    shown = page("feature", dictionary=entry.id, feature=str(feature))
    assert "compute-edges" not in buttons(shown)


def test_a_run_that_cannot_be_written_keeps_the_rows_for_the_session(
    run: RunStore, whole: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computed, "add_rows", refuses)
    entry, feature = run.headline(1), loudest(whole, 1)
    test = page("feature", dictionary=entry.id, feature=str(feature))
    for step in ("contexts", "effects", "edges"):
        test.button(key=f"compute-{step}").click().run()
    assert not test.exception and not errors(test) and not buttons(test)
    assert not run.table_path("logit_effects", entry.id).exists()
    kept = test.session_state[computed.KEPT]
    for table in ("logit_effects", "causal_edges"):
        assert_rows(kept[entry.hash, table, feature], whole.read(table, entry.id, key=feature))
    assert "compute-effects" in buttons(page("feature", dictionary=entry.id, feature=str(feature)))


@pytest.mark.parametrize(
    ("lost", "said"),
    [("dictionaries", "the weights of"), ("corpus", "the corpus (the token windows) is not in the run")],
)
def test_without_weights_or_corpus_it_says_so(run: RunStore, whole: RunStore, lost: str, said: str) -> None:
    shutil.rmtree(run.folder / lost)
    test = page("feature", dictionary=run.headline(1).id, feature=str(loudest(whole, 1)))
    assert not test.exception and not buttons(test) and said in texts(test)


def test_without_a_model_a_click_is_answered_with_a_sentence(run: RunStore, whole: RunStore) -> None:
    shutil.rmtree(run.folder / "model")
    test = page("feature", dictionary=run.headline(1).id, feature=str(loudest(whole, 1)))
    test.button(key="compute-effects").click().run()
    assert not test.exception and len(errors(test)) == 1 and "tiny" in errors(test)[0]
