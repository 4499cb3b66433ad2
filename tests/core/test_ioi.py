"""Prompt pairs, patched runs against TransformerBridge hooks, and the pruning order against the plain loop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge

from sae_core.baselines import Moments, linear_spec, pca
from sae_core.dictionaries import Dictionary
from sae_core.errors import FeatureError, InputError
from sae_core.intervention import FeatureEdit, clean_run, edited_delta
from sae_core.ioi.ordering import acdc_order, log_thresholds, magnitude_order
from sae_core.ioi.patching import ROWS_AT_ONCE, Patching, TypedPair, curve, curve_sizes, patch_curve, read_pairs
from sae_core.ioi.prompts import NAMES, ORDERS, TEMPLATES, Words, check_lengths, prompt_pairs, words_of
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from tests.tiny_model import random_dictionary, tiny_tokenizer

THRESHOLDS = [1e-4, 1e-3, 3e-3, 1e-2, 0.05, 0.3]


def whole_words(text: str) -> list[int]:
    """A tokenizer that keeps every word whole; ids depend on the word only."""
    return [sum(ord(c) * 31**i for i, c in enumerate(word)) % 100_003 for word in re.findall(r" ?\w+|[^\w\s]", text)]


def splits_names(text: str) -> list[int]:
    return [ord(c) for c in text]


@pytest.fixture(scope="module")
def pairs() -> list[TypedPair]:
    """Pairs of different lengths that differ in two tokens; the longest is not the first."""
    rng = np.random.default_rng(1)
    found = []
    for n in (9, 14, 11, 14):
        base = rng.integers(1, 260, n)
        target = base.copy()
        target[[2, n - 4]] = rng.integers(1, 260, 2)
        found.append(TypedPair(tuple(base.tolist()), tuple(target.tolist())))
    return found


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    """Untied, with a decoder bias; most features are silent on some pair, two on all."""
    made = random_dictionary(Site(0), n_features=24, tied=False)
    return replace(made, b_enc=(made.b_enc - 2.5).index_fill(0, torch.tensor([4, 19]), -1e6))


@pytest.fixture(scope="module")
def patching(model: LanguageModel, dictionary: Dictionary, pairs: list[TypedPair]) -> Patching:
    return read_pairs(model, dictionary, pairs)


# ---- prompts


def test_pairs_differ_in_the_indirect_object_alone() -> None:
    pairs = prompt_pairs(whole_words, 80, seed=2)
    assert pairs == prompt_pairs(whole_words, 80, seed=2) != prompt_pairs(whole_words, 80, seed=3)
    assert {p.template for p in pairs} == set(range(len(TEMPLATES))) and {p.order for p in pairs} == set(ORDERS)
    for pair in pairs:
        io, new, subject = (whole_words(f" {name}")[0] for name in (pair.base_io, pair.target_io, pair.subject))
        assert len({io, new, subject}) == 3 and len(pair.base_ids) == len(pair.target_ids)
        assert [new if i == io else i for i in pair.base_ids] == list(pair.target_ids) != list(pair.base_ids)
        assert pair.base_ids.count(io) == 1 and pair.base_ids.count(subject) == 2
        assert (pair.base_ids.index(io) < pair.base_ids.index(subject)) == (pair.order == "ABBA")
        assert pair.base_ids[-1] == pair.target_ids[-1] == whole_words(" to")[0]


def test_only_single_token_words_are_used() -> None:
    def encode(text: str) -> list[int]:
        return whole_words(text.replace("Mary", "Ma ry").replace("school", "sch ool"))

    words = words_of(encode)
    assert isinstance(words, Words) and words.names == tuple(n for n in NAMES if n != "Mary")
    assert "school" not in words.places and "book" in words.objects


def test_a_tokenizer_that_splits_all_names_is_named() -> None:
    for encode in (splits_names, lambda text: tiny_tokenizer()(text)["input_ids"]):
        with pytest.raises(InputError, match=r"at least 3 of \d+ common names.*Found 0"):
            prompt_pairs(encode, 5)


def test_unequal_lengths_are_refused(model: LanguageModel, dictionary: Dictionary) -> None:
    with pytest.raises(InputError, match="equal token length.*3 tokens in the base and 4 in the target"):
        check_lengths([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(InputError, match="equal token length"):
        patch_curve(model, dictionary, [1, 2, 3], [1, 2], [0])
    with pytest.raises(InputError, match="at least one pair"):
        read_pairs(model, dictionary, [])


# ---- patching


def bridge_kl(bridge: TransformerBridge, dictionary: Dictionary, pair: TypedPair, features: Sequence[int]) -> float:
    """The oracle: hooks of a full run; the target's codes are read by another full run."""
    seen: dict[str, Tensor] = {}

    def read(x: Tensor, hook: object) -> None:
        seen["x"] = x[0].clone()

    def patch(x: Tensor, hook: object) -> Tensor:
        codes = dictionary.encode(x[0])
        edited = codes.clone()
        edited[:, list(features)] = dictionary.encode(seen["x"])[:, list(features)]
        return x + (dictionary.decode(edited) - dictionary.decode(codes))[None]

    site = dictionary.site.hook
    with torch.inference_mode():
        target = bridge.run_with_hooks(torch.tensor([pair.target_ids]), fwd_hooks=[(site, read)])[0, -1]
        patched = bridge.run_with_hooks(torch.tensor([pair.base_ids]), fwd_hooks=[(site, patch)])[0, -1]
    p, q = patched.double().log_softmax(-1), target.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize(
    "site",
    [Site(-1, "embed"), Site(0), Site(1), Site(2), Site(1, "mlp_post"), Site(1, "attn_out")],
    ids=lambda site: site.place,
)
def test_a_patched_run_equals_the_bridge(
    model: LanguageModel, bridge: TransformerBridge, pairs: list[TypedPair], site: Site
) -> None:
    dictionary = random_dictionary(site, n_features=160 if site.name == "mlp_post" else 48, tied=False)
    patching = read_pairs(model, dictionary, pairs)
    order = magnitude_order(patching)
    found = curve(patching, order, [0, 1, 7, len(order)])
    for size, kl in zip(found.sizes, found.kl, strict=True):
        features = patching.features[order[:size]].tolist()
        expected = [bridge_kl(bridge, dictionary, pair, features) for pair in pairs]
        assert kl.tolist() == pytest.approx(expected, rel=2e-3, abs=2e-4)
    assert found.kl[0].mean() > 0.05


