"""Ensembles against plain torch training, kill and resume, and recovery of known features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_core import ensemble as ensemble_module
from sae_core.ensemble import PRECISIONS, Ensemble, choose_block, quick_precision
from sae_core.errors import DictionaryError, SpecError
from sae_core.losses import Block, loss, unit_rows
from sae_core.specs import DictionarySpec, Site, TrainSpec
from sae_core.training import fingerprint, load_checkpoint, save_checkpoint, train

D, BATCH = 8, 32
SITE, OTHER = Site(0), Site(1, "attn_out")
SETTINGS = TrainSpec(batch_size=BATCH, lr=1e-2, warmup_steps=3, seed=5)


def specs(kind: str, alphas: tuple[float, ...], site: Site = SITE) -> list[DictionarySpec]:
    return [DictionarySpec(site, kind, 2.0, alpha) for alpha in alphas]


class Noise:
    """A stream whose batch is a function of its number; dies before batch `dies_at`."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at, self.given = dies_at, 0

    def batches(self, start: int, stop: int) -> Iterator[dict[Site, Tensor]]:
        for number in range(start, stop):
            if number == self.dies_at:
                raise KeyboardInterrupt
            self.given += 1
            x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(number))
            yield {SITE: x, OTHER: 2 * x + 1}


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_an_ensemble_trains_as_plain_torch_does(kind: str) -> None:
    """Oracle: autograd of the formula and torch.optim.Adam, one dictionary at a time, with linear warm-up."""
    alphas = (1e-3, 1e-1)
    ensemble = Ensemble(specs(kind, alphas), D, SETTINGS)
    start = {name: weight.clone() for name, weight in ensemble.weights.items()}
    batches = [b[SITE] for b in Noise().batches(0, 12)]
    for x in batches:
        ensemble.step(x)
    for i, alpha in enumerate(alphas):
        leaves = {name: weight[i].clone().requires_grad_() for name, weight in start.items()}
        optimiser = torch.optim.Adam(leaves.values(), lr=SETTINGS.lr)
        for step, x in enumerate(batches, 1):
            optimiser.param_groups[0]["lr"] = SETTINGS.lr * min(1, step / 3)
            rows = unit_rows(leaves["decoder"])
            total = loss(x, leaves.get("encoder", rows), rows, leaves["bias"]).total(alpha)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
        for name, leaf in leaves.items():
            torch.testing.assert_close(ensemble.weights[name][i], leaf.detach(), rtol=1e-3, atol=1e-5)


def step_sizes(train_spec: TrainSpec, steps: int) -> list[float]:
    """How far a weight moves, in units of lr, at every step of a constant gradient."""
    ensemble = Ensemble(specs("tied", (1e-3,)), D, train_spec)
    bias, found = ensemble.weights["bias"], []
    for _ in range(steps):
        before = bias[0, 0].item()
        for weight in ensemble.weights.values():
            weight.grad = torch.full_like(weight, 0.25)
        ensemble._advance()
        found.append((before - bias[0, 0].item()) / train_spec.lr)
    return found


def test_a_frozen_bias_correction_gives_the_authors_steps() -> None:
    """Measured with the authors' optimiser: 1.0 at t = 1, 2.07 at 13, 1.02 at 100, 0.316 in the long run."""
    sizes = step_sizes(TrainSpec(lr=1e-4, warmup_steps=0, frozen_bias_correction=True), 8000)
    found = [sizes[t - 1] for t in (1, 13, 100, 300, 1000, 8000)]
    assert found == pytest.approx([1.0, 2.07, 1.02, 0.62, 0.40, 0.316], abs=0.01)
    assert max(sizes) == pytest.approx(2.07, abs=0.01)
    assert step_sizes(TrainSpec(lr=1e-4, warmup_steps=0), 50) == pytest.approx([1.0] * 50, abs=0.01)


def test_a_frozen_bias_correction_survives_a_kill(tmp_path: Path) -> None:
    settings = replace(SETTINGS, frozen_bias_correction=True)
    whole, broken, resumed = (Ensemble(specs("tied", (1e-3,)), D, settings) for _ in range(3))
    usual = Ensemble(specs("tied", (1e-3,)), D, SETTINGS)
    train([whole], Noise(), 20, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train([broken], Noise(dies_at=13), 20, tmp_path / "b", seconds_between=0)
    train([resumed], Noise(), 20, tmp_path / "b")
    train([usual], Noise(), 20, tmp_path / "c")
    first, again, other = (e.dictionaries()[0].hash for e in (whole, resumed, usual))
    assert first == again != other


def test_a_dictionary_does_not_depend_on_its_neighbours() -> None:
    together, alone = Ensemble(specs("tied", (1e-3, 1e-2)), D, SETTINGS), Ensemble(specs("tied", (1e-2,)), D, SETTINGS)
    for batch in Noise().batches(0, 10):
        together.step(batch[SITE])
        alone.step(batch[SITE])
    torch.testing.assert_close(together.dictionaries()[1].W_dec, alone.dictionaries()[0].W_dec)
    assert not torch.equal(together.weights["decoder"][0], together.weights["decoder"][1])


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_dictionaries_are_the_paper_s_form(kind: str) -> None:
    ensemble = Ensemble(specs(kind, (1e-3,)), D, SETTINGS)
    for batch in Noise().batches(0, 5):
        ensemble.step(batch[SITE])
    found = ensemble.dictionaries()[0]
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(2 * D))
    assert found.tied == (kind == "tied") and found.b_dec.abs().max() == 0
    if kind == "untied":
        assert (found.W_enc.norm(dim=0) - 1).abs().max() > 1e-3


