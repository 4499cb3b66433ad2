"""Compare: dictionaries side by side, features of known classes, one feature beside its counterpart, and bad links."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from streamlit.testing.v1 import AppTest

from app.components import compare_choice
from app.components.compare_quality import mean_scores
from app.figures import compare as figures
from app.palette import LIGHT
from sae_core import browse, compare
from sae_core.compare import MATCHED, MISSING, NEAR, SPLIT
from sae_core.schemas import TABLES
from sae_core.specs import Site
from sae_core.store import RunStore
from tests.app.conftest import N_FEATURES, Opener, assert_calm, errors, texts

MAIN, SWEEP, OTHER = "L1-resid_post-tied-r4-a8.6e-4", "L1-resid_post-tied-r4-a2e-4", "L2-resid_post-tied-r4-a8.6e-4"
CLASS = np.repeat([MATCHED, SPLIT, NEAR, MISSING], [16, 8, 8, 16])
E = np.eye(128, dtype=np.float32)


def write(run: RunStore, id: str, W: np.ndarray) -> None:
    folder = run.dictionary_folder(id)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"W_dec": W}, folder / compare.WEIGHTS_FILE)


@pytest.fixture
def weighted(run: RunStore) -> RunStore:
    """The features of MAIN are in SWEEP and in OTHER as CLASS says; 0 to 15 have the same number there."""
    split = (E[16:32:2] + E[17:32:2]) / np.sqrt(2)
    near = 0.6 * E[32:40] + 0.8 * E[40:48]
    write(run, MAIN, np.concatenate([E[:16], split, near, E[64:80]]))
    theirs = np.concatenate([E[:40], E[100:108]])
    write(run, SWEEP, theirs)
    write(run, OTHER, theirs)
    return run


def alive(run: RunStore, id: str = MAIN) -> np.ndarray:
    return browse.feature_index(run, id).alive


def table(test: AppTest) -> pd.DataFrame:
    """The table of A's features."""
    return next(d.value for d in test.dataframe if "counterpart" in d.value)


def pair(**query: str | list[str]) -> dict[str, str | list[str]]:
    return {"dictionaries": [MAIN, SWEEP], **query}


# ---- two dictionaries, feature by feature


