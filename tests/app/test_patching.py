"""The Patching page: its numbers against the intervention itself, choices, links, bad input, two readers."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
import torch

from app import live, live_patching, state
from app.figures import patching as figures
from app.figures.paper_indirect_objects import NONE_AT
from app.live_patching import Reading
from app.palette import LIGHT
from sae_core.baselines import identity, linear_spec
from sae_core.errors import InputError
from sae_core.intervention import FeatureEdit, apply_edits, clean_run
from sae_core.store import DictionaryEntry, RunStore
from tests.app.live_run import headline, live_run, open_page, page_text
from tests.core.test_ioi import whole_words

BASE, TARGET = "the cat's in the hat", "the rat's in the hat"
ERROR = "class='sae-error'"


def opened(**query: str | list[str]):
    return open_page("patching", **{"dictionary": headline(1), "base": BASE, "target": TARGET, **query})


@pytest.fixture(scope="module")
def reading() -> Reading:
    run = live_run()
    base, target = live_patching.read_sentences(run, BASE, TARGET)
    return live_patching.reading(run, run.dictionary(headline(1)), base, target, "magnitude")


def kl_by_hand(reading: Reading, features: list[int]) -> np.ndarray:
    """KL(patched || target) at every position from two fresh runs and one edit, in float64."""
    run = live_run()
    model, dictionary = state.live_model(run), state.live_dictionary(run, reading.entry.id)
    base, target = (clean_run(model, dictionary, line.ids) for line in (reading.base, reading.target))
    edits = [FeatureEdit(f, "patch") for f in features]
    found = apply_edits(model, dictionary, base, edits, patch_codes=target.codes).edited_logprobs.double()
    return (found.exp() * (found - target.logprobs.double())).sum(-1).numpy()


# ---- numbers


def test_the_curve_is_what_patching_each_set_gives(reading: Reading) -> None:
    order = list(reading.order)
    for row in reading.curve.itertuples():
        assert row.kl == pytest.approx(kl_by_hand(reading, order[: row.n_patched])[-1], rel=1e-3, abs=1e-5)
    assert reading.curve["n_patched"].iloc[[0, -1]].tolist() == [0, len(order)]
    assert reading.curve["magnitude"].iloc[0] == 0 and reading.curve["kl"].iloc[0] > 0


def test_patched_is_the_gap_at_every_position(reading: Reading) -> None:
    features = list(reading.order[:5])
    found = live_patching.patched(live_run(), reading, features)
    np.testing.assert_allclose(found.after, kl_by_hand(reading, features), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.before, kl_by_hand(reading, []), rtol=1e-3, atol=1e-5)
    curve = reading.curve.set_index("n_patched")
    assert found.after[-1] == pytest.approx(curve["kl"][5], rel=1e-3)
    assert found.magnitude == pytest.approx(curve["magnitude"][5], rel=1e-4)


def test_features_equal_in_both_runs_change_nothing(reading: Reading) -> None:
    run = live_run()
    silent = sorted(set(range(reading.entry.n_features)) - set(reading.order))
    base, target = (live.clean(run, reading.entry.id, line) for line in (reading.base, reading.target))
    assert silent and base.codes[:, silent].equal(target.codes[:, silent])
    assert base.codes[:, silent].any(), "some of them are active, and still equal"
    found = live_patching.patched(run, reading, silent)
    assert not found.outcome.effect.delta.any() and found.magnitude == 0
    assert found.outcome.effect.edited_logprobs.equal(base.logprobs)


def test_every_differing_feature_has_its_row(reading: Reading) -> None:
    run = live_run()
    frame = live_patching.by_feature(run, reading).set_index("feature")
    base, target = (live.clean(run, reading.entry.id, line).codes for line in (reading.base, reading.target))
    assert tuple(frame.index) == reading.order and frame["magnitude"].is_monotonic_decreasing
    for feature, row in frame.iterrows():
        change = (target - base)[:, feature]
        assert row["change"] == pytest.approx(float(change[change.abs().argmax()]), rel=1e-4)
        assert row["n_positions"] == int((change != 0).sum())
        assert row["kl_alone"] == pytest.approx(kl_by_hand(reading, [feature])[-1], rel=1e-3, abs=1e-5)
    values = live_patching.changes(reading, reading.order[:3])
    np.testing.assert_allclose(values, (target - base)[:, list(reading.order[:3])].T, rtol=1e-3, atol=1e-5)


def test_predictions_are_those_of_the_three_runs(reading: Reading) -> None:
    run = live_run()
    frame = live_patching.predictions(run, live_patching.patched(run, reading, reading.order), 3)
    model = state.live_model(run)
    with torch.inference_mode():
        logits = model.hf_model(torch.tensor([reading.target.ids])).logits[0, 3]
    np.testing.assert_allclose(frame["target_logit"], logits[: model.n_tokens], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(frame["target_p"], logits.softmax(-1)[: model.n_tokens], rtol=1e-3)
    top = live_patching.likeliest(frame, 2)
    assert set(frame["base_p"].nlargest(2).index) | set(frame["target_p"].nlargest(2).index) <= set(top)
    assert frame["target_p"][top].is_monotonic_decreasing


def test_two_sided_dictionaries_are_patched_direction_by_direction(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default basis: all directions together give the target run, without a floor."""
    spec = linear_spec(reading.entry.spec.site, "identity")
    made = identity(state.live_model(live_run()).d_model).dictionary(spec)
    monkeypatch.setattr(state, "live_dictionary", lambda run, id: made)
    entry = DictionaryEntry(spec.id, spec, made.n_features, made.hash, "baseline")
    found = live_patching.reading(live_run(), entry, reading.base, reading.target, "magnitude")
    assert found.signed and sorted(found.order) == list(range(made.n_features // 2))
    assert found.curve["kl"].iloc[-1] < 1e-5 < found.curve["kl"].iloc[0]


@pytest.mark.parametrize(
    ("base", "target", "marks"),
    [
        ([1, 2, 3], [1, 9, 3], ([0, 1, 0], [0, 1, 0])),
        ([1, 2, 3], [1, 3], ([0, 1, 0], [0, 0])),
        ([1, 3], [1, 2, 3], ([0, 0], [0, 1, 0])),
        ([1], [1], ([0], [0])),
    ],
)
def test_marks_show_what_the_other_lacks(base: list[int], target: list[int], marks: tuple) -> None:
    assert tuple(map(list, live_patching.differences(base, target))) == marks


# ---- figures

FRAME = pd.DataFrame({"n_patched": [0, 1, 2], "kl": [3.0, 2.0, 0.5], "magnitude": [0.0, 1.0, 1.5]})


@pytest.mark.parametrize(("axis", "x"), [("n_patched", [NONE_AT, 1, 2]), ("magnitude", [0, 1, 1.5])])
def test_curves_have_their_floors_and_the_chosen_point(axis: str, x: list[float]) -> None:
    lines = [figures.Line("L0 SAE <b>", "tied", FRAME), figures.Line("PCA", "pca", FRAME.assign(kl=[3.0, 1.0, 0.0]))]
    figure, text = figures.curves(lines, axis, (0, 3.0, 0.0), LIGHT)
    floor, line, other_floor, other, chosen = figure.data
    assert list(line.x) == x and list(line.y) == [3, 2, 0.5] and set(floor.y) == {0.5} and set(other_floor.y) == {0.0}
    assert line.name == "L0 SAE &lt;b&gt;" and other.line.dash == "dash"
    assert (chosen.x[0], chosen.y[0], chosen.marker.color) == (x[0], 3.0, LIGHT.chosen)
    assert "From 3 nats with none to 0.5 with all 2" in text
    assert [c[2] for c in line.customdata] == [True] * 3 and not any(c[2] for c in other.customdata)


def test_bars_and_marks_by_position() -> None:
    figure, text = figures.gap_by_position(np.array([0.0, 2.0, 1.0]), np.array([0.0, 0.5, 1.0]), list("ab<"), 2, LIGHT)
    bars, marks = figure.data
    assert list(bars.y) == [0, 0.5, 1] and list(marks.y) == [0, 2, 1] and bars.text[2] == "&lt;"
    assert bars.marker.line.color[2] == LIGHT.text and "1 of the 2 positions" in text


def test_the_heat_map_leaves_equal_codes_empty() -> None:
    figure, _ = figures.changes(np.array([[0.0, -2.0], [1.0, 0.0]]), ["#1", "#2 <"], ["a", "b"], [True, False], LIGHT)
    cells = np.array(figure.data[0].z, dtype=float)
    np.testing.assert_array_equal(np.isnan(cells), [[True, False], [False, True]])
    assert list(figure.layout.yaxis.ticktext) == ["<b>#1</b>", "#2 &lt;"] and figure.data[0].zmax == 2


# ---- the page


def metrics(app) -> dict[str, str]:
    return {m.label: m.value for m in app.metric}


def test_a_first_visit_has_an_answer() -> None:
    """The tiny tokenizer splits all names: the page says so and opens with an example."""
    app = open_page("patching")
    assert not app.exception and len(app.get("plotly_chart")) == 5
    assert "No pair of names can be drawn here" in page_text(app) and "common names" in page_text(app)
    assert metrics(app)["Patched"].startswith("10 of")


def test_the_page_shows_the_numbers_of_its_choice(reading: Reading) -> None:
    app = opened(k="3")
    found = metrics(app)
    before, after = kl_by_hand(reading, [])[-1], kl_by_hand(reading, list(reading.order[:3]))[-1]
    assert float(found["KL before"].removesuffix(" nats")) == pytest.approx(before, rel=0.01)
    assert float(found["KL after"].removesuffix(" nats")) == pytest.approx(after, rel=0.01)
    assert found["Patched"] == f"3 of {len(reading.order)}"
    table = next(d.value for d in app.dataframe if "patched" in d.value)
    assert table["feature"].tolist() == list(reading.order) and table["patched"].tolist()[:4] == [True] * 3 + [False]
    silent = reading.entry.n_features - len(reading.order)
    assert f"{silent} of the {reading.entry.n_features} features are the same in both runs" in page_text(app)


def test_by_hand_and_a_feature_that_does_not_differ(reading: Reading) -> None:
    silent = min(set(range(reading.entry.n_features)) - set(reading.order))
    first = reading.order[0]
    app = opened(pick="hand", features=[str(first), str(silent)])
    assert not app.exception and metrics(app)["Patched"] == f"1 of {len(reading.order)}"
    assert f"patching changes nothing: #{silent}" in page_text(app)
    assert opened(pick="hand").metric[4].value.startswith("0 of")


def test_pruning_gives_another_order_of_the_same_features(reading: Reading) -> None:
    app = opened(order="acdc")
    assert not app.exception
    table = next(d.value for d in app.dataframe if "patched" in d.value)
    assert set(table["feature"]) == set(reading.order) and table["feature"].tolist() != list(reading.order)
    app.slider(key="k").set_value(1).run()
    assert not app.exception and app.query_params["k"] in ("1", ["1"])


def test_a_second_dictionary_is_drawn_beside_it() -> None:
    app = opened(second=headline(2))
    assert not app.exception and app.selectbox(key="second").value == headline(2)
    assert opened().selectbox(key="second").value == "none"


def test_dictionaries_without_weights_are_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "runs" / live_run().folder.name
    shutil.copytree(live_run().folder, copy)
    shutil.rmtree(RunStore.open(copy).dictionary_folder(headline(2)))
    monkeypatch.setattr(state, "run_folders", lambda: {copy.name: copy})
    st.cache_resource.clear()
    app = opened()
    options = app.selectbox(key="dictionary").options
    assert not app.exception and len(options) == 2 and not any(o.startswith("L2") for o in options)
    assert "&#x27; in the link" in page_text(opened(second=headline(2)))
    st.cache_resource.clear()


def test_the_same_sentence_twice_has_nothing_to_patch() -> None:
    app = opened(target=BASE)
    assert not app.exception and "nothing to patch" in page_text(app) and not app.metric


def test_one_token_is_enough() -> None:
    app = opened(base="a", target="b")
    assert not app.exception and ERROR not in page_text(app) and app.metric


def test_unequal_lengths_are_said_and_shown() -> None:
    longer = f"{TARGET} and rats"
    app = opened(target=longer)
    n = [len(line.ids) for line in live_patching.read_sentences(live_run(), BASE, longer)]
    said = page_text(app)
    assert n[0] != n[1] and f"{n[0]} tokens in the base and {n[1]} in the target" in said
    assert (
        "equal token length" in said and said.count("style='background:") >= 2 and not app.metric and not app.exception
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"base": ""}, "an empty base"),
        ({"target": "  "}, "an empty target"),
        ({"base": "x" * 65, "target": "y" * 65}, "at most 64 tokens"),
        ({"dictionary": "L9-nothing"}, "L9-nothing"),
        ({"second": "L9-nothing"}, "L9-nothing"),
        ({"pair": "-1"}, "&#x27;-1&#x27; in the link"),
        ({"order": "best"}, "&#x27;best&#x27; in the link"),
        ({"k": "9999"}, "&#x27;9999&#x27; in the link"),
        ({"pick": "hand", "features": ["64"]}, "a feature from 0 to 63"),
        ({"pick": "hand", "features": ["three"]}, "&#x27;three&#x27; in the link"),
        ({"position": "99"}, "&#x27;99&#x27; in the link"),
        ({"answers": ["100000"]}, "&#x27;100000&#x27; in the link"),
    ],
)
def test_bad_links_are_answered_with_a_sentence(query: dict, said: str) -> None:
    app = opened(**query)
    assert not app.exception and ERROR in page_text(app) and said in page_text(app)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "😀 שלום $x$ | *a*", "a\nb\x07", "`:red[x]`"])
