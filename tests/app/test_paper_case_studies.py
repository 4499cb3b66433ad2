"""Case studies: judging single features on hand-made frames, the figures, and the section on a run."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from app.figures import paper_case_studies as figures
from app.palette import LIGHT
from app.paper import case_studies_claims as judge
from app.paper import case_studies_more_claims as judge_more
from app.paper.case_studies_more import most_written
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY
from precompute.paper.across_layers import across_rows
from sae_core.schemas import OTHER_TOKEN, TABLES
from sae_core.store import RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts
from tests.app.live_run import headline, live_run, page_text
from tests.app.live_run import open_page as open_live_page


def histogram(*bars: tuple[int, str, int], n_positions: int = 5000) -> pd.DataFrame:
    """Rows (bin, token, count); the token `rest` stands for all remaining ones."""
    ids: dict[str, int] = {"rest": OTHER_TOKEN}
    rows = []
    for bin, token, count in bars:
        id = ids.setdefault(token, len(ids))
        rows.append((bin, bin / 10, (bin + 1) / 10, id, token, count, n_positions))
    return pd.DataFrame(rows, columns=["bin", "bin_low", "bin_high", "token_id", "token", "count", "n_positions"])


# ---- token histograms


def test_the_purest_part_starts_where_few_others_are_left() -> None:
    frame = histogram((0, "rest", 900), (1, "’", 10), (4, "rest", 30), (5, "’", 40), (6, "␣'", 50))
    assert judge.among(frame, judge.is_apostrophe) == (100, 1030)
    assert judge.pure_above(frame, judge.is_apostrophe) == 0.5
    assert judge.pure_above(frame, judge.is_apostrophe, 0.7) == 0.1  # 100 of 130 above the first bin
    assert judge.pure_above(histogram((9, "’", 19)), judge.is_apostrophe) is None  # too few to tell


@pytest.mark.parametrize("token", ["'s", "␣", "␣’s", "’’", "`"])
def test_only_a_bare_apostrophe_counts(token: str) -> None:
    assert not judge.is_apostrophe(token)


@pytest.mark.parametrize(
    ("bars", "verdict"),
    [
        (((0, "rest", 900), (5, "’", 95), (9, "rest", 5)), HOLDS),
        (((0, "rest", 900), (5, "rest", 90), (8, "’", 95), (9, "rest", 5)), PARTLY),
        (((0, "’", 900), (5, "rest", 90), (9, "’", 10)), FAILS),
    ],
)
def test_strong_activations(bars: tuple, verdict: str) -> None:
    assert judge.strong_activations(histogram(*bars)).verdict == verdict


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({"s": 90, "t": 10}, HOLDS),
        ({"s": 40, "t": 30, "m": 30}, PARTLY),
        ({"s": 10, "t": 90}, FAILS),
        ({"s": 10}, OPEN),
        ({}, OPEN),
    ],
)
def test_next_token(counts: dict[str, int], verdict: str) -> None:
    claim = judge.next_token(histogram(*((0, token, n) for token, n in counts.items())))
    assert claim.verdict == verdict
    if verdict == HOLDS:
        assert "90% (90 of 100" in claim.run and "5,000 positions" in claim.run


@pytest.mark.parametrize(
    ("active", "n", "verdict"), [(50, 100, HOLDS), (99, 100, PARTLY), (100, 100, FAILS), (0, 0, OPEN)]
)
def test_not_every_apostrophe(active: int, n: int, verdict: str) -> None:
    assert judge.not_every(active, n).verdict == verdict


@pytest.mark.parametrize(
    ("bars", "verdict"),
    [
        (((0, "rest", 99), (7, "␣if", 95), (8, "␣else", 5)), HOLDS),
        (((7, "␣if", 60), (8, "␣else", 40)), PARTLY),
        (((7, "␣if", 40), (8, "␣else", 30), (9, "␣for", 30)), FAILS),
        (((0, "␣if", 1000), (9, "␣if", 3)), OPEN),
        (((9, "rest", 100),), FAILS),
    ],
)
def test_one_token(bars: tuple, verdict: str) -> None:
    assert judge.one_token(histogram(*bars)).verdict == verdict


def test_entropy_takes_the_rest_as_one_token() -> None:
    assert judge.token_entropy(histogram((0, "a", 4), (1, "a", 4), (0, "b", 8))) == pytest.approx(1)
    assert judge.token_entropy(histogram((0, "a", 25), (0, "b", 25), (0, "rest", 25), (1, "rest", 25))) == 1.5
    assert judge.token_entropy(histogram((0, "a", 4))) == 0 == judge.token_entropy(histogram())


def test_a_coordinate_is_polysemantic_only_if_it_is_more_mixed_than_the_feature() -> None:
    pure = histogram((0, "rest", 500), (8, "’", 100))
    mixed = histogram((8, "’", 30), (8, "␣the", 40), (9, ".", 30))
    half = histogram((8, "’", 100), *((9, f"w{i}", 1) for i in range(3)))
    assert judge.polysemantic(mixed, pure).verdict == HOLDS
    assert judge.polysemantic(half, pure).verdict == PARTLY  # more bits, but the shares cannot be told apart
    assert judge.polysemantic(pure, mixed).verdict == FAILS
    assert judge.polysemantic(histogram((9, "’", 3)), pure).verdict == OPEN


# ---- search, unembedding, causes, layers


@pytest.mark.parametrize(("feature", "verdict"), [(3, HOLDS), (1, PARTLY), (6, PARTLY), (99, FAILS)])
def test_search_leaves_dense_features_out(feature: int, verdict: str) -> None:
    found = pd.DataFrame({"feature": [1, 2, 3, 4, 5, 6], "dense": [True, True, False, False, False, False]})
    claim = judge_more.search_finds(found, feature, 3)
    assert claim.verdict == verdict and "2 of them dense" in claim.run


@pytest.mark.parametrize(
    ("tokens", "verdict"),
    [([")", "␣)", "]]"], HOLDS), ([")", "␣a"], PARTLY), ([")", "(", "␣a"], FAILS), ([], OPEN)],
)
def test_closing_brackets(tokens: list[str], verdict: str) -> None:
    assert judge_more.writes_closers(tokens, "a few tokens").verdict == verdict


def test_what_is_written_is_what_its_removal_takes_away() -> None:
    effects = pd.DataFrame({"token": list("abc"), "direct": [-0.2, 0.5, -0.9]})
    assert most_written(effects).values.tolist() == [["c", 0.9], ["a", 0.2]]


def edges(*rows: tuple[int, float, float, float]) -> pd.DataFrame:
    """Rows (parent, relative drop, standard error, cosine) into one child."""
    frame = pd.DataFrame(rows, columns=["parent", "relative_drop", "stderr", "cosine"])
    return frame.assign(n_contexts=20, child_dictionary="d", child=0)


@pytest.mark.parametrize(("drop", "verdict"), [(0.7, HOLDS), (0.52, PARTLY), (0.4, FAILS)])
def test_strongest_cause(drop: float, verdict: str) -> None:
    claim = judge_more.strongest_cause(edges((-1, 5.0, 0, 0), (3, 0.06, 0.01, 0.1), (7, drop, 0.04, 0.9)))
    assert claim.verdict == verdict and "by feature 7" in claim.run and "n = 20" in claim.run


def test_without_edges_nothing_can_be_told() -> None:
    assert judge_more.strongest_cause(edges((-1, 5.0, 0, 0))).verdict == OPEN
    assert judge_more.same_direction(edges()).verdict == OPEN


@pytest.mark.parametrize(("cosines", "verdict"), [((0.9, 0.1), PARTLY), ((0.9, 0.8), HOLDS), ((0.1, 0.2), FAILS)])
def test_only_the_strongest_parent_of_each_node_counts(cosines: tuple[float, float], verdict: str) -> None:
    root = edges((1, 0.6, 0, cosines[0]), (2, 0.3, 0, 0.99))
    other = edges((5, -0.9, 0, cosines[1])).assign(child=1)
    claim = judge_more.same_direction(pd.concat([root, other]))
    assert claim.verdict == verdict and f"Cosine {cosines[0]:+.2f} of the root" in claim.run


def test_across_layers() -> None:
    near = pd.DataFrame({"pair": "layers 0 and 1", "cosine": [0.95, 0.92, 0.75, 0.1]})
    far = pd.DataFrame({"pair": "layers 1 and 2", "cosine": [0.95, 0.2, 0.21, 0.1]})
    assert judge_more.across_layers(near).verdict == HOLDS
    assert judge_more.across_layers(far).verdict == FAILS
    claim = judge_more.across_layers(pd.concat([near, far]))
    assert claim.verdict == PARTLY and "2 of 4, 1 of 4" in claim.run and "50% (4 of 8" in claim.run
    assert judge_more.modal(far["cosine"].to_numpy()) == pytest.approx(0.25)


# ---- figures


def test_cosine_lines_hold_every_feature_and_negative_cosines() -> None:
    pairs = pd.DataFrame({"pair": ["a", "a", "a", "b"], "cosine": [-0.31, 0.42, 1.0, 0.42]})
    figure, _ = figures.matched_cosines(pairs, LIGHT)
    counts = [[point[0] for point in trace.customdata] for trace in figure.data]
    assert [sum(c) for c in counts] == [3, 1] and sum(figure.data[0].y) == pytest.approx(1)
    assert figure.data[0].x[0] < -0.3


def test_the_coordinate_is_named_with_its_side_and_tokens_are_escaped() -> None:
    frame = histogram((0, "<b>", 5), (1, "rest", 2)).assign(coordinate=21, component=-0.4)
    figure, sentence = figures.coordinate_histogram(frame, LIGHT, False)
    assert "coordinate 21 (below 0" in figure.layout.xaxis.title.text and "-0.40" in sentence
    assert figure.data[0].name == "&lt;b&gt;"
    written, _ = figures.written(pd.DataFrame({"token": ["<i>"], "logit": [0.5]}), LIGHT, "unit")
    assert list(written.data[0].text) == ["&lt;i&gt;"]


# ---- the section


@pytest.fixture
def told(run: RunStore) -> RunStore:
    """The synthetic run with landmarks and the section's own tables."""
    ids = [entry.id for entry in run.main_dictionaries]
    keys = ("apostrophe", "if_in_code", "closing_bracket")
    marks = [{"key": k, "title": "x", "dictionary": ids[1], "feature": 2 + i, "why": "."} for i, k in enumerate(keys)]
    run.write_text("landmarks.json", json.dumps(marks))
    rng = np.random.default_rng(0)
    for lower, upper in zip(ids, ids[1:], strict=False):
        sizes = [run.dictionary(id).n_features for id in (lower, upper)]
        directions = [rng.normal(size=(n, 8)) for n in sizes]
        run.write_table("across_layers", across_rows(*directions, upper), lower)
    own = run.read("token_histograms", ids[1], key=2).assign(coordinate=3, component=0.5)
    run.write_table("basis_histograms", own[TABLES["basis_histograms"].column_names], ids[1])
    return run


