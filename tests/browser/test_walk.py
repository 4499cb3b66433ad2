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
from collections.abc import Callable, Iterator
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
    """Wait until the script has been at rest for half a second: one run of it may at once start the next."""
    page.wait_for_selector("h1")
    for _ in range(100):
        page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
        page.wait_for_timeout(500)
        if page.locator("[data-testid=stApp][data-test-script-state=notRunning]").count():
            break
    errors = page.locator("[data-testid=stException]")
    assert errors.count() == 0, errors.first.inner_text()
    assert "Traceback" not in page.locator("body").inner_text()


def click_middle(page: object, bar: object) -> None:
    """Click a bar of a plot: at its place, since plotly hears the mouse on a layer above the bars."""
    bar.scroll_into_view_if_needed()
    box = resting_place(page, bar)
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.wait_for_timeout(300)  # plotly clicks what its last hover found, and hovers are throttled
    page.mouse.click(*middle)


def resting_place(page: object, bar: object) -> dict[str, float]:
    """Where a bar is once nothing above it moves it any more."""
    box = None
    for _ in range(60):
        before, box = box, bar.bounding_box()
        if box and box == before:
            break
        page.wait_for_timeout(500)
    return box


def drawn(marks: object) -> list[dict[str, float]]:
    """Boxes of a plot's marks, all from one moment, once all of them are drawn."""
    marks.first.wait_for()
    boxes = marks.evaluate_all(
        "all => all.map(each => each.getBoundingClientRect()).map(b => ({y: b.y, height: b.height, width: b.width}))"
    )
    if any(box["width"] == 0 for box in boxes):
        raise playwright.TimeoutError("a mark has no size yet")
    return boxes


def click_until(page: object, pattern: str, click: Callable[[], None]) -> None:
    """Click until the address says so; like a reader, again where a page still busy has missed the click."""
    assert not re.search(pattern, page.url)
    for _ in range(15):
        settled(page)
        try:
            click()
            return page.wait_for_url(re.compile(pattern), timeout=PATIENCE / 18)
        except (playwright.TimeoutError, playwright.Error, LookupError):
            continue  # drawn again in between: look again
    pytest.fail(f"no click led to {pattern}: {page.url}")


def largest_kl(page: object) -> str:
    metric = page.locator("[data-testid=stMetric]").filter(has_text="Largest KL")
    metric.wait_for()
    settled(page)
    return metric.locator("[data-testid=stMetricValue]").inner_text()


@pytest.mark.parametrize(
    "name", ["overview", "browse", "feature", "ablate", "causal_tree", "patching", "compare", "paper"]
)
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
    click_until(page, "band=bin", lambda: click_middle(page, bar))
    page.locator(".sae-context").first.wait_for(timeout=PATIENCE)
    settled(page)
    playwright.expect(page.locator(".sae-context")).not_to_have_count(0)
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

    def click_tallest() -> None:
        heights = [box["height"] for box in drawn(bars)]
        click_middle(page, bars.nth(max(range(1, len(heights)), key=heights.__getitem__)))

    click_until(page, r"position=[1-9]", click_tallest)
    settled(page)


def test_a_click_in_the_grid_adds_the_feature(page: object, server: str, run: RunStore) -> None:
    first, second = _features_that_fire(run, 2)
    opened(page, server, "ablate", run, f"&features={first}&text=the+cat+in+the+hat&fires=grid")
    largest_kl(page)
    cells = page.locator(".js-plotly-plot").first.locator(".scatterlayer .point")

    def click_second_row() -> None:
        middles = [round(box["y"] + box["height"] / 2) for box in drawn(cells)]
        second_row = sorted(set(middles))[1]
        click_middle(page, cells.nth(middles.index(second_row)))

    click_until(page, rf"features={first}&features={second}\b", click_second_row)
    settled(page)


def test_a_click_in_the_ranking_adds_the_feature(page: object, server: str, run: RunStore) -> None:
    first = _feature_that_fires(run)
    opened(page, server, "ablate", run, f"&features={first}&text=the+cat+in+the+hat&fires=ranking&position=2")
    largest_kl(page)
    table = page.locator("[data-testid=stDataFrame]").first

    def click_first_row() -> None:
        table.scroll_into_view_if_needed()
        box = resting_place(page, table)
        page.mouse.click(box["x"] + 16, box["y"] + 35 + 17)  # its tick box, below the header

    # A feature of this dictionary joins the edit; one of another starts a new edit there.
    click_until(page, rf"features={first}&features=|dictionary=", click_first_row)
    settled(page)


def test_a_click_in_the_tree_makes_that_feature_the_root(page: object, server: str, run: RunStore) -> None:
    opened(page, server, "causal_tree", run, "&threshold=0")
    nodes = page.locator(".js-plotly-plot").first.locator(".scatterlayer .point")
    nodes.first.wait_for()
    settled(page)

    def click_lowest() -> None:
        heights = [box["y"] for box in drawn(nodes)]
        click_middle(page, nodes.nth(max(range(len(heights)), key=heights.__getitem__)))

    click_until(page, r"feature=\d", click_lowest)
    settled(page)
    assert page.locator(".sae-error").count() == 0


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
