"""Histograms split by token against counting by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from sae_core import code_index
from sae_core.code_index import FeatureCodes
from sae_core.histograms import bin_of, feature_histogram, token_histogram
from sae_core.schemas import OTHER_TOKEN


def brute_force(values: np.ndarray, tokens: np.ndarray, low: float, n_bins: int, per_bin: int) -> list[tuple]:
    """(bin, token, count) rows, one value at a time in Python's own floats."""
    top = max(float(v) for v in values)
    bins: dict[int, Counter] = {}
    for value, token in zip(values, tokens, strict=True):
        bin = min(max(math.ceil((float(value) - low) / (top - low) * n_bins) - 1, 0), n_bins - 1)
        bins.setdefault(bin, Counter())[int(token)] += 1
    rows = []
    for bin in sorted(bins):
        ordered = sorted(bins[bin].items(), key=lambda item: (-item[1], item[0]))
        rows += [(bin, token, count) for token, count in ordered[:per_bin]]
        if ordered[per_bin:]:
            rows.append((bin, OTHER_TOKEN, sum(count for _, count in ordered[per_bin:])))
    return rows


@pytest.mark.parametrize(("n", "n_tokens", "low"), [(1, 3, 0.0), (500, 4, 0.0), (5_000, 40, 0.0), (300, 25, 0.1)])
def test_equals_counting_by_hand(n: int, n_tokens: int, low: float) -> None:
    rng = np.random.default_rng(n)
    values = (low + rng.exponential(size=n) + 1e-6).astype(np.float32)
    tokens = rng.integers(0, n_tokens, n).astype(np.uint16)
    found = token_histogram(values, tokens, low, per_bin=9)
    rows = list(zip(found.bins.tolist(), found.token_ids.tolist(), found.counts.tolist(), strict=True))
    assert rows == brute_force(values, tokens, low, 10, 9)
    assert found.counts.sum() == found.bin_counts().sum() == n
    assert found.edges[0] == low and found.edges[-1] == values.max()


def test_the_upper_edge_belongs_to_the_bin_and_the_lower_one_does_not() -> None:
    values = np.array([0.5, 1.0, 1.5, 2.0, 10.0])  # edges 0, 1, ..., 10: exact in floating point
    assert bin_of(values, 10.0).tolist() == [0, 0, 1, 1, 9]


def test_every_value_lies_between_the_edges_of_its_bin() -> None:
    values = np.random.default_rng(0).gamma(0.3, size=4_000).astype(np.float32) + np.float32(1e-4)
    found = token_histogram(values, np.zeros(len(values), np.int64))
    bins = bin_of(values, values.max())
    assert (values > found.edges[bins] - 1e-6).all() and (values <= found.edges[bins + 1] + 1e-6).all()


def test_no_value_gives_no_rows() -> None:
    found = token_histogram(np.zeros(0, np.float32), np.zeros(0, np.uint16))
    assert len(found.bins) == 0 and found.bin_counts().tolist() == [0] * 10


def test_listed_leaves_out_the_rest() -> None:
    tokens = np.repeat(np.arange(12), np.arange(12, 0, -1))
    found = token_histogram(np.ones(len(tokens)), tokens)
    assert found.listed(9).tolist() == list(range(9))
    assert found.counts[found.token_ids == OTHER_TOKEN].tolist() == [3 + 2 + 1]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.7])
def test_a_feature_read_in_parts_has_the_histogram_of_its_codes(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    token_ids, positions = rng.integers(0, 30, 2_000).astype(np.uint16), np.flatnonzero(rng.random(2_000) < share)
    found = FeatureCodes(0, positions, rng.exponential(size=len(positions)).astype(np.float32))
    wanted = token_histogram(found.codes, token_ids[positions])
    monkeypatch.setattr(code_index, "PART_ENTRIES", 100)
    histogram = feature_histogram(found, token_ids)
    assert all(np.array_equal(getattr(histogram, name), values) for name, values in vars(wanted).items())
