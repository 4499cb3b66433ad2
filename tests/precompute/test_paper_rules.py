"""The rules step on a tiny run: every dictionary, rows beside those of other explainers, dead dictionaries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr

from precompute.common import load_entry
from precompute.harvest import drop_codes
from precompute.paper import rules
from precompute.paper.rules import Args
from precompute.paper.score_rows import merge_scores
from sae_core.autointerp.fragments import fragment_pool, select
from sae_core.baselines import Linear, linear_spec
from sae_core.code_index import FeatureCodes
from sae_core.corpus import load_windows
from sae_core.dictionaries import save_dictionary
from sae_core.rules import fitting_contexts, in_contexts
from sae_core.schemas import TABLES
from sae_core.specs import Site
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import table_text
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


def test_groups_go_by_layer_and_stay_below_the_limit(store: RunStore) -> None:
    """Without metrics half of the 32 or 128 features count as active: 64 * 1920 * 6 bytes is the widest alone."""
    entries = store.dictionaries
    last_first = sorted(entries, key=lambda entry: -entry.spec.site.layer)
    found = [[entry.id for entry in group] for group in rules._groups(store, last_first, 2 * 16 * 1920 * 6)]
    wide = next(entry.id for entry in entries if entry.n_features == 128)
    narrow = [entry.id for entry in entries if entry.id != wide]
    assert sorted(sum(found, [])) == sorted(entry.id for entry in entries)
    assert found[0][0] == narrow[0] and [wide] in found
    assert len(list(rules._groups(store, entries, 1e12))) == 1


@pytest.mark.parametrize("room", [1, 0])
def test_the_model_is_run_once_where_the_activations_fit(
    store: RunStore, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are the same as from one group, and as from as many passes as there are groups."""
    run = tiny_run(tmp_path / "run", n_contexts=60, density=0.2)
    widths = {entry.spec.site: load_entry(run, entry).width for entry in run.dictionaries}
    monkeypatch.setattr(rules, "CODES_ON_DISK", sum(widths.values()) * 1920 * 4 - 1 + room)
    monkeypatch.setattr(rules, "ENTRY_BYTES", 60)  # more than the activations take
    monkeypatch.setattr(rules, "CODES_IN_CACHE", 1)
    passes: list[bool] = []
    plain = rules.code_indexes

    def counted(*args: Any) -> Any:
        passes.append(args[-1] is None)
        return plain(*args)

    monkeypatch.setattr(rules, "code_indexes", counted)
    rules.run(run, Args(device="cpu", batch=BATCH))
    assert passes == [False] * len(run.dictionaries) if room else len(passes) > 1 and all(passes)
    assert not (run.folder / "scratch" / rules.ACTIVATIONS).exists()
    for entry in run.dictionaries:
        rows = store.read("scores", entry.id)
        rows = rows[(rows["explainer"] == "rule") & (rows["setting"] == "corrected")].reset_index(drop=True)
        pd.testing.assert_frame_equal(run.read("scores", entry.id), rows)


def test_codes_are_dropped_once_no_table_waits_for_them(store: RunStore) -> None:
    """The main dictionaries' other tables are not made yet, so their codes stay; a sweep's go."""
    codes = store.folder / "scratch" / "codes"
    main = store.dictionaries[0]
    assert (codes / main.id).is_dir()
    swept = RunStore(store.folder, replace(store.manifest, dictionaries=(replace(main, role="sweep"),)))
    drop_codes(swept, swept.dictionaries)
    assert not (codes / main.id).exists()


def add_directions(store: RunStore, kind: str) -> DictionaryEntry:
    """A dictionary of 32 random orthogonal directions of layer 1 with two sides each, around a mean that is not 0."""
    rows = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(4)))[0]
    made = Linear(rows, rows, torch.full((32,), 0.1), {}).dictionary(linear_spec(Site(1), kind))
    save_dictionary(made, store.dictionary_folder(made.spec.id), {})
    return DictionaryEntry(made.spec.id, made.spec, 64, made.hash, "baseline")


def few_fragments_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As published there is one fragment a document, and the tiny run has few documents."""
    for module in ("autointerp.fragments", "rule_scores"):
        monkeypatch.setattr(f"sae_core.{module}.SCORE_MIN_FRAGMENTS", 6)


def test_directions_as_published_are_signed_and_have_a_better_side(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: dense signed codes; the scored fragments' correlation with the rule, its words read back by hand."""
    few_fragments_do(monkeypatch)
    entry = add_directions(store, "pca")
    run = RunStore(store.folder, replace(store.manifest, dictionaries=(entry,)))
    for setting in ("corrected", "as-published"):
        rules.run(run, Args(device="cpu", batch=BATCH, setting=setting))
    table, text = run.read("scores", entry.id), table_text(run)
    sizes = table.groupby("setting")["feature"].agg(["size", "max"])
    assert sizes.loc["corrected"].tolist() == [128, 63] and sizes.loc["as-published"].tolist() == [64, 31]

    _, codes = dense_codes(run, entry.id)
    sides = run.read("sides", entry.id)
    assert sides["third_moment"].to_numpy() == pytest.approx((codes.astype(float) ** 3).mean(0), rel=1e-4)
    assert sides["best"].to_numpy().reshape(2, 32).sum(0).tolist() == [1] * 32
    assert sides["best"][:32].tolist() == (((codes[:, :32] - codes[:, 32:]).astype(float) ** 3).mean(0) >= 0).tolist()

    dense = codes[:, :32] - codes[:, 32:]
    fitting = fitting_contexts(len(text.token_ids) // CONTEXT)
    halves = rules.Scorer(run, Args(setting="as-published")).halves(entry)
    for feature in (0, 5):
        code = FeatureCodes(feature, np.arange(len(dense)), dense[:, feature])
        found = halves.explain(code)
        row = table[(table["feature"] == feature) & (table["setting"] == "as-published")].set_index("scheme")
        for scheme, score in found.scores.items():
            assert row.loc[scheme, "score"] == pytest.approx(score.score, abs=1e-6)
        chosen = select(in_contexts(code, ~fitting, CONTEXT), halves.pool, text, 3, "as-published")
        parts = (chosen.top, chosen.random)
        said = np.concatenate([found.rule.predict(part.windows, text.window).ravel() for part in parts])
        true = np.concatenate([part.activations.ravel() for part in parts])
        assert true.min() < 0 < true.max() and said.min() >= 0
        assert row.loc["top_and_random", "score"] == pytest.approx(pearsonr(said, true).statistic, abs=1e-5)
    assert rules.state(run) == "ready"

    run.table_path("sides", entry.id).unlink()
    assert rules.state(run) == "partial"
    monkeypatch.setattr(rules, "score_rows", lambda *_: pytest.fail("the rows are there"))
    rules.run(run, Args(device="cpu", batch=BATCH))
    assert rules.state(run) == "ready" and run.read("sides", entry.id).equals(sides)


def test_the_default_basis_is_its_positive_half_as_published(store: RunStore) -> None:
    entry = add_directions(store, "identity")
    run = RunStore(store.folder, replace(store.manifest, dictionaries=(entry,)))
    rules.run(run, Args(device="cpu", batch=BATCH, setting="as-published"))
    assert run.read("scores", entry.id)["feature"].max() == 31 and run.table_state("sides", entry.id) == "missing"
