"""The one formula against TransformerBridge hooks; what must be exact is compared bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge

from sae_core import intervention
from sae_core.dictionaries import Dictionary
from sae_core.errors import DictionaryError, FeatureError, InputError, ModelError
from sae_core.intervention import (
    OPERATIONS,
    CleanRun,
    FeatureEdit,
    apply_edits,
    apply_many,
    clean_run,
    edited_delta,
    falls_back_to_remove,
    removal_delta,
)
from sae_core.language_model import LanguageModel, load_language_model
from sae_core.specs import SITE_HOOKS, ModelSpec, Site
from tests.tiny_model import random_dictionary

IDS = torch.randint(1, 260, (18,), generator=torch.Generator().manual_seed(4))
OTHER = torch.randint(1, 260, (18,), generator=torch.Generator().manual_seed(5))
SITES = [site for name in SITE_HOOKS for site in Site.each([1], name)]
SITES += [Site(1, space="centred"), Site(2), Site(0), Site(-1, "embed", "centred")]


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return random_dictionary(Site(1), tied=False)


@pytest.fixture(scope="module")
def clean(model: LanguageModel, dictionary: Dictionary) -> CleanRun:
    return clean_run(model, dictionary, IDS)


def active(clean: CleanRun, n: int = 3) -> list[int]:
    """The features with the largest summed code that are silent on some token."""
    partly = (clean.codes > 0).any(0) & (clean.codes == 0).any(0)
    return (clean.codes.sum(0) * partly).topk(n).indices.tolist()


def edited_by_hand(dictionary: Dictionary, x: Tensor, edit: FeatureEdit, patch: Tensor) -> Tensor:
    """Codes after one edit, position by position, from the definitions in the contract."""
    codes = dictionary.encode(x).clone()
    for p in edit.positions if edit.positions is not None else range(len(x)):
        f = edit.feature
        step = (dictionary.W_enc[:, f] * dictionary.W_dec[f]).sum()
        codes[p, f] = {
            "remove": 0.0,
            "remove_to_threshold": codes[p, f] - max(0.0, float(dictionary.pre_activations(x[p])[f])) / step,
            "scale": codes[p, f] * edit.value,
            "set": edit.value,
            "add": codes[p, f] + edit.value,
            "patch": patch[p, f],
        }[edit.operation]
    return codes


def bridge_logprobs(
    bridge: TransformerBridge, dictionary: Dictionary, edits: Sequence[FeatureEdit], patch: Tensor, keep_error: bool
) -> Tensor:
    """The oracle: a hook at the dictionary's own site replaces x by x + decode(c') - decode(c), or by decode(c')."""

    def hook(x: Tensor, hook: object) -> Tensor:
        mean = x[0].mean(-1, keepdim=True) if dictionary.site.space == "centred" else 0
        own = x[0] - mean
        codes, delta = dictionary.encode(own), torch.zeros_like(own)
        for edit in edits:
            delta += dictionary.decode(edited_by_hand(dictionary, own, edit, patch)) - dictionary.decode(codes)
        return (x[0] + delta if keep_error else mean + dictionary.decode(codes) + delta)[None]

    with torch.inference_mode():
        logits = bridge.run_with_hooks(IDS[None], fwd_hooks=[(dictionary.site.hook, hook)])
    return logits[0].log_softmax(-1)


@pytest.mark.parametrize("keep_error", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("site", SITES, ids=lambda site: f"{site.layer}-{site.name}-{site.space}")
def test_every_operation_at_every_site_equals_the_bridge(
    model: LanguageModel, bridge: TransformerBridge, site: Site, operation: str, keep_error: bool
) -> None:
    dictionary = random_dictionary(site, n_features=160 if site.name == "mlp_post" else 48, tied=False)
    clean, other = clean_run(model, dictionary, IDS), clean_run(model, dictionary, OTHER)
    features = active(clean, 2)
    edits = [FeatureEdit(features[0], operation, 1.7), FeatureEdit(features[1], operation, 0.4, positions=(3, 7, 17))]
    effect = apply_edits(model, dictionary, clean, edits, keep_error, patch_codes=other.codes)
    expected = bridge_logprobs(bridge, dictionary, edits, other.codes, keep_error)
    assert (expected - effect.clean_logprobs).abs().max() > 0.01
    assert_close(effect.edited_logprobs, expected, rtol=1e-4, atol=1e-4)


def test_the_clean_run_equals_the_bridge(model: LanguageModel, bridge: TransformerBridge, clean: CleanRun) -> None:
    with torch.inference_mode():
        logits = bridge(IDS[None])[0]
    assert_close(clean.logprobs, logits.log_softmax(-1), rtol=0, atol=2e-5)
    assert_close(clean.logprobs + clean.log_z[:, None], logits, rtol=0, atol=2e-5)


def test_fvu_and_error_by_hand(clean: CleanRun, dictionary: Dictionary) -> None:
    error = clean.x - dictionary.decode(dictionary.encode(clean.x))
    assert_close(clean.error, error)
    spread = sum(float((row - clean.x.mean(0)).square().sum()) for row in clean.x)
    assert clean.fvu == pytest.approx(float(error.square().sum()) / spread, rel=1e-5)


def test_edits_that_change_nothing_are_the_clean_run_bit_for_bit(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun
) -> None:
    feature = active(clean)[0]
    silent = int((clean.codes[:, feature] == 0).nonzero()[0])
    for edits in (
        [],
        [FeatureEdit(feature, "scale", 1.0)],
        [FeatureEdit(feature, "add", 0.0)],
        [FeatureEdit(feature, "remove", positions=(silent,))],
        [FeatureEdit(feature, "patch")],
    ):
        effect = apply_edits(model, dictionary, clean, edits, patch_codes=clean.codes)
        assert torch.equal(effect.edited_logprobs, clean.logprobs)
        assert effect.delta_norm.eq(0).all()


def test_positions_before_the_first_change_are_untouched(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun
) -> None:
    effect = apply_edits(model, dictionary, clean, [FeatureEdit(active(clean)[0], "add", 2.0, positions=(11,))])
    changed = (effect.edited_logprobs != effect.clean_logprobs).any(-1)
    assert changed.tolist() == [False] * 11 + [True] * 7


def test_removing_a_tied_feature_to_its_threshold_is_removing_it(model: LanguageModel) -> None:
    dictionary = random_dictionary(Site(1), tied=True)
    clean = clean_run(model, dictionary, IDS)
    feature = active(clean)[0]
    whole, edge = (edited_delta(dictionary, clean.codes, [FeatureEdit(feature, o)]) for o in list(OPERATIONS)[:2])
    assert_close(whole, edge, rtol=1e-5, atol=1e-6)
    assert whole.abs().max() > 0.1


def test_removing_to_the_threshold_of_a_jumprelu_just_silences_it(dictionary: Dictionary, clean: CleanRun) -> None:
    jumping = replace(dictionary, threshold=torch.full((dictionary.n_features,), 0.2))
    codes = jumping.encode(clean.x)
    feature = int(codes.gt(0).sum(0).argmax())
    active = codes[:, feature] > 0
    moved = clean.x + edited_delta(jumping, codes, [FeatureEdit(feature, "remove_to_threshold")])
    assert_close(jumping.pre_activations(moved)[active, feature], torch.full((int(active.sum()),), 0.2))
    assert torch.equal(moved[~active], clean.x[~active]) and active.any()


def test_a_topk_feature_is_removed_instead(dictionary: Dictionary, clean: CleanRun) -> None:
    few = replace(dictionary, k=3)
    codes = few.encode(clean.x)
    feature = int(codes.gt(0).sum(0).argmax())
    deltas = [edited_delta(few, codes, [FeatureEdit(feature, each)]) for each in ("remove", "remove_to_threshold")]
    assert falls_back_to_remove(few, feature) and torch.equal(*deltas)


def test_removing_to_the_threshold_just_silences_an_untied_feature(dictionary: Dictionary, clean: CleanRun) -> None:
    feature = active(clean)[0]
    delta = edited_delta(dictionary, clean.codes, [FeatureEdit(feature, "remove_to_threshold")])
    before, after = (dictionary.pre_activations(x)[:, feature] for x in (clean.x, clean.x + delta))
    assert_close(after, before.clamp(max=0), rtol=0, atol=1e-5)
    assert not falls_back_to_remove(dictionary, feature)


def test_a_feature_that_cannot_be_silenced_falls_back_to_remove(clean: CleanRun) -> None:
    dictionary = random_dictionary(Site(1), tied=True)
    dictionary.W_enc[:, 5] *= -1
    codes = torch.rand(4, 48)
    assert falls_back_to_remove(dictionary, 5) and not falls_back_to_remove(dictionary, 6)
    whole, edge = (edited_delta(dictionary, codes, [FeatureEdit(5, o)]) for o in list(OPERATIONS)[:2])
    assert torch.equal(whole, edge)


def test_later_edits_see_earlier_ones_of_the_same_feature(dictionary: Dictionary, clean: CleanRun) -> None:
    feature = active(clean)[0]
    both = edited_delta(dictionary, clean.codes, [FeatureEdit(feature, "remove"), FeatureEdit(feature, "add", 2.0)])
    assert torch.equal(both, edited_delta(dictionary, clean.codes, [FeatureEdit(feature, "set", 2.0)]))


def test_removal_in_many_windows_is_the_same_formula(dictionary: Dictionary) -> None:
    codes = torch.rand(3, 7, 48, generator=torch.Generator().manual_seed(6))
    features = torch.tensor([4, 0, 47])
    found = removal_delta(dictionary, codes[torch.arange(3), :, features], features)
    for i, feature in enumerate(features.tolist()):
        assert_close(found[i], edited_delta(dictionary, codes[i], [FeatureEdit(feature)]), rtol=0, atol=1e-6)


def test_a_batch_of_alternatives_equals_one_at_a_time(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [[FeatureEdit(f, "add", 1.0, positions=(2 * i,))] for i, f in enumerate(active(clean, 5))] + [[]]
    alone = [apply_edits(model, dictionary, clean, edits, positions=[17, 4]) for edits in sets]
    for size in (1 << 26, 1):
        monkeypatch.setattr(intervention, "LOGITS_AT_ONCE", size)
        batch = list(apply_many(model, dictionary, clean, sets, positions=[17, 4]))
        assert len(batch) == len(sets)
        for a, b in zip(alone, batch, strict=True):
            assert a.positions.tolist() == b.positions.tolist() == [17, 4]
            assert_close(a.edited_logprobs, b.edited_logprobs, rtol=0, atol=2e-5)
            assert torch.equal(a.delta, b.delta)
    assert torch.equal(batch[-1].edited_logprobs, clean.logprobs[[17, 4]])


def test_an_edit_runs_only_the_blocks_after_it(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[tuple[int, int]] = []
    block, unembed = model._block, model.unembed
    rows: list[int] = []
    monkeypatch.setattr(model, "_block", lambda n, x, past: run.append((n, x.shape[1])) or block(n, x, past))
    monkeypatch.setattr(model, "unembed", lambda resid: rows.append(resid.shape[-2]) or unembed(resid))
    apply_edits(model, dictionary, clean, [FeatureEdit(active(clean)[0], "add", 1.0, positions=(10,))])
    assert run == [(2, 8)] and rows == [8]


def test_threads_editing_at_once_get_the_numbers_they_get_alone(model: LanguageModel, dictionary: Dictionary) -> None:
    def job(seed: int) -> Tensor:
        ids = torch.randint(1, 260, (16,), generator=torch.Generator().manual_seed(seed))
        clean = clean_run(model, dictionary, ids)
        edits = [FeatureEdit(seed % 48, "add", 0.5 * seed), FeatureEdit(active(clean)[0])]
        return apply_edits(model, dictionary, clean, edits).edited_logprobs

    alone = [job(seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(job, range(40)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", ["resid_post", "mlp_post"])
def test_a_model_in_half_precision_keeps_its_dictionary_in_float32(
    folder: Path, model: LanguageModel, name: str
) -> None:
    half = load_language_model(ModelSpec(str(folder), dtype="bfloat16"), device="cpu")
    dictionary = random_dictionary(Site(1, name))
    whole, rough = (clean_run(m, dictionary, IDS) for m in (model, half))
    assert rough.resid.dtype == torch.bfloat16 and rough.codes.dtype == rough.logprobs.dtype == torch.float32
    edits = [FeatureEdit(active(whole)[0], "add", 4.0)]
    a, b = (apply_edits(m, dictionary, c, edits) for m, c in ((model, whole), (half, rough)))
    change, rough_change = (e.edited_logprobs - e.clean_logprobs for e in (a, b))
    assert (rough_change - change).square().mean() < 0.1 * change.square().mean()


# ---- bad input


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (FeatureEdit(48), FeatureError, "0 to 47. Found 48"),
        (FeatureEdit(-1), FeatureError, "Found -1"),
        (FeatureEdit(0, "erase"), InputError, "Found 'erase'"),
        (FeatureEdit(0, "set", math.nan), InputError, "Found nan"),
        (FeatureEdit(0, "add", math.inf), InputError, "Found inf"),
        (FeatureEdit(0, positions=(2, 18)), InputError, r"0 to 17. Found \[18\]"),
        (FeatureEdit(0, "patch"), InputError, "18 tokens to patch from. Found none"),
    ],
)
def test_edits_that_cannot_be_done_say_why(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun, edit: FeatureEdit, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        apply_edits(model, dictionary, clean, [edit])


def test_a_patch_from_a_sentence_of_another_length(dictionary: Dictionary, clean: CleanRun) -> None:
    with pytest.raises(InputError, match="18 tokens.*Found 5 tokens"):
        edited_delta(dictionary, clean.codes, [FeatureEdit(0, "patch")], clean.codes[:5])


def test_a_dictionary_that_does_not_fit_the_model(model: LanguageModel) -> None:
    with pytest.raises(DictionaryError, match="width 16"):
        clean_run(model, random_dictionary(Site(1), d_model=16), IDS)
    with pytest.raises(ModelError, match="0 to 2.*Found 7"):
        clean_run(model, random_dictionary(Site(7)), IDS)


@pytest.mark.parametrize("ids", [[], [1] * 65])
def test_an_empty_or_too_long_sentence(model: LanguageModel, dictionary: Dictionary, ids: list[int]) -> None:
    with pytest.raises(InputError, match="1 to 64 tokens"):
        clean_run(model, dictionary, ids)
