"""The steps `train` and `metrics` on a tiny real model and text: skip, add, resume, stale, choice of roles."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from precompute import corpus, metrics, passes, train
from precompute.common import load_entry, load_model
from sae_core.corpus import load_windows
from sae_core.dictionaries import load_dictionary, read_metadata
from sae_core.errors import CorpusError, DictionaryError, ModelError, RunError, SpecError
from sae_core.specs import HEADLINE_RULE, CorpusSpec, DictionarySpec, ModelSpec, RunSpec, Site
from sae_core.store import DictionaryEntry, Manifest, RunStore
from tests.precompute.prepared_run import prepared_run
from tests.tiny_model import tiny_llama_folder

SETTINGS = train.Args(
    layers="0,2", alphas=(1e-4, 1e-2), ratio=2, tokens=32768, batch_size=128, lr=1e-2, warmup_steps=10, device="cpu"
)
MEASURE = metrics.Args(metric_tokens=500, device="cpu", batch=4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after the corpus step."""
    return prepared_run(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> RunStore:
    return RunStore.open(shutil.copytree(prepared, tmp_path / "run"))


@pytest.fixture(scope="module")
def trained_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(prepared, tmp_path_factory.mktemp("trained") / "run")
    train.run(RunStore.open(folder), SETTINGS)
    return folder


@pytest.fixture
def trained(trained_folder: Path, tmp_path: Path) -> RunStore:
    return RunStore.open(shutil.copytree(trained_folder, tmp_path / "trained"))


def hashes(store: RunStore) -> dict[str, str]:
    return {entry.id: entry.hash for entry in RunStore.open(store.folder).dictionaries}


def test_it_trains_and_lists_every_dictionary_asked_for(store: RunStore) -> None:
    assert train.state(store) == "missing"
    train.run(store, SETTINGS)
    store = RunStore.open(store.folder)
    assert [e.id for e in store.dictionaries] == [
        f"L{layer}-resid_post-tied-r2-a{alpha}" for layer in (0, 2) for alpha in ("1e-4", "1e-2")
    ]
    for entry in store.dictionaries:
        found, facts = load_entry(store, entry), read_metadata(store.dictionary_folder(entry.id))
        assert (found.hash, found.spec, found.n_features) == (entry.hash, entry.spec, 32) and found.tied
        assert facts["train_tokens"] == 32768 and facts["train"]["lr"] == 1e-2 and facts["context_size"] == 32
        assert facts["train_seconds"] > 0 and facts["model_name"] == "tiny"
    assert train.state(store) == "ready"


def test_training_lowers_the_error(trained: RunStore) -> None:
    """FVU of the dictionary with the small alpha on held-out text; predicting the mean would give 1."""
    model, entry = load_model(trained, "cpu"), trained.dictionaries[0]
    ids = torch.from_numpy(load_windows(trained.folder, "held_out").tokens[:4].astype(np.int64))
    x = model.sites(ids, [entry.spec.site])[entry.spec.site].flatten(0, 1)
    found = load_entry(trained, entry)
    fvu = (found.decode(found.encode(x)) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert fvu < 0.5


def test_what_is_there_is_skipped_and_more_is_added(trained: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hashes(trained)
    train.run(trained, replace(SETTINGS, alphas=(1e-2, 1e-3), sites="mlp_post", layers="1", kind="untied", ratio=0.5))
    assert before.items() < hashes(trained).items() and len(hashes(trained)) == 6
    monkeypatch.setattr(train, "load_model", lambda *args: pytest.fail("nothing is left to train"))
    train.run(trained, SETTINGS)


def test_the_embedding_is_one_place_whatever_the_layers(store: RunStore) -> None:
    train.run(store, replace(SETTINGS, sites="embed,resid_post", alphas=(1e-4,)))
    store = RunStore.open(store.folder)
    assert [e.id for e in store.dictionaries] == [
        "embed-tied-r2-a1e-4",
        *(f"L{n}-resid_post-tied-r2-a1e-4" for n in (0, 2)),
    ]
    metrics.run(store, MEASURE)
    first = RunStore.open(store.folder).dictionaries[0]
    assert (first.role, first.headline) == ("main", False)
    model, found = load_model(store, "cpu"), load_entry(store, first)
    x = model.hf_model.gpt_neox.embed_in(torch.arange(model.n_tokens))
    fvu = (found.decode(found.encode(x)) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert store.read("metrics", first.id)["fvu"][0] < 0.5 and fvu < 1.5  # words of the text, and those it never met
    with pytest.raises(SpecError, match="nothing named twice"):
        train.run(store, replace(SETTINGS, sites="embed,embed"))


def test_neurons_of_an_mlp_that_is_not_four_times_as_wide(tmp_path: Path) -> None:
    """A gated MLP of 40 in a Llama of width 32: trained on, saved, measured, and in the manifest."""
    rows = ({"text": f"the cat {i} sat in a hat and {i * i} went home at noon"} for i in range(300))
    (tmp_path / "text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tiny_llama_folder(tmp_path / "llama", intermediate_size=40)
    sizes = {"tokens": 1024, "train_tokens": 1024, "metric_tokens": 256, "context": 32, "window": 16}
    args = corpus.Args(str(folder), f"text:{tmp_path / 'text.jsonl'}", device="cpu", **sizes)
    corpus.run(corpus.start(tmp_path / "run", args), args)
    store = RunStore.open(tmp_path / "run")
    assert store.manifest.model["d_mlp"] == 40 and store.manifest.model["d_model"] == 32
    train.run(store, replace(SETTINGS, sites="mlp_post", layers="1", kind="untied", alphas=(1e-4,), tokens=4096))
    metrics.run(store, MEASURE)
    found = load_entry(store, RunStore.open(store.folder).dictionaries[0])
    assert found.W_dec.shape == (80, 40) and store.read("metrics", found.spec.id)["fvu"][0] < 1


def test_other_settings_train_again_and_make_tables_stale(trained: RunStore) -> None:
    metrics.run(trained, MEASURE)
    before, first = hashes(trained), trained.dictionaries[0].id
    train.run(trained, replace(SETTINGS, layers="0", seed=1))
    after = hashes(trained)
    assert {id for id in after if after[id] != before[id]} == {e.id for e in trained.dictionaries[:2]}
    assert trained.table_state("metrics", first) == "stale" and metrics.state(trained) == "stale"


@pytest.mark.parametrize("damage", ["cfg.json", "sae_weights.safetensors"])
def test_a_damaged_folder_is_trained_again(trained: RunStore, damage: str) -> None:
    before, folder = hashes(trained), trained.dictionary_folder(trained.dictionaries[0].id)
    (folder / damage).write_bytes(b"{")
    assert train.state(trained) == "stale"
    train.run(trained, SETTINGS)
    assert hashes(trained) == before and load_dictionary(folder).hash in before.values()
    assert train.state(trained) == "ready"


def test_a_killed_step_ends_with_equal_dictionaries(
    store: RunStore, trained: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, real = hashes(trained), passes.train

    def killed(ensembles, stream, steps, checkpoint, report):
        def stop(step, parts):
            if step == 99:
                raise KeyboardInterrupt

        return real(ensembles, stream, steps, checkpoint, stop, seconds_between=0)

    monkeypatch.setattr(passes, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        train.run(store, SETTINGS)
    assert train.state(store) == "partial" and not store.dictionaries
    monkeypatch.setattr(passes, "train", real)
    train.run(store, SETTINGS)
    assert hashes(store) == whole and train.state(store) == "ready"


def test_metrics_are_measured_once_and_roles_are_chosen(trained: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert metrics.state(trained) == "missing"
    metrics.run(trained, MEASURE)
    store = RunStore.open(trained.folder)
    rows = {e.id: store.read("metrics", e.id).iloc[0] for e in store.dictionaries}
    for entry in store.dictionaries:
        row = rows[entry.id]
        assert row["dictionary"] == entry.id and row["n_features"] == 32 and row["n_tokens"] >= 500
        assert row["perplexity_spliced"] == pytest.approx(np.exp(row["loss_spliced"]), rel=1e-5)
        assert row["train_tokens"] == 32768 and 0 < sum(row["density_hist"]) <= 32
    assert rows["L0-resid_post-tied-r2-a1e-4"]["l0"] > rows["L0-resid_post-tied-r2-a1e-2"]["l0"]
    assert rows["L0-resid_post-tied-r2-a1e-4"]["loss_clean"] == rows["L0-resid_post-tied-r2-a1e-2"]["loss_clean"]
    for layer in (0, 2):
        nearest = min((abs(rows[e.id]["l0"] - 30), e.id) for e in store.dictionaries if e.spec.site.layer == layer)[1]
        assert [e.id for e in store.main_dictionaries if e.spec.site.layer == layer] == [nearest]
        assert store.headline(layer).id == nearest
    assert store.manifest.headline_rule == HEADLINE_RULE and metrics.state(store) == "ready"
    monkeypatch.setattr(metrics, "load_model", lambda *args: pytest.fail("nothing is left to measure"))
    metrics.run(store, MEASURE)


def test_a_missing_row_alone_is_measured(trained: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.run(trained, MEASURE)
    lost = trained.dictionaries[1].id
    before = trained.read("metrics", lost)
    trained.table_path("metrics", lost).unlink()
    assert metrics.state(trained) == "partial"
    measured, real = [], metrics.measure
    monkeypatch.setattr(metrics, "measure", lambda m, d, *rest: measured.extend(d) or real(m, d, *rest))
    metrics.run(trained, MEASURE)
    assert [d.spec.id for d in measured] == [lost]
    assert trained.read("metrics", lost).equals(before)


def entry(site: Site, kind: str, alpha: float, ratio: float = 4.0) -> DictionaryEntry:
    spec = DictionarySpec(site, kind, ratio, alpha)
    return DictionaryEntry(spec.id, spec, 8, "hash")


def test_roles_by_hand() -> None:
    a, b, c = (entry(Site(0), "tied", alpha) for alpha in (1e-4, 1e-3, 1e-2))
    bigger, untied = entry(Site(0), "tied", 1e-3, 8.0), entry(Site(0), "untied", 1e-3)
    mlp, next_layer = entry(Site(0, "mlp_post"), "untied", 1e-3), entry(Site(1), "tied", 1e-3)
    embedding = entry(Site(-1, "embed"), "tied", 1e-3)  # gets tables, but is no layer's headline
    l0 = {a.id: 90.0, b.id: 33.0, c.id: 27.0, bigger.id: 26.0, untied.id: 30.0, mlp.id: 400.0, next_layer.id: 2.0}
    l0 |= {embedding.id: 30.0}
    everything = [embedding, a, b, c, bigger, untied, mlp, next_layer]
    chosen = metrics.assign_roles(everything, l0)
    assert {e.id for e in chosen if e.role == "main"} == {embedding.id, b.id, mlp.id, next_layer.id}
    assert {e.id for e in chosen if e.headline} == {b.id, next_layer.id}
    assert {e.role for e in chosen} == {"main", "sweep"} and metrics.assign_roles(chosen, l0) == chosen
    more = metrics.assign_roles(everything, l0, ("L0-*-r8-*", untied.id))
    assert {e.id for e in more if e.role == "main"} == {embedding.id, b.id, bigger.id, untied.id, mlp.id, next_layer.id}
    assert {e.id for e in more if e.headline} == {b.id, next_layer.id}


def test_the_role_main_goes_to_the_paper_s_form_and_the_ratio_nearest_4() -> None:
    """Each list is of one site; its first dictionary is the one that gets all tables."""
    post, mlp = Site(1), Site(1, "mlp_post")
    k30 = DictionarySpec(post, "batchtopk", 4.0, k=30)
    topk = DictionaryEntry(k30.id, k30, 8, "hash")
    for first, *others in (
        [entry(post, "tied", 1e-3), entry(post, "untied", 1e-3), topk],
        [entry(mlp, "untied", 1e-3, 1.0), entry(mlp, "tied", 1e-3, 4.0)],
        [entry(post, "tied", 1e-3, 2.0), entry(post, "tied", 1e-3, 1.0), entry(post, "tied", 1e-3, 8.0)],
        [topk],
    ):
        l0 = {first.id: 70.0} | {e.id: 30.0 for e in others}
        chosen = metrics.assign_roles([*others, first], l0)
        assert [e.id for e in chosen if e.role == "main"] == [first.id]
        assert [e.id for e in chosen if e.headline] == [first.id] * (first.spec.kind == "tied")


def test_roles_leave_grid_dictionaries_alone() -> None:
    weak, grid = entry(Site(0), "tied", 1e-3), replace(entry(Site(0), "tied", 1e-2), role="grid")
    chosen = metrics.assign_roles([weak, grid], {weak.id: 900.0})
    assert [(e.role, e.headline) for e in chosen] == [("main", True), ("grid", False)]


def test_tables_that_were_asked_for_are_remembered(trained: RunStore) -> None:
    other = "L0-resid_post-tied-r2-a1e-2"
    metrics.run(trained, MEASURE)
    usual = [e.id for e in trained.main_dictionaries]
    assert other not in usual
    metrics.run(trained, replace(MEASURE, tables="L0-*-a1e-2,L2-*-a1e-2"))
    metrics.run(trained, MEASURE)
    found = {e.id for e in RunStore.open(trained.folder).main_dictionaries}
    assert found == {*usual, other, "L2-resid_post-tied-r2-a1e-2"}
    with pytest.raises(SpecError, match="ids or patterns.*'L9-\\*'"):
        metrics.run(trained, replace(MEASURE, tables="L9-*"))
    metrics.run(trained, replace(MEASURE, tables="none"))
    assert [e.id for e in RunStore.open(trained.folder).main_dictionaries] == usual


def test_roles_leave_comparisons_alone() -> None:
    tied, twin = entry(Site(0), "tied", 1e-3), entry(Site(0), "tied", 1e-3)
    twin = replace(twin, spec=replace(twin.spec, variant="seed1"), id="twin", role="baseline")
    pca = replace(entry(Site(0), "pca", 0.0), role="baseline")
    chosen = metrics.assign_roles([tied, twin, pca], {tied.id: 99.0, "twin": 30.0, pca.id: 30.0})
    assert [(e.role, e.headline) for e in chosen] == [("main", True), ("baseline", False), ("baseline", False)]


@pytest.mark.parametrize("kind", ["batchtopk", "jumprelu"])
def test_kinds_of_k_are_trained_and_listed_by_k(trained: RunStore, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, layers="2", kind=kind, ks=(4, 8), decay=0.2, dead_tokens=1000)
    train.run(trained, settings)
    metrics.run(trained, MEASURE)
    ids = [f"L2-resid_post-{kind}-r2-k{k}" for k in (4, 8)]
    assert [e.id for e in trained.dictionaries if e.spec.kind == kind] == ids
    l0 = {id: float(trained.read("metrics", id)["l0"].iloc[0]) for id in ids}
    assert l0 == {id: pytest.approx(k, rel=0.35) for id, k in zip(ids, (4, 8), strict=True)}
    assert {trained.dictionary(id).role for id in ids} == {"sweep"}
    assert not any(trained.dictionary(id).headline for id in ids)
    monkeypatch.setattr(train, "load_model", lambda *args: pytest.fail("nothing is left to train"))
    train.run(trained, settings)


def test_a_variant_is_kept_beside_its_namesake(trained: RunStore) -> None:
    before = hashes(trained)
    train.run(trained, replace(SETTINGS, layers="0", alphas=(1e-2,), variant="seed1", seed=1, tokens=1280))
    twin = trained.dictionary("L0-resid_post-tied-r2-a1e-2-seed1")
    assert before.items() < hashes(trained).items() and twin.role == "baseline" and twin.hash not in before.values()


def test_a_frozen_bias_correction_is_a_setting_of_its_own(trained: RunStore) -> None:
    before = hashes(trained)
    like_the_authors = replace(SETTINGS, layers="0", alphas=(1e-2,), tokens=1280, frozen_bias_correction=True)
    train.run(trained, replace(like_the_authors, variant="published"))
    published = trained.dictionary("L0-resid_post-tied-r2-a1e-2-published")
    assert before.items() < hashes(trained).items() and published.role == "baseline"
    assert read_metadata(trained.dictionary_folder(published.id))["train"]["frozen_bias_correction"] is True
    train.run(trained, replace(like_the_authors, variant="published", frozen_bias_correction=False))
    assert trained.dictionary(published.id).hash != published.hash


def test_a_folder_of_before_there_were_ks_is_not_trained_again(
    trained: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in trained.dictionaries:
        path = trained.dictionary_folder(entry.id) / "cfg.json"
        config = json.loads(path.read_text())
        for key in ("k", "variant"):
            del config["metadata"]["spec"][key]
        for key in ("decay", "aux", "dead_tokens", "frozen_bias_correction"):
            del config["metadata"]["train"][key]
        path.write_text(json.dumps(config))
    monkeypatch.setattr(train, "load_model", lambda *args: pytest.fail("nothing is left to train"))
    train.run(trained, SETTINGS)


def test_metrics_without_dictionaries_is_a_sentence(store: RunStore) -> None:
    with pytest.raises(DictionaryError, match="none in the run"):
        metrics.run(store, MEASURE)


def test_training_before_the_corpus_step_is_a_sentence(tmp_path: Path) -> None:
    spec = RunSpec(ModelSpec("m"), CorpusSpec("miniature"))
    with pytest.raises(RunError, match="precompute corpus"):
        train.run(RunStore.create(tmp_path / "empty", Manifest("empty", spec)), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "7"}, "layers from 0 to 2"),
        ({"layers": "first"}, "layers such as"),
        ({"sites": "resid_pre"}, "a site out of"),
        ({"alphas": ()}, "one or more alphas"),
        ({"alphas": (-1.0,)}, "alphas of 0 or more"),
        ({"alphas": (1.001e-3, 1.002e-3)}, "two significant digits"),
        ({"ratio": 0}, "a ratio above 0"),
        ({"tokens": 10}, "tokens for at least one batch"),
        ({"kind": "topk"}, "one kind out of"),
        ({"kind": "batchtopk", "ks": ()}, "one or more ks"),
        ({"kind": "batchtopk", "ks": (0,)}, "a k of 1 or more"),
        ({"kind": "jumprelu", "ks": (33,)}, "a k of at most 32.*33"),
        ({"variant": "no spaces"}, "a variant of letters"),
        ({"decay": 1.5}, "a decay from 0 to 1"),
        ({"aux": -1.0}, "aux of 0 or more"),
        ({"precision": "fp8"}, "a precision out of"),
    ],
)
def test_bad_settings_are_sentences(store: RunStore, changes: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        train.run(store, replace(SETTINGS, **changes))


def test_auto_takes_a_dictionary_of_any_precision_for_there(trained: RunStore) -> None:
    before = hashes(trained)
    train.run(trained, replace(SETTINGS, precision="auto"))
    assert hashes(trained) == before
    train.run(trained, replace(SETTINGS, precision="auto", alphas=(2e-2,), layers="0", tokens=256))
    new = next(entry for entry in RunStore.open(trained.folder).dictionaries if entry.id not in before)
    assert read_metadata(trained.dictionary_folder(new.id))["precision"] in ("fp32", "bf16")


def test_a_corpus_smaller_than_a_batch_is_a_sentence(store: RunStore) -> None:
    with pytest.raises(CorpusError, match="one batch of 65536"):
        train.run(store, replace(SETTINGS, batch_size=2**16, tokens=2**17))


def test_a_centred_dictionary_is_named_so(store: RunStore) -> None:
    train.run(store, replace(SETTINGS, layers="1", alphas=(1e-2,), tokens=1024, space="centred"))
    (entry,) = RunStore.open(store.folder).dictionaries
    assert entry.id == "L1-resid_post-centred-tied-r2-a1e-2"
    assert load_entry(store, entry).site == Site(1, "resid_post", "centred")


def test_a_site_without_an_exact_meaning_is_refused_before_training(store: RunStore) -> None:
    with pytest.raises(ModelError, match="centred: neurons"):
        train.run(store, replace(SETTINGS, sites="mlp_post", space="centred"))
    assert RunStore.open(store.folder).dictionaries == ()