def ensembles() -> list[Ensemble]:
    return [
        Ensemble(specs("tied", (1e-3, 1e-2)), D, SETTINGS),
        Ensemble(specs("untied", (3e-3,), OTHER), D, SETTINGS),
    ]


def test_a_killed_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, broken, resumed = ensembles(), ensembles(), ensembles()
    train(whole, Noise(), 20, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(broken, Noise(dies_at=13), 20, tmp_path / "b", seconds_between=0)
    stream = Noise()
    train(resumed, stream, 20, tmp_path / "b")
    assert stream.given == 7
    for left, right in zip(whole, resumed, strict=True):
        assert {d.hash for d in left.dictionaries()} == {d.hash for d in right.dictionaries()}
        assert left.state().keys() == right.state().keys()
        assert all(torch.equal(left.state()[name], right.state()[name]) for name in left.state())


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    train(ensembles(), Noise(), 6, tmp_path / "c")
    stream, steps = Noise(), []
    again = ensembles()
    train(again, stream, 6, tmp_path / "c", report=lambda step, parts: steps.append(step))
    assert (stream.given, steps, again[0].steps) == (0, [], 6)


def test_a_checkpoint_beyond_the_end_is_a_sentence(tmp_path: Path) -> None:
    train(ensembles(), Noise(), 6, tmp_path / "c")
    with pytest.raises(DictionaryError, match="at most 5 steps.*6 in.*Delete it"):
        train(ensembles(), Noise(), 5, tmp_path / "c")


def test_a_truncated_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", ensembles(), 3, 1.5)
    assert load_checkpoint(tmp_path / "c", ensembles()) == (3, 1.5)
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:100])
    with pytest.raises(DictionaryError, match="a whole checkpoint.*Delete it"):
        load_checkpoint(tmp_path / "c", ensembles())


def test_divergence_is_a_sentence_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    class Broken(Noise):
        def batches(self, start: int, stop: int) -> Iterator[dict[Site, Tensor]]:
            yield from ({site: x * torch.inf for site, x in b.items()} for b in super().batches(start, stop))

    with pytest.raises(DictionaryError, match="diverged.*smaller --lr"):
        train(ensembles(), Broken(), 4, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_fingerprint_tells_settings_apart() -> None:
    names = {
        fingerprint(ensembles()),
        fingerprint(ensembles(), model="other"),
        fingerprint(ensembles()[:1]),
        fingerprint([Ensemble(specs("tied", (1e-3, 1e-2)), D, TrainSpec(lr=0.5))]),
        fingerprint([Ensemble(specs("tied", (1e-3, 1e-2)), D, SETTINGS, precision="bf16")]),
    }
    assert len(names) == 5 and fingerprint(ensembles()) in names


def test_the_precision_chosen_is_the_quicker_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, expected in (({torch.float32: 1.0, torch.bfloat16: 0.4}, "bf16"), ({}, "fp32")):
        monkeypatch.setattr(ensemble_module, "_product_seconds", lambda dtype, _, s=seconds: s.get(dtype, 1.0))
        assert quick_precision.__wrapped__("cpu") == expected
    monkeypatch.undo()
    assert quick_precision("cpu") in PRECISIONS


def test_specs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(SpecError, match="one site"):
        Ensemble(specs("tied", (1e-3,)) + specs("untied", (1e-3,)), D, SETTINGS)
    with pytest.raises(SpecError, match="kind"):
        Ensemble(specs("topk", (1e-3,)), D, SETTINGS)
    with pytest.raises(SpecError, match="precision"):
        Ensemble(specs("tied", (1e-3,)), D, SETTINGS, precision="fp8")


def test_blocks_fit_the_cache_or_are_whole() -> None:
    fp32, bf16 = torch.float32, torch.bfloat16
    assert choose_block(8, 512, 1024, fp32, "cuda") == Block(8, 1024)
    assert choose_block(8, 512, 1024, fp32, "cpu") == Block(1, 512)
    assert choose_block(8, 512, 1024, bf16, "cpu") == Block(1, 1024)
    assert choose_block(8, 2048, 1024, fp32, "cpu") == Block(1, 1024)


def test_known_features_are_found_again() -> None:
    """48 known unit directions in 32 dimensions, each active on 3 % of samples: MMCS of the truth above 0.95."""
    generator = torch.Generator().manual_seed(0)
    truth = unit_rows(torch.randn(48, 32, generator=generator))
    settings = TrainSpec(batch_size=256, lr=3e-3, warmup_steps=20)
    both = [Ensemble([DictionarySpec(SITE, kind, 4.0, 1e-2)], 32, settings) for kind in ("tied", "untied")]
    for _ in range(1200):
        active = torch.rand(256, 48, generator=generator) < 0.03
        x = (active * torch.rand(256, 48, generator=generator)) @ truth
        for ensemble in both:
            ensemble.step(x)
    for ensemble in both:
        learnt = ensemble.dictionaries()[0].W_dec
        mmcs = (truth @ learnt.T).max(dim=1).values.mean().item()
        assert mmcs > 0.95, ensemble.specs[0].kind
