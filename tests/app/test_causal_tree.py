"""The Causal tree page, on the corpus and on a typed sentence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from app import live, trees
from app.trees import Growth
from tests.app.live_run import headline, live_run, open_page, page_text

TEXT = "the cat's in the hat"


def test_a_first_visit_shows_a_tree() -> None:
    app = open_page("causal_tree")
    assert not app.exception and len(app.get("plotly_chart")) == 1
    assert len(app.dataframe[0].value) > 0


def test_the_first_root_has_the_most_sure_parents() -> None:
    rows = [(0, 1, 9.0, 4.6), (1, 1, 0.4, 0.1), (1, 2, 0.3, 0.1), (2, 1, 1.0, 0.0), (2, -1, 5.0, 0.0)]
    edges = pd.DataFrame(rows, columns=["feature", "parent", "relative_drop", "stderr"])
    run = SimpleNamespace(dictionary=lambda id: SimpleNamespace(n_features=3), read=lambda *args, **kwargs: edges)
    run.table_info = lambda *args: SimpleNamespace(settings={})
    assert trees.liveliest(run, "x") == 1
    run.read = lambda *args, **kwargs: edges.head(0)
    assert trees.liveliest(run, "x") == 0


def test_layer_0_says_why_there_is_no_tree() -> None:
    app = open_page("causal_tree", dictionary=headline(0), feature="3")
    assert "no layer before it" in app.info[0].value and not app.get("plotly_chart")


def test_a_high_threshold_names_the_strongest_edge() -> None:
    edges = trees.stored_edges(live_run(), headline(2), 1)
    strongest = edges.loc[edges["parent"] >= 0, "relative_drop"].abs().max()
    reason = trees.why_empty(live_run(), live_run().headline(2), edges, 0.999)
    assert f"{strongest:.2%}" in reason and "Lower the threshold" in reason


def test_too_few_contexts_are_said() -> None:
    none = trees.stored_edges(live_run(), headline(2), 1).head(0)
    assert "at least 5 contexts" in trees.why_empty(live_run(), live_run().headline(2), none, 0.05)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"feature": "64"}, "a feature from 0 to 63"),
        ({"feature": "x"}, "in the link"),
        ({"depth": "9"}, "&#x27;9&#x27; in the link"),
        ({"dictionary": "none"}, "&#x27;none&#x27; in the link"),
    ],
)
def test_bad_links_are_answered_with_a_sentence(query: dict, said: str) -> None:
    app = open_page("causal_tree", **query)
    assert not app.exception and said in page_text(app)


def test_the_live_tree_is_marked_against_the_stored_one() -> None:
    app = open_page(
        "causal_tree", dictionary=headline(2), feature=str(_firing_feature()), mode="live", text=TEXT, threshold="1"
    )
    assert not app.exception and len(app.get("plotly_chart")) == 1
    assert set(app.dataframe[0].value["mark"]) <= {"both", "live only", "stored only"}
    assert "edges measured here" in page_text(app)


def _firing_feature() -> int:
    fires = live.firing(live_run(), live.sentences(live_run(), TEXT)[0])
    return int(fires.loc[fires["dictionary"] == headline(2), "feature"].iloc[0])


def test_a_silent_root_is_said() -> None:
    fires = live.firing(live_run(), live.sentences(live_run(), "a")[0])
    active = set(fires.loc[fires["dictionary"] == headline(2), "feature"])
    silent = next(f for f in range(64) if f not in active)
    app = open_page("causal_tree", dictionary=headline(2), feature=str(silent), mode="live", text="a")
    assert "does not fire on this sentence" in app.info[0].value


def test_stored_trees_keep_depth_branching_and_threshold() -> None:
    nodes, links = trees.stored_tree(live_run(), (headline(2), 1), Growth(2, 2, 0.01))
    assert links.groupby(["child_dictionary", "child"]).size().max() <= 2
    assert (links["relative_drop"].abs() >= 0.01).all() and nodes["depth"].max() <= 2
    assert set(nodes["layer"]) <= {0, 1, 2}


def test_compare_marks_agreement_by_sign_and_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    stored_table = pd.DataFrame({"parent_dictionary": "a", "parent": [1, 2, 3], "relative_drop": [0.5, -0.5, 0.001]})
    monkeypatch.setattr(trees, "stored_edges", lambda run, dictionary, feature: stored_table)
    link = {"child_dictionary": "b", "child": 9, "parent_dictionary": "a"}
    here = pd.DataFrame([{**link, "parent": p, "relative_drop": 0.4} for p in (1, 2, 3, 4)])
    there = pd.DataFrame([{**link, "parent": p, "relative_drop": 0.5} for p in (1, 7)])
    found = trees.compare(None, here, there, 0.05).set_index("parent")
    assert found["mark"].to_dict() == {1: "both", 2: "live only", 3: "live only", 4: "live only", 7: "stored only"}
    assert np.isnan(found.loc[4, "stored_drop"]) and np.isnan(found.loc[7, "live_drop"])