def test_the_section_shows_every_figure_and_claim(told: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="case_studies")
    assert_calm(test)
    text = texts(test)
    for part in ("about apostrophes", "stands for one token", "polysemantic", "closing brackets", "most of the root"):
        assert part in text
    assert len(test.get("plotly_chart")) == 9 and text.count("class='sae-claim-head'") == 9
    assert "loaded when you search" in text


def test_another_feature_is_chosen_by_the_address(told: RunStore, open_page: Opener) -> None:
    id = told.main_dictionaries[0].id
    test = open_page("paper", section="case_studies", other="another", other_dictionary=id, other_feature="0")
    assert not test.exception
    assert test.selectbox(key="other_dictionary").value == id and test.text_input(key="other_feature").value == "0"
    assert errors(test) == [] or "is dead" in errors(test)[0]


@pytest.mark.parametrize(("feature", "says"), [("x", "can read"), ("999999", "from 0 to"), ("", "type a number")])
def test_a_wrong_feature_is_refused(told: RunStore, open_page: Opener, feature: str, says: str) -> None:
    test = open_page("paper", section="case_studies", other="another", other_feature=feature)
    assert not test.exception and says in errors(test)[0] and len(errors(test)) == 1


def test_a_run_without_landmarks_and_tables_names_the_commands(run: RunStore, open_page: Opener) -> None:
    test = open_page("paper", section="case_studies")
    assert not test.exception
    told = "\n".join(errors(test))
    assert told.count("python -m precompute landmarks") == 5  # Figures 4, 11, 12 to 15, Section 5.3, Figure 5
    assert "python -m precompute paper across_layers" in told


