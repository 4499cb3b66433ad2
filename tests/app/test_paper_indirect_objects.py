"""Patching of indirect objects: reading curves, judging them, drawing them, and the section on a run."""

from __future__ import annotations

import json
from math import inf

import pandas as pd
import pytest

from app.figures.paper_indirect_objects import NONE_AT, patching_layers, patching_panels, series_name
from app.palette import DARK, LIGHT
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY
from app.paper.indirect_objects import needs
from app.paper.indirect_objects_claims import (
    Reach,
    claims,
    compare,
    fewer_patches,
    higher_floor,
    not_without_sparsity,
    reach,
    smaller_edits,
)
from sae_core.schemas import TABLES
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts


def curve(method: str, alpha: float, half_at: int, *, layer: int = 0, floor: float = 0.0, width: float = 0.2) -> dict:
    """8 nats until half_at - 1 features, then 3 nats, then 1, then the floor; every feature adds 0.5 of magnitude."""
    kl = [8.0] * half_at + [3.0, 1.0, floor]
    n = len(kl)
    id = f"L{layer}-{method}-{alpha}"
    return {
        "dictionary": id, "method": method, "order": "acdc", "n_patched": list(range(n)), "mean_kl": kl,
        "lower": [max(0.0, v - width) for v in kl], "upper": [v + width for v in kl],
        "mean_magnitude": [0.5 * i for i in range(n)], "n_pairs": 50, "n_differing": n - 1, "kl_floor": floor,
        "layer": layer, "alpha": alpha, "n_features": 99,
    }  # fmt: skip


def frame(*curves: dict) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(c) for c in curves], ignore_index=True)


def pca(layer: int = 0, half_at: int = 10) -> list[dict]:
    return [curve("pca", 0.0, half_at, layer=layer), curve("pca_nonneg", 0.0, half_at + 2, layer=layer)]


# ---- reading a curve


def test_reach_is_the_first_point_at_or_below_the_level() -> None:
    part = frame(curve("sae", 0.1, 5)).sample(frac=1, random_state=0)  # the order of rows must not matter
    assert reach(part, 0.5) == Reach(5, 5, 5)
    assert reach(part, 0.5, "mean_magnitude") == Reach(2.5, 2.5, 2.5)
    assert reach(part, 0.125) == Reach(6, 6, 7)  # 1.0 nats is the level itself; its upper end reaches it one later


def test_reach_spans_what_the_band_allows() -> None:
    part = frame(curve("sae", 0.1, 5, width=1.5))  # 3 nats: 1.5 to 4.5; 1 nat: 0 to 2.5
    assert reach(part, 0.5) == Reach(5, 5, 6)
    assert reach(part, 0.2) == Reach(6, 5, 7)
    assert str(reach(part, 0.5)) == "5 (5 to 6)"


def test_a_floor_above_the_level_is_never_passed() -> None:
    part = frame(curve("sae", 0.1, 5, floor=5.0))
    part = part[part["n_patched"] < 5]
    assert reach(part, 0.5) == Reach(inf, inf, inf) and str(reach(part, 0.5)) == "never"
    assert str(Reach(inf, 3.0, inf)) == "never (3 to never)"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Reach(3, 2, 4), Reach(6, 5, 7), 1),
        (Reach(6, 5, 7), Reach(3, 2, 4), -1),
        (Reach(3, 2, 5), Reach(6, 5, 7), 0),
        (Reach(3, 2, 4), Reach(inf, inf, inf), 1),
        (Reach(inf, inf, inf), Reach(inf, inf, inf), 0),
        (Reach(inf, 5, inf), Reach(3, 2, 4), -1),
    ],
)
def test_compare_needs_ranges_apart(one: Reach, other: Reach, expected: int) -> None:
    assert compare(one, other) == expected and compare(other, one) == -expected


# ---- claims


@pytest.mark.parametrize(("half_at", "verdict"), [(3, HOLDS), (10, OPEN), (20, FAILS)])
@pytest.mark.parametrize("claim", [fewer_patches, smaller_edits])
def test_sae_against_pca_in_one_layer(claim, half_at: int, verdict: str) -> None:
    found = claim(frame(curve("sae", 0.1, half_at), *pca()))
    assert found.verdict == verdict
    assert "n = 50 pairs" in found.run and "Half: SAE (alpha 1e-1)" in found.run


