"""Feature: each part shows what its table holds; a click on a bar narrows the contexts; missing parts stay alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app import feature_parts
from sae_core import browse
from sae_core.annotations import Annotations
from sae_core.schemas import MADE_BY, OTHER_TOKEN, REST_OF_PARENTS
from sae_core.store import RunStore
from tests.app.conftest import N_FEATURES, Opener, assert_calm, errors, texts


@pytest.fixture
def id(run: RunStore) -> str:
    return run.main_dictionaries[1].id


@pytest.fixture
def feature(run: RunStore, id: str) -> int:
    """A live feature with many active tokens."""
    return int(run.read("features", id)["n_active"].idxmax())


def spec(test: AppTest, n: int) -> dict:
    return json.loads(test.get("plotly_chart")[n].proto.spec)


def contexts(test: AppTest) -> int:
    return texts(test).count("class='sae-context'")


def test_header_and_numbers(open_page: Opener, run: RunStore, id: str, feature: int) -> None:
    test = open_page("feature", dictionary=id, feature=str(feature))
    assert_calm(test)
    row = run.read("features", id, key=feature).iloc[0]
    assert f"L1 feature {feature}" in texts(test)
    assert [m.label for m in test.metric][:2] == ["Density", "Active tokens"]
    assert test.metric[1].value == f"{row['n_active']:,}"


def test_histogram_holds_the_table(open_page: Opener, run: RunStore, id: str, feature: int) -> None:
    data = spec(open_page("feature", dictionary=id, feature=str(feature)), 0)["data"]
    table = run.read("token_histograms", id, key=feature)
    assert sum(sum(t["y"]) for t in data) == table["count"].sum()


def test_effects_show_both_sides(open_page: Opener, run: RunStore, id: str, feature: int) -> None:
    test = open_page("feature", dictionary=id, feature=str(feature))
    frame = run.read("logit_effects", id, key=feature)
    lowered, raised = spec(test, 1)["data"][0], spec(test, 2)["data"][0]
    assert lowered["x"][0] == pytest.approx(frame["mean_change_logprob"].min())
    assert raised["x"][0] == pytest.approx(frame["mean_change_logprob"].max())
    assert len(lowered["error_x"]["array"]) == len(lowered["x"])


@pytest.mark.parametrize("band", ["top", "bin9", "bin0", "none"])
def test_contexts_of_each_band(open_page: Opener, run: RunStore, id: str, feature: int, band: str) -> None:
    test = open_page("feature", dictionary=id, feature=str(feature), band=band)
    assert_calm(test)
    found = run.read("contexts", id, key=feature)
    assert contexts(test) == (found["band"] == band).sum() > 0
    assert texts(test).count("class='sae-token sae-peak'") == (0 if band == "none" else contexts(test))


def test_a_click_on_a_bar_shows_its_contexts(open_page: Opener, run: RunStore, id: str, feature: int) -> None:
    found = run.read("contexts", id, key=feature).query("band == 'bin4'")
    token = int(found["token_id"].iloc[0])
    test = open_page("feature", dictionary=id, feature=str(feature), band="bin4", token=str(token))
    assert_calm(test)
    assert contexts(test) == (found["token_id"] == token).sum() < len(found)
    test.button(key="clear").click().run()
    assert contexts(test) == len(found) and "token" not in test.query_params


def test_of_band_puts_unnamed_tokens_together() -> None:
    frame = pd.DataFrame({"band": ["bin1"] * 3 + ["top"], "token_id": [1, 2, 3, 3], "rank": [2, 1, 0, 0]})
    histogram = pd.DataFrame({"token_id": [1, OTHER_TOKEN], "count": [5, 9]})
    assert feature_parts.of_band(frame, histogram, "bin1", None)["rank"].tolist() == [0, 1, 2]
    assert feature_parts.of_band(frame, histogram, "bin1", OTHER_TOKEN)["token_id"].tolist() == [3, 2]
    assert feature_parts.of_band(frame, histogram, "bin1", 2)["token_id"].tolist() == [2]


def test_parents_and_children(run: RunStore, id: str, feature: int) -> None:
    entry = run.dictionary(id)
    edges = run.read("causal_edges", id, key=feature)
    found = feature_parts.parents(run, entry, feature)
    assert REST_OF_PARENTS not in set(found["feature"]) and len(found) == len(edges) - 1
    assert found["relative_drop"].abs().is_monotonic_decreasing
    assert set(found["dictionary"]) == {run.main_dictionaries[0].id}
    rest = edges[edges["parent"] == REST_OF_PARENTS].iloc[0]
    assert found.attrs["rest"] == f"{rest['n_contexts']} weaker parents add up to {rest['relative_drop']:+.3f}."
    below = run.main_dictionaries[2].id
    children = feature_parts.children(run, entry, feature)
    assert children["feature"].tolist() == browse.children(run, below, feature)["feature"].tolist()
    assert feature_parts.parents(run, run.main_dictionaries[0], 0).empty
    assert feature_parts.children(run, run.main_dictionaries[2], 0).empty
    assert feature_parts.parents(run, replace(entry, headline=False), feature).empty


def test_a_click_on_a_parent_opens_it(open_page: Opener, run: RunStore, id: str, feature: int) -> None:
    wanted = feature_parts.parents(run, run.dictionary(id), feature).iloc[1]
    test = open_page("feature", dictionary=id, feature=str(feature))
    key = f"parents-{id}-{feature}"
    test.session_state[key] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    test.run()
    assert not test.exception
    assert test.query_params["dictionary"] == wanted["dictionary"]
    assert test.query_params["feature"] == str(wanted["feature"])


def test_previous_and_next(open_page: Opener, id: str) -> None:
    test = open_page("feature", dictionary=id, feature="5", band="bin3")
    test.button(key="next").click().run()
    assert_calm(test)
    assert test.number_input(key="feature").value == 6 and "band" not in test.query_params
    test.button(key="previous").click().run()
    assert test.query_params["feature"] == "5" and test.query_params["dictionary"] == id


def test_previous_and_next_follow_the_order_browse_listed(open_page: Opener, id: str) -> None:
    test = open_page("feature", dictionary=id, feature="5")
    test.session_state["browsed"] = ("synthetic", id, np.array([9, 5, 2]))
    test.run()
    assert test.button(key="next").help == "next feature in the order of Browse"
    test.button(key="next").click().run()
    assert test.query_params["feature"] == "2"
    test.button(key="next").click().run()
    assert test.query_params["feature"] == "2"  # the end of the list
    test.session_state["browsed"] = ("synthetic", id, np.array([9, 5]))  # does not list 2: by number again
    test.run()
    test.button(key="next").click().run()
    assert test.query_params["feature"] == "3"


@pytest.mark.parametrize(("button", "end"), [("previous", 0), ("next", N_FEATURES - 1)])
def test_the_ends_do_not_run_over(open_page: Opener, id: str, button: str, end: int) -> None:
    test = open_page("feature", dictionary=id, feature=str(end))
    assert ("position-only" in texts(test)) == (end > 0)
    test.button(key=button).click().run()
    assert test.number_input(key="feature").value == end


def test_changing_the_dictionary_starts_at_its_first_feature(open_page: Opener, run: RunStore, id: str) -> None:
    test = open_page("feature", dictionary=id, feature="5")
    other = run.main_dictionaries[2].id
    test.selectbox(key="dictionary").set_value(other).run()
    assert_calm(test)
    assert test.query_params == {"run": "synthetic", "dictionary": other}


def test_a_dead_feature_says_so(open_page: Opener, run: RunStore, id: str) -> None:
    frame = run.read("features", id)
    frame.loc[4, ["dead", "n_active", "max_activation"]] = [True, 0, 0.0]
    run.write_table("features", frame, id)
    test = open_page("feature", dictionary=id, feature="4")
    assert_calm(test)
    assert "Dead: never active" in texts(test)


def test_label_note_and_star_are_kept(open_page: Opener, run: RunStore, id: str) -> None:
    test = open_page("feature", dictionary=id, feature="5")
    test.text_input[0].set_value("<i>quotes</i>")
    test.text_area[0].set_value("a note with $ and |")
    test.toggle[0].set_value(True)
    test.button(f"FormSubmitter:label-{id}-5-Save").click().run()
    assert_calm(test)
    written = Annotations(run).get(id, 5)
    assert (written.label, written.note, written.star) == ("<i>quotes</i>", "a note with $ and |", True)
    assert "&lt;i&gt;quotes" in texts(test) and "<i>quotes" not in texts(test) and "★" in texts(test)


@pytest.mark.parametrize(
    "query",
    [{"feature": str(N_FEATURES)}, {"feature": "-1"}, {"feature": "1.5"}, {"feature": "<script>"}, {"dictionary": "L7"},
     {"band": "bin77"}],
)  # fmt: skip
def test_bad_links_become_sentences(open_page: Opener, query: dict[str, str]) -> None:
    test = open_page("feature", **query)
    assert not test.exception and errors(test)
    assert "<script>" not in texts(test)


@pytest.mark.parametrize("table", ["token_histograms", "contexts", "logit_effects", "causal_edges", "neighbours"])
def test_a_missing_table_spoils_only_its_part(open_page: Opener, run: RunStore, id: str, table: str) -> None:
    shutil.rmtree(run.folder / "tables" / table)
    test = open_page("feature", dictionary=id)
    assert not test.exception
    said = [h.value for h in test.get("html") if "not computed yet" in h.value.lower()]
    assert said and all(f"python -m precompute {MADE_BY[table]} --run" in text for text in said)
    assert set(errors(test)) <= set(said)
    assert "When it fires" in [s.value for s in test.subheader] and "Near it" in [s.value for s in test.subheader]


def test_a_table_of_other_weights_is_refused(open_page: Opener, run: RunStore, id: str) -> None:
    changed = [replace(d, hash="retrained") if d.id == id else d for d in run.dictionaries]
    run.update_manifest(dictionaries=tuple(changed))
    st.cache_resource.clear()
    test = open_page("feature", dictionary=id)
    assert not test.exception and "made from" in errors(test)[0]
