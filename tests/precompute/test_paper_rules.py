"""The rules step on a tiny run: every dictionary, rows beside those of other explainers, dead dictionaries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from precompute.common import load_entry
from precompute.harvest import table_text
from precompute.paper import rules
from precompute.paper.rules import Args
from precompute.paper.score_rows import merge_scores
from sae_core.autointerp.fragments import fragment_pool, select
from sae_core.code_index import FeatureCodes
from sae_core.corpus import load_windows
from sae_core.dictionaries import save_dictionary
from sae_core.rules import fitting_contexts, in_contexts
from sae_core.schemas import TABLES
from sae_core.store import RunStore
from tests.precompute.tiny_run import BATCH, CONTEXT, dense_codes, tiny_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = tiny_run(tmp_path_factory.mktemp("rules") / "run", n_contexts=60, density=0.2)
    rules.run(run, Args(device="cpu", batch=BATCH))
    return run


def test_every_feature_of_every_dictionary_has_rows(store: RunStore) -> None:
    assert rules.state(store) == "ready"
    for entry in store.dictionaries:
        found = store.read("scores", entry.id)
        assert found["feature"].tolist() == np.repeat(np.arange(entry.n_features), 2).tolist()
        assert set(found["scheme"]) == {"top_and_random", "random_only"} and set(found["explainer"]) == {"rule"}
        scored = found[~found["skipped"]]
        assert len(scored) > 20 and set(scored["n_fragments"]) == {5, 10}
        assert scored["score"].between(-1, 1).all() and scored["explanation"].str.startswith("Active ").all()
        assert set(scored["kind"]) <= {"token", "previous", "suffix", "ngram"}
        dead = found[found["feature"] == 1]
        assert dead["skipped"].all() and (dead["explanation"] == "Never active on this text.").all()


def test_fragments_and_true_codes_are_those_of_the_other_half(store: RunStore) -> None:
    """Whether a feature is scored, decided by hand from dense codes."""
    entry, text = store.dictionaries[0], table_text(store)
    _, codes = dense_codes(store, entry.id)
    fitting = fitting_contexts(len(text.token_ids) // CONTEXT)
    pool = fragment_pool(load_windows(store.folder, "train").documents.reshape(-1)[: text.n_windows], 3)
    skipped = store.read("scores", entry.id).groupby("feature")["skipped"].any()
    for feature in range(entry.n_features):
        positions = codes[:, feature].nonzero()[0]
        found = FeatureCodes(feature, positions, codes[positions, feature])
        halves = [in_contexts(found, each, CONTEXT) for each in (fitting, ~fitting)]
        windows = [len(set((half.positions // text.window).tolist())) for half in halves]
        assert skipped[feature] == (min(windows) < 20)
        if not skipped[feature]:
            assert select(halves[1], pool, text, 3, "corrected") is not None


def test_rows_of_other_explainers_and_settings_stay(store: RunStore) -> None:
    entry = store.dictionaries[0]
    other = store.read("scores", entry.id).assign(explainer="a model", kind="llm")
    merge_scores(store, entry, other, store.provenance(entry.id, asked=1))
    rules.run(store, Args(device="cpu", batch=BATCH, setting="as-published", dictionaries=(entry.id,)))
    found = store.read("scores", entry.id)
    sizes = found.groupby(["explainer", "setting"]).size().to_dict()
    n = 2 * entry.n_features
    assert sizes == {("a model", "corrected"): n, ("rule", "as-published"): n, ("rule", "corrected"): n}
    assert rules.state(store) == "ready"


def test_ready_rows_are_not_made_again(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "code_indexes", lambda *_: pytest.fail("nothing to do"))
    rules.run(store, Args(device="cpu"))
    shorter = RunStore(store.folder, replace(store.manifest, spec=replace(store.manifest.spec, table_tokens=64)))
    assert rules.state(shorter) == "stale"


def test_a_dictionary_with_no_live_feature_is_skipped_and_the_rest_goes_on(
    store: RunStore, capsys: pytest.CaptureFixture
) -> None:
    first = store.dictionaries[0]
    spec = replace(first.spec, alpha=5e-1)
    dead = replace(load_entry(store, first), b_enc=torch.full((first.n_features,), -1e6), spec=spec)
    save_dictionary(dead, store.dictionary_folder(spec.id), {})
    entry = replace(first, id=spec.id, spec=spec, hash=dead.hash, headline=False)
    copy = RunStore(store.folder, replace(store.manifest, dictionaries=(entry, *store.dictionaries)))
    assert rules.state(copy) == "partial"
    rules.run(copy, Args(device="cpu", batch=BATCH))
    assert "no feature is active often enough" in capsys.readouterr().out
    found = copy.read("scores", spec.id)
    assert found["skipped"].all() and found.columns.tolist() == TABLES["scores"].column_names
    assert rules.state(copy) == "ready"