def test_both_forms_of_pca_must_be_beaten() -> None:
    between = frame(curve("sae", 0.1, 11), curve("pca", 0.0, 20), curve("pca_nonneg", 0.0, 4))
    assert fewer_patches(between).verdict == FAILS


def test_layers_that_differ_give_in_part() -> None:
    both = frame(curve("sae", 0.1, 3), *pca(), curve("sae", 0.1, 30, layer=1), *pca(1))
    found = fewer_patches(both)
    assert found.verdict == PARTLY and "layer 0 2 of 2, layer 1 0 of 2" in found.run
    assert "2 of 4 cases" in found.reason


def test_every_alpha_is_a_case_and_floors_are_named() -> None:
    high = curve("sae", 0.3, 3, floor=7.0) | {"mean_kl": [8.0, 8.0, 8.0, 7.5, 7.2, 7.0]}
    high |= {"lower": [v - 0.1 for v in high["mean_kl"]], "upper": [v + 0.1 for v in high["mean_kl"]]}
    found = fewer_patches(frame(curve("sae", 0.1, 3), high, *pca()))
    assert found.verdict == PARTLY and "In 2 the SAE never gets there" in found.reason


def test_without_pca_nothing_can_be_told() -> None:
    found = fewer_patches(frame(curve("sae", 0.1, 3)))
    assert found.verdict == OPEN and "No layer has both" in found.run


@pytest.mark.parametrize(
    ("sparse", "plain", "verdict"),
    [(3, 30, HOLDS), (3, 6, FAILS), (20, 20, OPEN), (30, 20, FAILS)],
    ids=["only the sparse one beats PCA", "alpha 0 beats PCA too", "no difference", "alpha 0 is ahead"],
)
def test_not_without_sparsity(sparse: int, plain: int, verdict: str) -> None:
    found = not_without_sparsity(frame(curve("sae", 0.1, sparse), curve("sae", 0.0, plain), *pca()))
    assert found.verdict == verdict


def test_not_without_sparsity_needs_alpha_0() -> None:
    assert not_without_sparsity(frame(curve("sae", 0.1, 3), *pca())).verdict == OPEN


@pytest.mark.parametrize(
    ("floors", "verdict"),
    [((0.0, 1.0, 2.0), HOLDS), ((0.0, 1.0, 1.1), PARTLY), ((2.0, 1.0, 0.0), FAILS), ((1.0, 1.1, 1.0), OPEN)],
)
def test_higher_floor(floors: tuple[float, ...], verdict: str) -> None:
    found = higher_floor(frame(*(curve("sae", 0.1 * i, 3, floor=floor) for i, floor in enumerate(floors))))
    assert found.verdict == verdict and "1e-1 → " in found.run


def test_one_alpha_has_no_floor_to_compare() -> None:
    assert higher_floor(frame(curve("sae", 0.1, 3))).verdict == OPEN


def test_needs_lists_every_curve() -> None:
    found = needs(frame(curve("sae", 0.1, 3), *pca(), curve("sae", 0.0, 3, floor=9.0)))
    assert len(found) == 4 and set(found["curve"]) == {
        "SAE (alpha 1e-1)", "SAE (alpha 0)", "PCA", "non-negative PCA",
    }  # fmt: skip
    row = found[found["curve"] == "PCA"].iloc[0]
    assert (row["features half"], row["features a quarter"], row["edit half"]) == (10, 11, 5.0)


# ---- figures


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_panels_hold_every_curve_twice_with_floor_and_band(colours) -> None:
    figure, sentence = patching_panels(frame(curve("sae", 0.2, 3), curve("sae", 0.0, 5), *pca()), colours)
    lines = [trace for trace in figure.data if trace.name]
    assert [t.name for t in lines if t.showlegend] == [
        "SAE (alpha 2e-1)", "SAE (alpha 0)", "PCA", "non-negative PCA",
    ]  # fmt: skip
    assert len(lines) == 8 and len(figure.data) == 24  # two panels, each with line, band and floor
    assert lines[0].x[0] == NONE_AT and list(lines[0].y) == [8, 8, 8, 3, 1, 0]
    assert figure.layout.xaxis.ticktext[0] == "0" and "50 pairs" in sentence
    assert len({(t.line.color, t.line.dash) for t in lines[:4]}) == 4


