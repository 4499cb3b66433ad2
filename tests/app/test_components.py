"""HTML of tokens, contexts, cards and errors: escaped once, readable in both themes, right numbers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plotly.subplots import make_subplots

import app
from app.components import cards, plots
from app.components.contexts import context_list
from app.components.errors import error_html
from app.components.numbers import closed_up, count, digits, duration, mean_of, percent, share_of
from app.components.tokens import chips, readable_on, token_strip
from app.glossary import explain, plain
from app.palette import DARK, LIGHT, Palette, contrast, mix
from sae_core.errors import InputError
from sae_core.schemas import OTHER_TOKEN

THEMES = pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
NASTY = ["<script>alert(1)</script>", "</bdi><img src=x onerror=alert(1)>", "' onmouseover='alert(1)", '"&amp;']


@THEMES
def test_tokens_are_escaped_once(colours: Palette) -> None:
    html = token_strip(NASTY, [1.0, 0, 0.5, 0], colours, titles=NASTY, hrefs=["?a='<>"] * 4) + chips(NASTY)
    assert not re.search(r"<script|<img|[^&]' onmouseover='", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&amp;lt;" not in html
    assert html.count("&amp;amp;") == html.count("amp;amp;")  # a token that is itself an entity stays itself


@THEMES
@pytest.mark.parametrize("meaning", ["activation", "change", "edited"])
def test_text_on_every_strength_is_readable(colours: Palette, meaning: str) -> None:
    shares = np.linspace(0.01, 1, 25)
    values = [*shares, *(-shares if meaning == "change" else [])]
    html = token_strip(["x"] * len(values), values, colours, scale=1.0, meaning=meaning)
    pairs = re.findall(r"background:(#\w{6});color:(#\w{6})", html)
    assert len(pairs) == len(values)
    assert min(contrast(*pair) for pair in pairs) >= 4.5


@THEMES
def test_stronger_activations_stand_out_more(colours: Palette) -> None:
    html = token_strip(["a", "b", "c", "d"], [0.0, 0.1, 0.5, 1.0], colours)
    backgrounds = re.findall(r"background:(#\w{6})", html)
    steps = [contrast(b, colours.background) for b in backgrounds]
    assert len(steps) == 3 and steps == sorted(steps)


def test_sign_of_a_change_chooses_the_hue() -> None:
    html = token_strip(["up", "down"], [1.0, -1.0], LIGHT, meaning="change")
    up, down = re.findall(r"background:(#\w{6})", html)
    assert up == mix(LIGHT.raised, LIGHT.background, 0.95) and down == mix(LIGHT.lowered, LIGHT.background, 0.95)


def test_peak_title_and_newline() -> None:
    html = token_strip(["a", "↵", "b"], [0.2, 0, 0], LIGHT, peak=0)
    assert html.count("sae-peak") == 1 and html.index("sae-peak") < html.index(">a<")
    assert "value 0.2" in html
    assert html.count("<br>") == 1
    assert token_strip([], [], LIGHT) == "<div class='sae-tokens'></div>"


def test_contrast_follows_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert readable_on("#ffffff") == "#000000" and readable_on("#20304a") == "#ffffff"


@THEMES
def test_meanings_have_different_colours_that_show_on_the_background(colours: Palette) -> None:
    meanings = [colours.activation, colours.raised, colours.lowered, colours.edited, colours.chosen, colours.clean]
    assert len(set(meanings)) == len(meanings)
    assert min(contrast(c, colours.background) for c in meanings) >= 2.2


def window(ids: list[int], labels: str = "") -> pd.DataFrame:
    row = {"document": 7, "source": "<b>news</b>", "token_ids": np.array(ids), "labels": labels}
    return pd.DataFrame([row], index=pd.Index([3], name="window"))


def context(position: int = 2, activation: float = 4.0, values: tuple = ((1, 0.5), (2, 4.0))) -> pd.DataFrame:
    row = {
        "rank": 0, "window": 3, "position": position, "activation": activation, "token_id": 12,
        "active_positions": np.array([p for p, _ in values]), "active_values": np.array([v for _, v in values]),
    }  # fmt: skip
    return pd.DataFrame([row])


WORDS = {10: "␣a", 11: "<i>", 12: "␣b", 13: "c"}


def test_context_shows_source_tokens_and_peak() -> None:
    html = context_list(context(), window([10, 11, 12, 13]), WORDS, LIGHT, 4.0)
    # Long names of sources are cut by the style sheet; the whole one is in the title.
    assert html.count("&lt;b&gt;news&lt;/b&gt;") == 2 and "<span class='sae-source'>" in html and "<b>news" not in html
    assert "&lt;i&gt;" in html and "<i>" not in html
    assert "<b>4.00</b>" in html and "document 7, window 3, position 2" in html
    assert re.search(r"sae-peak' title='␣b\nid 12, position 2\nactivation 4.00'", html)
    assert html.count("background:") == 2


def test_context_is_cut_around_the_peak_and_names_factors() -> None:
    labels = '{"name_role": [[2, 3, "giver"]]}'
    html = context_list(context(), window([10, 11, 12, 13], labels), WORDS, LIGHT, 4.0, around=1)
    assert html.count("sae-token ") == 3 and "␣a<" not in html
    assert html.count("name_role: giver") == 1


def test_silent_context_has_no_peak_and_unknown_tokens_show_their_id() -> None:
    html = context_list(context(activation=0.0, values=()), window([10, 99]), WORDS, LIGHT, 4.0)
    assert "silent" in html and "sae-peak" not in html and "token 99" in html


def test_card_bars_follow_log_counts() -> None:
    row = pd.Series({"density": 0.01, "max_activation": 2.0, "dead": False, "top_tokens": NASTY})
    histogram = pd.DataFrame({"bin": [0, 0, 1], "token_id": [5, OTHER_TOKEN, 5], "count": [90, 9, 9]})
    html = cards.feature_card(row, histogram, "4 <label>", "feature?x='1'", LIGHT)
    heights = [float(h) for h in re.findall(r"height:([\d.]+)px", html)]
    assert sum(heights[:2]) == pytest.approx(cards.HEIGHT, abs=0.2)
    assert heights[2] == pytest.approx(cards.HEIGHT * np.log10(10) / np.log10(100), abs=0.2)
    assert "4 &lt;label&gt;" in html and "<script" not in html
    assert html.count(LIGHT.muted) == 1


def test_card_of_a_dead_feature() -> None:
    row = pd.Series({"density": 0.0, "max_activation": 0.0, "dead": True, "top_tokens": []})
    assert "dead" in cards.feature_card(row, pd.DataFrame({"bin": [], "token_id": [], "count": []}), "4", "", LIGHT)


def test_errors_are_escaped() -> None:
    html = error_html(InputError("a <b>", "'<script>'", "Do & try"))
    assert "<script>" not in html and "&lt;script&gt;" in html and "Do &amp; try" in html


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (4.567, "4.57"), (1234.5, "1,234"), (-0.5, "-0.500"), (3e-7, "3.00e-07"),
     (float("nan"), "not defined"), (2.5e7, "2.50e+07")],
)  # fmt: skip
def test_digits(value: float, text: str) -> None:
    assert digits(value) == text


def test_other_numbers() -> None:
    assert count(1234567) == "1,234,567"
    assert percent(0.00012) == "0.012%" and percent(0.62) == "62%"
    assert [duration(s) for s in (9.4, 200, 3900)] == ["9.4 s", "3 min 20 s", "1 h 05 min"]


def test_percentages_are_written_without_a_space_everywhere() -> None:
    assert share_of(930, 1590) == "58% (930 of 1,590; 95% interval 56% to 61%)"
    assert mean_of((0.43, 0.4, 0.46), 12) == "0.430 (95% interval 0.400 to 0.460, n = 12)"
    assert closed_up("2.5 % point, 95 % Wilson interval; 7 %x stays") == "2.5% point, 95% Wilson interval; 7 %x stays"
    assert "90% of its activity" in explain("features", "position_only")  # the schema writes `90 %`


def test_no_text_of_the_app_has_a_space_before_a_percent_sign() -> None:
    # A part of an f-string that follows a value begins with the space; %{x} is plotly's.
    spaced = re.compile(r"(?:^|\d)\s+%{1,2}(?![\w{(])")
    found = [
        f"{path.name}: {node.value!r}"
        for path in sorted(Path(app.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if spaced.search(node.value) and "not `40 %`" not in node.value  # the docstring that says what is closed up
    ]
    assert not found


def test_axes_are_written_in_a_colour_that_can_be_read() -> None:
    figure = make_subplots(cols=2)
    figure.add_heatmap(z=[[1]], row=1, col=1)
    figure.update_xaxes(title="share")
    plots.darken_axes(figure, LIGHT.text)
    axes = [figure.layout[name] for name in ("xaxis", "xaxis2", "yaxis", "yaxis2")]
    assert {axis.tickfont.color for axis in axes} == {axis.title.font.color for axis in axes} == {LIGHT.text}
    assert figure.layout.xaxis.title.text == "share"  # what was there stays
    assert figure.data[0].colorbar.tickfont.color == LIGHT.text and contrast(LIGHT.text, LIGHT.background) >= 4.5


def test_tooltips_come_from_the_schemas_and_are_not_markdown() -> None:
    text = explain("features", "skew_uncentred", 2_000_000)
    assert "variance\\^1.5" in text or "variance^1.5" in text
    assert "all table tokens" in text and "n = 2,000,000" in text
    assert plain("*a* [b](c) $x$") == "\\*a\\* \\[b\\](c) \\$x\\$"
