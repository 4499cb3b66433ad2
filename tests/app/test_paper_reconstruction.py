"""Perplexity on reconstructed activations: choice of dictionaries, claims, figures, and the section on a run."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import streamlit as st

from app.figures import paper_reconstruction as figures
from app.palette import DARK, LIGHT
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY
from app.paper.reconstruction import costs_perplexity, one_a_layer, sparser_costs_more
from sae_core.store import RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts


def row(layer: int, spliced: float, l0: float = 30.0, **changes: object) -> dict[str, object]:
    """A dictionary of a model whose own perplexity is 25."""
    clean, zero = np.log(25), np.log(2500)
    return {
        "id": f"L{layer}-{l0}", "layer": layer, "ratio": 4.0, "alpha": 1 / l0, "headline": True, "l0": l0, "fvu": 0.1,
        "loss_clean": clean, "loss_spliced": np.log(spliced), "loss_zero": zero, "perplexity_clean": 25.0,
        "perplexity_spliced": spliced, "ce_recovered": (zero - np.log(spliced)) / (zero - clean), "n_tokens": 1234,
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("spliced", "verdict"), [((40, 28), HOLDS), ((40, 26), PARTLY), ((26, 25.1), FAILS), ((), OPEN)]
)
def test_costs_perplexity(spliced: tuple[float, ...], verdict: str) -> None:
    frame = pd.DataFrame([row(i, value) for i, value in enumerate(spliced)] or [row(0, 1.0)])[: len(spliced)]
    found = costs_perplexity(frame)
    assert found.verdict == verdict
    if spliced and spliced[0] == 40:
        assert "Layer 0: 25.0 → 40.0 (× 1.60, CE recovered 89.8%" in found.run and "n = 1,234" in found.run


@pytest.mark.parametrize(
    ("by_l0", "verdict"),
    [
        ({10: 60, 30: 40, 90: 30}, HOLDS),
        ({10: 60, 30: 70, 90: 30}, PARTLY),
        ({10: 30, 90: 60}, FAILS),
        ({10: 30}, OPEN),
    ],
)
def test_sparser_costs_more(by_l0: dict[float, float], verdict: str) -> None:
    found = sparser_costs_more(pd.DataFrame([row(2, value, l0) for l0, value in by_l0.items()]))
    assert found.verdict == verdict


def test_one_a_layer_prefers_the_headline_then_the_nearest_l0() -> None:
    frame = pd.DataFrame([
        row(0, 40, 20), row(0, 41, 30, headline=False),
        row(1, 42, 90, headline=False), row(1, 43, 33, headline=False),
    ])  # fmt: skip
    assert one_a_layer(frame)["perplexity_spliced"].tolist() == [40, 43]


def test_levels_are_loss_or_its_exponential() -> None:
    frame = pd.DataFrame([row(0, 40)])
    assert figures.levels(frame, "perplexity", "zero").tolist() == pytest.approx([2500])
    assert figures.levels(frame, "loss", "spliced").tolist() == pytest.approx([np.log(40)])


@pytest.mark.parametrize("colours", [LIGHT, DARK])
@pytest.mark.parametrize("measure", list(figures.MEASURES))
def test_by_layer_draws_three_levels_and_the_share(colours, measure: str) -> None:
    figure, sentence = figures.by_layer(pd.DataFrame([row(1, 30), row(0, 40)]), measure, colours)
    assert [t.name for t in figure.data[:3]] == ["untouched", "reconstruction", "site set to 0"]
    assert list(figure.data[0].x) == [0, 1] and figure.layout.yaxis.title.text == figures.MEASURES[measure]
    assert figure.data[1].customdata[0][3] == pytest.approx(1.6) and "CE recovered" in sentence


def test_the_sweep_has_a_line_for_each_layer_and_the_model_untouched() -> None:
    figure, _ = figures.sweep(pd.DataFrame([row(0, 40), row(0, 30, 90), row(3, 35)]), LIGHT)
    assert [t.name for t in figure.data] == ["layer 0", "layer 3", "untouched"]
    assert list(figure.data[0].x) == [30, 90] and list(figure.data[2].y) == [25, 25]


def test_the_section_on_a_run(open_page: Opener, run: RunStore) -> None:
    st.cache_data.clear()
    test = open_page("paper", section="reconstruction", loss_measure="loss")
    assert_calm(test)
    assert len(test.get("plotly_chart")) == 2 and texts(test).count("class='sae-claim-head'") == 2
    drawn = json.loads(test.get("plotly_chart")[0].proto.spec)["data"]
    found = [run.read("metrics", run.headline(layer).id)["loss_spliced"].iloc[0] for layer in range(3)]
    assert drawn[1]["y"] == pytest.approx(found)
    assert "perplexity from 25 to 40" in texts(test)


def test_what_is_missing_and_what_cannot_be_read(open_page: Opener, run: RunStore) -> None:
    test = open_page("paper", section="reconstruction", setting="as-published")
    assert len(errors(test)) == 1 and "paper published --run" in errors(test)[0]
    test = open_page("paper", section="reconstruction", loss_measure="bits")
    assert not test.exception and "loss_measure" in errors(test)[0]
