"""A small run with a real (random) model, made once a process, and the app opened on a page of it."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from streamlit.testing.v1 import AppTest

from sae_core.store import RunStore
from tests.synthetic_run import write_synthetic_run

ROOT = Path(__file__).resolve().parents[2]


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@cache
def live_run() -> RunStore:
    """64 features in each of three layers, a tiny GPT-NeoX, contexts of 64 tokens at most."""
    return write_synthetic_run(Path(_folder().name) / "tiny", with_model=True, n_windows=200)


def headline(layer: int) -> str:
    """Id of the layer's headline dictionary."""
    return live_run().headline(layer).id


def open_page(page: str, **query: str | list[str]) -> AppTest:
    """The page with this address, after its first run."""
    os.environ["SAE_RUNS"] = str(live_run().folder.parent)
    app = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    app.query_params["run"] = live_run().folder.name
    for key, value in query.items():
        app.query_params[key] = value
    return app.switch_page(f"app_pages/{page}.py").run()


def page_text(app: AppTest) -> str:
    """Everything the page says, as one text."""
    parts = [*app.html, *app.info, *app.warning, *app.error, *app.markdown, *app.caption]
    return "\n".join(str(part.value) for part in parts)
