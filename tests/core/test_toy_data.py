"""The toy data has the statistics it promises, and a dictionary of its directions explains it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sae_core.dictionaries import Dictionary
from sae_core.errors import SpecError
from sae_core.toy_data import TOY_SITE, ToyData, measure_on

DATA = ToyData(width=12, n_ground_truth=20, active=3, decay=0.9, batch_size=20_000, seed=4)


def test_directions_are_unit_and_as_many_as_asked() -> None:
    full = ToyData()
    assert full.directions.shape == (512, 256)
    assert full.directions.norm(dim=1) == pytest.approx(torch.ones(512), abs=1e-5)
    assert float(full.probabilities[0]) == pytest.approx(5 / 512)
    assert float(full.probabilities[100] / full.probabilities[0]) == pytest.approx(0.99**100)


@pytest.mark.parametrize("correlated", [False, True])
def test_activity_and_values(correlated: bool) -> None:
    data = replace(DATA, correlated=correlated)
    a = data.coefficients(0)
    rates = (a != 0).double().mean(0)
    assert rates == pytest.approx(data.probabilities, abs=0.012)
    values = a[a != 0]
    assert values.min() > 0 and values.max() < 1
    assert float(values.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(values.var()) == pytest.approx(1 / 12, abs=0.003)
    together = torch.corrcoef((a != 0).double().T)
    off = together[~torch.eye(20, dtype=torch.bool)].abs().max()
    assert off > 0.1 if correlated else off < 0.05


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    first, second = (batch[TOY_SITE] for batch in DATA.batches(0, 2))
    assert not torch.equal(first, second)
    assert torch.equal(second, next(DATA.batches(1, 2))[TOY_SITE])
    assert torch.equal(first, DATA.coefficients(0) @ DATA.directions)
    other = next(replace(DATA, seed=5).batches(0, 1))[TOY_SITE]
    assert not torch.equal(first, other)


def test_the_true_dictionary_of_orthogonal_directions_is_perfect() -> None:
    data = ToyData(width=6, n_ground_truth=6, active=2, decay=1.0, batch_size=500, seed=1)
    q = torch.linalg.qr(data.directions).Q
    data.__dict__["directions"] = q
    dictionary = Dictionary(TOY_SITE, q.T, torch.zeros(6), q, torch.zeros(6))
    measured = measure_on(dictionary, data, 0, 3)
    assert measured.n_tokens == 1500 and measured.fvu < 1e-9
    true_l0 = sum(float((data.coefficients(i) != 0).sum()) for i in range(3)) / 1500
    silent_side = dictionary.encode(next(data.batches(0, 1))[TOY_SITE])
    assert (silent_side > 1e-5).double().sum(1).mean() == pytest.approx(true_l0, abs=0.1)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"active": 0}, {"decay": 1.5}, {"active": 21}, {"batch_size": 0}])
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(SpecError):
        ToyData(**{"width": 12, "n_ground_truth": 20, "active": 3.0, "decay": 0.9, **wrong})
