"""Specs survive a round trip and refuse what they do not know."""

from __future__ import annotations

import json

import pytest

from sae_core.errors import SpecError
from sae_core.specs import CorpusSpec, DictionarySpec, ModelSpec, RunSpec, Site, format_alpha


def test_run_spec_round_trip_through_json() -> None:
    spec = RunSpec(ModelSpec("pythia-70m", "step1000"), CorpusSpec.parse("hub:some/data:train:content"))
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_dictionary_id_reads_like_the_contract() -> None:
    spec = DictionarySpec(Site(2), "tied", 4, 8.6e-4)
    assert spec.id == "L2-resid_post-tied-r4-a8.6e-4"
    assert spec.n_features(128) == 512
    assert DictionarySpec(Site(2, "mlp_post"), "untied", 0.5, 0).n_features(128) == 256
    assert DictionarySpec(Site(2, "mlp_out", "centred"), "untied", 1, 0).id == "L2-mlp_out-centred-untied-r1-a0"


@pytest.mark.parametrize(("alpha", "text"), [(8.6e-4, "8.6e-4"), (1e-3, "1e-3"), (0, "0"), (2.68e-3, "2.7e-3")])
def test_alpha_is_written_as_in_the_paper(alpha: float, text: str) -> None:
    assert format_alpha(alpha) == text


@pytest.mark.parametrize("name", ["resid_post", "mlp_out", "mlp_post", "attn_out"])
def test_hook_names_round_trip(name: str) -> None:
    assert Site.from_hook(Site(11, name).hook) == Site(11, name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Site(0, "resid_mid"),
        lambda: Site(-1),
        lambda: Site(0, space="whitened"),
        lambda: Site.from_hook("blocks.1.attn.hook_q"),
        lambda: CorpusSpec.parse("text:"),
        lambda: CorpusSpec.parse("webmix.jsonl"),
        lambda: ModelSpec.from_dict({"name": "a", "colour": 1}),
        lambda: ModelSpec.from_dict({}),
        lambda: RunSpec(ModelSpec("a"), CorpusSpec("miniature"), context=100, window=64),
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
