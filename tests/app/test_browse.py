"""Browse: sort, filter and search against brute force on the tables; the page itself; speed is in the benchmarks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sae_core import browse
from sae_core.annotations import Annotations
from sae_core.errors import InputError, TableError
from sae_core.store import RunStore
from tests.app.conftest import N_FEATURES, Opener, assert_calm, errors, texts


@pytest.fixture
def id(run: RunStore) -> str:
    return run.main_dictionaries[1].id


# ---- sae_core.browse against pandas


@pytest.mark.parametrize("column", browse.SORTABLE)
@pytest.mark.parametrize("descending", [False, True])
def test_sort_and_filter_match_pandas(run: RunStore, id: str, column: str, descending: bool) -> None:
    frame = run.read("features", id)
    low, high = frame["entropy"].quantile([0.2, 0.9])
    limits = {"entropy": (low, high), "density": (None, 0.2)}
    query = browse.Query(column, descending, ("dead", "position_only"), limits)
    keep = frame.query("~dead and ~position_only and @low <= entropy <= @high and density <= 0.2")
    wanted = keep.sort_values(column, ascending=not descending, kind="stable")["feature"]
    assert 0 < len(wanted) < N_FEATURES
    assert browse.feature_index(run, id).select(query).tolist() == wanted.tolist()


def test_pages_cover_everything_once(run: RunStore, id: str) -> None:
    index = browse.feature_index(run, id)
    pages = [browse.page(index, browse.Query("density", True), n, 10) for n in range(1, 6)]
    assert [p.n_pages for p in pages] == [5] * 5
    assert sorted(pd.concat([p.frame for p in pages])["feature"]) == list(range(N_FEATURES))
    assert browse.page(index, browse.Query(), 99, 10).number == 5
    assert browse.page(index, browse.Query(), -3, 10).number == 1
    empty = browse.page(index, browse.Query(ranges={"density": (2.0, None)}), 1, 10)
    assert sorted(pages[2].order) == list(range(N_FEATURES))
    assert (empty.total, empty.n_pages, len(empty.frame)) == (0, 1, 0)


def test_unknown_columns_are_refused(run: RunStore, id: str) -> None:
    index = browse.feature_index(run, id)
    for query in (browse.Query("top_tokens"), browse.Query(hide=("big",)), browse.Query(ranges={"x": (0, 1)})):
        with pytest.raises(InputError):
            index.select(query)


def test_input_token_search_matches_the_table(run: RunStore, id: str) -> None:
    table = run.read("token_features", id)
    token = int(table["token_id"].mode()[0])
    rows = table[table["token_id"] == token]
    wanted = rows.assign(mass=rows["count"] * rows["mean_activation"]).sort_values("mass", ascending=False)
    found = browse.by_input_token(run, id, token)
    assert found["feature"].tolist() == wanted["feature"].tolist() and len(found) > 1
    assert browse.by_input_token(run, id, 10**6).empty


@pytest.mark.parametrize("lowered", [True, False])
def test_output_token_search_matches_the_table(run: RunStore, id: str, lowered: bool) -> None:
    table = run.read("logit_effects", id)
    side = table[(table["mean_change_logprob"] < 0) == lowered]
    token = int(side["token_id"].mode()[0])
    wanted = side[side["token_id"] == token].sort_values("mean_change_logprob", ascending=lowered)["feature"]
    found = browse.by_output_token(run, id, token, lowered)
    assert found["feature"].tolist() == wanted.tolist() and len(wanted) > 1


def test_children_match_the_edges(run: RunStore) -> None:
    below = run.main_dictionaries[2].id
    edges = run.read("causal_edges", below)
    parent = int(edges.loc[edges["parent"] >= 0, "parent"].mode()[0])
    wanted = edges[edges["parent"] == parent]
    found = browse.children(run, below, parent)
    assert set(found["feature"]) == set(wanted["feature"])
    assert found["relative_drop"].abs().is_monotonic_decreasing


def test_a_new_table_replaces_the_cached_index(run: RunStore, id: str) -> None:
    before = browse.feature_index(run, id)
    assert browse.feature_index(run, id) is before
    frame = run.read("features", id)
    frame["density"] = np.float32(0.25)
    run.write_table("features", frame, id)
    after = browse.feature_index(run, id)
    assert after is not before and set(after.columns["density"]) == {np.float32(0.25)}


def test_missing_and_foreign_tables_are_refused(run: RunStore, id: str) -> None:
    path = run.table_path("features", id)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TableError):
        browse.feature_index(run, id)
    path.unlink()
    with pytest.raises(TableError, match="precompute"):
        browse.feature_index(run, id)


VOCABULARY = pd.Series(["the", "␣the", "␣them", "↵", "␣", "␣The", "."], index=range(7))


@pytest.mark.parametrize(
    ("text", "ids"),
    [("the", [0, 1, 5, 2]), (" the", [1, 5, 2]), ("␣the", [1, 5, 2]), ("\n", [3]), (".", [6]), ("hem", [2])],
)
def test_find_tokens_puts_the_exact_one_first(text: str, ids: list[int]) -> None:
    assert browse.find_tokens(VOCABULARY, text) == ids


def test_find_tokens_reads_no_pattern_and_refuses_nonsense() -> None:
    assert browse.find_tokens(VOCABULARY, ".")[0] == 6
    with pytest.raises(InputError):
        browse.find_tokens(VOCABULARY, "zzz(")


# ---- the page


def rows(test) -> list[int]:
    return test.dataframe[0].value["feature"].tolist()


def test_first_visit_lists_live_features(open_page: Opener, run: RunStore, id: str) -> None:
    test = open_page("browse")
    assert_calm(test)
    frame = run.read("features", id)
    assert rows(test) == frame.loc[~frame["dead"], "feature"].tolist()[:50]


def test_the_address_decides_order_and_filter(open_page: Opener, run: RunStore, id: str) -> None:
    test = open_page("browse", dictionary=id, sort="density", order="down", hide=["dead", "dense"], min_entropy="2.9")
    assert_calm(test)
    frame = run.read("features", id).query("~dead and ~dense and entropy >= 2.9")
    assert rows(test) == frame.sort_values("density", ascending=False)["feature"].tolist()[:50]


def test_density_range_is_in_percent(open_page: Opener, run: RunStore, id: str) -> None:
    test = open_page("browse", dictionary=id, max_density="0.5")
    assert set(rows(test)) == set(run.read("features", id).query("~dead and density <= 0.005")["feature"])


@pytest.mark.parametrize("search", ["reads", "lowers", "raises"])
def test_token_searches(open_page: Opener, run: RunStore, id: str, search: str) -> None:
    find = browse.by_input_token if search == "reads" else browse.by_output_token
    table = "token_features" if search == "reads" else "logit_effects"
    token = int(run.read(table, id)["token_id"].mode()[0])
    extra = () if search == "reads" else (search == "lowers",)
    wanted = find(run, id, token, *extra)["feature"].tolist()
    test = open_page("browse", dictionary=id, search=search, text=run.vocabulary()[token], token=str(token))
    assert_calm(test)
    assert rows(test) == wanted


def test_a_token_that_does_not_exist(open_page: Opener) -> None:
    test = open_page("browse", search="reads", text="<script>zz")
    assert not test.exception and "&lt;script&gt;zz" in errors(test)[0]


def test_label_search_and_escaping(open_page: Opener, run: RunStore, id: str) -> None:
    Annotations(run).put(id, 7, "<b>apostrophe</b> 's", star=True)
    Annotations(run).put(id, 3, "other")
    test = open_page("browse", dictionary=id, search="label", text="APOSTROPHE", hide="")
    assert_calm(test)
    assert rows(test) == [7]
    cards = open_page("browse", dictionary=id, search="label", view="cards", hide="")
    assert "&lt;b&gt;apostrophe" in texts(cards) and "<b>apostrophe" not in texts(cards)


def test_cards_show_the_same_features_in_the_same_order(open_page: Opener, id: str) -> None:
    table = open_page("browse", dictionary=id, sort="density")
    cards = open_page("browse", dictionary=id, sort="density", view="cards")
    assert_calm(cards)
    linked = [int(part.split("'")[0]) for part in texts(cards).split("amp;feature=")[1:]]
    assert linked == rows(table)[: len(linked)] and len(linked) == 24
    assert "<script>" not in texts(cards)


def test_next_page_is_in_the_address(open_page: Opener, id: str) -> None:
    test = open_page("browse", dictionary=id, view="cards")
    assert test.button(key="previous").disabled
    test.button(key="next").click().run()
    assert test.query_params["page"] == "2" and "page 2 of 2" in texts(test)
    assert test.button(key="next").disabled


def test_a_click_opens_the_feature(open_page: Opener, id: str) -> None:
    test = open_page("browse", dictionary=id, sort="max_activation", order="down")
    wanted = rows(test)[2]
    test.session_state[f"features-{id}"] = {"selection": {"rows": [2], "columns": [], "cells": []}}
    test.run()
    assert not test.exception
    assert test.query_params["feature"] == str(wanted) and test.query_params["dictionary"] == id


def test_the_feature_page_goes_on_in_the_order_listed(open_page: Opener, run: RunStore, id: str) -> None:
    test = open_page("browse", dictionary=id, sort="entropy")
    order = browse.feature_index(run, id).select(browse.Query("entropy", hide=("dead",)))
    listed = test.session_state["browsed"]
    assert listed[:2] == ("synthetic", id) and set(listed[2]) == set(order)


def test_random_opens_a_live_feature(open_page: Opener, run: RunStore, id: str) -> None:
    test = open_page("browse", dictionary=id)
    test.button(key="random").click().run()
    assert int(test.query_params["feature"]) in browse.feature_index(run, id).alive


def test_nothing_found_is_said(open_page: Opener) -> None:
    test = open_page("browse", min_max_activation="1000000")
    assert_calm(test)
    assert "Loosen a filter" in texts(test) and not test.dataframe


@pytest.mark.parametrize(
    "query",
    [{"dictionary": "L9-resid_post-tied-r4-a1e-3"}, {"dictionary": "../../etc"}, {"sort": "x"}, {"page": "two"},
     {"hide": "everything"}, {"min_density": "a"}, {"max_entropy": "nan"},
     {"min_entropy": "-1"}, {"search": "reads", "text": "the", "token": "99999"}],
)  # fmt: skip
def test_bad_links_become_sentences(open_page: Opener, query: dict[str, str]) -> None:
    test = open_page("browse", **query)
    assert not test.exception and len(errors(test)) == 1
