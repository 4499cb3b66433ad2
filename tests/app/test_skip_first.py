"""A run that leaves position 0 out: live pages read it, and no feature is active or edited there.

The oracle sets the codes to 0 at position 0 and runs all blocks again: no kept keys, no shortcut.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest
from torch import Tensor

from app import live, live_effects, live_patching, state
from app.components.live_text import SKIPPED
from app.live import Edit
from app.trees import Growth
from sae_core.explorer import Explorer
from sae_core.intervention import FeatureEdit, apply_edits, clean_run
from sae_core.store import RunStore
from tests.app.conftest import errors, texts
from tests.app.live_run import ROOT, live_run

TEXT, OTHER = "the cat's in the hat", "the hat's in the cat"
OPERATIONS = [("remove", 0.0), ("remove_to_threshold", 0.0), ("scale", 2.0), ("set", 1.5), ("add", 0.7)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """The live run, made with --skip-first."""
    folder = tmp_path_factory.mktemp("skip") / "skipping"
    shutil.copytree(live_run().folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["spec"]["skip_first"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return RunStore.open(folder)


@pytest.fixture
def pages(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SAE_RUNS", str(run.folder.parent))
    st.cache_data.clear()
    st.cache_resource.clear()
    yield
    st.cache_data.clear()
    st.cache_resource.clear()


def page(name: str, **query: str | list[str]) -> AppTest:
    test = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    for key, value in {"run": "skipping", **query}.items():
        test.query_params[key] = value
    return test.switch_page(f"app_pages/{name}.py").run()


def codes_of(run: RunStore, id: str, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """resid_post of a sentence and its codes, which are 0 at position 0."""
    dictionary = state.live_dictionary(run, id)
    found = state.live_model(run).sites(torch.tensor([ids]), [dictionary.site])
    x = found[dictionary.site][0]
    codes = dictionary.encode(x).clone()
    codes[0] = 0
    return x, codes


@torch.inference_mode()
def brute(run: RunStore, ids: tuple[int, ...], edit: Edit, patch: Tensor | None = None) -> Tensor:
    """Log-probabilities [t, V] with the edit at every position but 0."""
    model, dictionary = state.live_model(run), state.live_dictionary(run, edit.dictionary)
    x, codes = codes_of(run, edit.dictionary, ids)
    edited = codes.clone()
    for f in edit.features:
        w = dictionary.W_enc[:, f] @ dictionary.W_dec[f]
        edited[1:, f] = {
            "remove": lambda c: 0 * c,
            "remove_to_threshold": lambda c, w=w: c - c / w if w > 0 else 0 * c,
            "scale": lambda c: edit.value * c,
            "set": lambda c: torch.full_like(c, edit.value),
            "add": lambda c: c + edit.value,
            "patch": lambda c, f=f: patch[1:, f],
        }[edit.operation](codes[1:, f])
    changed = x + (edited - codes) @ dictionary.W_dec
    if not edit.keep_error:
        changed[1:] = dictionary.decode(edited)[1:]
    assert torch.equal(changed[0], x[0])
    last = model.blocks(changed[None], dictionary.site.layer + 1, model.n_layers)
    return model.unembed(last[0]).log_softmax(-1)


def active_first(run: RunStore, id: str, ids: tuple[int, ...]) -> list[int]:
    """Two features that the model's first token would activate, and that are active later too."""
    dictionary = state.live_dictionary(run, id)
    x = state.live_model(run).sites(torch.tensor([ids]), [dictionary.site])[dictionary.site][0]
    codes = dictionary.encode(x)
    both = (codes[0] != 0) & (codes[1:] != 0).any(0)
    found = both.nonzero()[:, 0].tolist()
    assert len(found) >= 2
    return found[:2]


@pytest.mark.parametrize("keep_error", [True, False])
@pytest.mark.parametrize(("operation", "value"), OPERATIONS)
def test_an_edit_leaves_position_0_alone(run: RunStore, operation: str, value: float, keep_error: bool) -> None:
    id, sentence = run.headline(1).id, live.sentences(run, TEXT)[0]
    features = active_first(run, id, sentence.ids)
    edit = Edit(id, tuple(features), operation, value, keep_error=keep_error)
    found = live.outcome(run, sentence, edit)
    expected = brute(run, sentence.ids, edit)
    torch.testing.assert_close(found.effect.edited_logprobs, expected, rtol=1e-4, atol=1e-4)
    assert found.effect.delta[0].abs().max() == 0 and found.effect.delta[1:].abs().max() > 0
    assert found.kl[0] == 0 and found.mean_kl == pytest.approx(found.kl[1:].mean())
    model, dictionary = state.live_model(run), state.live_dictionary(run, id)
    whole = apply_edits(model, dictionary, clean_run(model, dictionary, sentence.ids), edit.feature_edits(), keep_error)
    assert (whole.edited_logprobs - expected).abs().max() > 1e-3  # what is left out would have made a difference