def test_every_feature_has_its_known_class(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare", **pair())
    assert_calm(test)
    shown = table(test).set_index("feature").sort_index()
    live = alive(weighted)
    assert shown.index.tolist() == live.tolist()
    assert shown["class"].tolist() == CLASS[live].tolist()
    matched = shown[shown["class"] == MATCHED]
    assert (matched["other"] == matched.index).all() and matched["cosine"].to_numpy() == pytest.approx(1)
    assert shown.loc[shown["class"] == SPLIT, "together"].to_numpy() == pytest.approx(1, abs=1e-5)
    n = (CLASS[live] == SPLIT).sum()
    assert f"<span>{n} (" in texts(test) and f"Left out as dead: {N_FEATURES - len(live)} of A" in texts(test)
    assert "Hungarian" in texts(test) and "same activations" in texts(test)
    assert shown["density"].to_numpy() == pytest.approx(
        100 * browse.feature_index(weighted, MAIN).columns["density"][live]
    )


def test_thresholds_and_classes_come_from_the_link(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare", **pair(match="0.7", classes=[MATCHED, MISSING]))
    assert_calm(test)
    live, shown = alive(weighted), table(test)
    wanted = np.where(CLASS == SPLIT, MATCHED, CLASS)[live]
    assert sorted(shown["class"]) == sorted(wanted[np.isin(wanted, [MATCHED, MISSING])])


def test_large_dictionaries_say_that_partners_are_mutual_nearest(
    weighted: RunStore, open_page: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "ONE_TO_ONE_UP_TO", 10)
    test = open_page("compare", **pair())
    assert_calm(test)
    assert "mutual nearest neighbours" in texts(test) and "Hungarian" not in texts(test)
    assert (table(test)["class"] == MATCHED).sum() == (CLASS[alive(weighted)] == MATCHED).sum()


def test_across_layers_it_says_what_a_cosine_means(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare", dictionaries=[MAIN, OTHER])
    assert_calm(test)
    assert "not that they fire on the same tokens" in texts(test)
    dead = set(range(N_FEATURES)) - set(alive(weighted, OTHER))
    assert dead and not dead & set(table(test)["other"])  # a dead feature of B is nobody's counterpart
    test.button(key="swap").click().run()
    assert_calm(test)
    assert set(table(test)["feature"]) == set(alive(weighted, OTHER))
    assert f"Left out as dead: {len(dead)} of A" in texts(test)


# ---- one feature


def test_a_feature_in_the_link_shows_its_nearest_everywhere(weighted: RunStore, open_page: Opener) -> None:
    feature = int(np.intersect1d(alive(weighted)[alive(weighted) < 16], alive(weighted, OTHER))[0])
    test = open_page("compare", dictionaries=[MAIN, SWEEP, OTHER], dictionary=MAIN, b=OTHER, feature=str(feature))
    assert_calm(test)
    nearest = [d.value for d in test.dataframe if list(d.value.columns) == ["feature", "cosine", "name"]]
    assert [len(frame) for frame in nearest] == [compare.NEAREST] * 2
    assert all(frame["feature"][0] == feature and frame["cosine"][0] == pytest.approx(1) for frame in nearest)
    assert "Side by side: cosine 1.000" in texts(test)
    figure = json.loads(chart(test, "two-histograms").proto.spec)
    counts = weighted.read("token_histograms", MAIN, key=feature)["count"]
    drawn = [sum(t["customdata"]) for t in figure["data"] if t.get("xaxis", "x") == "x"]
    assert sum(drawn) == counts.sum()
    assert chart(test, "effects-A") and chart(test, "effects-B")


def chart(test: AppTest, key: str):  # noqa: ANN201 (an AppTest element)
    return next(c for c in test.get("plotly_chart") if c.proto.id.endswith(key))


def test_another_counterpart_can_be_chosen_in_the_link(weighted: RunStore, open_page: Opener) -> None:
    feature, other = alive(weighted)[0], alive(weighted, OTHER)[5]
    test = open_page("compare", dictionaries=[MAIN, OTHER], feature=str(feature), other=str(other))
    assert_calm(test)
    assert f"#{other} " in "".join(h.value for h in test.get("html") if "sae-facts" in h.value)


def test_a_counterpart_without_tables_says_so(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare", **pair(feature="0"))
    assert_calm(test)
    assert f"{SWEEP} has weights and metrics, but no feature tables" in texts(test)


def test_typing_a_feature_writes_the_address(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare", **pair())
    test.number_input(key="feature").set_value(7).run()
    assert_calm(test)
    assert test.query_params["feature"] == "7" and test.query_params["dictionary"] == MAIN
    assert test.query_params["dictionaries"] == [MAIN, SWEEP]


def test_swap_and_another_a_forget_the_feature(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare", **pair(feature="3", dictionary=MAIN))
    test.button(key="swap").click().run()
    assert_calm(test)
    assert (test.query_params["dictionary"], test.query_params["b"]) == (SWEEP, MAIN)
    assert "feature" not in test.query_params and "that tell" in texts(test)  # dead ones of A are not known
    test.selectbox(key="dictionary").set_value(MAIN).run()
    assert_calm(test)
    assert test.query_params["dictionary"] == MAIN and test.selectbox(key="b").value == SWEEP


def test_removing_a_dictionary_removes_what_hung_on_it(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare", dictionaries=[MAIN, SWEEP, OTHER], dictionary=MAIN, b=SWEEP, feature="3")
    test.multiselect(key="dictionaries").set_value([SWEEP, OTHER]).run()
    assert_calm(test)
    assert test.query_params["dictionaries"] == [SWEEP, OTHER] and "feature" not in test.query_params
    assert (test.selectbox(key="dictionary").value, test.selectbox(key="b").value) == (SWEEP, OTHER)


# ---- side by side


def test_two_are_proposed_and_stand_side_by_side(weighted: RunStore, open_page: Opener) -> None:
    test = open_page("compare")
    assert_calm(test)
    assert test.multiselect(key="dictionaries").value == [MAIN, SWEEP]
    shown, metrics = test.dataframe[0].value, weighted.read("metrics", SWEEP).iloc[0]
    assert shown["kind"].tolist() == ["SAE", "SAE"] and shown["sparsity"].tolist() == ["alpha 8.6e-4", "alpha 2e-4"]
    assert shown["l0"][1] == pytest.approx(metrics["l0"])
    assert shown["ce_recovered"][1] == pytest.approx(100 * metrics["ce_recovered"])
    assert shown["alive"][1] == pytest.approx(100 * metrics["n_alive"] / metrics["n_features"])
    sweep = json.loads(chart(test, "sweep").proto.spec)
    assert sorted(t["name"] for t in sweep["data"]) == sorted([MAIN, SWEEP, "other dictionaries"])
    assert "None of them has scores yet" in texts(test)


def test_a_twin_of_another_seed_is_proposed_first(weighted: RunStore, open_page: Opener) -> None:
    spec = replace(weighted.dictionary(MAIN).spec, variant="seed1")
    twin = replace(weighted.dictionary(SWEEP), id=spec.id, spec=spec, role="baseline")
    weighted.update_manifest(dictionaries=(*weighted.dictionaries, twin))
    write(weighted, twin.id, E[:48])
    test = open_page("compare", dictionary=MAIN)
    assert_calm(test)
    assert test.multiselect(key="dictionaries").value == [MAIN, twin.id]
    assert test.dataframe[0].value["kind"].tolist() == ["SAE", "SAE, seed1"] and f"Without metrics: {twin.id}" in texts(
        test
    )


def score_rows(values: list[float], skipped: list[bool]) -> pd.DataFrame:
    n = len(values)
    frame = pd.DataFrame({"feature": range(n), "score": values, "skipped": skipped})
    texts_ = {"explainer": "rule", "scheme": "random_only", "setting": "corrected", "simulator": "rule"}
    frame = frame.assign(kind="token", explanation="<b>the</b>", lower=0.0, upper=0.5, n_fragments=10, **texts_)
    return frame[TABLES["scores"].column_names]


def test_scores_leave_out_skipped_features(weighted: RunStore, open_page: Opener) -> None:
    weighted.write_table("scores", score_rows([0.2, 0.6, 0.0], [False, False, True]), MAIN)
    test = open_page("compare", **pair(feature="1"))
    assert_calm(test)
    row = next(d.value for d in test.dataframe if "n_skipped" in d.value).iloc[0]
    half = 1.96 * np.std([0.2, 0.6], ddof=1) / np.sqrt(2)
    assert [row["mean"], row["lower"], row["upper"]] == pytest.approx([0.4, 0.4 - half, 0.4 + half], abs=1e-6)
    assert (row["n"], row["n_skipped"]) == (2, 1) and f"Without scores: {SWEEP}" in texts(test)
    assert len(json.loads(chart(test, "scores").proto.spec)["data"]) == 1
    other = open_page("compare", **pair(setting="as-published"))
    assert_calm(other)
    assert "No feature was scored in the setting as-published" in texts(other)


def test_means_of_a_single_or_no_feature() -> None:
    frame = score_rows([0.2, 0.6], [False, True]).assign(id="A")
    found = mean_scores(frame)
    assert found["mean"].tolist() == pytest.approx([0.2]) and found["lower"].isna().all()
    assert mean_scores(frame.assign(skipped=True)).empty and mean_scores(frame.head(0)).empty


# ---- what cannot be compared


@pytest.mark.parametrize("chosen", [[MAIN], [""]])
def test_fewer_than_two(open_page: Opener, chosen: list[str]) -> None:
    test = open_page("compare", dictionaries=chosen)
    assert_calm(test)
    assert "Choose at least two dictionaries" in texts(test)


def test_without_weights_quality_is_still_compared(open_page: Opener) -> None:
    test = open_page("compare", **pair(feature="2"))
    assert not test.exception and len(test.dataframe[0].value) == 2
    assert f"metrics only for {MAIN}" in errors(test)[0] and len(errors(test)) == 1


def test_sites_and_widths_that_do_not_fit(weighted: RunStore, open_page: Opener) -> None:
    write(weighted, SWEEP, E[:48, :64])
    assert "128 and 64 coordinates" in errors(open_page("compare", **pair()))[0]
    entries = [
        replace(d, spec=replace(d.spec, site=Site(1, "mlp_post"))) if d.id == SWEEP else d
        for d in weighted.dictionaries
    ]
    weighted.update_manifest(dictionaries=tuple(entries))
    test = open_page("compare", **pair(feature="2"))
    assert not test.exception and "layer 1 resid_post and layer 1 mlp_post" in errors(test)[0]
    assert "No cosines" in texts(test)


def test_broken_weights_spoil_only_their_part(weighted: RunStore, open_page: Opener) -> None:
    (weighted.dictionary_folder(SWEEP) / compare.WEIGHTS_FILE).write_bytes(b"broken")
    test = open_page("compare", **pair())
    assert not test.exception and "W_dec" in errors(test)[0] and len(test.dataframe) == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"dictionaries": [MAIN, "<i>nope"]}, "&lt;i&gt;nope"),
        ({"dictionary": "nope"}, "nope"),
        ({"dictionaries": [MAIN, SWEEP], "dictionary": OTHER}, OTHER),
        ({"dictionaries": [MAIN, SWEEP], "b": MAIN}, MAIN),
        ({"match": "2"}, "match"),
        ({"match": "nan"}, "match"),
        ({"part": "x"}, "part"),
        ({"classes": "lost"}, "lost"),
        ({"feature": "48"}, "48"),
        ({"feature": "1", "other": "-1"}, "-1"),
        ({"dictionaries": [MAIN, SWEEP, OTHER]}, "at most 2"),
    ],
)
def test_bad_links_are_refused_calmly(
    weighted: RunStore, open_page: Opener, query: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_choice, "MOST", 2)
    test = open_page("compare", **query)
    assert not test.exception and len(errors(test)) == 1 and said in errors(test)[0]


def test_the_sidebar_carries_only_dictionaries_with_tables(weighted: RunStore, open_page: Opener) -> None:
    carried = {}
    for id in (MAIN, SWEEP):
        test = open_page("compare", dictionaries=[MAIN, SWEEP], dictionary=id, feature="3")
        carried[id] = test.sidebar.get("page_link")[1].proto.query_string
    assert f"dictionary={MAIN}" in carried[MAIN] and "feature=3" in carried[MAIN]
    assert carried[SWEEP] == "run=synthetic"


def test_comparing_never_loads_torch(weighted: RunStore, repository: Path) -> None:
    code = f"""
import os, sys
os.environ["SAE_RUNS"] = {str(weighted.folder.parent)!r}
from streamlit.testing.v1 import AppTest
test = AppTest.from_file("app/main.py", default_timeout=50)
test.switch_page("app_pages/compare.py")
test.query_params["run"] = "synthetic"
test.query_params["feature"] = "1"
test.run()
assert not test.exception and len(test.dataframe) > 2, test.exception
heavy = {{"torch", "transformers", "transformer_lens"}} & set(sys.modules)
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]


# ---- figures


def test_the_largest_cosines_are_all_counted() -> None:
    rng = np.random.default_rng(0)
    found = compare.counterparts(rng.normal(size=(40, 8)), rng.normal(size=(40, 8)))
    frame = compare.classify(found, 0.7, 0.5)
    figure, sentence = figures.largest_cosines(frame, 0.7, 0.5, 0.33, LIGHT)
    counted = {bar.name.split()[0]: sum(bar.y) for bar in figure.data}
    assert counted == frame["class"].value_counts().reindex(compare.CLASSES, fill_value=0).to_dict()
    assert "0.33" in sentence


def test_a_dictionary_has_one_colour_in_every_figure() -> None:
    ids = ["one", "two", "three"]
    frame = pd.DataFrame({"id": ids, "dictionary": ids, "n_features": 10, "l0": 1.0, "fvu": 0.1, "kind": "tied"})
    frame["density_hist"] = [[0] * 6 + [5] + [0] * 5] * 3
    density, sentence = figures.density_overlay(frame[1:], ids, LIGHT)  # the first has no metrics
    sweep, _ = figures.chosen_in_sweep(frame[1:], ids, LIGHT)
    by_name = {t.name: t.marker.color for t in sweep.data}
    assert all(line.line.color == by_name[line.name] for line in density.data) and len(density.data) == 2
    assert sum(density.data[0].y) == pytest.approx(0.5) and "5 of 10 in two" in sentence


def test_the_same_token_has_the_same_colour_on_both_sides() -> None:
    own = pd.DataFrame({"bin": [0, 9], "token_id": [1, 2], "token": ["<script>", "b"], "count": [6, 2]})
    theirs = pd.DataFrame({"bin": [0, 0], "token_id": [2, -1], "token": ["b", "other"], "count": [3, 1]})
    figure, sentence = figures.two_histograms(own, theirs, ("A", "<b>"), 0.25, LIGHT, log=False)
    colour = {(bar.xaxis, bar.name): bar.marker.color for bar in figure.data}
    assert colour["x", "b"] == colour["x2", "b"] != colour["x", "&lt;script&gt;"]
    assert sum(sum(bar.y) for bar in figure.data if bar.xaxis == "x2") == pytest.approx(1)
    assert figure.layout.annotations[1].text == "&lt;b&gt;" and "25%" in sentence
