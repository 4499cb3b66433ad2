"""Stability: features found again and controls on hand-made frames, the figures, and the section on a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from app.figures import paper_stability as figures
from app.palette import LIGHT
from app.paper import stability_claims as judge
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY
from sae_core.results import all_metrics
from sae_core.schemas import TABLES
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts


def live(*found: tuple[int, int, int]) -> pd.DataFrame:
    """Live features: (layer, found again, not found again)."""
    parts = [
        pd.DataFrame({"layer": layer, "id": f"d{layer}", "found": [True] * yes + [False] * no})
        for layer, yes, no in found
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(cosine=np.where(frame["found"], 0.95, 0.4))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (((0, 90, 10), (1, 70, 30)), HOLDS),
        (((0, 90, 10), (1, 55, 45)), PARTLY),  # 55 of 100: the interval reaches below one half
        (((0, 10, 90), (1, 20, 80)), FAILS),
    ],
)
def test_mostly_the_same(found: tuple, verdict: str) -> None:
    claim = judge.mostly_the_same(live(*found))
    assert claim.verdict == verdict
    assert f"layer 1: {found[1][1]} of 100" in claim.run and "No such claim" in claim.paper


def test_no_live_feature_cannot_be_told() -> None:
    assert judge.mostly_the_same(live((0, 0, 0))).verdict == OPEN


def test_fifths_are_equal_parts_in_order() -> None:
    frame = pd.DataFrame({"density": np.arange(100)[::-1] / 100, "cosine": np.arange(100)[::-1] / 100})
    fifths = judge.by_fifths(frame.assign(found=frame["cosine"] > 0.9), "density")
    assert fifths["n"].tolist() == [20] * 5 and fifths["share"].tolist() == [0, 0, 0, 0, 9 / 20]
    assert fifths["mean"].tolist() == pytest.approx([0.095, 0.295, 0.495, 0.695, 0.895])
    assert fifths["low"].iloc[1] == 0.2 and fifths["high"].iloc[1] == 0.39
    assert judge.by_fifths(frame.assign(found=True).head(9), "density").empty


@pytest.mark.parametrize(("sign", "verdict"), [(1, HOLDS), (-1, FAILS), (0, OPEN)])
def test_more_stable(sign: int, verdict: str) -> None:
    rng = np.random.default_rng(0)
    density = np.linspace(0, 1, 200)
    frame = pd.DataFrame({"density": density, "cosine": 0.5 + 0.4 * sign * (density - 0.5) + rng.normal(0, 0.05, 200)})
    fifths = judge.by_fifths(frame.assign(found=False), "density")
    assert judge.more_stable(fifths, "density").verdict == verdict
    figure, _ = figures.against_fifths(fifths, "density", LIGHT)
    assert list(figure.data[0].y) == fifths["mean"].tolist() and set(figure.data[1].y) == {0}


def test_too_few_features_cannot_be_told() -> None:
    empty = judge.by_fifths(pd.DataFrame({"density": [], "cosine": [], "found": []}), "density")
    assert judge.more_stable(empty, "density").verdict == OPEN


def test_bars_carry_their_counts() -> None:
    figure, _ = figures.found_again(judge.found_by_layer(live((0, 3, 1), (2, 0, 4))), LIGHT)
    assert list(figure.data[0].y) == [0.75, 0] and list(figure.data[0].customdata[0][:2]) == [3, 4]


# ---- the section


@pytest.fixture
def told(run: RunStore) -> RunStore:
    """The synthetic run with twins of two layers, a frozen dictionary, factors of it and of the headline."""
    spec = DictionarySpec(Site(1), "frozen", 4, 1e-3)
    frozen = DictionaryEntry(spec.id, spec, 20, "hash-of-frozen", role="baseline")
    run.update_manifest(dictionaries=(*run.dictionaries, frozen))
    metrics = all_metrics(run).iloc[[0]][TABLES["metrics"].column_names]
    run.write_table("metrics", metrics.assign(dictionary=frozen.id, fvu=0.6), frozen.id)
    rng = np.random.default_rng(0)
    for layer in (0, 1):
        write_stability(run, run.headline(layer), rng)
    for entry, f1 in ((run.headline(1), 0.7), (frozen, 0.3)):
        run.write_table("factors", factors(f1), entry.id)
    return run


def write_stability(run: RunStore, entry: DictionaryEntry, rng: np.random.Generator) -> None:
    cosine = rng.uniform(0, 1, entry.n_features)
    frame = pd.DataFrame({"feature": range(entry.n_features), "other": range(entry.n_features), "cosine": cosine})
    dead = run.read("features", entry.id)["dead"]
    frame = frame.assign(other_dictionary="twin", best_cosine=cosine, found=cosine > 0.9, alive=~dead)
    run.write_table("stability", frame, entry.id)


def factors(f1: float) -> pd.DataFrame:
    values = [f"v{i}" for i in range(6)]
    frame = pd.DataFrame({"value": values, "f1": f1 + 0.01 * np.arange(6)})
    numbers = dict.fromkeys(("threshold", "precision", "recall", "lower", "upper"), 0.5)
    return frame.assign(factor="x", feature=0, sign=1, n_positives=200, n_tokens=1000, **numbers)


def test_the_section_shows_every_figure_and_claim(told: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="stability")
    assert_calm(test)
    text = texts(test)
    n = sum(int((~told.read("features", told.headline(layer).id)["dead"]).sum()) for layer in (0, 1))
    assert f" of {n};" in text and text.count("class='sae-claim-head'") == 4
    assert len(test.get("plotly_chart")) == 3


def test_controls_stand_beside_the_sae(told: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="stability")
    shown = test.dataframe[0].value
    layer = shown[shown["layer"] == 1].set_index("name")
    assert layer.loc["SAE", "f1"] == pytest.approx(0.725) and layer.loc["frozen decoder", "f1"] == pytest.approx(0.325)
    assert layer.loc["frozen decoder", "fvu"] == pytest.approx(0.6)
    text = texts(test)
    assert "No re-initialised model" in text and "--reinitialised" in text and "No frozen" not in text
    assert "does not hold" in text and "SAE ahead by +0.40" in text


@pytest.mark.parametrize("place", ["../control", "controls/reinitialised"])
def test_a_run_with_a_reinitialised_model_is_found(told: RunStore, open_page: Opener, place: str) -> None:
    folder = told.folder / place
    manifest = told.manifest
    model = replace(manifest.spec.model, name=f"{manifest.spec.model.name}-reinitialised")
    other = RunStore.create(folder, replace(manifest, name="control", spec=replace(manifest.spec, model=model)))
    entry = told.headline(2)
    metrics = told.read("metrics", entry.id).assign(fvu=0.77)
    other.write_table("metrics", metrics, entry.id)
    test = open_page("paper", section="stability")
    assert_calm(test)
    shown = test.dataframe[0].value
    control = shown[shown["name"] == "re-initialised model"]
    assert control["layer"].tolist() == [2] and control["fvu"].tolist() == pytest.approx([0.77])


@pytest.mark.parametrize(("query", "says"), [({"twin_layer": "0"}, "Features with a higher density"),
                                             ({"order": "score"}, "Fewer than 10 live features")])  # fmt: skip
def test_layer_and_order_are_chosen_by_the_address(
    told: RunStore, open_page: Opener, query: dict[str, str], says: str
) -> None:
    test = open_page("paper", section="stability", **query)
    assert_calm(test)
    assert says in texts(test)


def test_scores_order_the_features_where_there_are_some(told: RunStore, open_page: Opener) -> None:
    entry = told.headline(0)
    columns = dict.fromkeys(("explainer", "simulator", "explanation"), "rule")
    columns |= {"scheme": "top_and_random", "setting": "corrected", "kind": "token", "n_fragments": 10}
    columns |= {"skipped": False, "lower": 0.0, "upper": 1.0}
    scores = pd.DataFrame({"feature": range(entry.n_features), "score": np.linspace(0, 1, entry.n_features)})
    told.write_table("scores", scores.assign(**columns), entry.id)
    test = open_page("paper", section="stability", order="score")
    assert_calm(test)
    assert "Features with a higher score" in texts(test) and "score" in test.dataframe[0].value


def test_a_layer_without_twin_is_refused(told: RunStore, open_page: Opener) -> None:
    assert "twin_layer" in errors(open_page("paper", section="stability", twin_layer="2"))[0]


def test_without_twins_the_command_is_named(run: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="stability")
    assert not test.exception
    assert "".join(errors(test)).count("python -m precompute paper stability") == 2
    assert "No frozen decoder" in texts(test) and "Known factors were not measured" in texts(test)
