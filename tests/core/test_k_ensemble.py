"""BatchTopK and JumpReLU: the straight-through gradients, one step by hand, known features, kill and resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_core.dictionaries import load_dictionary, save_dictionary
from sae_core.errors import DictionaryError, SpecError
from sae_core.k_ensemble import KEnsemble, batch_threshold, ensemble_class, geometric_median
from sae_core.losses import heaviside, jump_relu, unit_rows
from sae_core.specs import K_KINDS, DictionarySpec, Site, TrainSpec
from sae_core.training import train

D, BATCH = 8, 32
SITE = Site(0)
SETTINGS = TrainSpec(tokens=BATCH * 20, batch_size=BATCH, lr=1e-2, warmup_steps=3, seed=5)


def specs(kind: str, ks: tuple[int, ...] = (2, 3)) -> list[DictionarySpec]:
    return [DictionarySpec(SITE, kind, 2.0, k=k) for k in ks]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Noise:
    """A stream whose batch is a function of its number; dies before batch `dies_at`."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at

    def batches(self, start: int, stop: int) -> Iterator[dict[Site, Tensor]]:
        for number in range(start, stop):
            if number == self.dies_at:
                raise KeyboardInterrupt
            yield {SITE: 3 * drawn(BATCH, D, seed=number).float() + 1}


# ---- jumps


def test_jump_relu_keeps_what_is_above_a_threshold() -> None:
    pre = torch.tensor([-1.0, 0.2, 0.5, 0.500001, 2.0])
    assert jump_relu(pre, torch.tensor(0.5), 0.1).tolist() == [0, 0, 0, pytest.approx(0.500001), 2]
    assert heaviside(pre, torch.tensor(0.5), 0.1).tolist() == [0, 0, 0, 1, 1]
    assert jump_relu(pre, torch.tensor(-3.0), 0.1).tolist() == torch.relu(pre).tolist()


@pytest.mark.parametrize("keeps_value", [True, False])
def test_gradient_by_the_threshold_is_that_of_a_ramp(keeps_value: bool) -> None:
    """Oracle: autograd through a step smoothed to a ramp of width eps, of the height of the jump."""
    eps, pre, weight = 0.5, drawn(200, 4), drawn(200, 4, seed=1)
    theta = torch.tensor([0.1, 0.3, 0.7, 1.2], dtype=torch.float64, requires_grad=True)
    ramp = ((pre - theta) / eps + 0.5).clamp(0, 1) * (theta.detach() if keeps_value else 1)
    (expected,) = torch.autograd.grad((weight * ramp).sum(), theta)
    function = jump_relu if keeps_value else heaviside
    (found,) = torch.autograd.grad((weight * function(pre, theta, eps)).sum(), theta)
    torch.testing.assert_close(found, expected)


def test_gradient_by_the_input_passes_where_codes_do() -> None:
    pre, weight = drawn(50, 3).requires_grad_(), drawn(50, 3, seed=1)
    theta = torch.full((3,), 0.4, dtype=torch.float64)
    jump_relu(pre, theta, 0.1).mul(weight).sum().backward()
    torch.testing.assert_close(pre.grad, torch.where(pre.detach() > 0.4, weight, 0))
    assert heaviside(pre, theta.requires_grad_(), 0.1).sum().backward() is None
    torch.testing.assert_close(pre.grad, torch.where(pre.detach() > 0.4, weight, 0))


# ---- BatchTopK


def test_batch_threshold_by_brute_force() -> None:
    codes = torch.relu(drawn(3, 10, 12)).float()
    ks = [1, 2, 3]
    expected = [sorted(row.flatten().tolist())[-k * 10] for row, k in zip(codes, ks, strict=True)]
    assert batch_threshold(codes, ks).tolist() == pytest.approx(expected)
    assert batch_threshold(codes.double(), ks).tolist() == pytest.approx(expected)
    assert 0 < batch_threshold(torch.zeros(1, 4, 5), [2]).item() < 1e-30


