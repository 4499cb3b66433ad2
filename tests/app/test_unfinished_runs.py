"""Runs that are not finished: the banner, every page without each of its tables, and switching between runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.components.banner import sentences
from app.links import PAGES
from precompute import effects, features
from sae_core.running import Mark
from sae_core.schemas import MADE_BY
from sae_core.store import RunStore
from sae_core.table_making import MAKES
from tests.app.conftest import Opener, errors, texts
from tests.precompute.tiny_run import BATCH, tiny_run
from tests.synthetic_run import write_synthetic_run

OF_SYNTHETIC_RUNS = sorted({*sum(MAKES.values(), ()), "windows", "vocabulary", "metrics"})
WITHOUT_MODEL = [page for page in PAGES if page not in ("ablate", "patching")]
NOW = 1_000_000.0
STATES = dict.fromkeys(("corpus", "train", "metrics", "features", "contexts"), "ready")
STATES |= {"effects": "120 of 2,048 features", "edges": "missing", "neighbours": "missing"}


def error_boxes(test: AppTest) -> list[str]:
    return [h.value for h in test.get("html") if "class='sae-error'" in h.value]


def mark(step: str, **changes: object) -> Mark:
    found = Mark(step, os.getpid(), socket.gethostname(), NOW - 720, NOW - 1, "effects of L2", 2, 5)
    return replace(found, **changes)


def test_a_finished_run_has_no_banner(open_page: Opener) -> None:
    assert "class='sae-banner'" not in texts(open_page("overview"))
    assert sentences(dict.fromkeys(STATES, "ready"), [], "runs/x", NOW) == []


def test_the_banner_says_what_is_done_running_and_missing() -> None:
    lines = sentences(STATES, [mark("effects")], "runs/x", NOW)
    assert lines[0] == "effects is being computed: effects of L2, 40% (for 12 min 00 s)."
    assert "done: corpus, train, metrics, features, contexts" in lines[1]
    assert "effects: 120 of 2,048 features" in lines[1] and "not yet: edges, neighbours" in lines[1]
    assert lines[2] == "To go on: python -m precompute edges --run runs/x   (then neighbours)"


def test_a_mark_left_by_a_kill_is_no_running_step() -> None:
    lines = sentences(STATES, [mark("effects", updated=NOW - 999)], "runs/x", NOW)
    assert lines[0] == "effects stopped before its end; its command goes on from there."
    assert lines[-1].startswith("To go on: python -m precompute effects --run runs/x")


def test_a_running_step_is_shown_on_every_page(open_page: Opener, run: RunStore) -> None:
    shutil.rmtree(run.folder / "tables" / "causal_edges")
    folder = run.folder / "scratch" / "running"
    folder.mkdir(parents=True)
    now = time.time()
    (folder / "edges.json").write_text(json.dumps(mark("edges", started=now - 60, updated=now + 600).to_dict()))
    for page in WITHOUT_MODEL:
        shown = texts(open_page(page))
        assert "edges is being computed: effects of L2, 40%" in shown and "not yet: edges" in shown


@pytest.mark.parametrize("table", OF_SYNTHETIC_RUNS)
def test_pages_without_a_table_say_so_in_a_sentence(open_page: Opener, run: RunStore, table: str) -> None:
    path = run.folder / "tables"
    shutil.rmtree(path / table, ignore_errors=True)
    (path / f"{table}.parquet").unlink(missing_ok=True)
    told = []
    for page in PAGES:
        test = open_page(page)
        assert not test.exception, (page, [e.value for e in test.exception])
        missing_only = [box for box in error_boxes(test) if "model" not in box.lower()]
        assert not missing_only or page in ("paper", "ablate", "patching", "compare"), (page, missing_only)
        told.append(texts(test))
    if table in sum(MAKES.values(), ()) and table != "token_features":
        command = MADE_BY[table]
        assert any("ot computed yet" in text and f"precompute {command}" in text for text in told)


@pytest.mark.parametrize("left", ["nothing", "corpus", "dictionaries"])
def test_a_run_that_has_just_begun_can_be_looked_at(open_page: Opener, run: RunStore, left: str) -> None:
    shutil.rmtree(run.folder / "tables")
    dictionaries = tuple(replace(d, role="sweep", headline=False) for d in run.dictionaries)
    corpus = {} if left == "nothing" else run.manifest.corpus
    run.update_manifest(corpus=corpus, dictionaries=dictionaries if left == "dictionaries" else ())
    for page in PAGES:
        test = open_page(page)
        assert not test.exception and not error_boxes(test), page
        step = {"nothing": "corpus", "corpus": "train", "dictionaries": "metrics"}[left]
        assert f"To go on: python -m precompute {step} --run {run.folder}" in texts(test).replace("&#x27;", "'")


def test_finished_tables_are_seen_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny_run(tmp_path / "runs" / "tiny")
    monkeypatch.setenv("SAE_RUNS", str(tmp_path / "runs"))
    st.cache_data.clear()
    st.cache_resource.clear()
    test = AppTest.from_file(str(Path(__file__).resolve().parents[2] / "app" / "main.py"), default_timeout=60)
    test.query_params["run"] = "tiny"
    test.switch_page("app_pages/browse.py").run()
    assert not test.exception and "precompute features" in "".join(errors(test)) and not test.dataframe
    for step in (features, effects):
        step.run(store, step.Args(device="cpu", batch=BATCH))
    test.run()
    assert not test.exception and not errors(test) and len(test.dataframe)
    assert "done: corpus, train, metrics, features, effects" in texts(test)


def test_switching_runs_keeps_no_dictionary_or_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, n, layers in (("one", 40, 3), ("two", 16, 2)):
        write_synthetic_run(tmp_path / "runs" / name, n, layers, n_windows=100)
    monkeypatch.setenv("SAE_RUNS", str(tmp_path / "runs"))
    st.cache_data.clear()
    st.cache_resource.clear()
    one, two = (RunStore.open(tmp_path / "runs" / name) for name in ("one", "two"))
    test = AppTest.from_file(str(Path(__file__).resolve().parents[2] / "app" / "main.py"), default_timeout=60)
    for key, value in {"run": "one", "dictionary": one.headline(2).id, "feature": "39"}.items():
        test.query_params[key] = value
    test.switch_page("app_pages/feature.py").run()
    assert not errors(test) and "L2 feature 39" in texts(test)
    assert {"one", "two"} <= set(test.sidebar.selectbox(key="run").options)
    test.sidebar.selectbox(key="run").select("two").run()
    assert not test.exception and not errors(test)
    assert test.selectbox(key="dictionary").options == [d.id for d in two.main_dictionaries]
    assert "feature 0" in texts(test) and "feature 39" not in texts(test)
    assert test.number_input(key="feature").max == 15
    test.sidebar.selectbox(key="run").select("one").run()
    assert not errors(test) and test.number_input(key="feature").max == 39
