"""The step ioi: which dictionaries, resumed dictionary by dictionary, rows against the library, bad input."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal

from precompute.common import load_entry, load_model
from precompute.paper import ioi
from precompute.paper.ioi import Args, chosen, interval
from sae_core.baselines import Linear, linear_spec
from sae_core.dictionaries import Dictionary, save_dictionary
from sae_core.errors import DictionaryError, InputError
from sae_core.ioi.ordering import acdc_order, log_thresholds, magnitude_order
from sae_core.ioi.patching import curve, curve_sizes, read_pairs
from sae_core.ioi.prompts import prompt_pairs
from sae_core.language_model import LanguageModel
from sae_core.specs import Site
from sae_core.store import DictionaryEntry, RunStore
from tests.precompute.tiny_run import tiny_run

ARGS = Args(pairs=4, thresholds=3, alphas=2, device="cpu")


def whole_words(self: LanguageModel, text: str) -> list[int]:
    """Instead of the tiny tokenizer, which splits all names: every word one id of its vocabulary."""
    return [1 + sum(ord(c) * 31**i for i, c in enumerate(word)) % 257 for word in re.findall(r" ?\w+|[^\w\s]", text)]


def add(store: RunStore, dictionary: Dictionary, **changes: object) -> DictionaryEntry:
    """List a dictionary of another spec in the run."""
    spec = replace(dictionary.spec, **changes)
    made = replace(dictionary, spec=spec)
    save_dictionary(made, store.dictionary_folder(spec.id), {})
    entry = DictionaryEntry(spec.id, spec, made.n_features, made.hash, "sweep")
    store.update_manifest(dictionaries=(*store.dictionaries, entry))
    return entry


def pca_like(width: int) -> Dictionary:
    rows = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(2)))[0]
    return Linear(rows, rows, torch.full((width,), 0.1), {}).dictionary(linear_spec(Site(1), "pca"))


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setattr(LanguageModel, "encode", whole_words)
    run = tiny_run(tmp_path_factory.mktemp("ioi") / "run", n_contexts=4, ratio=0.5)
    headline = load_entry(run, run.headline(1))
    for alpha in (0.0, 2e-2, 0.5):
        add(run, headline, alpha=alpha)
    add(run, replace(headline, b_enc=torch.full_like(headline.b_enc, -1e6)), alpha=1e-2)
    add(run, headline, alpha=1e-3, variant="seed1")
    add(run, pca_like(32))
    return run


def test_the_step(store: RunStore, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen, killed after two dictionaries, continued without doing them again, equal to the library, extended."""
    ids = [entry.id.removeprefix("L1-resid_post-") for entry in chosen(store, 2) if entry.spec.site.layer == 1]
    assert ids == ["tied-r0.5-a1e-3", "tied-r0.5-a0", "tied-r0.5-a2e-2", "tied-r0.5-a1e-2", "pca-r2"]
    assert ioi.state(store) == "missing"

    made, plain = [], ioi.dictionary_rows

    def killed(model: LanguageModel, id: str, *rest: object) -> object:
        made.append(id)
        if len(made) == 3:
            raise KeyboardInterrupt
        return plain(model, id, *rest)

    monkeypatch.setattr(ioi, "dictionary_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        ioi.run(store, ARGS)
    assert ioi.state(store) == "partial" and store.read("patching")["dictionary"].nunique() == 2
    kept, tried = set(store.read("patching")["dictionary"]), len(made)
    ioi.run(store, ARGS)
    assert not kept & set(made[tried:]) and len(made[tried:]) == len(set(made)) - 2 and ioi.state(store) == "ready"

    table = store.read("patching")
    check_rows(store, table)
    assert "no feature differs" in capsys.readouterr().out
    dead = table[table["dictionary"].str.endswith("a1e-2")]
    assert dead["n_patched"].tolist() == [0, 0] and (dead["n_differing"] == 0).all()
    signed = table[table["method"] == "pca"]
    assert (signed["n_differing"] == 32).all() and signed["kl_floor"].max() < 1e-4 < signed["mean_kl"].max()
    assert (table[table["method"] == "pca_nonneg"]["n_differing"] > 32).all()

    before = len(made)
    ioi.run(store, ARGS)
    assert len(made) == before
    add(store, load_entry(store, store.headline(1)), alpha=3.1e-2)
    assert ioi.state(store) == "partial"
    ioi.run(store, ARGS)
    assert made[before:] == ["L1-resid_post-tied-r0.5-a3.1e-2"] and ioi.state(store) == "ready"


def check_rows(store: RunStore, table: object) -> None:
    """The rows of the headline dictionary of layer 0 are those of the library."""
    model, seed = load_model(store, "cpu"), store.manifest.spec.seed
    dictionary = load_entry(store, store.headline(0))
    patching = read_pairs(model, dictionary, prompt_pairs(model.encode, 4, seed))
    orders = {
        "acdc": acdc_order(patching, log_thresholds(3), seed).order, "magnitude": magnitude_order(patching)
    }  # fmt: skip
    for name, order in orders.items():
        rows = table[(table["dictionary"] == store.headline(0).id) & (table["order"] == name)]
        k = len(patching.features)
        assert rows["n_patched"].tolist() == curve_sizes(k) and (rows["n_pairs"] == 4).all()
        found = curve(patching, order, curve_sizes(k))
        assert rows["mean_kl"].to_numpy() == pytest.approx(found.kl.mean(1).numpy(), rel=1e-3, abs=1e-6)
        assert rows["mean_magnitude"].to_numpy() == pytest.approx(found.magnitude.numpy(), rel=1e-4)
        assert (rows["lower"] <= rows["mean_kl"] + 1e-6).all() and (rows["mean_kl"] <= rows["upper"] + 1e-6).all()
        assert rows["kl_floor"].to_numpy() == pytest.approx(float(found.kl[-1].mean()), rel=1e-3, abs=1e-6)


def test_as_published_stands_beside_corrected(store: RunStore) -> None:
    """Points only where pruning stopped; rows of the other setting and dictionary stay; 50 thresholds if not told."""
    id, other = store.headline(0).id, store.headline(1).id
    ioi.run(store, replace(ARGS, dictionaries=(id, other)))
    assert ioi.state(store) == "partial"
    before = store.read("patching")
    ioi.run(store, replace(ARGS, dictionaries=(id,), setting="as-published"))
    table = store.read("patching")
    assert_frame_equal(table[table["setting"] == "corrected"].reset_index(drop=True), before)
    found = table[table["setting"] == "as-published"]
    model = load_model(store, "cpu")
    pairs = prompt_pairs(model.encode, 4, store.manifest.spec.seed)
    patching = read_pairs(model, load_entry(store, store.headline(0)), pairs)
    pruned = acdc_order(patching, log_thresholds(3), store.manifest.spec.seed)
    assert set(found["order"]) == {"acdc"} and set(found["dictionary"]) == {id}
    assert found["n_patched"].tolist() == sorted({0, len(patching.features), *pruned.sizes})
    sets = {n: curve(patching, pruned.order, [n]).kl.mean() for n in found["n_patched"]}
    assert found["mean_kl"].tolist() == pytest.approx([float(kl) for kl in sets.values()], rel=1e-3, abs=1e-6)
    assert Args(setting="as-published").n_thresholds == 50 and replace(ARGS, setting="as-published").n_thresholds == 3


def test_other_settings_make_the_rows_again(store: RunStore) -> None:
    id = store.headline(0).id
    ioi.run(store, replace(ARGS, dictionaries=(id,)))
    ioi.run(store, replace(ARGS, dictionaries=(id,), pairs=5))
    assert set(store.read("patching")["n_pairs"]) == {5}


def test_a_tokenizer_that_splits_all_names_stops_with_a_sentence(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with pytest.raises(InputError, match="common names as single tokens"):
        ioi.run(store, ARGS)
    assert ioi.state(store) == "missing"


def test_a_run_without_headlines_is_told_what_to_do(store: RunStore) -> None:
    store.update_manifest(dictionaries=tuple(replace(e, headline=False) for e in store.dictionaries))
    with pytest.raises(DictionaryError, match="precompute metrics"):
        ioi.run(store, ARGS)


def test_interval_of_known_spread() -> None:
    """Of a large normal sample it is the mean +- 1.96 standard errors; of one pair the value itself."""
    values = np.random.default_rng(0).normal(3.0, 2.0, (2, 400))
    lower, upper = interval(values, 0)
    half = 1.96 * values.std(1) / 20
    assert lower == pytest.approx(values.mean(1) - half, abs=0.04)
    assert upper == pytest.approx(values.mean(1) + half, abs=0.04)
    assert [side.tolist() for side in interval(np.array([[5.0]]), 0)] == [[5.0], [5.0]]