def test_layers_have_a_panel_each_and_one_legend() -> None:
    figure, _ = patching_layers(frame(*(curve("sae", 0.1, 3, layer=i) for i in range(7))), "magnitude", LIGHT)
    assert [a.text for a in figure.layout.annotations] == [f"layer {i}" for i in range(7)]
    assert sum(bool(t.showlegend) for t in figure.data) == 1


def test_series_names() -> None:
    assert series_name("sae", 8.6e-4) == "SAE (alpha 8.6e-4)" and series_name("pca", 0) == "PCA"


# ---- the section


@pytest.fixture
def patched(run: RunStore) -> RunStore:
    """The synthetic run with curves of layer 0 and 1, PCA among them."""
    entries = [
        DictionaryEntry(spec.id, spec, 32, f"hash-{spec.id}", "baseline")
        for spec in (DictionarySpec(Site(layer), "pca", 2) for layer in (0, 1))
    ]
    run.update_manifest(dictionaries=(*run.dictionaries, *entries))
    by_layer = [(layer, run.headline(layer).id) for layer in (0, 1)]
    made = [curve("sae", 8.6e-4, 3, layer=layer) | {"dictionary": id} for layer, id in by_layer]
    made += [c | {"dictionary": entry.id} for layer, entry in enumerate(entries) for c in pca(layer)]
    table = frame(*made).assign(setting="corrected")
    table = pd.concat([table, table.assign(order="magnitude")])
    run.write_table("patching", table[TABLES["patching"].column_names])
    return run


def test_the_section_shows_both_figures_and_judges(open_page: Opener, patched: RunStore) -> None:
    test = open_page("paper", section="indirect_objects", patch_layer="1")
    assert_calm(test)
    assert [s.value for s in test.subheader] == [
        "Figure 3 · patching indirect objects in one layer", "Figure 17 · the same in all layers",
    ]  # fmt: skip
    assert "Layer 1: divergence" in texts(test) and texts(test).count("class='sae-claim-head'") == 8
    assert "differ in some of the 50 pairs" in texts(test)
    specs = [json.loads(chart.proto.spec) for chart in test.get("plotly_chart")]
    assert {t.get("name") for t in specs[0]["data"]} >= {"SAE (alpha 8.6e-4)", "PCA", "non-negative PCA"}
    assert len(test.dataframe[0].value) == 6


def test_order_and_axis_are_in_the_address(open_page: Opener, patched: RunStore) -> None:
    test = open_page("paper", section="indirect_objects", patch_order="magnitude", patch_axis="magnitude")
    assert_calm(test)
    assert test.button_group(key="patch_order").value == "magnitude"
    test.button_group(key="patch_layer").set_value(1).run()
    assert test.query_params["patch_layer"] in ("1", ["1"])


@pytest.mark.parametrize(("key", "value"), [("patch_layer", "9"), ("patch_order", "<b>"), ("patch_axis", "x")])
def test_links_that_cannot_be_read(open_page: Opener, patched: RunStore, key: str, value: str) -> None:
    test = open_page("paper", section="indirect_objects", **{key: value})
    assert not test.exception and key in errors(test)[0] and "<b>" not in errors(test)[0]


def test_what_is_missing_is_named(open_page: Opener, patched: RunStore) -> None:
    test = open_page("paper", section="indirect_objects", setting="as-published")
    assert "paper ioi --run" in errors(test)[0] and "as-published" in errors(test)[0]
    patched.table_path("patching").unlink()
    test = open_page("paper", section="indirect_objects")
    assert "python -m precompute paper ioi --run" in errors(test)[0] and len(errors(test)) == 1


def test_claims_are_four_of_any_curves() -> None:
    assert len(claims(frame(curve("sae", 0.1, 3), *pca()))) == 4