def test_the_change_is_that_of_the_one_formula(
    model: LanguageModel, dictionary: Dictionary, pairs: list[TypedPair], patching: Patching
) -> None:
    keep = torch.tensor([0, 3, 5])
    edits = [FeatureEdit(f, "patch") for f in patching.features[keep].tolist()]
    deltas = patching.delta(keep)
    for pair, delta in zip(pairs, deltas, strict=True):
        base, target = (clean_run(model, dictionary, ids) for ids in (pair.base_ids, pair.target_ids))
        expected = edited_delta(dictionary, base.codes, edits, target.codes)
        assert_close(delta[: len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert delta[len(expected) :].eq(0).all()


def test_magnitude_by_hand(patching: Patching, pairs: list[TypedPair]) -> None:
    """Mean norm over the 9 + 14 + 11 + 14 positions, padding left out."""
    everything = torch.arange(len(patching.features))
    norms = [float(row.norm()) for pair, rows in zip(pairs, patching.delta(everything), strict=True)
             for row in rows[: len(pair.base_ids)]]  # fmt: skip
    assert len(norms) == 48
    found = curve(patching, everything, [0, len(everything)])
    assert found.magnitude.tolist() == pytest.approx([0.0, sum(norms) / 48], rel=1e-4)


def test_features_that_do_not_differ_change_nothing(
    model: LanguageModel, dictionary: Dictionary, pairs: list[TypedPair], patching: Patching
) -> None:
    everything = read_pairs(model, dictionary, pairs, features=range(dictionary.n_features))
    silent = sorted(set(range(dictionary.n_features)) - set(patching.features.tolist()))
    assert silent and everything.change[..., silent].eq(0).all()
    assert everything.delta(torch.tensor(silent)).eq(0).all()
    all_kl = curve(everything, torch.arange(dictionary.n_features), [dictionary.n_features]).kl
    assert_close(all_kl, curve(patching, torch.arange(len(patching.features)), [len(patching.features)]).kl)
    few, many = (acdc_order(p, THRESHOLDS, seed=4) for p in (patching, everything))
    differing = [f for f in everything.features[many.order].tolist() if f not in silent]
    assert patching.features[few.order].tolist() == differing and few.sizes == many.sizes


def test_patch_curve_equals_growing_sets(model: LanguageModel, dictionary: Dictionary, pairs: list[TypedPair],
                                         bridge: TransformerBridge) -> None:  # fmt: skip
    order = [5, 2, 17, 9]
    base, target = pairs[1].base_ids, pairs[1].target_ids
    found = patch_curve(model, dictionary, base, target, order)
    expected = [bridge_kl(bridge, dictionary, pairs[1], order[:n]) for n in range(5)]
    assert found["kl"].tolist() == pytest.approx(expected, rel=2e-3, abs=2e-4)
    assert found["n_patched"].tolist() == [0, 1, 2, 3, 4] and found["feature"].tolist() == [-1, *order]
    codes = [clean_run(model, dictionary, ids).codes[:, 5] for ids in (base, target)]
    alone = float((codes[1] - codes[0]).abs().mean() * dictionary.W_dec[5].norm())
    assert found["magnitude"][:2].tolist() == pytest.approx([0.0, alone], rel=1e-4, abs=1e-6)
    with pytest.raises(FeatureError, match="from 0 to 23"):
        patch_curve(model, dictionary, base, target, [24])
    assert len(patch_curve(model, dictionary, base, target, [])) == 1


def test_sizes_hold_both_ends() -> None:
    assert curve_sizes(0) == [0] and curve_sizes(3) == [0, 1, 2, 3]
    found = curve_sizes(512)
    assert found[:18] == [*range(17), 19] and found[-1] == 512 and found == sorted(set(found)) and len(found) < 50


def test_many_sizes_at_once_give_what_each_gives_alone(patching: Patching) -> None:
    order, sizes = magnitude_order(patching), [0, 1, 3, 2, 5] * 10
    assert len(sizes) * patching.n_pairs > ROWS_AT_ONCE
    found, alone = curve(patching, order, sizes), [curve(patching, order, [n]) for n in sizes]
    assert_close(found.kl, torch.cat([each.kl for each in alone]), rtol=1e-3, atol=1e-5)
    assert_close(found.magnitude, torch.cat([each.magnitude for each in alone]))


def test_alone_is_the_oracles_patch_of_one_feature(
    model: LanguageModel, dictionary: Dictionary, pairs: list[TypedPair], bridge: TransformerBridge
) -> None:
    patching = read_pairs(model, dictionary, pairs)
    features = patching.features[:4].tolist()
    for p in (0, 2):
        expected = [bridge_kl(bridge, dictionary, pairs[p], [f]) for f in features]
        assert patching.alone(p)[:4].tolist() == pytest.approx(expected, rel=2e-3, abs=2e-4)
    assert len(read_pairs(model, dictionary, pairs, features=[]).alone()) == 0


def two_sided(model: LanguageModel, pairs: list[TypedPair]) -> Dictionary:
    """PCA of the layer's activations on the pairs."""
    moments = Moments(model.d_model)
    for ids in (ids for pair in pairs for ids in (pair.base_ids, pair.target_ids)):
        moments.add(model.sites(torch.tensor([ids]), [Site(1)])[Site(1)][0])
    return pca(moments).dictionary(linear_spec(Site(1), "pca"))


def test_signed_pca_patches_projections_and_has_no_floor(model: LanguageModel, pairs: list[TypedPair]) -> None:
    dictionary = two_sided(model, pairs)
    signed, sides = (read_pairs(model, dictionary, pairs, signed=signed) for signed in (True, False))
    assert len(signed.features) == model.d_model < len(sides.features)
    x, y = (model.sites(torch.tensor([ids]), [Site(1)])[Site(1)][0] for ids in (pairs[0].base_ids, pairs[0].target_ids))
    projected = (y - x) @ dictionary.W_dec[3]
    assert_close(signed.change[0, : len(x), 3], projected, rtol=1e-3, atol=1e-4)
    everything = curve(signed, torch.arange(model.d_model), [0, model.d_model]).kl
    assert everything[1].abs().max() < 1e-5 < everything[0].min()


# ---- orders


def plain_loop(patching: Patching, seed: int) -> tuple[list[int], list[int]]:
    """The procedure as the authors' code does it: one full run of all pairs for each candidate, nothing kept."""
    everywhere, rng = torch.arange(patching.n_pairs), np.random.default_rng(seed)
    kept, dropped, sizes = list(range(len(patching.features))), [], []

    def mean_kl(features: list[int]) -> float:
        return float(patching.divergence(everywhere, patching.delta(torch.tensor(features, dtype=torch.long))).mean())

    for threshold in THRESHOLDS:
        rank = rng.permutation(patching.dictionary.n_features)[patching.features.numpy()]
        for i in sorted(kept, key=lambda i: rank[i]):
            without = [j for j in kept if j != i]
            if mean_kl(without) - mean_kl(kept) < threshold:
                kept = without
                dropped.append(i)
        sizes.append(len(kept))
    return dropped, sizes


@pytest.mark.parametrize("seed", [0, 1])
def test_the_pruning_order_equals_the_plain_loop(patching: Patching, seed: int) -> None:
    dropped, sizes = plain_loop(patching, seed)
    told: list[float] = []
    found = acdc_order(patching, THRESHOLDS, seed, told.append)
    assert told == pytest.approx([i / 6 for i in range(1, 7)])
    assert found.sizes == sizes and len(set(sizes)) > 2 and found.sizes == sorted(found.sizes, reverse=True)
    assert found.order.tolist()[sizes[-1] :] == dropped[::-1]
    assert sorted(found.order.tolist()) == list(range(len(patching.features)))
    assert not patching.differs().all()


def test_thresholds_are_those_of_the_authors() -> None:
    assert log_thresholds() == pytest.approx(np.logspace(-5, 0, 50).tolist()) and len(log_thresholds(7)) == 7


def test_magnitude_order_by_hand(patching: Patching, dictionary: Dictionary) -> None:
    norms = [
        sum(float((patching.change[p, t, i] * dictionary.W_dec[f]).norm()) for p in range(4) for t in range(14))
        for i, f in enumerate(patching.features.tolist())
    ]
    assert magnitude_order(patching).tolist() == sorted(range(len(norms)), key=lambda i: -norms[i])


def test_a_dictionary_without_live_features_has_one_point(
    model: LanguageModel, dictionary: Dictionary, pairs: list[TypedPair], bridge: TransformerBridge
) -> None:
    dead = replace(dictionary, b_enc=torch.full_like(dictionary.b_enc, -1e6))
    patching = read_pairs(model, dead, pairs)
    assert len(patching.features) == 0
    found = acdc_order(patching, THRESHOLDS)
    assert found.order.tolist() == magnitude_order(patching).tolist() == [] and set(found.sizes) == {0}
    expected = [bridge_kl(bridge, dead, pair, []) for pair in pairs]
    assert curve(patching, found.order, [0]).kl[0].tolist() == pytest.approx(expected, rel=2e-3, abs=2e-4)