def test_landmarks_are_known_by_their_keys_and_one_without_is_offered_all_the_same(
    told: RunStore, open_page: Opener
) -> None:
    id = told.main_dictionaries[1].id
    marks = [{"title": "apostrophes, closing brackets", "dictionary": id, "feature": 9, "why": "."},
             {"key": "receiver", "title": "apostrophe", "dictionary": id, "feature": 3, "why": "."}]  # fmt: skip
    told.write_text("landmarks.json", json.dumps(marks))
    test = open_page("paper", section="case_studies")
    assert not test.exception
    chosen = {key: test.selectbox(key=key).value for key in ("apostrophe", "closer", "other")}
    assert chosen == {"apostrophe": "another", "closer": "another", "other": f"{id}:3"}
    assert any("#9" in option for option in test.selectbox(key="apostrophe").options)


def test_a_feature_that_is_no_landmark_has_no_coordinate(told: RunStore, open_page: Opener) -> None:
    id = told.main_dictionaries[1].id
    test = open_page("paper", section="case_studies", apostrophe="another", apostrophe_dictionary=id,
                     apostrophe_feature="7")  # fmt: skip
    assert "landmarks only" in "".join(errors(test)) and "python -m precompute paper basis" in "".join(errors(test))


def test_the_strong_part_is_shown_where_the_whole_would_hide_it(told: RunStore, open_page: Opener) -> None:
    id, ids = told.main_dictionaries[1].id, told.read("vocabulary")["token_id"].tolist()
    every = told.read("token_histograms", id)
    weak = [(0, token, 1000 + i) for i, token in enumerate(ids[:9])]
    rows = [(2, bin, bin / 10, bin / 10 + 0.1, token, f"t{token}", n) for bin, token, n in [*weak, (8, ids[20], 40)]]
    ours = pd.DataFrame(rows, columns=every.columns)
    told.write_table("token_histograms", pd.concat([every[every["feature"] != 2], ours]), id)
    test = open_page("paper", section="case_studies")
    assert test.segmented_control(key="apostrophe_range").value == 5 and "Shown: 40 of 9,076" in texts(test)
    whole = open_page("paper", section="case_studies", apostrophe_range="0", coordinate_range="0")
    assert "Shown:" not in texts(whole)