def test_a_patch_takes_nothing_at_position_0(run: RunStore) -> None:
    id = run.headline(1).id
    base, target = live.sentences(run, f"{TEXT}\n?{TEXT[3:]}")
    assert len(base.ids) == len(target.ids) and base.ids[0] != target.ids[0]
    _, patch = codes_of(run, id, target.ids)
    _, own = codes_of(run, id, base.ids)
    features = (patch != own).any(0).nonzero()[:, 0].tolist()
    edit = Edit(id, tuple(features), "patch", source=target)
    found = live.outcome(run, base, edit)
    expected = brute(run, base.ids, edit, patch)
    torch.testing.assert_close(found.effect.edited_logprobs, expected, rtol=1e-4, atol=1e-4)

    reading = live_patching.reading(run, run.headline(1), base, target, "magnitude")
    assert sorted(reading.order) == features
    changes = live_patching.changes(reading, features)
    np.testing.assert_allclose(changes, (patch - own)[:, features].T.numpy(), atol=1e-5)
    target_last = live.clean(run, id, target).logprobs[-1]
    all_patched = float((expected[-1].exp() * (expected[-1] - target_last)).sum())
    assert reading.curve["kl"].iloc[-1] == pytest.approx(all_patched, abs=1e-4)
    frame = live_patching.by_feature(run, reading)
    assert (frame["position"] > 0).all()


def test_nothing_fires_and_nothing_is_reconstructed_at_position_0(run: RunStore) -> None:
    id, sentence = run.headline(1).id, live.sentences(run, TEXT)[0]
    fires = live.firing(run, sentence)
    whole = live.firing(live_run(), sentence)
    assert (whole["position"] == 0).any()
    assert fires.to_dict("list") == whole[whole["position"] > 0].to_dict("list")
    clean = live.clean(run, id, sentence)
    x, codes = codes_of(run, id, sentence.ids)
    torch.testing.assert_close(clean.codes, codes)
    error = (x - state.live_dictionary(run, id).decode(codes))[1:]
    assert clean.fvu == pytest.approx(float(error.square().sum() / (x[1:] - x[1:].mean(0)).square().sum()), rel=1e-4)
    found = live.outcome(run, sentence, Edit(id, ()))
    assert found.error_share == pytest.approx(float(error.norm() / x[1:].norm()), rel=1e-4)
    assert found.n_predicted == len(sentence.ids) - 2
    assert live.outcome(live_run(), sentence, Edit(id, ())).n_predicted == len(sentence.ids) - 1


def test_an_edit_that_names_position_0_does_nothing_there(run: RunStore) -> None:
    id, ids = run.headline(1).id, live.sentences(run, TEXT)[0].ids
    model, dictionary = state.live_model(run), state.live_dictionary(run, id)
    clean = clean_run(model, dictionary, ids, 1)
    for operation in ("remove", "set", "add"):
        effect = apply_edits(model, dictionary, clean, [FeatureEdit(3, operation, 2.0, (0,))])
        assert torch.equal(effect.edited_logprobs, clean.logprobs)


def test_one_token_alone_counts_nothing(run: RunStore) -> None:
    id, sentence = run.headline(1).id, live.sentences(run, "x")[0]
    assert len(sentence.ids) == 1 and live.firing(run, sentence).empty
    found = live.outcome(run, sentence, Edit(id, (3,), "add", 2.0, keep_error=False))
    assert found.moved_most is None and found.mean_kl == 0.0 and found.n_predicted == 1


# ---- pages


@pytest.mark.parametrize("name", ["ablate", "feature", "patching"])
def test_pages_say_so(run: RunStore, pages: None, name: str) -> None:
    query = {"ablate": {"text": TEXT}, "feature": {"try": TEXT}, "patching": {"base": TEXT, "target": OTHER}}[name]
    test = page(name, dictionary=run.headline(1).id, **query)
    assert not test.exception and not errors(test)
    assert SKIPPED.replace("'", "&#x27;") in texts(test)
    os.environ["SAE_RUNS"] = str(live_run().folder.parent)
    plain = page(name, run=live_run().folder.name, dictionary=run.headline(1).id, **query)
    assert not plain.exception and "position 0 out" not in texts(plain)


