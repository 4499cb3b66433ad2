"""Rules on text made by hand: each kind is found where it is true, scored against scipy, and noise scores nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr

from sae_core import code_index, rule_views
from sae_core.autointerp.fragments import fragment_pool, select
from sae_core.code_index import FeatureCodes
from sae_core.contexts import TokenText
from sae_core.rule_scores import RARE, SILENT, Halves
from sae_core.rule_views import ngram_keys, views
from sae_core.rules import Fitting, best_rule, fit, fitting_contexts, in_contexts

CONTEXT, WINDOW, N_CONTEXTS = 32, 16, 320
NAMES = ["␣the", "␣a", "␣running", "walking", "␣cat", "␣dog", "␣if", ".", "↵", "␣seeing", "‹E2›", "␣not"]
FITTING = fitting_contexts(N_CONTEXTS)


@pytest.fixture(scope="module")
def text() -> TokenText:
    tokens = np.random.default_rng(0).integers(0, len(NAMES), N_CONTEXTS * CONTEXT)
    return TokenText(tokens.astype(np.uint16), CONTEXT, WINDOW)


@pytest.fixture(scope="module")
def halves(text: TokenText) -> Halves:
    pool = fragment_pool(np.arange(text.n_windows), 0)
    return Halves(text, views(text, NAMES, FITTING), FITTING, pool, 0, "corrected")


def feature(codes: np.ndarray) -> FeatureCodes:
    return FeatureCodes(0, np.flatnonzero(codes), codes[codes != 0].astype(np.float32))


def before(tokens: np.ndarray, token: int) -> np.ndarray:
    """Where the token before is `token`; never at the start of a context."""
    found = np.r_[False, tokens[:-1] == token]
    found[::CONTEXT] = False
    return found


def test_halves_alternate_and_are_equal() -> None:
    assert FITTING.sum() == N_CONTEXTS // 2
    assert fitting_contexts(1000).sum() in range(450, 551) and fitting_contexts(1).tolist() == [True]
    runs = np.flatnonzero(np.diff(fitting_contexts(6400).astype(int)))
    assert (np.diff(runs) == 100).all()


def test_a_token_feature_is_explained_perfectly(text: TokenText, halves: Halves) -> None:
    codes = np.where(text.token_ids == 6, 5.0, 0.0)
    found = halves.explain(feature(codes))
    assert found.rule.view.kind == "token" and str(found.rule) == "Active on “␣if”"
    for scheme in ("top_and_random", "random_only"):
        assert found.scores[scheme].score == pytest.approx(1)
        assert found.scores[scheme].lower == pytest.approx(1)
    assert found.scores["top_and_random"].n_fragments == 10 and found.scores["random_only"].n_fragments == 5


def test_levels_follow_the_mean_codes(text: TokenText, halves: Halves) -> None:
    codes = np.select([text.token_ids == 4, text.token_ids == 5], [8.0, 4.0])
    found = halves.explain(feature(codes))
    assert str(found.rule) == "Active on “␣cat” (10), “␣dog” (5)"
    assert found.scores["top_and_random"].score == pytest.approx(1)


def test_a_previous_token_feature_is_found_by_its_rule(text: TokenText, halves: Halves) -> None:
    found = halves.explain(feature(before(text.token_ids, 11) * 3.0))
    assert str(found.rule) == "Active right after “␣not”"
    assert found.scores["top_and_random"].score == pytest.approx(1)


def test_an_ending_shared_by_tokens_is_found(text: TokenText) -> None:
    """Every view alone: the suffix rule needs one key where the token rule needs three."""
    found = in_contexts(feature(np.isin(text.token_ids, [2, 3, 9]) * 2.0), FITTING, CONTEXT)
    all_views = views(text, NAMES, FITTING)
    fitting = Fitting.of(all_views, [found], int(FITTING.sum()) * CONTEXT)
    rules = [fit(v, fitting) for v in all_views if v.kind == "suffix"]
    r = {str(rule): rule.r for rule in rules if rule}
    for ending in ("ng", "ing"):
        assert r[f"Active on tokens that end in “{ending}”"] == pytest.approx(1)
    assert r["Active on tokens that end in “g”"] < 0.9  # so does "dog"


def test_suffix_rules_are_taken_where_ten_tokens_do_not_do() -> None:
    names = [f"␣{letter}{i}" for letter in "ab" for i in range(30)]
    names = [f"{name}ness" if name.startswith("␣a") else f"{name}ly" for name in names]
    tokens = np.random.default_rng(1).integers(0, len(names), N_CONTEXTS * CONTEXT)
    text = TokenText(tokens, CONTEXT, WINDOW)
    found = in_contexts(feature((tokens < 30) * 1.0), FITTING, CONTEXT)
    all_views = views(text, names, FITTING)
    rule = best_rule(all_views, Fitting.of(all_views, [found], int(FITTING.sum()) * CONTEXT))
    assert rule.view.kind == "suffix" and str(rule) == "Active on tokens that end in “s”"


def test_a_bigram_feature_is_found(text: TokenText, halves: Halves) -> None:
    codes = (before(text.token_ids, 0) & (text.token_ids == 4)) * 7.0
    found = halves.explain(feature(codes))
    assert str(found.rule) == "Active at the end of “␣the␣cat”"
    assert found.scores["random_only"].score == pytest.approx(1)


def test_a_random_feature_scores_about_nothing(text: TokenText, halves: Halves) -> None:
    scores = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        codes = np.where(rng.random(len(text.token_ids)) < 0.03, rng.random(len(text.token_ids)), 0)
        scores.append(halves.explain(feature(codes)).scores["top_and_random"].score)
    assert abs(np.mean(scores)) < 0.08


def test_scores_are_correlations_on_the_other_half(text: TokenText, halves: Halves) -> None:
    """Oracle: scipy on the chosen fragments, predicted by a plain dict of levels."""
    rng = np.random.default_rng(3)
    codes = np.where(np.isin(text.token_ids, [0, 4]) & (rng.random(len(text.token_ids)) < 0.7), rng.random(), 0)
    codes *= rng.random(len(codes))
    found = halves.explain(feature(codes))
    assert found.rule.view.kind == "token"
    levels = dict(zip((found.rule.keys - 1).tolist(), found.rule.levels.tolist(), strict=True))
    chosen = select(in_contexts(feature(codes), ~FITTING, CONTEXT), halves.pool, text, 0, "corrected")
    windows = np.r_[chosen.top.windows, chosen.random.windows]
    assert not FITTING[windows // (CONTEXT // WINDOW)].any()
    positions = (windows[:, None] * WINDOW + np.arange(WINDOW)).ravel()
    predicted = [levels.get(int(token), 0.0) for token in text.token_ids[positions]]
    expected = pearsonr(codes[positions], predicted).statistic
    score = found.scores["top_and_random"]
    assert score.score == pytest.approx(expected, abs=1e-6)
    assert score.lower < score.score < score.upper


def test_the_fitted_correlation_is_that_of_numpy(text: TokenText) -> None:
    rng = np.random.default_rng(5)
    codes = np.where(rng.random(len(text.token_ids)) < 0.2, rng.random(len(text.token_ids)) * text.token_ids, 0)
    n = int(FITTING.sum()) * CONTEXT
    inside = np.repeat(FITTING, CONTEXT)
    for view in views(text, NAMES, FITTING):
        rule = fit(view, Fitting.of([view], [in_contexts(feature(codes), FITTING, CONTEXT)], n))
        table = np.zeros(len(view.counts))
        table[rule.keys] = rule.levels
        assert rule.r == pytest.approx(
            np.corrcoef(table[view.at(np.flatnonzero(inside))], codes[inside])[0, 1], abs=1e-6
        )


def test_keys_do_not_reach_over_the_start_of_a_context(text: TokenText) -> None:
    pairs = ngram_keys(text, 2, len(NAMES)).reshape(-1, CONTEXT)
    assert (pairs[:, 0] == -1).all() and (pairs[:, 1:] >= 0).all()
    tokens = text.token_ids.reshape(-1, CONTEXT).astype(int)
    assert (pairs[:, 1:] == tokens[:, :-1] * len(NAMES) + tokens[:, 1:]).all()


def test_silent_and_rare_features_are_skipped_with_a_sentence(text: TokenText, halves: Halves) -> None:
    silent = halves.explain(FeatureCodes(0, np.zeros(0, np.int64), np.zeros(0, np.float32)))
    assert silent.rule is None and silent.scores == {} and silent.reason == SILENT
    few = np.zeros(len(text.token_ids))
    few[:: 17 * WINDOW] = 1.0
    assert halves.explain(feature(few)).reason == RARE.format(20)


@pytest.mark.parametrize("at_once", [100, 10**6])
def test_common_ngrams_are_those_counted_by_hand(
    text: TokenText, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counter over tuples of tokens, in blocks of a few contexts and many passes as well as at once."""
    monkeypatch.setattr(rule_views, "BLOCK_TOKENS", at_once)
    monkeypatch.setattr(rule_views, "KEYS_AT_ONCE", at_once)
    rows = text.token_ids.reshape(-1, CONTEXT).tolist()
    found = [view for view in views(text, NAMES, FITTING, tmp_path) if view.kind == "ngram"]
    for n, view in zip((2, 3), found, strict=True):
        grams = [[tuple(row[max(0, i - n + 1) : i + 1]) for i in range(CONTEXT)] for row in rows]
        counted = Counter(g for row, fits in zip(grams, FITTING, strict=True) if fits for g in row if len(g) == n)
        common = sorted(gram for gram, count in counted.items() if count >= 5)
        assert view.counts.tolist() == [0, *(counted[gram] for gram in common)]
        assert view.spell(3) == "".join(NAMES[token] for token in common[2])
        number = {gram: i for i, gram in enumerate(common, 1)}
        expected = [number.get(gram, 0) for row in grams for gram in row]
        assert view.at(np.arange(len(text.token_ids))).tolist() == expected
    assert list(tmp_path.iterdir()) == []


def test_a_feature_read_in_parts_has_the_same_rule_and_scores(
    text: TokenText, halves: Halves, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    codes = np.where(np.isin(text.token_ids, [1, 3, 8]), 1 + rng.random(len(text.token_ids)), 0)
    whole = halves.explain(feature(codes))
    monkeypatch.setattr(code_index, "PART_ENTRIES", 50)
    found = halves.explain(feature(codes))
    assert str(found.rule) == str(whole.rule) and found.scores == whole.scores
    assert found.rule.r == pytest.approx(whole.rule.r, rel=1e-12)


def test_entries_outside_the_pool_take_no_part(text: TokenText, halves: Halves) -> None:
    """The fragments of a small pool are those that `select` finds in all entries of the other half."""
    pool = np.sort(np.random.default_rng(1).choice(text.n_windows, 200, replace=False))
    found = feature(np.where(text.token_ids == 6, 1 + np.random.default_rng(2).random(len(text.token_ids)), 0))
    small = Halves(text, halves.views, FITTING, pool, 0, "corrected")
    expected = select(in_contexts(found, ~FITTING, CONTEXT), pool, text, 0, "corrected")
    scored = small.explain(found)
    assert scored.scores == small.score(scored.rule, expected)
