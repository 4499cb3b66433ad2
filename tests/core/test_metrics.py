"""Metrics against sums written out over all tokens at once, and against hooks on the Hugging Face model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import CorpusError
from sae_core.language_model import LanguageModel, load_language_model
from sae_core.metrics import CodeMetrics, CodeSums, SpliceLosses, Variation, held_out_batches, measure
from sae_core.specs import SITE_HOOKS, ModelSpec, Site
from tests.tiny_model import tiny_model_folder

LAYER = 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(ModelSpec(str(tiny_model_folder(tmp_path_factory.mktemp("tiny")))), "cpu")


@pytest.fixture(scope="module")
def ids(model: LanguageModel) -> Tensor:
    return torch.randint(0, model.n_tokens, (6, 16), generator=torch.Generator().manual_seed(0))


def dictionary(site: Site, width: int, n_features: int = 40, seed: int = 1) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n_features, width, generator=generator), dim=1)
    return Dictionary(site, rows.T, torch.full((n_features,), -0.2), rows, torch.zeros(width))


def identity(site: Site, width: int) -> Dictionary:
    """x_hat = relu(x) - relu(-x) = x: reconstructs without error."""
    rows = torch.cat([torch.eye(width), -torch.eye(width)])
    return Dictionary(site, rows.T, torch.zeros(2 * width), rows, torch.zeros(width))


def hooked_loss(model: LanguageModel, ids: Tensor, site: Site, change) -> float:
    """Oracle: the whole Hugging Face model, its module's output replaced by `change(output)` in a forward hook."""
    block = model.hf_model.gpt_neox.layers[max(site.layer, 0)]
    modules = {"resid_post": block, "mlp_out": block.mlp, "attn_out": block.attention, "mlp_post": block.mlp.act}
    modules["embed"] = model.hf_model.gpt_neox.embed_in

    def hook(module, inputs, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = modules[site.name].register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = model.hf_model(ids).logits
    finally:
        handle.remove()
    logprobs = logits[:, :-1].log_softmax(-1)
    return -logprobs.gather(-1, ids[:, 1:, None]).mean().item()


@pytest.mark.parametrize("name", SITE_HOOKS)
def test_losses_equal_the_model_with_hooks(model: LanguageModel, ids: Tensor, name: str) -> None:
    site = Site.each([LAYER], name)[0]
    own = dictionary(site, model.width(site))
    found = measure(model, [own], ids.split(4))[0].losses
    expected = [
        hooked_loss(model, ids, site, lambda x: x),
        hooked_loss(model, ids, site, lambda x: own.decode(own.encode(x))),
        hooked_loss(model, ids, site, torch.zeros_like),
    ]
    assert [found.clean, found.spliced, found.zero] == pytest.approx(expected, rel=1e-4)
    assert len({round(value, 4) for value in expected}) == 3


def test_code_metrics_equal_sums_over_all_tokens(model: LanguageModel, ids: Tensor) -> None:
    site = Site(LAYER)
    own = dictionary(site, model.d_model)
    found = measure(model, [own], ids.split(1))[0].codes
    x = model.sites(ids, [site])[site].flatten(0, 1).double().numpy()
    rows = own.W_dec.double().numpy()
    codes = np.maximum(x @ rows.T + own.b_enc.numpy(), 0)
    assert found.n_tokens == 96
    assert found.l0 == pytest.approx((codes != 0).sum(1).mean(), abs=0.03)
    assert found.mean_l1 == pytest.approx(codes.sum(1).mean(), rel=1e-5)
    assert found.fvu == pytest.approx(((x - codes @ rows) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    assert np.abs(found.n_active - (codes != 0).sum(0)).max() <= 1


def test_dictionaries_of_one_layer_measured_together_equal_alone(model: LanguageModel, ids: Tensor) -> None:
    several = [
        dictionary(Site(LAYER), model.d_model),
        dictionary(Site(LAYER), model.d_model, seed=2),
        dictionary(Site(LAYER, "mlp_post"), 4 * model.d_model),
        dictionary(Site(LAYER, space="centred"), model.d_model),
    ]
    together = measure(model, several, ids.split(4))
    for own, found in zip(several, together, strict=True):
        alone = measure(model, [own], ids.split(4))[0]
        assert found.losses == alone.losses
        assert (found.codes.l0, found.codes.fvu) == (alone.codes.l0, alone.codes.fvu)


def test_a_perfect_dictionary_loses_nothing(model: LanguageModel, ids: Tensor) -> None:
    found = measure(model, [identity(Site(LAYER), model.d_model)], [ids])[0]
    assert found.codes.fvu == pytest.approx(0, abs=1e-10)
    assert found.losses.ce_recovered == pytest.approx(1)
    assert found.losses.clean == pytest.approx(found.losses.spliced)


def test_a_silent_dictionary_is_zero_ablation(model: LanguageModel, ids: Tensor) -> None:
    silent = replace(dictionary(Site(LAYER), model.d_model), b_enc=torch.full((40,), -1e4))
    found = measure(model, [silent], [ids])[0]
    assert (found.codes.l0, found.codes.n_alive, found.losses.ce_recovered) == (0, 0, 0)
    assert found.codes.fvu > 1 and sum(found.codes.density_hist) == 0


def test_variation_survives_a_large_mean_and_uneven_batches() -> None:
    """Around 1e4 the shortcut E[x^2] - E[x]^2 loses the variance in float32; here it is exact to 1e-9."""
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)).double() + 1e4
    running = Variation()
    for part in x.split([1, 1, 500, 7, 491]):
        running.add(part)
    assert running.total == pytest.approx(((x - x.mean(0)) ** 2).sum().item(), rel=1e-9)
    assert running.n == 1000


def test_alive_means_more_than_ten_tokens() -> None:
    assert CodeMetrics(100, 0.0, 0.0, 0.0, np.array([0, 1, 10, 11, 100])).n_alive == 2


def test_density_histogram_by_hand() -> None:
    """Half-decades from 1e-6: 1e-6 is bin 0, 2e-6 bin 0, 5e-6 bin 1, 0.5 and 1 bin 11; silent ones nowhere."""
    counts = np.array([0, 1, 2, 5, 500_000, 1_000_000])
    hist = CodeMetrics(1_000_000, 0.0, 0.0, 0.0, counts).density_hist
    assert hist == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert CodeMetrics(10_000_000, 0.0, 0.0, 0.0, np.array([1])).density_hist[0] == 1


def test_recovered_by_hand() -> None:
    assert SpliceLosses(clean=2.0, spliced=2.5, zero=4.0).ce_recovered == pytest.approx(0.75)
    assert SpliceLosses(clean=2.0, spliced=2.0, zero=2.0).ce_recovered == 0


def test_constant_activations_have_no_finite_fvu() -> None:
    sums, variation = CodeSums(torch.zeros(2, dtype=torch.int64)), Variation()
    x = torch.ones(4, 3)
    variation.add(x)
    sums.add(torch.zeros(4, 2), x)
    assert sums.result(variation).fvu == float("inf")


def test_held_out_batches_are_whole_contexts() -> None:
    tokens = np.arange(60, dtype=np.uint16).reshape(10, 6)
    batches = list(held_out_batches(tokens, 25, 100, 2, torch.device("cpu")))
    assert [b.shape[0] for b in batches] == [2, 2, 1]
    assert torch.cat(batches).tolist() == tokens[:5].tolist() and batches[0].dtype == torch.int64
    assert sum(len(b) for b in held_out_batches(tokens, 10**6, 100, 4, torch.device("cpu"))) == 10
    assert next(held_out_batches(tokens, 60, 2**25, 8, torch.device("cpu"))).shape[0] == 1


def test_no_held_out_text_is_a_sentence() -> None:
    with pytest.raises(CorpusError, match="held-out tokens"):
        next(held_out_batches(np.zeros((0, 6), np.uint16), 10, 100, 2, torch.device("cpu")))
