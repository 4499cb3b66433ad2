"""Pages under test: the real entry file on a synthetic run, opened by page name and address."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from sae_core.store import RunStore
from tests.synthetic_run import write_synthetic_run

Opener = Callable[..., AppTest]
N_FEATURES = 48


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without model, written once; tests get copies."""
    folder = tmp_path_factory.mktemp("template") / "synthetic"
    write_synthetic_run(folder, N_FEATURES, 3, n_windows=400, miniature=True, sweep=(2e-4, 3e-3))
    return folder


@pytest.fixture
def run(template: Path, tmp_path: Path) -> RunStore:
    """A copy of the synthetic run that the test may change; `SAE_RUNS` must point to its parent for pages."""
    shutil.copytree(template, tmp_path / "runs" / "synthetic")
    return RunStore.open(tmp_path / "runs" / "synthetic")


@pytest.fixture
def open_page(run: RunStore, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Opener:
    """`open_page("feature", feature="3")` runs that page of the synthetic run and returns it."""
    monkeypatch.setenv("SAE_RUNS", str(run.folder.parent))
    st.cache_data.clear()
    st.cache_resource.clear()

    def open(name: str, /, **query: str | list[str]) -> AppTest:
        test = AppTest.from_file(str(repository / "app" / "main.py"), default_timeout=30)
        test.switch_page(f"app_pages/{name}.py")
        for key, value in {"run": "synthetic", **query}.items():
            test.query_params[key] = value
        return test.run()

    return open


def texts(test: AppTest) -> str:
    """All HTML and Markdown of a page, in order."""
    return "\n".join([*(h.value for h in test.get("html")), *(m.value for m in test.markdown)])


def errors(test: AppTest) -> list[str]:
    """The error boxes of a page, and its sentences on what is not computed yet, as HTML."""
    marks = ("class='sae-error'", "class='sae-missing'")
    return [h.value for h in test.get("html") if any(mark in h.value for mark in marks)]


def assert_calm(test: AppTest) -> None:
    """No traceback and no error box."""
    assert not test.exception, [e.value for e in test.exception]
    assert not errors(test)