def test_position_0_is_not_offered_for_an_edit(run: RunStore, pages: None) -> None:
    test = page("ablate", dictionary=run.headline(1).id, text=TEXT, features=["3"], at=["2"])
    assert not test.exception and not errors(test)
    at = test.multiselect(key="at")
    assert at.value == [2] and len(at.options) == len(live.sentences(run, TEXT)[0].ids) - 1
    refused = page("ablate", dictionary=run.headline(1).id, text=TEXT, features=["3"], at=["0"])
    assert not refused.exception and "out of: 1, 2" in errors(refused)[0]


def test_the_live_sentence_of_a_feature_is_silent_at_position_0(run: RunStore, pages: None) -> None:
    id, ids = run.headline(1).id, live.sentences(run, TEXT)[0].ids
    feature = active_first(run, id, ids)[0]
    _, codes = codes_of(run, id, ids)
    test = page("feature", dictionary=id, feature=str(feature), **{"try": TEXT})
    assert not test.exception and f"Active on {int((codes[:, feature] > 0).sum())} of {len(ids)} tokens" in texts(test)


@pytest.mark.parametrize("keep_error", [True, False])
def test_a_continuation_edits_every_position_but_0(run: RunStore, keep_error: bool) -> None:
    id, sentence = run.headline(1).id, live.sentences(run, TEXT)[0]
    edit = Edit(id, tuple(active_first(run, id, sentence.ids)), "set", 4.0, keep_error=keep_error)
    n = state.live_model(run).n_tokens
    expected = list(sentence.ids)
    for _ in range(4):
        expected.append(int(brute(run, tuple(expected), edit)[-1, :n].argmax()))
    _, edited = live_effects.continuations(run, sentence, edit, 4, 0.0, 0)
    readable = live.vocabulary(run)
    assert edited == [readable[i] for i in expected[len(sentence.ids) :]]


def test_a_live_tree_removes_no_parent_at_position_0(run: RunStore) -> None:
    parent, child = run.headline(0).id, run.headline(1).id
    sentence = live.sentences(run, TEXT)[0]
    fires = live.firing(run, sentence)
    root = fires[fires["dictionary"] == child].sort_values("activation").iloc[-1]
    position, feature = int(root["position"]), int(root["feature"])
    nodes, links = live_effects.tree(run, sentence, position, (child, feature), Growth(1, 8, 0.0))
    model, above, below = state.live_model(run), state.live_dictionary(run, child), state.live_dictionary(run, parent)
    x, codes = codes_of(run, parent, sentence.ids[: position + 1])
    drops = {}
    for f in codes.ne(0).any(0).nonzero()[:, 0].tolist():
        both = torch.stack([x, x - codes[:, f, None] * below.W_dec[f]])
        a, b = above.encode(model.blocks(both, 1, 2)[:, -1])[:, feature].tolist()
        drops[f] = (a - b) / a
    found = dict(zip(links["parent"], links["relative_drop"], strict=True))
    assert len(found) == 8 and len(nodes) == 9
    assert found == pytest.approx({f: drops[f] for f in found}, abs=1e-4)
    assert sorted(found) == sorted(sorted(drops, key=lambda f: -abs(drops[f]))[:8])


def test_the_script_leaves_position_0_alone(run: RunStore) -> None:
    sentence = live.sentences(run, TEXT)[0]
    edit = Edit(run.headline(1).id, (3,), keep_error=False)
    assert "\nFIRST = 1 " in live_effects.reproduction(run, sentence, edit)
    assert "\nFIRST = 0 " in live_effects.reproduction(live_run(), sentence, edit)


def test_python_treats_a_sentence_the_same_way(run: RunStore) -> None:
    id, sentence = run.headline(1).id, live.sentences(run, TEXT)[0]
    features = active_first(run, id, sentence.ids)
    found = Explorer(run).ablate(id, features, TEXT, "add", 0.7)
    expected = brute(run, sentence.ids, Edit(id, tuple(features), "add", 0.7))
    torch.testing.assert_close(found.effect.edited_logprobs, expected, rtol=1e-4, atol=1e-4)
    base, target = live.sentences(run, f"{TEXT}\n?{TEXT[3:]}")
    curve = Explorer(run).patch(id, base.text, target.text)
    reading = live_patching.reading(run, run.headline(1), base, target, "magnitude")
    assert curve["feature"].tolist()[1:] == list(reading.order)
    assert curve["kl"].iloc[-1] == pytest.approx(reading.curve["kl"].iloc[-1], abs=1e-5)