def test_as_published_counts_dead_features_too(told: RunStore, open_page: Opener) -> None:
    def counted(setting: str) -> str:
        return texts(open_page("paper", section="case_studies", setting=setting))

    n = told.main_dictionaries[0].n_features
    dead = int(told.read("features", told.main_dictionaries[0].id)["dead"].sum())
    assert dead and f" of {n}," in counted("as-published") and f" of {n - dead}," in counted("corrected")


def test_search_and_unembedding_with_a_model() -> None:
    run = live_run()
    place = {"title": "x", "dictionary": headline(1), "why": "."}
    marks = [{"key": "apostrophe", "feature": 3, **place}, {"key": "closing_bracket", "feature": 4, **place}]
    (run.folder / "landmarks.json").write_text(json.dumps(marks))
    try:
        app = open_live_page("paper", section="case_studies", find="It is up to Dave'", unembedding="model")
        assert not app.exception, [e.value for e in app.exception]
        text = page_text(app)
        assert "strongest on the last token" in text and "tokens of the vocabulary" in text
        found = app.dataframe[0].value
        assert 0 < len(found) <= 10 and set(found["dictionary"]) == {headline(1)}
        assert found.loc[found["kept"], "feature"].tolist() == found.loc[~found["dense"], "feature"].tolist()[:3]
        assert found["activation"].is_monotonic_decreasing
    finally:
        (run.folder / "landmarks.json").unlink()