def test_one_step_of_batchtopk_is_plain_torch() -> None:
    """Oracle: the loss of one dictionary, autograd, torch's Adam, rows back to norm 1; in the scaled space."""
    ensemble = KEnsemble(specs("batchtopk", (2,)), D, SETTINGS)
    batches = [b[SITE] for b in Noise().batches(0, 4)]
    ensemble.step(batches[0])
    leaves = {name: weight[0].clone().requires_grad_() for name, weight in ensemble.weights.items()}
    optimiser = torch.optim.Adam(leaves.values())
    for weight, leaf in zip(ensemble.weights.values(), leaves.values(), strict=True):
        optimiser.state[leaf] = {n: v.clone() for n, v in ensemble.optimiser.state[weight].items()}
        for moment in ("exp_avg", "exp_avg_sq"):
            optimiser.state[leaf][moment] = optimiser.state[leaf][moment][0]
    scale = batches[0].square().sum(1).mean().sqrt()
    for step, x in enumerate(batches[1:], 2):
        optimiser.param_groups[0]["lr"] = SETTINGS.lr * min(1, step / 3)
        rows = leaves["decoder"] / leaves["decoder"].norm(dim=1, keepdim=True)
        codes = torch.relu((x / scale - leaves["b_dec"]) @ leaves["encoder"].T + leaves["bias"])
        kept = codes * (codes >= codes.flatten().sort().values[-2 * BATCH])
        optimiser.zero_grad()
        (kept @ rows + leaves["b_dec"] - x / scale).square().sum(1).mean().backward()
        optimiser.step()
        with torch.no_grad():
            leaves["decoder"] /= leaves["decoder"].norm(dim=1, keepdim=True)
        ensemble.step(x)
    for name, leaf in leaves.items():
        torch.testing.assert_close(ensemble.weights[name][0], leaf.detach(), rtol=1e-3, atol=1e-5)


def test_the_saved_form_gives_the_codes_of_training() -> None:
    """Scale folded in: the same x_hat as the trained weights give, with the running threshold."""
    ensemble = KEnsemble(specs("batchtopk", (2,)), D, SETTINGS)
    for batch in Noise().batches(0, 10):
        ensemble.step(batch[SITE])
    x = next(Noise().batches(11, 12))[SITE]
    w, scale = {name: weight[0] for name, weight in ensemble.weights.items()}, ensemble.buffers["scale"]
    pre = (x / scale - w["b_dec"]) @ w["encoder"].T + w["bias"]
    codes = torch.relu(pre) * (pre > ensemble.buffers["passed"][0])
    found = ensemble.dictionaries()[0]
    torch.testing.assert_close(found.encode(x), scale * codes, rtol=1e-4, atol=1e-5)
    expected = scale * (codes @ unit_rows(w["decoder"]) + w["b_dec"])
    torch.testing.assert_close(found.decode(found.encode(x)), expected, rtol=1e-4, atol=1e-5)
    assert found.architecture == "jumprelu" and len(found.threshold.unique()) == 1


def test_geometric_median_has_the_least_summed_distance() -> None:
    x = torch.cat([drawn(60, 3), torch.full((5, 3), 50.0, dtype=torch.float64)])
    found = geometric_median(x)
    distance = (x - found).norm(dim=1).sum()
    assert all(distance < (x - found - 0.2 * step).norm(dim=1).sum() for step in drawn(50, 3, seed=1))
    assert (found - x[:60].mean(0)).norm() < 0.3 < (x.mean(0) - x[:60].mean(0)).norm()


# ---- whole runs


def toy(n: int, truth: Tensor, generator: torch.Generator) -> Tensor:
    active = torch.rand(n, len(truth), generator=generator) < 0.06
    return (active * (0.2 + torch.rand(n, len(truth), generator=generator))) @ truth + 0.5


@pytest.fixture(scope="module")
def learnt() -> dict[str, tuple[Tensor, list, Tensor]]:
    """32 known directions in 32 dimensions, about 2 active at once, away from the origin: trained with k 2."""
    generator = torch.Generator().manual_seed(0)
    truth = unit_rows(torch.randn(32, 32, generator=generator))
    settings = TrainSpec(256 * 700, 256, 5e-3, 20, decay=0.2, aux=1 / 32, dead_tokens=20_000)
    both = {kind: KEnsemble([DictionarySpec(SITE, kind, 2.0, k=2)], 32, settings) for kind in K_KINDS}
    for _ in range(700):
        x = toy(256, truth, generator)
        for ensemble in both.values():
            ensemble.step(x)
    x = toy(4000, truth, generator)
    return {kind: (truth, ensemble.dictionaries(), x) for kind, ensemble in both.items()}


