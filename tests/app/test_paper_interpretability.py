"""Section Interpretability: frames and verdicts on hand-made means, figures, and the section on a scored run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from app.figures import kinds
from app.figures import paper_interpretability as figures
from app.palette import DARK, LIGHT
from app.paper import interpretability_claims as claims
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY
from app.paper.compare_means import ABOVE, BELOW, LEVEL, gap, layers, standings
from app.paper.interpretability_features import five, moment_rows
from app.paper.interpretability_frames import beside, by_ratio, fall, means, sided
from sae_core.results import all_scores, described
from sae_core.specs import DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts
from tests.app.scored_run import (
    LEVELS,
    SKIPPED,
    add_dictionaries,
    write_detection,
    write_moments,
    write_scores,
)

Mean = tuple[int, str, float, float]


def mean_frame(*rows: Mean, n: int = 100, **more: object) -> pd.DataFrame:
    """Rows of (layer, kind, mean, half-width); the tied one is ours."""
    frame = pd.DataFrame(rows, columns=["layer", "kind", "mean", "half"])
    frame = frame.assign(lower=frame["mean"] - frame["half"], upper=frame["mean"] + frame["half"], n=n, skipped=3)
    return frame.assign(ours=frame["kind"] == "tied", id="id-" + frame["kind"], ratio=2.0, **more)


# ---- frames


def entry(kind: str, layer: int = 1, site: str = "resid_post", *, l0: float = np.nan, **more: object) -> dict:
    facts = {name: more.pop(name) for name in ("role", "headline") if name in more}
    spec = DictionarySpec(Site(layer, site), kind, more.pop("ratio", 2.0), more.pop("alpha", 1e-3), **more)
    return described(DictionaryEntry(spec.id, spec, 8, "hash", **{"role": "baseline"} | facts)) | {"l0": l0}


def test_one_dictionary_stands_for_each_kind() -> None:
    rows = [
        entry("tied", alpha=1e-3, l0=29.0, role="sweep"),
        entry("tied", alpha=2e-3, l0=40.0, role="main", headline=True),
        entry("tied", alpha=3e-3, l0=40.0, variant="seed1"),
        entry("tied", alpha=4e-3, l0=90.0, variant="published"),
        entry("frozen", alpha=1e-3, l0=20.0),
        entry("frozen", alpha=2e-3, l0=44.0),
        entry("pca"),
        entry("untied", site="mlp_post", l0=100.0, role="main"),
        entry("tied", site="mlp_post", l0=30.0, role="sweep"),
    ]
    frame = pd.DataFrame(rows)
    found = beside(frame, "resid_post", "corrected").set_index("kind")
    assert dict(found["alpha"].drop("pca")) == {"tied": 2e-3, "frozen": 2e-3}  # frozen: nearest to L0 40
    assert list(found.index[found["ours"]]) == ["tied"]
    published = beside(frame, "resid_post", "as-published").set_index("kind")
    assert published.loc["tied", "variant"] == "published"
    mlp = beside(frame, "mlp_post", "corrected").set_index("kind")
    assert list(mlp.index[mlp["ours"]]) == ["untied"] and set(mlp.index) == {"untied", "tied"}


def test_a_given_target_replaces_the_headline() -> None:
    frame = pd.DataFrame([entry("tied", alpha=a, l0=l0) for a, l0 in ((1e-3, 10.0), (2e-3, 30.0), (3e-3, 300.0))])
    chosen = beside(frame, "resid_post", "corrected", target=pd.Series({1: 200.0}))
    assert list(chosen["alpha"]) == [3e-3]


def test_ratios_are_matched_in_l0_or_alpha() -> None:
    rows = [
        entry("tied", ratio=4, alpha=1e-3, l0=30.0, headline=True),
        entry("tied", ratio=1, alpha=1e-3, l0=90.0),
        entry("tied", ratio=1, alpha=4e-3, l0=31.0),
        entry("tied", ratio=1, alpha=5e-3, l0=30.0, variant="seed1"),
        entry("tied", ratio=4, layer=2, l0=30.0, headline=True),
    ]
    frame = pd.DataFrame(rows)
    matched = by_ratio(frame, "corrected")
    assert list(zip(matched["ratio"], matched["alpha"], strict=True)) == [(1, 4e-3), (4, 1e-3)]  # layer 2 has one ratio
    assert list(by_ratio(frame, "as-published")["alpha"]) == [1e-3, 1e-3]


def side_scores() -> pd.DataFrame:
    """One PCA dictionary of two directions: features 0, 1 are their positive sides, 2, 3 the negative ones."""
    frame = pd.DataFrame({"feature": range(4), "score": [0.1, 0.9, 0.5, 0.2], "skipped": [False, True, False, False]})
    return frame.assign(id="pca", kind="pca", n_features=4, explainer="rule", scheme="random_only")


def test_sides_of_a_direction() -> None:
    scores = side_scores()
    assert sided(scores, "corrected", "each") is scores
    better = sided(scores, "corrected", "better")
    assert sorted(better["feature"]) == [2, 3]  # 0.5 over 0.1; the other of a skipped side, whatever its score
    assert list(sided(scores, "as-published", "better")["feature"]) == [0, 1]
    assert len(sided(scores.assign(kind="tied"), "corrected", "better")) == 4


def test_as_published_counts_the_first_features() -> None:
    many = pd.DataFrame({"feature": range(400), "kind": "tied", "n_features": 400})
    assert len(sided(many, "as-published", "each")) == 150


def test_means_leave_skipped_features_out() -> None:
    scores = side_scores()
    chosen = pd.DataFrame([{"id": "pca", "layer": 1, "kind": "pca", "ours": False}])
    found = means(scores, chosen, "random_only").iloc[0]
    values = np.array([0.1, 0.5, 0.2])
    assert (found["mean"], found["n"], found["skipped"]) == (pytest.approx(values.mean()), 3, 1)
    assert found["upper"] == pytest.approx(values.mean() + 1.96 * values.std(ddof=1) / np.sqrt(3))
    assert means(scores, chosen, "top_and_random").empty


def test_the_fall_is_paired_by_feature() -> None:
    top = side_scores().assign(scheme="top_and_random", score=[0.5, 0.0, 0.8, 0.6])
    change = fall(pd.concat([side_scores(), top]), pd.DataFrame({"id": ["pca"]}), ("top_and_random", "random_only"))
    assert change["mean"].iloc[0] == pytest.approx(np.mean([-0.4, -0.3, -0.4])) and change["n"].iloc[0] == 3


def test_five_features() -> None:
    rows = pd.DataFrame({"feature": range(20), "skipped": [True, *[False] * 19]})
    assert list(five(rows, "as-published", 0)["feature"]) == [0, 1, 2, 3, 4]
    drawn = five(rows, "corrected", 0)
    assert len(drawn) == 5 and not drawn["skipped"].any()
    assert list(drawn["feature"]) == list(five(rows, "corrected", 0)["feature"])
    others = [tuple(five(rows, "corrected", seed)["feature"]) for seed in range(5)]
    assert len(set(others)) > 1
    assert len(five(rows.head(3), "corrected", 0)) == 2


# ---- verdicts


def test_standings_follow_the_intervals() -> None:
    frame = mean_frame(
        (0, "tied", 0.6, 0.05), (0, "pca", 0.3, 0.05), (0, "ica", 0.4, 0.05),
        (1, "tied", 0.5, 0.05), (1, "pca", 0.42, 0.05),
        (2, "tied", 0.2, 0.02), (2, "pca", 0.5, 0.02), (2, "ica", 0.1, 0.02),
        (3, "tied", 0.9, 0.01), (3, "frozen", 0.1, 0.01),
    )  # fmt: skip
    found = standings(frame)
    assert [(s.layer, s.standing) for s in found] == [(0, ABOVE), (1, LEVEL), (2, BELOW)]
    assert [s.best["kind"] for s in found] == ["ica", "pca", "pca"]
    assert found[0].margin.value == pytest.approx(0.2) and found[0].margin.half == pytest.approx(0.05 * 2**0.5)
    assert standings(frame.assign(n=1)) == []


@pytest.mark.parametrize(
    ("second", "verdict"),
    [((1, "pca", 0.3, 0.05), HOLDS), ((1, "pca", 0.58, 0.05), PARTLY), ((1, "pca", 0.9, 0.05), PARTLY)],
)
def test_above_baselines(second: Mean, verdict: str) -> None:
    frame = mean_frame((0, "tied", 0.6, 0.05), (0, "pca", 0.3, 0.05), (1, "tied", 0.6, 0.05), second)
    claim = claims.above_baselines(frame, "says", "paper")
    assert claim.verdict == verdict and "layer 0" in claim.reason.replace("layers 0", "layer 0")
    assert "SAE 0.60 [0.55, 0.65] n 100" in claim.run


def test_above_baselines_that_fails_or_cannot_be_told() -> None:
    def verdict(*rows: Mean) -> str:
        return claims.above_baselines(mean_frame(*rows), "says", "paper").verdict

    assert verdict((0, "tied", 0.2, 0.05), (0, "pca", 0.6, 0.05)) == FAILS
    assert verdict((0, "tied", 0.6, 0.05), (0, "pca", 0.6, 0.05)) == OPEN
    assert verdict((0, "tied", 0.6, 0.05)) == OPEN


@pytest.mark.parametrize(("last", "verdict"), [(0.55, HOLDS), (0.1, FAILS), (0.3, OPEN)])
def test_early_lead(last: float, verdict: str) -> None:
    frame = mean_frame((0, "tied", 0.6, 0.05), (0, "pca", 0.3, 0.02), (1, "tied", 0.6, 0.05), (1, "pca", last, 0.02))
    assert claims.early_lead(frame).verdict == verdict
    assert claims.early_lead(frame[frame["layer"] == 0]).verdict == OPEN


def test_residual_basis_and_controls() -> None:
    frame = mean_frame(
        (0, "tied", 0.6, 0.05), (0, "identity", 0.2, 0.05), (0, "random", 0.22, 0.05), (0, "frozen", 0.57, 0.03),
        (1, "tied", 0.6, 0.05), (1, "identity", 0.4, 0.05), (1, "random", 0.2, 0.05), (1, "frozen", 0.3, 0.03),
    )  # fmt: skip
    first, second = frame[frame["layer"] == 0], frame[frame["layer"] == 1]
    assert [claims.residual_basis(f).verdict for f in (first, second, frame)] == [HOLDS, FAILS, PARTLY]
    verdicts = [claims.control(f, "frozen", "says", "paper").verdict for f in (first, second, frame)]
    assert verdicts == [HOLDS, FAILS, PARTLY]
    assert claims.control(frame, "reinitialised", "says", "paper").verdict == OPEN


@pytest.mark.parametrize(
    ("change", "half", "verdict"), [(0.0, 0.01, HOLDS), (0.3, 0.01, FAILS), (-0.3, 0.01, FAILS), (0.0, 0.3, OPEN)]
)
def test_flat_in_ratio(change: float, half: float, verdict: str) -> None:
    rows = mean_frame((0, "tied", 0.5, half), (0, "tied", 0.9, half), (0, "tied", 0.5 + change, half))
    frame = rows.assign(ratio=[1.0, 2.0, 4.0])
    claim = claims.flat_in_ratio(frame)
    assert claim.verdict == verdict and "R 1 " in claim.run and "R 4 " in claim.run
    assert claims.flat_in_ratio(frame.head(1)).verdict == OPEN


def test_lower_at_random() -> None:
    down, up = {"kind": "tied", "mean": -0.1, "lower": -0.2, "upper": -0.05, "n": 9}, {"kind": "pca", "mean": 0.1}
    frame = pd.DataFrame([down, up | {"lower": 0.05, "upper": 0.2, "n": 9}])
    verdicts = [claims.lower_at_random(f).verdict for f in (frame.head(1), frame.tail(1), frame)]
    assert verdicts == [HOLDS, FAILS, PARTLY]
    assert claims.lower_at_random(frame.head(0)).verdict == OPEN


def test_mixed_success() -> None:
    good = mean_frame((0, "tied", 0.6, 0.05), (0, "pca", 0.3, 0.05))
    bad = mean_frame((1, "tied", 0.3, 0.05), (1, "pca", 0.3, 0.05))
    assert claims.mixed({"top_and_random": pd.concat([good, bad])}).verdict == HOLDS
    assert claims.mixed({"top_and_random": pd.concat([good, good.assign(layer=1)])}).verdict == FAILS
    assert claims.mixed({"top_and_random": good, "random_only": good}).verdict == OPEN
    assert claims.mixed({"top_and_random": good.head(0)}).verdict == OPEN


def test_skipped_in_mlp() -> None:
    one = mean_frame((0, "tied", 0.5, 0.1), n=50)
    many, few = one.assign(skipped=50), one.assign(skipped=2)
    assert claims.skipped_in_mlp(many, few).verdict == HOLDS
    assert claims.skipped_in_mlp(few, many).verdict == FAILS
    assert claims.skipped_in_mlp(few, few).verdict == OPEN
    assert "50 of 100 skipped (50%)" in claims.skipped_in_mlp(many, few).run


@pytest.mark.parametrize(("cut", "verdict"), [(0.32, HOLDS), (0.58, FAILS), (0.45, OPEN)])
def test_top_k(cut: float, verdict: str) -> None:
    frame = mean_frame((0, "tied", 0.6, 0.02), (0, "pca", 0.3, 0.02), (0, "pca_topk", cut, 0.02))
    assert claims.top_k_explains_little(frame).verdict == verdict
    no_gap = mean_frame((0, "tied", 0.3, 0.02), (0, "pca", 0.3, 0.02), (0, "pca_topk", cut, 0.02))
    assert claims.top_k_explains_little(no_gap).verdict == OPEN


@pytest.mark.parametrize(
    ("skew", "kurtosis", "verdict"), [(0.3, 0.3, HOLDS), (0.3, 0.0, PARTLY), (0.0, 0.0, OPEN), (0.0, -0.3, FAILS)]
)
def test_heavy_tails(skew: float, kurtosis: float, verdict: str) -> None:
    frame = pd.DataFrame({"moment": ["skew", "kurtosis"], "r": [skew, kurtosis], "n": 50})
    frame = frame.assign(lower=frame["r"] - 0.1, upper=frame["r"] + 0.1)
    assert claims.heavy_tails(frame, ("skew", "kurtosis"), "centred").verdict == verdict


def test_above_chance() -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "scorer": "fuzzing", "mean": [0.7, 0.3], "n": 9})
    frame = frame.assign(lower=frame["mean"] - 0.1, upper=frame["mean"] + 0.1)
    verdicts = [claims.above_chance(f, "fuzzing").verdict for f in (frame.head(1), frame.tail(1), frame)]
    assert verdicts == [HOLDS, FAILS, PARTLY]
    assert claims.above_chance(frame, "detection").verdict == OPEN


def test_small_words() -> None:
    assert [layers([]), layers([2]), layers([0, 1, 2])] == ["no layer", "layer 2", "layers 0, 1 and 2"]
    one, other = mean_frame((0, "tied", 0.5, 0.03)).iloc[0], mean_frame((0, "pca", 0.1, 0.04)).iloc[0]
    assert str(gap(one, other)) == "+0.40 [+0.35, +0.45]"


# ---- figures


def test_means_by_layer_draws_what_the_frame_holds() -> None:
    frame = mean_frame((0, "tied", 0.6, 0.05), (1, "tied", 0.5, 0.05), (0, "pca_topk", 0.3, 0.02))
    figure, sentence = figures.means_by_layer(frame, LIGHT, "random_only")
    assert [t.name for t in figure.data] == ["SAE", "Top-K PCA"]
    assert list(figure.data[0].y) == [0.6, 0.5] and list(figure.data[0].error_y.array) == pytest.approx([0.05, 0.05])
    assert all(abs(x - layer) < 0.5 for x, layer in zip(figure.data[0].x, (0, 1), strict=True))
    assert figure.data[0].customdata[0][3] == 100 and "random-only" in figure.layout.yaxis.title.text
    assert "95%" in sentence


def test_kinds_look_the_same_everywhere() -> None:
    looks = [(kinds.colour(kind, DARK), kinds.symbol(kind)) for kind in kinds.ORDER]
    assert len(set(looks)) == len(looks)
    assert kinds.colour("gated", LIGHT) == LIGHT.muted and kinds.rank("gated") == len(kinds.ORDER)


def test_score_strip_draws_at_most_so_many_points_and_escapes() -> None:
    n = figures.STRIP_POINTS + 10
    rows = pd.DataFrame({"kind": "tied", "id": "a", "feature": range(n), "score": 0.5, "lower": 0.4, "upper": 0.6})
    few = rows.head(3).assign(kind="pca", id="b")
    frame = pd.concat([rows, few]).assign(explanation="<b>x</b>")
    figure, _ = figures.score_strip(frame, mean_frame((0, "tied", 0.5, 0.1), (0, "pca", 0.5, 0.1)), LIGHT, seed=0)
    assert [len(t.x) for t in figure.data] == [figures.STRIP_POINTS, 3, 2]
    assert figure.data[1].customdata[2][:2] == ["b", 2] and "<b>" not in figure.data[1].customdata[0][4]
    assert f"n = {n:,}" in figure.layout.xaxis.ticktext[0]


def test_moments_name_both_forms() -> None:
    names = ("mean", "variance", "skew", "kurtosis", "skew_uncentred", "kurtosis_uncentred")
    rows = pd.DataFrame({"moment": names, "r": 0.1, "lower": 0.0, "upper": 0.2, "n": 10})
    figure, _ = figures.correlations(moment_rows(rows), {"skew_uncentred": (0.20, 0.19)}, LIGHT)
    assert list(figure.data[0].y)[2:4] == ["skew, uncentred", "skew, centred"]
    assert list(figure.data[1].x) == [0.20, 0.19] and set(figure.data[1].y) == {"skew, uncentred"}


def test_ratios_have_one_line_a_layer() -> None:
    frame = mean_frame((0, "tied", 0.5, 0.1), (0, "tied", 0.6, 0.1), (2, "tied", 0.4, 0.1)).assign(
        ratio=[2.0, 1.0, 2.0]
    )
    figure, _ = figures.means_by_ratio(frame, LIGHT, "top_and_random")
    assert [t.name for t in figure.data] == ["layer 0", "layer 2"]
    assert list(figure.data[0].x) == [1.0, 2.0] and list(figure.data[0].y) == [0.6, 0.5]


# ---- the section


@pytest.fixture
def scored(run: RunStore) -> RunStore:
    add_dictionaries(run)
    write_scores(run)
    write_moments(run)
    return run


def spec(test: object, place: int) -> dict:
    return json.loads(test.get("plotly_chart")[place].proto.spec)


def test_the_whole_section(open_page: Opener, scored: RunStore) -> None:
    test = open_page("paper", section="interpretability")
    assert_calm(test)
    assert [s.value.split(" ·")[0] for s in test.subheader][:3] == ["Table 1", "Figure 2", "Beside Figure 2"]
    assert len(test.get("plotly_chart")) == 8  # Figure 10 has two
    drawn = {t["name"]: t for t in spec(test, 0)["data"]}
    assert set(drawn) == {"SAE", "PCA", "ICA", "default basis", "random directions", "frozen decoder"}
    rows = all_scores(scored, "corrected").query("scheme == 'top_and_random' and kind == 'pca' and not skipped")
    wanted = rows.groupby("layer")["score"].mean()
    assert drawn["PCA"]["y"] == pytest.approx(list(wanted))
    text = texts(test)
    assert "paper explain" in text and "&lt;b&gt;" in text and "<b> &" not in text
    assert f"feature?run=synthetic&amp;dictionary={scored.headline(1).id}" in text


def test_the_reader_chooses(open_page: Opener, scored: RunStore) -> None:
    write_scores(scored, ("rule", "chat-model"))
    write_detection(scored, "chat-model")
    test = open_page("paper", section="interpretability", explainer="chat-model", scheme="random_only", sides="better")
    found = errors(test)
    assert len(found) == 1 and "moments" in found[0]  # the moments were correlated with scores by rules only
    assert "random-only" in spec(test, 0)["layout"]["yaxis"]["title"]["text"]
    pca = next(t for t in spec(test, 0)["data"] if t["name"] == "PCA")
    assert all(n <= 20 for *_, n, _, _ in pca["customdata"]) and min(pca["y"]) > LEVELS["pca"] - 0.1
    assert "Detection: the explanations tell" in texts(test)


def test_table_1_as_published_shows_the_first_five_with_skipped_ones(open_page: Opener, scored: RunStore) -> None:
    write_scores(scored, setting="as-published")
    write_moments(scored, "as-published")
    test = open_page("paper", section="interpretability", setting="as-published")
    assert_calm(test)
    table = next(h.value for h in test.get("html") if "sae-table" in h.value)
    assert [f"1-{i:04d}" in table for i in (0, 1, 2, 3, 4, 5)] == [True] * 5 + [False]
    assert table.count("skipped:") == sum(feature < 5 for feature in SKIPPED)


def test_clicking_a_feature(open_page: Opener, scored: RunStore) -> None:
    test = open_page("paper", section="interpretability")
    baseline = next(e.id for e in scored.dictionaries if e.spec.kind == "pca" and e.spec.site.layer == 1)
    point = {"customdata": [baseline, 3, 0.1, 0.2, "a &lt; b"]}
    test.session_state["single_scores"] = {"selection": {"points": [point], "box": [], "lasso": []}}
    test.run()
    assert_calm(test)
    assert f"Feature 3 of {baseline} has no page" in texts(test) and "have one. a &lt; b<" in texts(test)
    point["customdata"][0] = scored.headline(1).id
    test.session_state["single_scores"] = {"selection": {"points": [point], "box": [], "lasso": []}}
    test.run()
    assert test.query_params["dictionary"] == scored.headline(1).id and test.query_params["feature"] == "3"


@pytest.mark.parametrize(
    ("key", "value"), [("explainer", "gpt<b>"), ("scheme", "top"), ("sides", "both"), ("layer", "9"), ("layer", "x")]
)
def test_unknown_choices_are_refused(open_page: Opener, scored: RunStore, key: str, value: str) -> None:
    test = open_page("paper", section="interpretability", **{key: value})
    assert not test.exception and len(errors(test)) == 1 and key in errors(test)[0] and "gpt<b>" not in errors(test)[0]


def test_what_is_missing_is_said_in_its_place(open_page: Opener, run: RunStore) -> None:
    write_scores(run)  # only tied dictionaries of the residual stream
    found = errors(open_page("paper", section="interpretability"))
    assert len(found) == 4  # Figures 8, 10, 18 and Table 2
    assert "--ratio" in found[0] and "paper baselines" in found[1] and "paper moments" in found[3]


def test_the_control_run_is_found_by_its_model(open_page: Opener, scored: RunStore, tmp_path: Path) -> None:
    spec_of = scored.manifest.spec
    model = type(spec_of.model)(spec_of.model.name + "-reinitialised")
    facts = {"spec": type(spec_of)(**vars(spec_of) | {"model": model}), "name": "control"}
    manifest = type(scored.manifest)(**vars(scored.manifest) | facts)
    other = RunStore.create(scored.folder.parent / "control", manifest)
    for dictionary in scored.dictionaries:
        if dictionary.spec.kind == "tied":
            rows = scored.read("scores", dictionary.id)
            other.write_table("scores", rows.assign(score=rows["score"] - 0.4), dictionary.id)
            if scored.table_state("metrics", dictionary.id) == "ready":
                other.write_table("metrics", scored.read("metrics", dictionary.id), dictionary.id)
    test = open_page("paper", section="interpretability")
    drawn = {t["name"]: t["y"] for t in spec(test, 0)["data"]}
    assert drawn["re-initialised model"] == pytest.approx([y - 0.4 for y in drawn["SAE"]])
    assert "Heap et al. (2025)" in texts(test)
