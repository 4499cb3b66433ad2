"""Fitted and drawn directions against numpy's SVD, scikit-learn itself, and brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import FastICA
from torch import Tensor

from sae_core import baselines
from sae_core.baselines import Moments, ica, identity, linear_spec, pca, random_directions
from sae_core.dictionaries import load_dictionary, save_dictionary, signed_codes
from sae_core.errors import DictionaryError, SpecError
from sae_core.losses import unit_rows
from sae_core.specs import Site

D, N = 6, 4000
SITE = Site(1)


@pytest.fixture(scope="module")
def x() -> Tensor:
    """Mixed heavy-tailed sources of different sizes, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(N, D, generator=generator).log() * torch.randn(N, D, generator=generator).sign()
    mixing = torch.randn(D, D, generator=generator) * torch.logspace(0, 1, D)[:, None]
    return sources @ mixing + 5 * torch.randn(D, generator=generator)


@pytest.fixture(scope="module")
def moments(x: Tensor) -> Moments:
    found = Moments(D)
    for part in x.split([1, 999, 3000]):
        found.add(part)
    return found


def test_streamed_moments_equal_numpy(x: Tensor, moments: Moments) -> None:
    np.testing.assert_allclose(moments.mean, x.double().mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.covariance, np.cov(x.double().numpy().T, bias=True), rtol=1e-8)


def test_pca_is_the_svd(x: Tensor, moments: Moments) -> None:
    centred = x.double().numpy() - x.double().numpy().mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    found = pca(moments)
    assert np.abs((found.decoder.numpy() * rows).sum(1)) == pytest.approx(1.0, abs=1e-8)
    shares = singular**2 / (singular**2).sum()
    assert found.facts["explained_variance_ratio"] == pytest.approx(shares, abs=1e-6)
    assert (found.decoder.gather(1, found.decoder.abs().argmax(1, keepdim=True)) > 0).all()


def test_both_sides_rebuild_the_activations(x: Tensor, moments: Moments) -> None:
    for linear, kind in ((identity(D), "identity"), (pca(moments), "pca"), (ica(x, seed=0), "ica")):
        dictionary = linear.dictionary(linear_spec(SITE, kind))
        codes = dictionary.encode(x)
        assert dictionary.n_features == 2 * D and (codes >= 0).all() and (codes != 0).sum(1).max() <= D
        torch.testing.assert_close(dictionary.decode(codes), x, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(2 * D))


def test_signed_codes_are_the_projection(x: Tensor, moments: Moments) -> None:
    linear = pca(moments)
    codes = linear.dictionary(linear_spec(SITE, "pca")).encode(x)
    expected = (x.double() - moments.mean) @ linear.encoder.T
    torch.testing.assert_close(signed_codes(codes).double(), expected, rtol=1e-3, atol=1e-3)


def test_identity_is_the_positive_and_the_negative_half(x: Tensor) -> None:
    codes = identity(D).dictionary(linear_spec(SITE, "identity")).encode(x)
    assert torch.equal(codes, torch.cat([x.clamp_min(0), (-x).clamp_min(0)], dim=1))


def test_random_directions_follow_the_seed() -> None:
    one, again, other = (random_directions(D, seed) for seed in (0, 0, 1))
    assert torch.equal(one.decoder, again.decoder) and not torch.equal(one.decoder, other.decoder)
    torch.testing.assert_close(one.decoder.norm(dim=1), torch.ones(D))


def test_ica_is_scikit_learn_on_standardised_vectors(x: Tensor) -> None:
    values = x.double().numpy()
    standard = (values - values.mean(0)) / values.std(0)
    direct = FastICA(whiten="unit-variance", whiten_solver="eigh", random_state=3).fit_transform(standard)
    found = ica(x, seed=3)
    codes = signed_codes(found.dictionary(linear_spec(SITE, "ica")).encode(x)).double().numpy()
    correlations = [np.corrcoef(codes[:, i], direct[:, i])[0, 1] for i in range(D)]
    assert correlations == pytest.approx([1.0] * D, abs=1e-6)
    assert found.facts["converged"] and 1 < found.facts["n_iter"] < 200 and found.facts["n_vectors"] == N


