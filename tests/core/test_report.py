"""The HTML report: whole, self-contained, escaped, and with the numbers of the tables."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from app.palette import DARK, LIGHT
from sae_core.annotations import Annotations
from sae_core.interop.circuit_tree import Growth
from sae_core.interop.report_html import report
from sae_core.interop.report_parts import histogram, tree
from sae_core.interop.report_style import COLOURS, TOKEN_COLOURS
from sae_core.store import RunStore
from tests.core.test_labels import row
from tests.synthetic_run import write_synthetic_run

EVIL = "<script>alert('x')</script>\" onload=\"y"
VOID = {"meta", "wbr", "br", "rect", "line"}
OPTIONAL = {"p", "li", "td", "th", "tr"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Tokens such as <script>; labels, explanations and a description that try to be HTML."""
    store = write_synthetic_run(tmp_path_factory.mktemp("report") / "run", 32, 3, n_windows=80)
    id = store.headline(2).id
    Annotations(store).put(id, 3, EVIL)
    store.write_table("scores", pd.DataFrame([row(3, EVIL, 0.5, EVIL), row(5, "rule", 0.9, "Active on “a”")]), id)
    store.update_manifest(description=EVIL, name=EVIL)
    return store


@pytest.fixture(scope="module")
def page(store: RunStore) -> str:
    return report(
        store, [(store.headline(layer).id, f) for layer, f in ((2, 3), (2, 5), (1, 4), (0, 0))], Growth(2, 3, 0)
    )


class Tags(HTMLParser):
    """Tags in use, attributes by name, and what was closed without being open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def read(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    return parser


def test_it_is_whole_html_without_script_or_network(page: str) -> None:
    found = read(page)
    assert not found.wrong and not found.open, (found.wrong, found.open)
    assert not found.tags & {"script", "link", "img", "iframe", "object"}
    assert not [name for name in found.attributes if name.startswith("on")] and "src" not in found.attributes
    assert all(href.startswith("#") for href in found.attributes["href"])
    assert "http:" not in page and "https:" not in page and "url(" not in page and "@import" not in page
    assert page.startswith("<!doctype html>") and "<meta charset=utf-8>" in page


def test_every_text_is_escaped(page: str) -> None:
    assert "<script" not in page and page.count("&lt;script&gt;") > 3
    assert "alert('x')" not in page and "&#x27;x&#x27;" in page


def test_links_of_the_contents_lead_to_articles(page: str) -> None:
    targets = re.findall(r"<article id='([^']+)'", page)
    assert re.findall(r"href='#([^']+)'", page) == targets and len(targets) == 4


def test_numbers_are_those_of_the_tables(store: RunStore) -> None:
    id = store.headline(1).id
    feature = int(store.read("features", id)["n_active"].idxmax())
    page, row = report(store, [(id, feature)]), store.read("features", id, key=feature).iloc[0]
    assert f"<b>{row['n_active']:,}</b><span>active tokens" in page and f"<b>{100 * row['density']:.3g}%</b>" in page
    assert "Over all 2,000,000 table tokens." in page
    top = store.read("contexts", id, key=feature).query("band == 'top'")
    assert page.count("<div class=ctx>") == min(10, len(top)) and page.count("class=peak") == min(10, len(top))
    effects = store.read("logit_effects", id, key=feature)["mean_change_logprob"]
    assert f"{effects.min():+.3f} ±" in page and f"{effects.max():+.3f} ±" in page


def test_ten_features_stay_far_below_a_megabyte(store: RunStore) -> None:
    roots = [(store.headline(2).id, f) for f in range(10)]
    assert len(report(store, roots).encode()) < 500_000


def test_bars_of_the_histogram_are_as_high_as_their_counts_say() -> None:
    frame = pd.DataFrame(
        [(0, 0.0, 1.0, 7, "a", 60), (0, 0.0, 1.0, -1, "other tokens", 39), (9, 9.0, 10.0, 7, "a", 9)],
        columns=["bin", "bin_low", "bin_high", "token_id", "token", "count"],
    )
    drawn = histogram(frame)
    heights = {c: [float(h) for h in re.findall(rf"height=([\d.]+) fill=var\(--{c}\)", drawn)] for c in ("t0", "muted")}
    # log10(1 + 99) = 2 and log10(1 + 9) = 1: half as high.
    assert sum(heights["t0"][:1] + heights["muted"]) == pytest.approx(190, abs=0.2)
    assert heights["t0"][1] == pytest.approx(95, abs=0.1) and heights["t0"][0] == pytest.approx(190 * 60 / 99, abs=0.1)
    assert "0 to 1: 99 tokens" in drawn and "</span> 69<li>" in drawn and "all others 39" in drawn


def test_a_node_that_is_there_already_is_not_opened_again() -> None:
    columns = ["child_dictionary", "child", "parent_dictionary", "parent", "relative_drop", "stderr"]
    links = pd.DataFrame(
        [("c", 1, "b", 1, 0.5, 0.1), ("c", 1, "b", 2, -0.2, 0.1), ("b", 1, "a", 1, 0.3, 0), ("b", 2, "a", 1, 0.4, 0)],
        columns=columns,
    )
    names = {("c", 1): "root", ("b", 1): "left", ("b", 2): "<right>", ("a", 1): "both"}
    drawn = tree(("c", 1), links, names)
    assert drawn.count("both") == 2 and drawn.count("(above)") == 1 and "&lt;right&gt;" in drawn
    assert drawn.count("<li>") == 5 and "+50.0%" in drawn and "drop plus'>-20.0%" in drawn


def test_what_is_missing_says_so_in_its_place(store: RunStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = write_synthetic_run(tmp_path_factory.mktemp("part") / "run", 16, 2, n_windows=60)
    id = other.headline(1).id
    feature = int(other.read("features", id)["n_active"].idxmax())
    for table in ("contexts", "causal_edges", "logit_effects", "next_token_drops"):
        other.table_path(table, id).unlink()
    page = report(other, [(id, feature)])
    assert page.count("Not here: Expected the table") == 3 and "<svg" in page and not read(page).wrong


def test_dead_features_have_no_parts(store: RunStore) -> None:
    frame = store.read("features", store.headline(1).id)
    dead = frame.loc[frame["dead"], "feature"]
    assert len(dead)
    page = report(store, [(store.headline(1).id, int(dead.iloc[0]))])
    assert "Never active on these tokens" in page and "<svg" not in page and not read(page).wrong


def test_colours_are_those_of_the_dashboard() -> None:
    for dark, palette in ((False, LIGHT), (True, DARK)):
        assert all(getattr(palette, name) == colour for name, colour in COLOURS[dark].items())
        assert palette.tokens[: len(TOKEN_COLOURS[dark])] == TOKEN_COLOURS[dark]
