"""Specs survive a round trip and refuse what they do not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_core.errors import SpecError
from sae_core.specs import (
    SHORT_NAMES,
    CorpusSpec,
    DictionarySpec,
    ModelSpec,
    RunSpec,
    Site,
    TrainSpec,
    format_alpha,
)


def test_run_spec_round_trip_through_json() -> None:
    spec = RunSpec(ModelSpec("pythia-70m", "step1000"), CorpusSpec.parse("hub:some/data:train:content"))
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_dictionary_id_reads_like_the_contract() -> None:
    spec = DictionarySpec(Site(2), "tied", 4, 8.6e-4)
    assert spec.id == "L2-resid_post-tied-r4-a8.6e-4"
    assert spec.n_features(128) == 512
    assert DictionarySpec(Site(2, "mlp_post"), "untied", 0.5, 0).n_features(512) == 256
    assert DictionarySpec(Site(-1, "embed", "centred"), "tied", 4, 8e-4).id == "embed-centred-tied-r4-a8e-4"
    assert DictionarySpec(Site(2, "mlp_out", "centred"), "untied", 1, 0).id == "L2-mlp_out-centred-untied-r1-a0"


def test_ids_of_other_kinds() -> None:
    assert DictionarySpec(Site(2), "batchtopk", 4, k=30).id == "L2-resid_post-batchtopk-r4-k30"
    assert DictionarySpec(Site(2), "pca", 2).id == "L2-resid_post-pca-r2"
    assert DictionarySpec(Site(2), "pca_topk", 2, k=30).id == "L2-resid_post-pca_topk-r2-k30"
    assert DictionarySpec(Site(2), "tied", 4, 1e-3, variant="seed1").id == "L2-resid_post-tied-r4-a1e-3-seed1"


def test_what_older_runs_wrote_is_read() -> None:
    old = {"site": {"layer": 2, "name": "resid_post", "space": "raw"}, "kind": "tied", "ratio": 4.0, "alpha": 1e-3}
    assert DictionarySpec.from_dict(old) == DictionarySpec(Site(2), "tied", 4.0, 1e-3)


def test_learning_rate_rises_stays_and_falls() -> None:
    spec = TrainSpec(tokens=1000, batch_size=10, lr=2.0, warmup_steps=4, decay=0.2)
    assert [spec.lr_at(step) for step in (1, 4, 5, 80, 81, 91, 100)] == pytest.approx([0.5, 2, 2, 2, 2, 1, 0.1])
    assert TrainSpec(tokens=1000, batch_size=10, lr=2.0, warmup_steps=4).lr_at(100) == 2


@pytest.mark.parametrize(("alpha", "text"), [(8.6e-4, "8.6e-4"), (1e-3, "1e-3"), (0, "0"), (2.68e-3, "2.7e-3")])
def test_alpha_is_written_as_in_the_paper(alpha: float, text: str) -> None:
    assert format_alpha(alpha) == text


@pytest.mark.parametrize("name", ["resid_post", "mlp_out", "mlp_post", "attn_out"])
def test_hook_names_round_trip(name: str) -> None:
    assert Site.from_hook(Site(11, name).hook) == Site(11, name)


def test_the_embedding_is_a_site_in_front_of_the_layers() -> None:
    site = Site.from_hook("blocks.0.hook_resid_pre")
    assert site == Site(-1, "embed") == Site.from_dict({"layer": -1, "name": "embed", "space": "raw"})
    assert site.hook == "blocks.0.hook_resid_pre"
    assert (site.words, site.where, site.short, site.place) == ("embedding", "embedding", "embed", "embed")
    assert (site.title, Site(2, "mlp_out").title) == ("Embedding", "Layer 2 · mlp_out")
    assert Site(2, "mlp_out").words == "layer 2 mlp_out" and Site(2, "mlp_out").place == "L2-mlp_out"
    assert Site(-1, "embed", "centred").stream == site and Site(2, "mlp_post").stream == Site(2)
    assert Site.each([0, 2], "embed") == [site] and Site.each([0, 2], "mlp_out")[1] == Site(2, "mlp_out")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Site(0, "resid_mid"),
        lambda: Site(-1),
        lambda: Site(0, "embed"),
        lambda: Site(-2, "embed"),
        lambda: Site.from_hook("blocks.1.hook_resid_pre"),
        lambda: Site(0, space="whitened"),
        lambda: Site.from_hook("blocks.1.attn.hook_q"),
        lambda: CorpusSpec.parse("text:"),
        lambda: CorpusSpec.parse("webmix.jsonl"),
        lambda: CorpusSpec.parse("hub:x/y:train:text:a:b"),
        lambda: CorpusSpec.parse("hub::train"),
        lambda: ModelSpec.from_dict({"name": "a", "colour": 1}),
        lambda: ModelSpec.from_dict({}),
        lambda: DictionarySpec(Site(0), "batchtopk", 4),
        lambda: DictionarySpec(Site(0), "tied", 4, 1e-3, variant="a/b"),
        lambda: RunSpec(ModelSpec("a"), CorpusSpec("miniature"), context=100, window=64),
        lambda: RunSpec(ModelSpec("a"), CorpusSpec("miniature"), end_of_text="before"),
        lambda: ModelSpec("a", dtype="float64"),
        lambda: ModelSpec.parse("a/b@step3", "step4"),
        lambda: ModelSpec.parse(".", "step4"),
    ],
)
def test_wrong_settings_are_refused_with_a_fix(make) -> None:
    with pytest.raises(SpecError) as caught:
        make()
    assert caught.value.expected and caught.value.found and caught.value.fix


def test_corpus_forms() -> None:
    assert CorpusSpec.parse("text:a.txt,b.jsonl").source == ("a.txt", "b.jsonl")
    assert CorpusSpec.parse("hub:x/y") == CorpusSpec("hub", ("x/y",))
    assert str(CorpusSpec.parse("text:/some/folder/a.txt")) == "text:a.txt"
    pinned = CorpusSpec.parse("hub:x/y@v1:train:content")
    assert pinned == CorpusSpec("hub", ("x/y",), "train", "content", "v1")
    assert CorpusSpec.parse(str(pinned)) == pinned
    one = CorpusSpec.parse("hub:wikitext:::wikitext-103-raw-v1")
    assert one == CorpusSpec("hub", ("wikitext",), config="wikitext-103-raw-v1")
    assert str(one) == "hub:wikitext:train:text:wikitext-103-raw-v1" and CorpusSpec.parse(str(one)) == one
    both = CorpusSpec.parse("hub:x/y@v1:validation:body:20220301.en")
    assert both == CorpusSpec("hub", ("x/y",), "validation", "body", "v1", "20220301.en")
    assert CorpusSpec.parse(str(both)) == both


def test_the_ways_to_write_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len([name for name in SHORT_NAMES if name.startswith("pythia")]) == 20
    for size in ("14m", "1.4b", "12b"):
        for name in (f"pythia-{size}", f"pythia-{size}-deduped"):
            assert ModelSpec.parse(name).name == f"EleutherAI/{name}"
    pinned = ModelSpec("EleutherAI/pythia-70m", "step143000", "auto")
    assert ModelSpec.parse("pythia-70m@step143000") == ModelSpec.parse("EleutherAI/pythia-70m", "step143000") == pinned
    assert ModelSpec.parse("pythia-70m@step3", "step3", "bfloat16") == ModelSpec(pinned.name, "step3", "bfloat16")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pythia-70m").mkdir()
    assert ModelSpec.parse("pythia-70m").name == "pythia-70m"  # a folder of that name comes first


def test_manifests_older_than_a_field_still_read() -> None:
    spec = RunSpec(ModelSpec("a"), CorpusSpec("hub", ("x/y",)))
    old = spec.to_dict()
    del old["end_of_text"], old["skip_first"], old["corpus"]["revision"], old["corpus"]["config"]
    assert RunSpec.from_dict(old) == spec