def test_ica_finds_the_sources() -> None:
    generator = torch.Generator().manual_seed(1)
    sources = torch.rand(N, 3, generator=generator) - 0.5
    mixing = unit_rows(torch.randn(3, 3, generator=generator))
    cosines = (ica(sources @ mixing, seed=0).decoder.float() @ mixing.T).abs()
    assert cosines.max(1).values.min() > 0.99 and sorted(cosines.argmax(1).tolist()) == [0, 1, 2]


def test_ica_that_does_not_converge_says_so(x: Tensor) -> None:
    facts = ica(x, seed=0, max_iter=1).facts
    assert facts["converged"] is False and facts["n_iter"] == facts["max_iter"] == 1


def test_ica_leaves_out_the_dimension_that_centring_removes(x: Tensor) -> None:
    found = ica(x - x.mean(1, keepdim=True), seed=0)
    assert found.facts["n_components"] == D - 1 and len(found.decoder) == D - 1


@pytest.mark.parametrize(("column", "constant"), [(2, "1 of 6"), (slice(None), "6 of 6")])
def test_constant_activations_are_a_sentence(x: Tensor, column: int | slice, constant: str) -> None:
    still = x.clone()
    still[:, column] = 1.5
    with pytest.raises(DictionaryError, match=f"vary in every coordinate for ICA.*{constant} coordinates constant"):
        ica(still, seed=0)


def test_pca_of_one_point_is_a_sentence() -> None:
    still = Moments(D)
    still.add(torch.ones(10, D))
    with pytest.raises(DictionaryError, match="vary in every coordinate for PCA"):
        pca(still)


def test_ica_is_fitted_on_at_most_so_many_vectors(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "ICA_MAX_VECTORS", 100)
    with pytest.raises(SpecError, match="7 to 100 vectors for ICA.*4000"):
        ica(x, seed=0)
    with pytest.raises(SpecError, match="vectors for ICA.*6"):
        ica(x[:6], seed=0)


def test_topk_keeps_the_k_largest_by_brute_force(x: Tensor, moments: Moments) -> None:
    linear, k = pca(moments), 2
    dense = linear.dictionary(linear_spec(SITE, "pca")).encode(x[:50])
    codes = linear.dictionary(linear_spec(SITE, "pca_topk", k)).encode(x[:50])
    for row, kept in zip(dense.tolist(), codes.tolist(), strict=True):
        largest = sorted(range(len(row)), key=lambda i: -row[i])[:k]
        assert kept == [value if i in largest else 0.0 for i, value in enumerate(row)]


def test_a_k_above_the_features_is_a_sentence(moments: Moments) -> None:
    with pytest.raises(DictionaryError, match="a k from 1 to 12.*13"):
        pca(moments).dictionary(linear_spec(SITE, "pca_topk", 13))
    with pytest.raises(SpecError, match="a k of 1 or more for pca_topk.*None"):
        linear_spec(SITE, "pca_topk")


def test_they_survive_the_folder(x: Tensor, moments: Moments, tmp_path: Path) -> None:
    for linear, kind in ((pca(moments), "pca"), (pca(moments), "pca_topk"), (ica(x, 0), "ica_topk")):
        dictionary = linear.dictionary(linear_spec(SITE, kind, 3))
        save_dictionary(dictionary, tmp_path / kind, {"fit": linear.facts})
        loaded = load_dictionary(tmp_path / kind)
        assert (loaded.hash, loaded.spec, loaded.k) == (dictionary.hash, dictionary.spec, dictionary.k)
        torch.testing.assert_close(loaded.encode(x), dictionary.encode(x))
