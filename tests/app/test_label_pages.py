"""Labels and explanations on pages: Browse, Feature and the tree, escaped, and searched for."""

from __future__ import annotations

import pandas as pd
import pytest

from app.components.feature_explanations import written
from sae_core.annotations import Annotations
from sae_core.store import RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts
from tests.core.test_labels import row

RULE = "Active right after “␣don” (10), “<script>” (9)"
MODEL = "names of <b>people</b> $x$ *y*"


@pytest.fixture
def id(run: RunStore) -> str:
    """A dictionary with labels of every source: own 2, model 3, rule 5."""
    id = run.main_dictionaries[1].id
    rows = [
        row(3, "gpt", 0.6, MODEL), row(5, "rule", 0.8, RULE, kind="previous"),
        row(5, "rule", 0.7, RULE, kind="previous", scheme="random_only"),
        row(6, "rule", 0.0, "Never active on this text.", kind="", skipped=True, n_fragments=0),
    ]  # fmt: skip
    run.write_table("scores", pd.DataFrame(rows), id)
    Annotations(run).put(id, 2, "<i>mine</i>")
    return id


def test_browse_shows_labels_with_their_source(open_page: Opener, id: str) -> None:
    test = open_page("browse", dictionary=id, hide="")
    assert_calm(test)
    named = test.dataframe[0].value.set_index("feature")["name"]
    assert named[2] == "own: <i>mine</i>" and named[5] == "rule: after ␣don · <script>" and named[4] == ""
    assert named[3] == f"model: {MODEL}"
    cards = texts(open_page("browse", dictionary=id, hide="", view="cards"))
    assert "5 rule: after ␣don · &lt;script&gt;" in cards
    assert "<script>" not in cards and "<b>people" not in cards and "<i>mine" not in cards


@pytest.mark.parametrize(("text", "found"), [("DON", [5]), ("people", [3]), ("mine", [2]), ("", [2, 5, 3])])
def test_a_label_search_finds_every_source(open_page: Opener, id: str, text: str, found: list[int]) -> None:
    test = open_page("browse", dictionary=id, search="label", text=text, hide="")
    assert_calm(test)
    shown = test.dataframe[0].value["feature"].tolist()
    assert sorted(shown) == sorted(found) and shown[0] == found[0]


def test_a_feature_page_says_where_its_label_is_from(open_page: Opener, id: str) -> None:
    said = texts(open_page("feature", dictionary=id, feature="5"))
    assert "title='Rule, score 0.80: Active right after" in said and ">rule</span>" in said
    assert "after ␣don · &lt;script&gt;" in said and "<script>" not in said
    own = texts(open_page("feature", dictionary=id, feature="2"))
    assert "&lt;i&gt;mine&lt;/i&gt; <span class='sae-badge' title='Your own label.'>own</span>" in own
    assert "class='sae-label'" not in texts(open_page("feature", dictionary=id, feature="4"))


def test_a_feature_page_lists_every_explanation(open_page: Opener, id: str) -> None:
    test = open_page("feature", dictionary=id, feature="5")
    assert_calm(test)
    shown = next(d.value for d in test.dataframe if "explainer" in d.value)
    assert shown["explainer"].tolist() == ["rule", "rule"]
    assert shown["scheme"].tolist() == ["top and random", "random only"]
    assert shown["interval"].tolist() == ["0.70 to 0.90", "0.60 to 0.80"]


def test_a_skipped_feature_says_why_and_shows_no_score() -> None:
    frame = pd.DataFrame([row(6, "rule", 0.0, "Never active on this text.", skipped=True), row(6, "gpt", 0.0, "zero")])
    shown = written(frame)
    assert shown["explanation"].tolist() == ["Skipped: Never active on this text.", "zero"]
    assert shown["score"].isna().tolist() == [True, False] and shown["interval"].tolist() == ["", "-0.10 to 0.10"]


def test_without_explanations_the_page_says_how_to_make_them(open_page: Opener, run: RunStore) -> None:
    test = open_page("feature", dictionary=run.main_dictionaries[0].id, feature="5")
    assert_calm(test)
    assert "precompute paper rules" in texts(test)


def test_a_spoilt_table_spoils_its_own_part_only(open_page: Opener, run: RunStore, id: str) -> None:
    run.table_path("scores", id).write_bytes(b"not a table")
    test = open_page("feature", dictionary=id, feature="5")
    assert not test.exception and len(errors(test)) == 1 and "scores" in errors(test)[0]
    assert "What it does to the prediction" in str([h.value for h in test.subheader])
    assert_calm(open_page("browse", dictionary=id, search="label", text="don"))
