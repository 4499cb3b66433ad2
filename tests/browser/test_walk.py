"""A reader's walk in a real Chromium: Browse, a feature, a bar of its histogram, Ablate; and two readers at once."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_core.store import RunStore
from tests.app.live_run import live_run

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180_000  # ms; the first live page loads torch, perhaps on a busy machine
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),  # a few seconds each; a machine busy with other work may need minutes
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def run() -> RunStore:
    """The shipped run if it is here and complete, else a small one with a random model."""
    shipped = ROOT / "data" / "miniature"
    if (shipped / "manifest.json").exists():
        store = RunStore.open(shipped)
        heads = [d for d in store.main_dictionaries if d.headline]
        if heads and all(store.table_state("contexts", d.id) == "ready" for d in heads):
            return store
    return live_run()


@pytest.fixture(scope="module")
def server(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real server on a free port; its log is shown if it does not start."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app/main.py",
        "--server.headless=true",
        f"--server.port={port}",
    ]
    environment = {**os.environ, "SAE_RUNS": str(run.folder.parent)}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=environment)
    try:
        _wait_until_healthy(port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_until_healthy(port: int, log: Path) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: object) -> Iterator[object]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def opened(page: object, server: str, name: str, run: RunStore, query: str = "") -> None:
    """Go to a page and wait until its script has run."""
    page.goto(f"{server}/{name}?run={run.folder.name}{query}")
    settled(page)


def settled(page: object) -> None:
    page.wait_for_selector("h1")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    assert page.locator("[data-testid=stException]").count() == 0, page.locator(
        "[data-testid=stException]"
    ).inner_text()
    assert "Traceback" not in page.locator("body").inner_text()


def click_middle(page: object, bar: object) -> None:
    """Click a bar of a plot: at its place, since plotly hears the mouse on a layer above the bars."""
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def largest_kl(page: object) -> str:
    metric = page.locator("[data-testid=stMetric]").filter(has_text="Largest KL")
    metric.wait_for()
    settled(page)
    return metric.locator("[data-testid=stMetricValue]").inner_text()


@pytest.mark.parametrize("name", ["overview", "browse", "feature", "ablate", "causal_tree"])
def test_every_page_opens_without_an_error(page: object, server: str, run: RunStore, name: str) -> None:
    opened(page, server, "" if name == "overview" else name, run)
    assert page.locator(".sae-error").count() == 0


def test_a_walk_from_browse_to_ablate(page: object, server: str, run: RunStore) -> None:
    opened(page, server, "browse", run, "&view=cards&hide=dead&hide=dense&hide=position_only")
    page.locator("a.sae-card").first.click()
    page.wait_for_url(re.compile("/feature"))
    bar = page.locator(".js-plotly-plot .bars .point").first
    bar.wait_for()
    settled(page)
    click_middle(page, bar)
    page.wait_for_url(re.compile("band=bin"))
    page.locator(".sae-context").first.wait_for(timeout=PATIENCE)
    assert page.locator(".sae-context").count() > 0
    feature = re.search(r"feature=(\d+)", page.url).group(1)
    page.locator("[data-testid=stSidebar]").get_by_role("link", name="Ablate").click()
    page.wait_for_url(re.compile("/ablate"))
    assert float(largest_kl(page).split()[0]) > 0
    assert page.locator("[data-testid=stMultiSelect]").first.inner_text().find(f"#{feature}") >= 0


def test_a_click_on_a_kl_bar_moves_to_its_token(page: object, server: str, run: RunStore) -> None:
    feature = _feature_that_fires(run)
    opened(page, server, "ablate", run, f"&features={feature}&text=the+cat+in+the+hat&position=0")
    largest_kl(page)
    bars = page.locator(".js-plotly-plot").nth(1).locator(".bars .point")
    boxes = [bars.nth(i).bounding_box() or {"height": 0} for i in range(bars.count())]
    tallest = max(range(1, len(boxes)), key=lambda i: boxes[i]["height"])
    click_middle(page, bars.nth(tallest))
    page.wait_for_url(re.compile(r"position=[1-9]"))
    settled(page)


def test_two_readers_see_their_own_edits(browser: object, server: str, run: RunStore) -> None:
    """Both stay connected; what the first sees is the same before and after the second has come."""
    contexts = [browser.new_context(viewport={"width": 1440, "height": 1000}) for _ in range(2)]
    pages = [context.new_page() for context in contexts]
    seen = []
    for each, feature in zip(pages, _features_that_fire(run, 2), strict=True):
        each.set_default_timeout(PATIENCE)
        opened(each, server, "ablate", run, f"&text=the+cat+in+the+hat&features={feature}")
        seen.append(largest_kl(each))
    assert seen[0] != seen[1]
    pages[0].reload()
    assert largest_kl(pages[0]) == seen[0]
    for context in contexts:
        context.close()


def _feature_that_fires(run: RunStore) -> int:
    return _features_that_fire(run, 1)[0]


def _features_that_fire(run: RunStore, n: int) -> list[int]:
    """Features of the dictionary that Ablate opens with, strongest first on the test's sentence."""
    from app import live, state

    fires = live.firing(run, live.sentences(run, "the cat in the hat")[0])
    own = fires[fires["dictionary"] == state.default_dictionary(run).id]
    return own.groupby("feature")["activation"].max().nlargest(n).index.tolist()
