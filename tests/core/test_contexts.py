"""The choice of windows against brute force on dense random codes."""

from __future__ import annotations

import numpy as np
import pytest

from sae_core import code_index, contexts, row_entries
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
    assert strongest(found, text).tolist() == [3, 1]


def kept(positions: np.ndarray, text: TokenText) -> list[int]:
    """Those of an index's entries that are no repeats, looked at two at a time."""
    found = FeatureCodes(0, positions, np.ones(len(positions), np.float32))
    return distinct(iter(np.split(np.arange(len(positions)), [2, 4])), found, text, 5).tolist()


def test_repeats_are_collapsed_and_context_starts_are_no_repeats() -> None:
    phrase = np.arange(100, 100 + CONTEXT)
    text = TokenText(np.tile(phrase, 6), CONTEXT, WINDOW)
    same = np.arange(6) * CONTEXT + 20
    assert kept(same, text) == [0]
    changed = np.tile(phrase, 6)
    changed[same[1] - REPEAT_TOKENS + 1] = 7  # inside the twelve tokens of the second
    changed[same[2] - REPEAT_TOKENS] = 7  # just before those of the third
    assert kept(same, TokenText(changed, CONTEXT, WINDOW)) == [0, 1]
    # The token before a context's start is another text: it takes no part.
    assert kept(np.array([CONTEXT, 3 * CONTEXT]), text) == [0]


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
    silent = silent_positions(found, text, feature_rng(0, 0))
    assert len(set(silent.tolist())) == 5
    assert not set((silent // WINDOW).tolist()) & set((found.positions // WINDOW).tolist())
    assert (silent % WINDOW == WINDOW // 2).all()
    everywhere = codes_of(text, 1.0)
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


def test_silent_windows_are_drawn_among_all_that_are_silent(text: TokenText, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: numbers drawn of a list of them, whatever the parts and the end that is silent."""
    monkeypatch.setattr(code_index, "PART_ENTRIES", 50)
    found = codes_of(text, 0.2)
    for inside in (slice(None), slice(200, None), slice(0, 500), slice(0, 0)):
        some = found.part(inside)
        silent = np.setdiff1d(np.arange(text.n_windows), some.positions // WINDOW)
        wanted = np.sort(silent[feature_rng(0, 4).choice(len(silent), 5, replace=False)])
        assert (silent_positions(some, text, feature_rng(0, 4)) // WINDOW).tolist() == wanted.tolist()


def drawn_at_once(found: FeatureCodes, text: TokenText, rng: np.random.Generator) -> list[list[int]]:
    """Positions of every bin, drawn from lists of all its entries: the draw of all runs so far."""
    histogram = token_histogram(found.codes, text.token_ids[found.positions])
    bins, tokens, shown = bin_of(found.codes, found.codes.max(initial=0)), text.token_ids[found.positions], []
    for bin in range(10):
        candidates = np.flatnonzero(bins == bin)
        chosen: dict[tuple, int] = {}
        for entry in candidates[rng.choice(len(candidates), min(len(candidates), contexts.LOOKED_AT), replace=False)]:
            chosen.setdefault(lead(text, found.positions[entry]), entry)
        entries = list(chosen.values())[:5]
        for token in sorted(set(histogram.listed(bin)) - set(tokens[entries])):
            entries.append(rng.choice(candidates[tokens[candidates] == token]))
        shown.append(found.positions[sorted(entries, key=lambda e: (-found.codes[e], found.positions[e]))].tolist())
    return shown


@pytest.mark.parametrize("share", [0.001, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("blocks", [1, 7, 4096])
def test_bins_found_in_blocks_are_those_of_whole_lists(
    text: TokenText, share: float, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BLOCKS", blocks), ("SMALLEST_BLOCK", 16), ("ENTRIES_AT_ONCE", 100)):
        monkeypatch.setattr(row_entries, name, value)
    found = codes_of(text, share)
    found = FeatureCodes(0, found.positions, np.ceil(found.codes * 20) / 20)  # so that there are equal codes
    shown = all_bands(found, text, seed=3)
    wanted = drawn_at_once(found, text, feature_rng(3, 0))
    assert [shown[f"bin{bin}"].positions.tolist() for bin in range(10)] == wanted


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
def test_bands_chosen_in_parts_are_those_chosen_at_once(
    text: TokenText, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = codes_of(text, share)
    whole = all_bands(found, text)
    monkeypatch.setattr(code_index, "PART_ENTRIES", 100)
    parts = all_bands(found, text)
    assert list(parts) == list(whole)
    assert all(parts[name].positions.tolist() == whole[name].positions.tolist() for name in whole)
    monkeypatch.setattr(contexts, "LOOKED_AT", 30)  # fewer than one part has windows
    assert found.positions[strongest(found, text)].tolist() == whole["top"].positions.tolist()


def test_extra_rows_are_drawn_among_all_entries_of_the_token(text: TokenText) -> None:
    """A token that is rare in its bin yet listed: over many seeds each of its entries there is drawn."""
    tokens = np.zeros_like(text.token_ids)
    rare = np.arange(8) * 3 * CONTEXT + 17
    tokens[rare] = 7
    found = FeatureCodes(0, np.arange(len(tokens)), np.full(len(tokens), 2.0, np.float32))
    text = TokenText(tokens, CONTEXT, WINDOW)
    drawn = [set(all_bands(found, text, seed)["bin9"].positions.tolist()) & set(rare.tolist()) for seed in range(60)]
    assert all(drawn) and set().union(*drawn) == set(rare.tolist())
