"""Dictionaries of the paper: reading sweeps, judging them, drawing them, and the section on a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st

from app.figures import paper_dictionaries as figures
from app.palette import DARK, LIGHT
from app.paper import dictionaries_claims as judged
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY
from app.paper.dictionaries import lengths, swept, table, training
from sae_core.results import DESCRIBED
from sae_core.schemas import TABLES
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts


def dictionary(l0: float, fvu: float, **changes: object) -> dict[str, object]:
    """A row of `all_metrics` with training; ids tell rows apart."""
    row = dict.fromkeys((*DESCRIBED, *TABLES["metrics"].column_names), 0)
    row |= {
        "layer": 2, "site": "resid_post", "kind": "tied", "ratio": 4.0, "alpha": 0.1, "k": np.nan, "variant": "",
        "role": "sweep", "headline": False, "n_features": 100, "n_alive": 90, "n_tokens": 1000,
        "train_tokens": 3_000_000, "training": "seed 0", "l0": l0, "fvu": fvu,
    }  # fmt: skip
    row |= changes
    return row | {
        "id": "-".join(str(row[name]) for name in ("layer", "site", "kind", "ratio", "alpha", "variant", "k"))
    }


def sweep(fvus: dict[float, float], **changes: object) -> list[dict[str, object]]:
    """Dictionaries by falling L0 and rising alpha. fvus: FVU by L0."""
    ordered = sorted(fvus.items(), reverse=True)
    return [dictionary(l0, fvu, **({"alpha": 0.01 * (i + 1)} | changes)) for i, (l0, fvu) in enumerate(ordered)]


def frame(*groups: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group])


L0S = (5, 10, 20, 40, 80, 160)
ARC = {l0: 1 - np.sin(np.pi / 2 * i / 5) for i, l0 in enumerate(L0S)}
ELBOW = dict(zip(L0S, (0.9, 0.6, 0.3, 0.02, 0.01, 0.0), strict=True))
BUMP = dict(zip(L0S, (0.9, 0.7, 0.75, 0.4, 0.2, 0.1), strict=True))


# ---- reading a sweep


def test_interpolation_is_linear_in_log_l0_and_stays_inside() -> None:
    line = frame(sweep({10: 0.4, 40: 0.2}))
    assert judged.at_l0(line, 20) == pytest.approx(0.3)
    assert judged.at_l0(line, 40) == pytest.approx(0.2)
    assert np.isnan(judged.at_l0(line, 9)) and np.isnan(judged.at_l0(line, 41))


@pytest.mark.parametrize(("other", "expected"), [((10, 40), 30), ((5, 20), 20), ((50, 90), 50), ((200, 300), None)])
def test_the_common_l0_is_the_nearest_to_30(other: tuple[float, float], expected: float | None) -> None:
    lines = [frame(sweep({5: 0.5, 100: 0.1})), frame(sweep(dict.fromkeys(other, 0.3)))]
    assert judged.common_l0(lines) == expected


def test_an_elbow_turns_at_once_and_a_circle_evenly() -> None:
    elbow = frame(sweep({1: 1.0, 10: 0.5, 100: 0.0, 1e3: 0.0, 1e4: 0.0}))
    assert judged.largest_turn(elbow) == pytest.approx(1.0)
    angles = np.linspace(0, np.pi / 2, 7)
    circle = frame(sweep(dict(zip(np.exp(np.sin(angles)), np.cos(angles), strict=True))))
    assert judged.largest_turn(circle) == pytest.approx(1 / 5)
    assert judged.largest_turn(frame(sweep({1: 1.0, np.e: 0.5, np.e**2: 0.0}))) == 0.0


def test_twins_give_the_least_difference() -> None:
    both = frame(
        [dictionary(30, 0.2)], [dictionary(31, 0.23, variant="seed1")], [dictionary(31, 0.9, variant="published")]
    )
    assert judged.twins_differ(both) == pytest.approx(0.03)
    assert judged.twins_differ(both[:1]) == 0.0


def test_falls_needs_more_than_the_tolerance() -> None:
    assert judged.falls([0.5, 0.4, 0.39, 0.45], 0.02) == [1, 0, -1]
    assert judged.falls([0.5], 0.0) == []


# ---- Figure 6


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [([ARC], HOLDS), ([ELBOW], FAILS), ([BUMP], FAILS), ([ARC, ELBOW], PARTLY), ([{5: 0.9, 10: 0.5}], OPEN)],
    ids=["arc", "elbow", "bump", "one of each", "too few"],
)
def test_smooth(lines: list[dict[float, float]], verdict: str) -> None:
    found = judged.smooth(frame(*(sweep(line, ratio=float(i + 1)) for i, line in enumerate(lines))))
    assert found.verdict == verdict and "1,000 held-out tokens" in found.run


def test_alpha_0_is_no_point_of_the_trade_off() -> None:
    with_free = frame(sweep(ARC), [dictionary(300, 0.0, alpha=0.0)])
    assert judged.smooth(with_free).run == judged.smooth(frame(sweep(ARC))).run


@pytest.mark.parametrize(
    ("larger", "tolerance", "verdict"),
    [(0.8, 0.0, HOLDS), (1.2, 0.0, FAILS), (0.99, 0.05, OPEN)],
)
def test_larger_is_better(larger: float, tolerance: float, verdict: str) -> None:
    scaled = {l0: fvu * larger for l0, fvu in ARC.items()}
    found = judged.larger_is_better(frame(sweep(ARC, ratio=1.0), sweep(scaled, ratio=2.0)), tolerance)
    assert found.verdict == verdict and "L0 = 30.0" in found.run
    assert ("Twins" in found.reason) == (tolerance > 0)


def test_one_ratio_cannot_be_compared() -> None:
    assert judged.larger_is_better(frame(sweep(ARC)), 0.0).verdict == OPEN


# ---- Figure 7


@pytest.mark.parametrize(
    ("by_length", "verdict"),
    [
        ((0.5, 0.3, 0.3), HOLDS),
        ((0.5, 0.3, 0.25), PARTLY),
        ((0.5, 0.45, 0.2), FAILS),
        ((0.5, 0.3), FAILS),
        ((0.5,), OPEN),
    ],
)
def test_converges(by_length: tuple[float, ...], verdict: str) -> None:
    lines = [sweep({10: fvu, 100: fvu}, length=1_000_000 * 2**i) for i, fvu in enumerate(by_length)]
    assert judged.converges(frame(*lines)).verdict == verdict


def test_gains_are_for_each_doubling() -> None:
    found = judged.converges(frame(sweep({10: 0.4, 100: 0.4}, length=1), sweep({10: 0.2, 100: 0.2}, length=4)))
    assert "lowers it by +50.0%" in found.run  # twice the error over two doublings


def test_lengths_come_from_the_variant() -> None:
    rows = frame(
        sweep(ARC, variant="t1M", train_tokens=999_424), sweep(ARC), sweep(ARC, ratio=1.0),
        [dictionary(30, 0.2, train_tokens=5)],
    )  # fmt: skip
    found = lengths(rows)
    assert set(found["ratio"]) == {4.0}
    assert sorted(found["length"].unique()) == [999_424, 3_000_000]


# ---- Figure 16


@pytest.mark.parametrize(("alive", "verdict"), [((100, 96), HOLDS), ((100, 90), PARTLY), ((50, 90), FAILS), ((), OPEN)])
def test_residual_alive(alive: tuple[int, ...], verdict: str) -> None:
    rows = [
        [dictionary(30, 0.2, layer=i, n_alive=n), dictionary(90, 0.1, layer=i, n_alive=1)] for i, n in enumerate(alive)
    ]
    small = [dictionary(30, 0.2, layer=7, ratio=2.0, n_alive=1)]
    found = judged.residual_alive(frame(*rows, small))
    assert found.verdict == verdict and "Layer 7" not in found.run


@pytest.mark.parametrize(("alive", "verdict"), [((40, 60), HOLDS), ((40, 95), PARTLY), ((95,), FAILS), ((), OPEN)])
def test_mlp_dead_at_alpha_0(alive: tuple[int, ...], verdict: str) -> None:
    mlp = [dictionary(200, 0.0, layer=i, site="mlp_post", alpha=0.0, n_alive=n) for i, n in enumerate(alive)]
    assert judged.mlp_dead(frame(mlp, [dictionary(30, 0.2, alpha=0.0)])).verdict == verdict


@pytest.mark.parametrize(
    ("untied", "verdict"), [((90, 90), HOLDS), ((90, 70), PARTLY), ((80, 80), OPEN), ((70, 70), FAILS)]
)
def test_untied_alive(untied: tuple[int, int], verdict: str) -> None:
    rows = [
        dictionary(30, 0.2, site="mlp_post", kind=kind, alpha=alpha, n_alive=n)
        for alpha, own in zip((0.1, 0.2), untied, strict=True)
        for kind, n in (("tied", 80), ("untied", own))
    ]
    found = judged.untied_alive(frame(rows))
    assert found.verdict == verdict and f"{untied[0]} against 80" in found.run


# ---- later forms


@pytest.mark.parametrize(
    ("kind", "fvu", "verdict"),
    [("batchtopk", 0.1, HOLDS), ("jumprelu", 0.5, FAILS), ("frozen", 0.5, HOLDS), ("frozen", 0.1, FAILS)],
)
def test_later_forms_are_compared_at_their_own_l0(kind: str, fvu: float, verdict: str) -> None:
    rows = frame(
        sweep({10: 0.4, 40: 0.2}), sweep({10: 0.0, 40: 0.0}, ratio=8.0), [dictionary(20, fvu, kind=kind, k=20)]
    )
    found = judged.later_form(rows, kind, 0.0)
    assert found.verdict == verdict and "against 0.300" in found.run


def test_a_later_form_outside_the_sweep_cannot_be_told() -> None:
    rows = frame(sweep({10: 0.4, 40: 0.2}), [dictionary(60, 0.1, kind="batchtopk", k=60)])
    assert judged.later_form(rows, "batchtopk", 0.0).verdict == OPEN


# ---- figures


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_a_line_for_each_ratio_and_length(colours) -> None:
    rows = frame(sweep(ARC), sweep(ARC, ratio=1.0)).assign(length=7)
    figure, _ = figures.by_ratio(rows, colours)
    assert [t.name for t in figure.data] == ["R = 1", "R = 4"] and figure.layout.xaxis.type == "log"
    assert (
        list(figure.data[0].x) == sorted(L0S)
        and figure.data[0].customdata[0][7] == "<br>seed 0"
        and figure.data[0].customdata[0][6] == 3_000_000
    )
    assert len({t.marker.color for t in figure.data}) == len({t.marker.symbol for t in figure.data}) == 2
    assert [t.name for t in figures.by_length(rows, colours)[0].data] == ["7 vectors"]


def test_kinds_keep_their_names() -> None:
    rows = frame(sweep(ARC), [dictionary(20, 0.1, kind="batchtopk", k=20)], [dictionary(20, 0.1, kind="frozen")])
    figure, _ = figures.by_kind(rows, LIGHT)
    assert [t.name for t in figure.data] == ["SAE", "BatchTopK SAE", "frozen decoder"]


def test_alive_panels_put_alpha_0_at_the_left_end() -> None:
    free = [dictionary(300, 0.0, alpha=0.0, n_alive=100)]
    figure, _ = figures.alive_panels(frame(sweep(ARC), free, sweep(ARC, site="mlp_post", ratio=1.0)), LIGHT)
    assert [a.text for a in figure.layout.annotations] == ["layer 2<br>resid_post · SAE", "layer 2<br>mlp_post · SAE"]
    assert figure.layout.xaxis.ticktext[0] == "0" and figure.layout.xaxis2.ticktext[0] != "0"
    assert 0 < figure.data[0].x[0] < figure.data[0].x[1] and figure.data[0].y[0] == 1.0


# ---- the section


def test_swept_lists_places_with_lines() -> None:
    rows = frame(sweep(ARC), sweep(ARC, ratio=1.0), sweep(ARC, layer=3), [dictionary(30, 0.2, layer=5)])
    assert swept(rows, "ratio", 1).to_numpy().tolist() == [[2, "resid_post", "tied"], [3, "resid_post", "tied"]]
    assert len(swept(rows, "ratio", 2)) == 1 and swept(rows, "ratio", 3).empty


def test_the_table_has_no_alpha_where_the_kind_has_none() -> None:
    found = table(frame([dictionary(30, 0.2, ce_recovered=0.5)], [dictionary(30, 0.2, kind="pca", alpha=0.0)]))
    assert found["kind"].tolist() == ["SAE", "PCA"] and found["ce_recovered"].iloc[0] == 50
    assert found["alpha"].iloc[0] == 0.1 and pd.isna(found["alpha"].iloc[1])


def test_training_is_read_without_torch_and_may_be_missing(tmp_path: Path) -> None:
    assert training(tmp_path) == ""
    path = tmp_path / "cfg.json"
    for broken in ("{", "3", '{"metadata": {"train": {"lr": 1}}}'):
        path.write_text(broken)
        assert training(tmp_path) == ""
    path.write_text(json.dumps({"metadata": {"train": {"batch_size": 1024, "lr": 1e-3, "seed": 0}}}))
    assert training(tmp_path) == "batches of 1,024, learning rate 0.001, seed 0"


def add(run: RunStore, spec: DictionarySpec, **changes: object) -> None:
    """A dictionary with metrics, without weights."""
    entry = DictionaryEntry(spec.id, spec, 48, f"hash-{spec.id}", "grid")
    run.update_manifest(dictionaries=(*run.dictionaries, entry))
    row = run.read("metrics", run.headline(1).id).iloc[0].to_dict() | {"dictionary": spec.id, "n_features": 48}
    run.write_table("metrics", pd.DataFrame([row | changes]), spec.id)


@pytest.fixture
def many(run: RunStore) -> RunStore:
    """The synthetic run with another ratio, a shorter training, a later form and an MLP dictionary of alpha 0."""
    st.cache_data.clear()
    for alpha, l0 in ((2e-4, 70.0), (3e-3, 12.0)):
        add(run, DictionarySpec(Site(1), "tied", 8, alpha), l0=l0, fvu=0.05)
        add(run, DictionarySpec(Site(1), "tied", 4, alpha, variant="t300k"), l0=l0, fvu=0.4, train_tokens=300_000)
    add(run, DictionarySpec(Site(1), "batchtopk", 4, k=30), l0=30.0, fvu=0.01)
    for alpha in (0.0, 1e-3):
        add(run, DictionarySpec(Site(1, "mlp_post"), "tied", 1, alpha), n_alive=20)
    return run


def test_the_section_on_a_run(open_page: Opener, many: RunStore) -> None:
    test = open_page("paper", section="dictionaries")
    assert_calm(test)
    assert len(test.subheader) == 5 and len(test.get("plotly_chart")) == 4
    assert texts(test).count("class='sae-claim-head'") == 2 + 1 + 3 + 1
    assert "R = 4: " in texts(test) and "300,000 vectors: 0.400" in texts(test)
    assert len(test.dataframe[0].value) == len(many.dictionaries)
    spec = json.loads(test.get("plotly_chart")[0].proto.spec)
    assert [trace["name"] for trace in spec["data"]] == ["R = 4", "R = 8"]


def test_a_row_opens_browse_only_where_there_are_tables(open_page: Opener, many: RunStore) -> None:
    test = open_page("paper", section="dictionaries")
    ids = test.dataframe[0].value["id"].tolist()
    for id in (many.headline(1).id, next(d.id for d in many.dictionaries if d.role == "grid")):
        test.session_state["all_dictionaries"] = {"selection": {"rows": [ids.index(id)], "columns": [], "cells": []}}
        test.run()
        if many.dictionary(id).role == "main":
            assert test.title[0].value == "Browse" and test.query_params["dictionary"] in (id, [id])
            test = open_page("paper", section="dictionaries")
        else:
            assert f"{id} has metrics only" in texts(test)


def test_a_clicked_point_opens_browse(open_page: Opener, many: RunStore) -> None:
    test = open_page("paper", section="dictionaries")
    test.session_state["alive"] = {"selection": {"points": [{"customdata": [many.headline(1).id]}]}}
    test.run()
    assert test.title[0].value == "Browse"


@pytest.mark.parametrize("key", ["sweep_place", "length_place", "form_place"])
def test_links_that_cannot_be_read(open_page: Opener, many: RunStore, key: str) -> None:
    test = open_page("paper", section="dictionaries", **{key: "<b>"})
    assert not test.exception and key in errors(test)[0] and "<b>" not in errors(test)[0]


def test_what_a_run_lacks_is_named(open_page: Opener, run: RunStore) -> None:
    st.cache_data.clear()
    test = open_page("paper", section="dictionaries", setting="as-published")
    assert "python -m precompute paper published --run" in errors(test)[0]
    assert len(test.dataframe[0].value) == len(run.dictionaries)
    test = open_page("paper", section="dictionaries")
    assert "two training lengths" in errors(test)[0] and "BatchTopK" in errors(test)[1]


def test_as_published_shows_only_what_was_trained_so(open_page: Opener, many: RunStore) -> None:
    for alpha, l0 in ((1e-4, 70.0), (1e-3, 12.0)):
        add(many, DictionarySpec(Site(0), "tied", 4, alpha, variant="published"), l0=l0, fvu=0.2)
    test = open_page("paper", section="dictionaries", setting="as-published")
    spec = json.loads(test.get("plotly_chart")[0].proto.spec)
    assert [trace["name"] for trace in spec["data"]] == ["R = 4"] and len(spec["data"][0]["customdata"]) == 2