@pytest.mark.parametrize("kind", K_KINDS)
def test_known_features_are_found(kind: str, learnt: dict) -> None:
    truth, (found,), x = learnt[kind]
    codes = found.encode(x)
    mmcs = (truth @ found.W_dec.T).max(dim=1).values.mean().item()
    fvu = ((found.decode(codes) - x).square().sum() / (x - x.mean(0)).square().sum()).item()
    assert mmcs > 0.95 and fvu < 0.1
    assert codes.ne(0).sum(1).float().mean().item() == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("kind", K_KINDS)
def test_the_folder_is_a_jumprelu_of_saelens(kind: str, learnt: dict, tmp_path: Path) -> None:
    _, (found,), x = learnt[kind]
    save_dictionary(found, tmp_path, {})
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu" and "k" not in config
    loaded = load_dictionary(tmp_path)
    assert (loaded.hash, loaded.spec) == (found.hash, found.spec)
    torch.testing.assert_close(loaded.encode(x), found.encode(x))


def test_the_auxiliary_loss_revives_dead_features() -> None:
    """Features pushed far under the threshold mostly stay there without it, and all come back with it."""
    alive = {}
    for aux in (0.0, 1.0):
        settings = replace(SETTINGS, tokens=BATCH * 200, aux=aux, dead_tokens=5 * BATCH)
        ensemble = KEnsemble(specs("batchtopk", (2,)), D, settings)
        ensemble.weights["bias"][0, :8] = -1.0
        for batch in Noise().batches(0, 200):
            ensemble.step(batch[SITE])
        alive[aux] = int((ensemble.buffers["silent"][0, :8] < 20 * BATCH).sum())
    assert alive[1.0] == 8 > alive[0.0] + 2


@pytest.mark.parametrize("kind", K_KINDS)
def test_a_killed_run_continues_bit_for_bit(kind: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, aux=0.1, dead_tokens=2 * BATCH)
    whole, broken, resumed = ([KEnsemble(specs(kind), D, settings)] for _ in range(3))
    train(whole, Noise(), 20, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(broken, Noise(dies_at=13), 20, tmp_path / "b", seconds_between=0)
    train(resumed, Noise(), 20, tmp_path / "b")
    assert [d.hash for d in whole[0].dictionaries()] == [d.hash for d in resumed[0].dictionaries()]
    assert all(torch.equal(value, resumed[0].state()[name]) for name, value in whole[0].state().items())


@pytest.mark.parametrize("kind", K_KINDS)
def test_a_dictionary_does_not_depend_on_its_neighbours(kind: str) -> None:
    together, alone = KEnsemble(specs(kind), D, SETTINGS), KEnsemble(specs(kind, (3,)), D, SETTINGS)
    for batch in Noise().batches(0, 10):
        together.step(batch[SITE])
        alone.step(batch[SITE])
    torch.testing.assert_close(together.dictionaries()[1].W_enc, alone.dictionaries()[0].W_enc, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", K_KINDS)
def test_bf16_stays_near_fp32(kind: str) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        ensemble = KEnsemble(specs(kind), D, SETTINGS, precision=precision)
        losses[precision] = [ensemble.step(batch[SITE]).mse for batch in Noise().batches(0, 20)][-1]
        assert all(weight.dtype == torch.float32 for weight in ensemble.weights.values())
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.1, atol=0)


def test_bad_settings_are_sentences() -> None:
    with pytest.raises(SpecError, match="a k of at most 16.*17"):
        KEnsemble(specs("batchtopk", (17,)), D, SETTINGS)
    with pytest.raises(SpecError, match="a k of 1 or more for jumprelu.*0"):
        specs("jumprelu", (0,))
    with pytest.raises(SpecError, match="one kind out of"):
        KEnsemble([DictionarySpec(SITE, "tied", 2.0, 1e-3)], D, SETTINGS)
    with pytest.raises(SpecError, match="one kind out of.*'pca'"):
        ensemble_class("pca")


@pytest.mark.parametrize("kind", K_KINDS)
def test_activations_that_are_not_numbers_are_a_sentence_and_constant_ones_train(kind: str) -> None:
    ensemble = KEnsemble(specs(kind), D, SETTINGS)
    for _ in range(3):
        ensemble.step(torch.zeros(BATCH, D))
    assert all(torch.isfinite(d.W_dec).all() for d in ensemble.dictionaries())
    ensemble.step(torch.full((BATCH, D), torch.inf))
    with pytest.raises(DictionaryError, match="diverged"):
        ensemble.dictionaries()
