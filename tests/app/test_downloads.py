"""Downloads on the pages: which are offered, what their buttons make, and imported labels beside one's own."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.components import downloads
from sae_core.annotations import Annotations
from sae_core.imported_labels import ImportedLabel, ImportedLabels
from sae_core.store import RunStore
from tests.app.conftest import Opener, assert_calm, texts


def titles(test: AppTest) -> list[str]:
    return [button.proto.label for button in test.get("download_button")]


@pytest.fixture
def id(run: RunStore) -> str:
    return run.main_dictionaries[2].id


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the buttons of a page would hand out, by file name: their functions are caught as they are given."""
    found: dict[str, object] = {}

    def catch(label: str, data: object, file_name: str, *args: object, **named: object) -> bool:
        found[file_name] = data
        return False

    monkeypatch.setattr(downloads.st, "download_button", catch)
    return found


def test_browse_gives_what_it_found(open_page: Opener, run: RunStore, id: str, made: dict) -> None:
    assert_calm(open_page("browse", dictionary=id, hide="", min_density="0.5"))
    csv = pd.read_csv(io.StringIO(made["features.csv"]()))
    wanted = run.read("features", id).query("density >= 0.005")
    assert csv["feature"].tolist() == wanted["feature"].tolist() and 0 < len(csv) < 48
    assert json.loads(csv["top_tokens"].iloc[0]) == list(wanted["top_tokens"].iloc[0])
    parquet = pd.read_parquet(io.BytesIO(made["features.parquet"]()))
    pd.testing.assert_frame_equal(parquet, wanted.reset_index(drop=True))


def test_a_feature_gives_its_tables_and_a_report(open_page: Opener, run: RunStore, id: str, made: dict) -> None:
    feature = int(run.read("features", id)["n_active"].idxmax())
    test = open_page("feature", dictionary=id, feature=str(feature))
    assert_calm(test)
    assert f"Layer 2, feature {feature}" in made[f"{id}-{feature}.html"]()
    for table in ("features", "contexts", "causal_edges"):
        found = pd.read_csv(io.StringIO(made[f"{id}-{feature}-{table}.csv"]()))
        assert len(found) == len(run.read(table, id, key=feature)) > 0
    test.segmented_control[-1].set_value("parquet").run()
    for table in ("features", "contexts", "causal_edges"):
        found = pd.read_parquet(io.BytesIO(made[f"{id}-{feature}-{table}.parquet"]()))
        pd.testing.assert_frame_equal(found, run.read(table, id, key=feature))


def test_a_tree_gives_edges_and_a_graph(open_page: Opener, run: RunStore, id: str, made: dict) -> None:
    feature = int(run.read("causal_edges", id)["feature"].iloc[0])
    assert_calm(open_page("causal_tree", dictionary=id, feature=str(feature), threshold="0"))
    found = json.loads(made[f"{id}-{feature}-graph.json"]())
    edges = pd.read_csv(io.StringIO(made["causal_tree.csv"]()))
    assert len(found["links"]) == len(edges) > 0
    assert sorted(e["weight"] for e in found["links"]) == pytest.approx(sorted(edges["relative_drop"]))
    assert made[f"{id}-{feature}.html"]().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("page", "offered"),
    [
        ("browse", ["Features found (CSV)", "Features found (Parquet)"]),
        ("feature", ["HTML report", "features", "contexts"]),
        ("causal_tree", ["Edges (CSV)", "Edges (Parquet)", "Circuit graph (JSON)", "HTML report"]),
    ],
)
def test_pages_offer_their_downloads(open_page: Opener, run: RunStore, id: str, page: str, offered: list[str]) -> None:
    feature = str(int(run.read("causal_edges", id)["feature"].iloc[0]))
    test = open_page(page, dictionary=id, feature=feature, threshold="0")
    assert_calm(test)
    assert set(offered) <= set(titles(test))


def test_imported_labels_stand_beside_ones_own(open_page: Opener, run: RunStore, id: str) -> None:
    labels = [ImportedLabel(f, "neuronpedia", "2-res-sm", "<b>nouns</b> $x$", "explained by gpt") for f in (3, 4)]
    ImportedLabels(run).add(id, labels)
    Annotations(run).put(id, 4, "mine")
    named = open_page("browse", dictionary=id, hide="").dataframe[0].value.set_index("feature")["name"]
    assert named[3] == "neuronpedia: <b>nouns</b> $x$" and named[4] == "own: mine"
    found = open_page("browse", dictionary=id, hide="", search="label", text="NOUNS").dataframe[0].value
    assert sorted(found["feature"]) == [3, 4]
    page = open_page("feature", dictionary=id, feature="4")
    assert_calm(page)
    shown = next(d.value for d in page.dataframe if "explainer" in d.value)
    assert shown["explainer"].tolist() == ["neuronpedia 2-res-sm"]
    assert shown["explanation"].tolist() == ["<b>nouns</b> $x$ (explained by gpt)"]
    assert shown["score"].isna().all() and shown["interval"].tolist() == [""]
    assert ">own</span>" in texts(page)
    other = texts(open_page("feature", dictionary=id, feature="3"))
    assert "&lt;b&gt;nouns&lt;/b&gt; $x$" in other and ">neuronpedia</span>" in other and "<b>nouns" not in other
    assert "Imported from neuronpedia, 2-res-sm. explained by gpt" in other
