"""Figures on hand-made frames: what is drawn is what the frame holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from app.figures.colours import LEGEND_TOKENS, legend_tokens
from app.figures.effects import logit_effects, strongest
from app.figures.histograms import activation_histogram, drop_histogram
from app.figures.overview import density_histogram, fvu_against_l0
from app.palette import DARK, LIGHT
from sae_core.schemas import OTHER_TOKEN


def histogram(rows: list[tuple[int, int, str, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["bin", "token_id", "token", "count"])
    return frame.assign(bin_low=frame["bin"] * 0.5, bin_high=frame["bin"] * 0.5 + 0.5)


SMALL = histogram([(0, 5, "␣the", 70), (0, 6, "<b>", 20), (0, OTHER_TOKEN, "rest", 10), (3, 6, "<b>", 4)])


def test_activation_histogram_stacks_every_count() -> None:
    figure, sentence = activation_histogram(SMALL, LIGHT, log=False)
    assert figure.layout.barmode == "stack" and figure.layout.yaxis.type == "linear"
    assert [t.name for t in figure.data] == ["␣the", "&lt;b&gt;", "all others"]
    assert sum(sum(t.y) for t in figure.data) == SMALL["count"].sum()
    assert list(figure.data[1].x) == [0.25, 1.75] and list(figure.data[1].y) == [20, 4]
    assert figure.data[1].customdata[1] == [3, 6] or list(figure.data[1].customdata[1]) == [3, 6]
    assert "67% of the active tokens are ␣the" in sentence
    assert figure.data[2].marker.color == LIGHT.muted


def test_log_scale_warns_about_parts() -> None:
    figure, sentence = activation_histogram(SMALL, DARK, log=True)
    assert figure.layout.yaxis.type == "log" and "only whole bars compare" in sentence


def test_rare_tokens_join_the_others() -> None:
    rows = [(0, i, f"t{i}", 100 - i) for i in range(LEGEND_TOKENS + 3)] + [(0, OTHER_TOKEN, "rest", 1000)]
    frame = histogram(rows)
    assert legend_tokens(frame) == list(range(LEGEND_TOKENS))
    figure, _ = activation_histogram(frame, LIGHT, log=False)
    assert len(figure.data) == LEGEND_TOKENS + 1
    assert figure.data[-1].y[0] == 1000 + sum(100 - i for i in range(LEGEND_TOKENS, LEGEND_TOKENS + 3))
    colours = [t.marker.color for t in figure.data]
    assert len(set(colours)) == len(colours)


def test_drop_histogram_names_its_population() -> None:
    frame = SMALL.assign(n_positions=416)
    figure, sentence = drop_histogram(frame, LIGHT, log=False)
    assert "104 of 416 positions (25%)" in sentence and "nats" in figure.layout.xaxis.title.text


def effects_frame() -> pd.DataFrame:
    change = [-2.0, -0.5, 0.3, 0.9]
    return pd.DataFrame(
        {
            "token": ["'s", "<i>", "b", "c"], "mean_change_logprob": change, "mean_change_logit": change,
            "stderr": [0.1, 0.2, 0.3, 0.4], "direct": [-1.5, 0.1, 0.2, 0.8], "n_positions": 256, "n_windows": 64,
        }
    )  # fmt: skip


@pytest.mark.parametrize(("lowered", "tokens"), [(True, ["'s", "<i>"]), (False, ["c", "b"])])
def test_strongest_first_on_the_right_side(lowered: bool, tokens: list[str]) -> None:
    assert list(strongest(effects_frame(), lowered, 5)["token"]) == tokens


def test_logit_effects_draw_causal_with_error_and_direct() -> None:
    figure, sentence = logit_effects(effects_frame(), LIGHT, lowered=True)
    causal, direct = figure.data
    assert list(causal.x) == [-2.0, -0.5] and list(causal.error_x.array) == [0.1, 0.2]
    assert list(direct.x) == [-1.5, 0.1]
    assert list(figure.layout.yaxis.ticktext) == ["'s", "&lt;i&gt;"]
    assert causal.marker.color == LIGHT.lowered and "-2 nats" in sentence and "256" in sentence


def test_logit_effects_without_rows() -> None:
    figure, sentence = logit_effects(effects_frame().iloc[:0], LIGHT, lowered=False)
    assert len(figure.data[0].x) == 0 and "raises no token" in sentence


def test_density_histogram_counts_dead_and_dense_apart() -> None:
    density = np.array([0, 0, 1e-4, 1.1e-4, 0.01, 0.5], dtype=np.float32)
    figure, sentence = density_histogram(density, LIGHT)
    bars = figure.data[0]
    assert sum(bars.y) == 4
    at = dict(zip(np.round(bars.x, 3), bars.y, strict=True))
    assert at[-3.875] == 2 and at[-0.375] == 1
    assert "2 of 6 features are dead" in sentence and "1 are dense" in sentence
    assert bars.marker.color[list(np.round(bars.x, 3)).index(-0.375)] == LIGHT.muted


def test_density_histogram_of_an_all_dead_dictionary() -> None:
    figure, sentence = density_histogram(np.zeros(3, dtype=np.float32), LIGHT)
    assert sum(figure.data[0].y) == 0 and "3 of 3" in sentence


def test_fvu_against_l0_has_one_line_a_group() -> None:
    frame = pd.DataFrame(
        {
            "dictionary": ["a", "b", "c"], "group": ["L1 tied", "L1 tied", "L2 tied"], "l0": [50.0, 10.0, 30.0],
            "fvu": [0.1, 0.3, 0.2], "headline": [False, False, True],
        }
    )  # fmt: skip
    figure, _ = fvu_against_l0(frame, LIGHT)
    assert [t.name for t in figure.data] == ["L1 tied", "L2 tied", "headline"]
    assert list(figure.data[0].x) == [10.0, 50.0] and list(figure.data[2].x) == [30.0]
    assert figure.layout.xaxis.type == "log"
