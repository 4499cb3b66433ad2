"""The choice of windows against brute force on dense random codes."""

from __future__ import annotations

import numpy as np
import pytest

from sae_core import code_index, contexts
from sae_core.code_index import FeatureCodes
from sae_core.contexts import (
    REPEAT_TOKENS,
    Band,
    TokenText,
    active_spans,
    bands,
    distinct,
    silent_positions,
    strongest,
    window_peaks,
)
from sae_core.histograms import bin_of, token_histogram
from sae_core.sampling import feature_rng

CONTEXT, WINDOW = 32, 8


@pytest.fixture
def text() -> TokenText:
    tokens = np.random.default_rng(0).integers(0, 40, 200 * CONTEXT).astype(np.uint16)
    return TokenText(tokens, CONTEXT, WINDOW)


def codes_of(text: TokenText, share: float, seed: int = 1) -> FeatureCodes:
    rng = np.random.default_rng(seed)
    positions = np.flatnonzero(rng.random(len(text.token_ids)) < share)
    return FeatureCodes(0, positions, rng.exponential(size=len(positions)).astype(np.float32))


def all_bands(found: FeatureCodes, text: TokenText, seed: int = 0) -> dict[str, Band]:
    histogram = token_histogram(found.codes, text.token_ids[found.positions])
    shown = bands(found, histogram, text, feature_rng(seed, found.feature))
    return {band.name: band for band in shown}


def lead(text: TokenText, position: int) -> tuple[int, ...]:
    start = max(position // CONTEXT * CONTEXT, position - REPEAT_TOKENS + 1)
    return tuple(text.token_ids[start : position + 1].tolist())


@pytest.mark.parametrize("share", [0.002, 0.05, 0.6])
def test_top_windows_equal_a_dense_sort(text: TokenText, share: float) -> None:
    found = codes_of(text, share)
    dense = np.zeros(len(text.token_ids), np.float32)
    dense[found.positions] = found.codes
    by_window = dense.reshape(-1, WINDOW)
    order = np.argsort(-by_window.max(1), kind="stable")
    wanted, seen = [], set()
    for window in order:
        position = int(window * WINDOW + by_window[window].argmax())
        if by_window[window].max() > 0 and lead(text, position) not in seen and len(wanted) < 20:
            seen.add(lead(text, position))
            wanted.append(position)
    assert found.positions[strongest(found, text)].tolist() == wanted
    assert all_bands(found, text)["top"].positions.tolist() == wanted


def test_one_peak_a_window(text: TokenText) -> None:
    found = FeatureCodes(0, np.array([1, 3, 6, 20, 21]), np.array([1.0, 2.0, 2.0, 5.0, 4.0], np.float32))
    assert window_peaks(found, WINDOW).tolist() == [1, 3]


def test_repeats_are_collapsed_and_context_starts_are_no_repeats() -> None:
    phrase = np.arange(100, 100 + CONTEXT)
    text = TokenText(np.tile(phrase, 6), CONTEXT, WINDOW)
    same = np.arange(6) * CONTEXT + 20
    assert distinct(same, text, 5).tolist() == [0]
    changed = np.tile(phrase, 6)
    changed[same[1] - REPEAT_TOKENS + 1] = 7  # inside the twelve tokens of the second
    changed[same[2] - REPEAT_TOKENS] = 7  # just before those of the third
    assert distinct(same, TokenText(changed, CONTEXT, WINDOW), 5).tolist() == [0, 1]
    # The token before a context's start is another text: it takes no part.
    assert distinct(np.array([CONTEXT, 3 * CONTEXT]), text, 5).tolist() == [0]


def test_bins_hold_five_draws_and_every_listed_token(text: TokenText) -> None:
    found = codes_of(text, 0.3)
    histogram = token_histogram(found.codes, text.token_ids[found.positions])
    shown = all_bands(found, text)
    bins = bin_of(found.codes, found.codes.max())
    for bin in range(10):
        members = set(found.positions[bins == bin].tolist())
        band = shown[f"bin{bin}"]
        chosen = band.positions.tolist()
        assert set(chosen) <= members and len(set(chosen)) == len(chosen) >= min(5, len(members))
        assert set(histogram.listed(bin)) <= set(text.token_ids[band.positions].tolist())
        assert (np.diff(band.codes) <= 0).all()


def test_draws_inside_a_bin_are_uniform(text: TokenText) -> None:
    positions = np.arange(40) * CONTEXT + 15
    tokens = text.token_ids.copy()
    tokens[positions] = 5  # one listed token, so that no extra row is added
    text = TokenText(tokens, CONTEXT, WINDOW)
    found = FeatureCodes(0, positions, np.full(40, 3.0, np.float32))
    hits = np.zeros(len(text.token_ids))
    for seed in range(800):
        hits[all_bands(found, text, seed)["bin9"].positions] += 1
    assert hits.sum() == 800 * 5
    assert np.abs(hits[positions] - 100).max() < 50  # 100 expected, standard deviation about 9


def test_silent_windows_hold_no_activity(text: TokenText) -> None:
    found = codes_of(text, 0.1)
    silent = silent_positions(found.positions, text, feature_rng(0, 0))
    assert len(set(silent.tolist())) == 5
    assert not set((silent // WINDOW).tolist()) & set((found.positions // WINDOW).tolist())
    assert (silent % WINDOW == WINDOW // 2).all()
    everywhere = np.arange(len(text.token_ids))
    assert len(silent_positions(everywhere, text, feature_rng(0, 0))) == 0


def test_a_silent_feature_has_only_silent_windows(text: TokenText) -> None:
    found = FeatureCodes(0, np.zeros(0, np.int64), np.zeros(0, np.float32))
    shown = all_bands(found, text)
    assert {name for name, band in shown.items() if len(band.positions)} == {"none"}


def test_active_spans_are_the_entries_of_each_window(text: TokenText) -> None:
    found = codes_of(text, 0.2)
    windows = np.array([0, 5, 17, text.n_windows - 1])
    starts, stops = active_spans(found, windows, WINDOW)
    for window, start, stop in zip(windows, starts, stops, strict=True):
        inside = found.positions[(found.positions // WINDOW) == window]
        assert found.positions[start:stop].tolist() == inside.tolist()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
def test_bands_chosen_in_parts_are_those_chosen_at_once(
    text: TokenText, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = codes_of(text, share)
    whole, peaks = all_bands(found, text), window_peaks(found, WINDOW)
    for module in (code_index, contexts):
        monkeypatch.setattr(module, "PART_ENTRIES", 100)
    parts = all_bands(found, text)
    assert list(parts) == list(whole) and window_peaks(found, WINDOW).tolist() == peaks.tolist()
    assert all(parts[name].positions.tolist() == whole[name].positions.tolist() for name in whole)


def test_extra_rows_are_drawn_among_all_entries_of_the_token(text: TokenText) -> None:
    """A token that is rare in its bin yet listed: over many seeds each of its entries there is drawn."""
    tokens = np.zeros_like(text.token_ids)
    rare = np.arange(8) * 3 * CONTEXT + 17
    tokens[rare] = 7
    found = FeatureCodes(0, np.arange(len(tokens)), np.full(len(tokens), 2.0, np.float32))
    text = TokenText(tokens, CONTEXT, WINDOW)
    drawn = [set(all_bands(found, text, seed)["bin9"].positions.tolist()) & set(rare.tolist()) for seed in range(60)]
    assert all(drawn) and set().union(*drawn) == set(rare.tolist())
