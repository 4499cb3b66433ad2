"""Ground truth: known directions and known factors on hand-made frames, the figures, and the section on a run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from app.figures import paper_ground_truth as figures
from app.palette import LIGHT
from app.paper import ground_truth_claims as judge
from app.paper import ground_truth_frames as frames
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY
from app.paper.ground_truth import table
from sae_core.results import all_metrics
from sae_core.schemas import TABLES
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts

VALUES = [("line_kind", "code"), ("line_kind", "prose"), ("url", "yes"), ("register", "news")]


def toy(mmcs: dict[tuple[float, int], float], seed: int = 0) -> pd.DataFrame:
    """Rows of `toy`: MMCS by coefficient and size, 100 known directions."""
    rows = []
    for (coefficient, size), value in mmcs.items():
        row = {"alpha": coefficient / size, "size": size, "seed": seed, "coefficient": coefficient, "mmcs": value}
        row |= {"mmcs_weighted": value, "n_found": 90, "l0": 3.0, "fvu": 0.1, "n_dead": 1, "true_l0": 2.0}
        rows.append(row | {"n_ground_truth": 100, "width": 50, "n_samples": 1000, "correlated": False})
    return pd.DataFrame(rows)


def rows(kind: str, f1s: list[float], layer: int = 0, half: float = 0.05) -> pd.DataFrame:
    """Rows of one dictionary as `side_by_side` gives them, one for each of VALUES."""
    f1 = np.array(f1s)
    frame = pd.DataFrame(VALUES[: len(f1)], columns=frames.CASE)
    return frame.assign(
        layer=layer, kind=kind, id=f"{kind}-{layer}", ours=kind == "tied", f1=f1, lower=f1 - half, upper=f1 + half,
        feature=range(len(f1)), n_positives=100, n_tokens=1000,
    )  # fmt: skip


# ---- toy data


@pytest.mark.parametrize(
    ("mmcs", "verdict"),
    [
        ({(1.0, 100): 0.97, (1.0, 50): 0.99}, HOLDS),
        ({(1.0, 200): 0.93, (1.0, 50): 0.99}, PARTLY),
        ({(1.0, 200): 0.5, (1.0, 50): 0.99}, FAILS),  # a dictionary that is too small cannot find them all
        ({(1.0, 50): 0.99}, OPEN),
    ],
)
def test_recovered(mmcs: dict, verdict: str) -> None:
    claim = judge.recovered(frames.over_seeds(toy(mmcs)))
    assert claim.verdict == verdict
    if verdict == HOLDS:
        assert "0.970 at coefficient 1 with 100 features" in claim.run and "90% (90 of 100" in claim.run


@pytest.mark.parametrize(
    ("line", "verdict"),
    [((0.2, 0.9, 0.3), HOLDS), ((0.2, 0.9, 0.89), PARTLY), ((0.88, 0.9, 0.89), FAILS)],
)
def test_needs_price(line: tuple[float, ...], verdict: str) -> None:
    found = toy({(c, 100): m for c, m in zip((0.1, 1, 10), line, strict=True)} | {(1, 50): 0.1})
    assert judge.needs_price(frames.over_seeds(found)).verdict == verdict


def test_seeds_are_averaged() -> None:
    found = frames.over_seeds(pd.concat([toy({(1, 100): 0.8}), toy({(1, 100): 0.6}, seed=1)]))
    assert len(found) == 1 and found["mmcs"].iloc[0] == pytest.approx(0.7) and found["n_seeds"].iloc[0] == 2


def test_the_map_holds_each_dictionary_at_its_place() -> None:
    found = frames.over_seeds(toy({(0.1, 50): 0.1, (1, 50): 0.2, (0.1, 200): 0.3, (1, 200): 0.4}))
    figure, _ = figures.toy_map(found, "mmcs", LIGHT)
    assert np.allclose(figure.data[0].z, [[0.1, 0.2], [0.3, 0.4]])
    assert list(figure.data[0].x) == ["0.1", "1"] and list(figure.data[0].y) == ["50", "200"]
    lines, sentence = figures.toy_lines(found, "l0", LIGHT)
    assert [list(t.x) for t in lines.data] == [[0.1, 1], [0.1, 1]] and "true value" in sentence


# ---- known factors


def test_differences_are_paired_by_layer_and_value() -> None:
    sae = pd.concat([rows("tied", [0.9, 0.5]), rows("tied", [0.1, 0.2], layer=1)])
    pca = pd.concat([rows("pca", [0.4, 0.52]), rows("pca", [0.4, 0.2, 0.9], layer=1)])
    both = frames.against(pd.concat([pca, sae]), "pca").sort_values(["layer", "value"])
    assert both["difference"].tolist() == pytest.approx([0.5, -0.02, -0.3, 0.0])
    assert both["above"].tolist() == [True, False, False, False]
    assert both["below"].tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("pca", "random", "verdict"),
    [
        ([0.2, 0.31, 0.39, 0.5], [0.1, 0.2, 0.3, 0.4], HOLDS),
        ([0.2, 0.31, 0.39, 0.5], [0.9, 0.98, 0.99, 0.95], PARTLY),
        ([0.9, 0.98, 0.99, 0.95], [0.9, 0.98, 0.99, 0.95], FAILS),
        ([0.1, 0.9, 0.2, 0.98], [0.9, 0.1, 0.98, 0.2], OPEN),
    ],
)
def test_better_than_baselines(pca: list[float], random: list[float], verdict: str) -> None:
    frame = pd.concat([rows("tied", [0.5, 0.6, 0.7, 0.8]), rows("pca", pca), rows("random", random),
                       rows("frozen", [0.99] * 4)])  # fmt: skip
    claim = judge.better_than_baselines(frame)
    assert claim.verdict == verdict and "Against PCA" in claim.run and "frozen" not in claim.run


def test_without_baselines_nothing_can_be_told() -> None:
    assert judge.better_than_baselines(rows("tied", [0.5, 0.6])).verdict == OPEN


@pytest.mark.parametrize(("f1s", "verdict"), [([0.9] * 4, HOLDS), ([0.9, 0.2, 0.2, 0.2], PARTLY), ([0.1] * 4, FAILS)])
def test_better_than_yes(f1s: list[float], verdict: str) -> None:
    frame = pd.concat([rows("tied", f1s), rows("pca", [0.99] * 4)], ignore_index=True)
    yes = frames.always_yes(frame)
    assert yes.iloc[0] == pytest.approx(2 * 0.1 / 1.1)
    assert judge.better_than_yes(frame, yes).verdict == verdict


def test_means_by_layer_and_by_factor() -> None:
    frame = rows("tied", [0.2, 0.4, 0.9, 0.5])
    mean = frames.mean_f1(frame).iloc[0]
    assert mean["mean"] == pytest.approx(0.5) and mean["n"] == 4 and mean["ours"]
    assert mean["upper"] - mean["mean"] == pytest.approx(1.96 * np.std([0.2, 0.4, 0.9, 0.5], ddof=1) / 2)
    factor = frames.by_factor(frame).set_index("name")
    assert factor.loc["line_kind", "f1"] == pytest.approx(0.3) and factor.loc["line_kind", "n"] == 2
    assert np.isnan(factor.loc["url", "lower"])
    assert frames.by_value(frame, "line_kind")["name"].tolist() == ["code", "prose"]


def test_dots_carry_the_feature_and_one_case_has_no_interval() -> None:
    frame = pd.concat([rows("tied", [0.2, 0.4, 0.9]), rows("pca", [0.1, 0.2, 0.3])])
    figure, _ = figures.f1_dots(frames.by_value(frame, "line_kind"), LIGHT)
    assert [trace.name for trace in figure.data] == ["yes everywhere", "SAE", "PCA"]
    assert list(figure.data[1].customdata[0]) == ["tied-0", 0] and "feature 0 of tied-0" in figure.data[1].text[0]
    means, _ = figures.f1_dots(frames.by_factor(frame), LIGHT)
    assert not np.isnan(means.data[1].error_x.array).any()


def test_the_table_names_the_best_other() -> None:
    shown = table(pd.concat([rows("tied", [0.2, 0.4]), rows("pca", [0.1, 0.9]), rows("random", [0.3, 0.1])]))
    assert shown["f1"].tolist() == [0.4, 0.2]
    assert list(zip(shown["other"], shown["other_f1"], strict=True)) == [("PCA", 0.9), ("random directions", 0.3)]


# ---- the section


@pytest.fixture
def told(run: RunStore) -> RunStore:
    """The synthetic run with a PCA dictionary in layer 1, and the tables of the section."""
    spec = DictionarySpec(Site(1), "pca", 2)
    pca = DictionaryEntry(spec.id, spec, 20, "hash-of-pca", role="baseline")
    run.update_manifest(dictionaries=(*run.dictionaries, pca), corpus=run.manifest.corpus | {"factors": ["url"]})
    metrics = all_metrics(run).iloc[[0]][TABLES["metrics"].column_names]
    run.write_table("metrics", metrics.assign(dictionary=pca.id), pca.id)
    columns = TABLES["factors"].column_names
    for entry in [e for e in run.dictionaries if e.headline or e is pca]:
        kind = "pca" if entry is pca else "tied"
        frame = rows(kind, [0.2, 0.3, 0.4, 0.35] if entry is pca else [0.5, 0.6, 0.7, 0.8])
        run.write_table("factors", frame.assign(sign=1, threshold=0.0, precision=0.5, recall=0.5)[columns], entry.id)
    run.write_table("toy", toy({(0.1, 50): 0.1, (1, 50): 0.2, (10, 50): 0.1, (0.1, 200): 0.3, (1, 200): 0.97}))
    return run


def test_the_section_shows_every_figure_and_claim(told: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="ground_truth")
    assert_calm(test)
    assert len(test.get("plotly_chart")) == 4 and texts(test).count("class='sae-claim-head'") == 4
    assert "above its interval at 100%" in texts(test)
    assert len(test.dataframe[0].value) == 4  # layer 1: the one in the middle


def test_a_factor_and_a_layer_are_chosen_by_the_address(told: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="ground_truth", factor="line_kind", factor_layer="2", measure="n_dead")
    assert_calm(test)
    assert test.dataframe[0].value["value"].tolist() == ["prose", "code"]
    assert test.dataframe[0].value["other"].isna().all()


def test_a_factor_that_is_not_there_is_refused(told: RunStore, open_page: Opener) -> None:
    assert "factor" in errors(open_page("paper", section="ground_truth", factor="<b>"))[0]


def test_a_row_opens_its_feature(told: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="ground_truth")
    test.session_state["factor-features"] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    test.run()
    assert test.query_params["feature"] == "2" and test.query_params["dictionary"] == told.headline(1).id


def test_without_labels_a_sentence_says_so(run: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="ground_truth")
    assert not test.exception and texts(test).count("text without labels") == 2
    assert "python -m precompute paper toy" in errors(test)[0]


def test_with_labels_but_without_tables_the_command_is_named(run: RunStore, open_page: Opener) -> None:
    run.update_manifest(corpus=run.manifest.corpus | {"factors": ["url"]})
    told = "".join(errors(open_page("paper", section="ground_truth")))
    assert told.count("python -m precompute paper factors") == 2
