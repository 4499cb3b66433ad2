"""Figures of the live pages: what they draw from hand-made frames, and that text is escaped."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from app import trees
from app.figures import ablation, tree
from app.figures.axes import NARROWEST, numbered, safe, tokens_width
from app.figures.firing import firing_grid, strongest
from app.palette import DARK, LIGHT, rgba

FIRING = pd.DataFrame({"feature": [7, 7, 9, 4], "position": [0, 2, 1, 2], "activation": [1.0, 3.0, 2.0, 0.5]})
TOKENS = ["␣the", "<b>", "$x"]
NAMES = {7: "#7 seven", 9: "#9 <script>", 4: "#4 four"}


@pytest.mark.parametrize(("text", "shown"), [("<b>&", "&lt;b&gt;&amp;"), ("a'\"", "a'\""), ("x" * 50, "x" * 39 + "…")])
def test_labels_are_escaped_and_cut(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_equal_tokens_keep_their_own_tick() -> None:
    ticks = numbered(["a", "a", "a"])
    assert ticks["tickvals"] == [0, 1, 2] and len(set(ticks["ticktext"])) == 3


def test_short_sentences_have_flat_labels_and_others_slanted_ones_that_do_not_touch() -> None:
    assert numbered(["a", "bc"])["tickangle"] == 0
    # One long token is enough: the labels of its neighbours would run into it.
    slanted = numbered(["a", "restaurant", *"bcdefg"])
    assert slanted["tickangle"] == -60 and slanted["ticktext"][1] == "restaurant 1"
    height_of_a_label = 12 * 1.3  # pixels of text of size 12
    for n in (15, 40, 120):
        assert (tokens_width(n, 200) - 200) / n * np.sin(np.radians(60)) > height_of_a_label
    assert tokens_width(15, 200) < 200 + NARROWEST  # the sentences of the paper need no scrolling at 800 pixels
    assert numbered([])["tickvals"] == []


def test_grid_puts_each_activation_in_its_cell() -> None:
    figure, text = firing_grid(FIRING, TOKENS, NAMES, LIGHT)
    cells = figure.data[0].z
    assert strongest(FIRING) == [7, 9, 4]
    np.testing.assert_array_equal(np.nan_to_num(cells), [[1, 0, 3], [0, 2, 0], [0, 0, 0.5]])
    assert list(figure.layout.yaxis.ticktext) == ["#7 seven", "#9 &lt;script&gt;", "#4 four"]
    assert [list(c)[:2] for c in figure.data[1].customdata] == [[7, 0], [7, 2], [9, 1], [4, 2]]
    assert "All features that fire" in text


def test_grid_keeps_a_weak_feature_that_was_chosen() -> None:
    many = pd.DataFrame({"feature": range(40), "position": 0, "activation": np.linspace(9, 1, 40)})
    figure, text = firing_grid(many, ["a"], {39: "#39"}, LIGHT, chosen=[39, 100])
    assert len(figure.data[0].y) == 25 and figure.layout.yaxis.ticktext[-1] == "<b>#39</b>"
    assert "25 strongest of the 40" in text


def test_kl_bars_have_one_bar_a_position_and_name_the_largest() -> None:
    figure, text = ablation.kl_by_position(np.array([0.0, 0.5, 0.25]), TOKENS, 2, DARK)
    assert list(figure.data[0].y) == [0.0, 0.5, 0.25]
    assert figure.data[0].marker.line.color[2] == DARK.text
    assert "<b> (position 1, 0.5 nats)" in text  # the sentence is escaped where it is shown


def test_raised_and_lowered_tokens_have_their_colours() -> None:
    frame = pd.DataFrame(
        {"token": ["up", "down"], "clean_p": [0.1, 0.4], "edited_p": [0.2, 0.1], "change_logprob": [0.7, -1.4],
         "change_logit": [0.6, -1.5]}
    )  # fmt: skip
    figure, _ = ablation.changed_tokens(frame, 3, "␣a", LIGHT)
    assert list(figure.data[0].marker.color) == [LIGHT.raised, LIGHT.lowered]
    assert list(figure.data[0].x) == [0.7, -1.4]


def test_dose_response_is_zero_at_the_clean_strength() -> None:
    frame = pd.DataFrame({"strength": [0.0, 1.0, 2.0], "kl": [0.3, 0.0, 0.2], "logprob": [-3.0, -1.0, -0.5]})
    figure, text = ablation.dose_response(frame, "␣x", LIGHT)
    assert list(figure.data[1].y) == [-2.0, 0.0, 0.5]
    assert "-2.000 nats" in text


def test_downstream_joins_clean_and_edited() -> None:
    frame = pd.DataFrame(
        {
            "name": ["L2 #1", "L2 #2"],
            "position": [0, 1],
            "clean": [1.0, 0.0],
            "edited": [0.0, 2.0],
            "change": [-1.0, 2.0],
        }
    )
    figure, _ = ablation.downstream(frame, LIGHT)
    rises, falls, clean, edited = figure.data
    assert list(rises.x) == [0.0, 2.0, None] and list(falls.x) == [1.0, 0.0, None]
    assert rises.line.color == LIGHT.raised and falls.line.color == LIGHT.lowered
    assert list(clean.x) == [1.0, 0.0] and list(edited.x) == [0.0, 2.0]


# ---- trees

NODES = pd.DataFrame(
    {"dictionary": ["b", "a", "a"], "feature": [1, 2, 3], "layer": [1, 0, 0], "depth": [0, 1, 1],
     "name": ["root <i>", "two", "three"]}
)  # fmt: skip
LINKS = pd.DataFrame(
    {"child_dictionary": "b", "child": 1, "parent_dictionary": "a", "parent": [2, 3], "relative_drop": [0.5, -0.2],
     "stderr": [0.1, 0.0], "n_contexts": [20, 20], "cosine": [0.3, 0.1]}
)  # fmt: skip


def test_layers_go_from_left_to_right_and_nodes_do_not_overlap() -> None:
    placed = tree.place(NODES, LINKS)
    assert placed["x"].tolist() == [1, 0, 0]
    assert placed["y"].tolist()[0] == 0 and placed["y"].nunique() == 3 and placed["y"].iloc[1:].sum() == 0


def test_parents_stand_at_the_height_of_their_children() -> None:
    nodes = pd.DataFrame(
        {
            "dictionary": list("cbbaa"),
            "feature": range(5),
            "layer": [2, 1, 1, 0, 0],
            "depth": [0, 1, 1, 2, 2],
            "name": "n",
        }
    )
    links = pd.DataFrame(
        {"child_dictionary": list("ccbb"), "child": [0, 0, 1, 2], "parent_dictionary": list("bbaa"),
         "parent": [1, 2, 4, 3], "relative_drop": 0.5, "stderr": 0.0, "n_contexts": 1}
    )  # fmt: skip
    y = tree.place(nodes, links).set_index("feature")["y"]
    assert (y[1] < y[2]) == (y[4] < y[3])


def test_tree_draws_width_by_size_and_colour_by_sign() -> None:
    figure, text = tree.causal_tree(NODES, LINKS, LIGHT)
    strong, weak = figure.data[0].line, figure.data[1].line
    assert strong.width > weak.width and (strong.color, weak.color) == (LIGHT.lowered, LIGHT.raised)
    nodes = next(t for t in figure.data if t.mode == "markers+text")
    assert [list(c) for c in nodes.customdata] == [["b", 1], ["a", 2], ["a", 3]]
    assert "root &lt;i&gt;" in nodes.text[0] and "+50%" in text


def test_labels_of_inner_layers_stand_on_the_colour_of_the_page_and_the_others_outside() -> None:
    nodes = pd.DataFrame(
        {"dictionary": list("cba"), "feature": [1, 2, 3], "layer": [2, 1, 0], "depth": [0, 1, 2],
         "name": ["L2 #1 <i>", "L1 #2 a label that is far too long for a line", "L0 #3"]}
    )  # fmt: skip
    links = pd.DataFrame(
        {"child_dictionary": list("cb"), "child": [1, 2], "parent_dictionary": list("ba"), "parent": [2, 3],
         "relative_drop": 0.5, "stderr": 0.0, "n_contexts": 1}
    )  # fmt: skip
    figure, _ = tree.causal_tree(nodes, links, DARK)
    drawn = next(t for t in figure.data if t.mode == "markers+text")
    assert list(drawn.text) == ["<b>L2 #1<br>&lt;i&gt;</b>", "", "L0 #3"]
    assert list(drawn.textposition)[0] == "middle right" and drawn.textposition[2] == "middle left"
    (inner,) = figure.layout.annotations
    assert (inner.x, inner.text, inner.bgcolor) == (1, "L1 #2<br>a label that is…", rgba(DARK.background, 0.85))
    assert drawn.hovertext[1].endswith("for a line")  # the whole name, on hover
    room = figure.layout.margin.l + figure.layout.margin.r
    assert tree.least_width(nodes) == room + 2 * tree.LAYER_WIDTH


def test_a_root_alone_is_said() -> None:
    assert "stands alone" in tree._sentence(NODES.head(1), LINKS.head(0))


def test_named_links_put_the_strongest_first() -> None:
    shown = trees.named_links(NODES, LINKS.iloc[::-1])
    assert shown["parent_name"].tolist() == ["two", "three"] and shown["child_name"].tolist() == ["root <i>"] * 2
