"""Pure effects by hand, continuations against whole reruns, and the copied code against the numbers shown."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge

from sae_core import effects
from sae_core.dictionaries import Dictionary, save_dictionary
from sae_core.effects import (
    dose_response,
    downstream_changes,
    effect_kl,
    entropy,
    firing_features,
    kl,
    loss_change,
    token_changes,
    top_changes,
)
from sae_core.errors import InputError
from sae_core.generation import Intervention, continuation
from sae_core.intervention import OPERATIONS, CleanRun, Effect, FeatureEdit, apply_edits, clean_run
from sae_core.language_model import LanguageModel
from sae_core.reproduction import transformer_lens_code
from sae_core.specs import Site
from tests.tiny_model import random_dictionary

IDS = torch.randint(1, 260, (14,), generator=torch.Generator().manual_seed(8))


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return random_dictionary(Site(0), tied=False)


@pytest.fixture(scope="module")
def clean(model: LanguageModel, dictionary: Dictionary) -> CleanRun:
    return clean_run(model, dictionary, IDS)


@pytest.fixture(scope="module")
def edits(clean: CleanRun) -> tuple[FeatureEdit, ...]:
    first, second = clean.codes.sum(0).topk(2).indices.tolist()
    return (FeatureEdit(first), FeatureEdit(second, "add", 1.5))


@pytest.fixture(scope="module")
def effect(model: LanguageModel, dictionary: Dictionary, clean: CleanRun, edits: tuple[FeatureEdit, ...]) -> Effect:
    return apply_edits(model, dictionary, clean, edits)


def by_hand(clean: list[list[float]], edited: list[list[float]], shift: float = 0.0) -> Effect:
    """An effect from probabilities."""
    p, q = torch.tensor(clean).log(), torch.tensor(edited).log()
    n = len(clean)
    return Effect(torch.arange(n), p, q, torch.zeros(n), torch.full((n,), shift), torch.zeros(n, 2))


def test_kl_and_entropy_by_hand() -> None:
    found = by_hand([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], [[0.25, 0.5, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert effect_kl(found).tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    assert entropy(found.clean_logprobs).tolist() == pytest.approx([1.5 * math.log(2), math.log(3)])


def test_kl_is_that_of_torch(effect: Effect) -> None:
    expected = torch.nn.functional.kl_div(
        effect.edited_logprobs, effect.clean_logprobs, reduction="none", log_target=True
    ).sum(-1)
    assert_close(kl(effect.clean_logprobs, effect.edited_logprobs), expected)


def test_tokens_lowered_and_raised_by_hand() -> None:
    found = by_hand([[0.5, 0.2, 0.1, 0.2]], [[0.25, 0.4, 0.1, 0.25]], shift=0.5)
    table = token_changes(found, 0, n_tokens=3)
    assert table["token_id"].tolist() == [0, 1, 2]
    assert table["change_logprob"].tolist() == pytest.approx([-math.log(2), math.log(2), 0.0], abs=1e-6)
    assert table["change_logit"].tolist() == pytest.approx([0.5 - math.log(2), 0.5 + math.log(2), 0.5], abs=1e-6)
    assert table["edited_p"].tolist() == pytest.approx([0.25, 0.4, 0.1])
    assert top_changes(found, 0, n_tokens=3, k=2)["token_id"].tolist() == [0, 1]


def test_padded_rows_are_in_no_ranking(model: LanguageModel, effect: Effect) -> None:
    table = top_changes(effect, 9, model.n_tokens, k=model.d_vocab)
    assert table["token_id"].max() < model.n_tokens < effect.clean_logprobs.shape[-1]
    assert table["change_logprob"].is_monotonic_increasing


def test_logit_changes_are_those_of_the_logits(model: LanguageModel, clean: CleanRun, effect: Effect) -> None:
    before = model.suffix(clean.resid[None], 0)[0, 9]
    after = model.suffix((clean.resid + effect.delta)[None], 0)[0, 9]
    found = torch.tensor(token_changes(effect, 9, model.n_tokens)["change_logit"].to_numpy(copy=True))
    assert_close(found, (after - before)[: model.n_tokens], rtol=0, atol=5e-5)


def test_a_position_that_was_not_computed_says_so(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun
) -> None:
    found = apply_edits(model, dictionary, clean, [FeatureEdit(0, "add", 1.0)], positions=[2, 5])
    assert effects.row_of(found, 5) == 1
    with pytest.raises(InputError, match=r"\[2, 5\]. Found 3"):
        token_changes(found, 3, model.n_tokens)


def test_loss_change_by_hand(model: LanguageModel, clean: CleanRun, effect: Effect) -> None:
    found = loss_change(effect, IDS)
    expected = [float(clean.logprobs[i, IDS[i + 1]] - effect.edited_logprobs[i, IDS[i + 1]]) for i in range(13)]
    assert found.per_token.tolist() == pytest.approx(expected)
    assert found.total == pytest.approx(sum(expected), abs=1e-4)
    assert found.positions.tolist() == list(range(13))


def test_features_downstream_are_re_read_from_the_edited_run(
    model: LanguageModel, clean: CleanRun, effect: Effect, dictionary: Dictionary
) -> None:
    later = {"L2": random_dictionary(Site(2), seed=1), "mlp": random_dictionary(Site(1, "mlp_out"), seed=2)}
    found = downstream_changes(model, clean, effect, later | {"same": dictionary}, limit=300)
    assert len(found) == 300 and set(found["dictionary"]) == {"L2", "mlp"}
    assert downstream_changes(model, clean, effect, later, limit=7).equals(found.head(7))
    assert found["change"].abs().is_monotonic_decreasing
    edited = clean.resid + effect.delta
    strongest = []
    for name, other in later.items():
        before, after = (
            other.encode(model.sites_after(x[None], 0, [other.site])[other.site][0]) for x in (clean.resid, edited)
        )
        rows = found[found["dictionary"] == name]
        at = (rows["position"].to_numpy(copy=True), rows["feature"].to_numpy(copy=True))
        assert rows["clean"].tolist() == pytest.approx(before[at].tolist(), abs=1e-4)
        assert rows["edited"].tolist() == pytest.approx(after[at].tolist(), abs=1e-4)
        strongest.append(float((after - before).abs().max()))
    assert abs(found["change"].iloc[0]) == pytest.approx(max(strongest), abs=1e-4)
    assert downstream_changes(model, clean, effect, {"same": dictionary}).empty


def test_dose_response_ends_are_removal_and_doubling(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun, edits: tuple[FeatureEdit, ...]
) -> None:
    curve = dose_response(model, dictionary, clean, edits, position=9, token_id=7)
    assert curve["strength"].tolist() == [i / 8 for i in range(17)]
    untouched = curve[curve["strength"] == 1]
    assert untouched["kl"].item() == 0 and untouched["change_logprob"].item() == 0
    for row, value in ((0, 0.0), (16, 2.0)):
        one = apply_edits(model, dictionary, clean, [FeatureEdit(e.feature, "scale", value) for e in edits])
        assert curve["kl"][row] == pytest.approx(float(effect_kl(one)[9]), abs=1e-5)
        assert curve["logprob"][row] == pytest.approx(float(one.edited_logprobs[9, 7]), abs=1e-4)


def test_firing_features_are_all_codes_that_are_not_0(model: LanguageModel) -> None:
    dictionaries = {f"L{n}": random_dictionary(Site(n), seed=n) for n in range(3)}
    found = firing_features(model, dictionaries, IDS.tolist()).set_index(["dictionary", "feature", "position"])
    n = 0
    for name, dictionary in dictionaries.items():
        codes = dictionary.encode(model.prefix(IDS[None], dictionary.site.layer)[0])
        for position, feature in codes.nonzero().tolist():
            assert found.loc[(name, feature, position), "activation"] == pytest.approx(float(codes[position, feature]))
            n += 1
    assert len(found) == n > 100


# ---- continuations


def rerun_greedy(
    bridge: TransformerBridge, model: LanguageModel, n: int, intervention: Intervention | None
) -> list[int]:
    """The whole sequence read again for every new token, edited by a hook at every position."""

    def hook(x: Tensor, hook: object) -> Tensor:
        codes = intervention.dictionary.encode(x)
        after = codes.clone()
        for edit in intervention.edits:
            after[..., edit.feature] = 0 if edit.operation == "remove" else after[..., edit.feature] + edit.value
        delta = intervention.dictionary.decode(after) - intervention.dictionary.decode(codes)
        return x + delta if intervention.keep_error else intervention.dictionary.decode(codes) + delta

    ids, hooks = IDS.tolist(), [(intervention.dictionary.site.hook, hook)] if intervention else []
    for _ in range(n):
        with torch.inference_mode():
            logits = bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
        ids.append(int(logits[0, -1, : model.n_tokens].argmax()))
    return ids[len(IDS) :]


@pytest.mark.parametrize("keep_error", [True, False])
def test_greedy_continuation_equals_rereading_everything(
    folder: Path, model: LanguageModel, dictionary: Dictionary, edits: tuple[FeatureEdit, ...], keep_error: bool
) -> None:
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    intervention = Intervention(dictionary, edits, keep_error)
    plain, edited = (continuation(model, IDS.tolist(), 12, i) for i in (None, intervention))
    assert model.eos_id not in plain + edited and plain != edited
    assert plain == rerun_greedy(bridge, model, 12, None)
    assert edited == rerun_greedy(bridge, model, 12, intervention)


def test_edits_at_fixed_positions_and_patches_stop_with_the_sentence(
    model: LanguageModel, dictionary: Dictionary, clean: CleanRun
) -> None:
    edits = (FeatureEdit(0, "add", 3.0, positions=(1,)), FeatureEdit(1, "patch"), FeatureEdit(2))
    intervention = Intervention(dictionary, edits, patch_codes=clean.codes)
    assert intervention.on_new_tokens().edits == (FeatureEdit(2),)
    assert len(continuation(model, IDS.tolist(), 5, intervention)) == 5


def test_sampling_follows_its_seed_and_its_temperature(model: LanguageModel) -> None:
    ids = IDS.tolist()
    runs = [continuation(model, ids, 10, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert continuation(model, ids, 10, temperature=1e-4) == continuation(model, ids, 10)
    firsts = [continuation(model, ids, 1, temperature=1.0, seed=seed)[0] for seed in range(100)]
    p = model.suffix(model.prefix(IDS[None], 0), 0)[0, -1, : model.n_tokens].softmax(-1)
    top = int(p.argmax())
    error = 4 * math.sqrt(float(p[top] * (1 - p[top])) / 100)
    assert firsts.count(top) / 100 == pytest.approx(float(p[top]), abs=error)
    assert max(firsts) < model.n_tokens


def test_a_continuation_ends_at_the_context_and_at_the_end_of_text(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = IDS.tolist() * 4
    assert len(continuation(model, ids, 50)) == model.n_ctx - len(ids)
    assert continuation(model, ids, 0) == []
    greedy = continuation(model, IDS.tolist(), 6)
    monkeypatch.setattr(model, "eos_id", greedy[3])
    assert continuation(model, IDS.tolist(), 6) == greedy[: greedy.index(greedy[3]) + 1]
    with pytest.raises(InputError, match="Found -1"):
        continuation(model, ids, 5, temperature=-1)


# ---- the code to copy


@pytest.mark.parametrize("keep_error", [True, False])
@pytest.mark.parametrize("site", [Site(-1, "embed"), Site(0), Site(1, "mlp_post"), Site(1, space="centred")], ids=str)
def test_the_copied_code_reproduces_the_numbers(
    folder: Path, model: LanguageModel, tmp_path: Path, site: Site, keep_error: bool
) -> None:
    check_copied_code(random_dictionary(site, n_features=64, tied=False), folder, model, tmp_path, keep_error)


JUMPRELU, TOPK, LAYER_NORM = {"threshold": torch.full((64,), 0.2)}, {"k": 9}, {"normalize_activations": "layer_norm"}


@pytest.mark.parametrize("form", [JUMPRELU, TOPK, LAYER_NORM, LAYER_NORM | JUMPRELU, LAYER_NORM | TOPK])
def test_the_copied_code_knows_every_architecture(
    folder: Path, model: LanguageModel, tmp_path: Path, form: dict
) -> None:
    dictionary = replace(random_dictionary(Site(1), n_features=64, tied=False), **form)
    check_copied_code(dictionary, folder, model, tmp_path, True)


def check_copied_code(
    dictionary: Dictionary, folder: Path, model: LanguageModel, tmp_path: Path, keep_error: bool
) -> None:
    save_dictionary(dictionary, tmp_path, {})
    clean = clean_run(model, dictionary, IDS)
    features = clean.codes.sum(0).topk(len(OPERATIONS)).indices.tolist()
    edits = [FeatureEdit(f, operation, 1.3) for f, operation in zip(features, OPERATIONS, strict=True)]
    edits.append(FeatureEdit(3, "set", 2.0, positions=(4, 6)))
    patch = IDS.flip(0)
    found = apply_edits(
        model, dictionary, clean, edits, keep_error, patch_codes=clean_run(model, dictionary, patch).codes
    )
    text = 'quotes """ \'\n{x} \\'
    code = transformer_lens_code(
        str(folder), str(tmp_path), dictionary, text, IDS.tolist(), edits, keep_error, patch.tolist()
    )
    names: dict = {}
    exec(code, names)
    assert names["TEXT"] == text
    assert names["kl"].max() > 0.02
    assert_close(names["kl"], effect_kl(found), rtol=0, atol=1e-4)