def test_odd_text_is_shown_as_text(text: str) -> None:
    app = opened(base=text, target=text.replace("a", "b"))
    assert not app.exception and "<script>" not in "".join(str(h.value) for h in app.html)


def test_a_new_sentence_drops_what_belonged_to_the_old_pair(reading: Reading) -> None:
    app = opened(k=str(len(reading.order)), position="2", pick="first")
    app.text_input(key="target").set_value("the cat's in the rat").run()
    assert not app.exception and not {"k", "position"} & set(app.query_params)
    assert ERROR not in page_text(app)


def test_pairs_are_drawn_from_the_models_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_patching, "preset", lambda run, seed: live_patching.prompt_pairs(whole_words, 1, seed)[0])
    app = open_page("patching", dictionary=headline(1), pair="4")
    drawn = live_patching.prompt_pairs(whole_words, 1, 4)[0]
    assert (app.text_input(key="base").value, app.text_input(key="target").value) == (drawn.base, drawn.target)
    assert f"{drawn.base_io} becomes {drawn.target_io}" in page_text(app)
    app.text_input(key="base").set_value("something else").run()
    app.button(key="another").click().run()
    assert app.query_params["pair"] in ("5", ["5"]) and "base" not in app.query_params
    assert app.text_input(key="base").value == live_patching.prompt_pairs(whole_words, 1, 5)[0].base


def test_readers_at_once_see_what_each_sees_alone() -> None:
    def numbers(target: str) -> dict[str, str]:
        app = opened(target=target, order="acdc", k="2")
        assert not app.exception
        return metrics(app)

    targets = [TARGET, "the bat's in the hat", "the cat's in the mat", "the cat's at the hat"]
    with ThreadPoolExecutor(len(targets)) as pool:
        together = list(pool.map(numbers, targets))
    assert together == [numbers(t) for t in targets]
    assert len({tuple(found.values()) for found in together}) == len(targets)


def test_an_empty_sentence_is_refused_before_any_token_is_read() -> None:
    with pytest.raises(InputError, match="an empty target"):
        live_patching.read_sentences(live_run(), "a", " ")
