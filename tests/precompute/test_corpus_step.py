"""The step `corpus`: what it writes, that it continues after a kill, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from precompute import corpus
from sae_core.corpus import load_windows
from sae_core.documents import is_held_out
from sae_core.errors import CorpusError, ModelError, RunError, SpecError
from sae_core.store import RunStore
from sae_core.tokens import readable, token_bytes
from tests.tiny_model import tiny_model_folder, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    rows = [{"text": f"the cat {i} sat in a hat and that's the end 🙂\n"} for i in range(600)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def args(model, text) -> corpus.Args:
    sizes = {"tokens": 4000, "train_tokens": 6000, "metric_tokens": 600, "context": 64, "window": 16}
    return corpus.Args(str(model), f"text:{text}", device="cpu", **sizes)


def made(folder: Path, args: corpus.Args) -> RunStore:
    corpus.run(corpus.start(folder, args), args)
    return RunStore.open(folder)


def test_facts_in_the_manifest(tmp_path, args, model):
    store = made(tmp_path / "run", args)
    facts = store.manifest.corpus
    assert (facts["n_train_tokens"], facts["n_held_out_tokens"]) == (6000 // 64 * 64, 600 // 64 * 64)
    assert facts["hash"] == load_windows(store.folder, "train").hash
    sizes = {"d_model": 32, "d_mlp": 128, "n_layers": 3, "n_heads": 4, "n_ctx": 64, "d_vocab": 276, "n_tokens": 265}
    found = store.manifest.model
    assert {k: found[k] for k in sizes} == sizes
    assert found["name"] == str(model) and len(found["hash"]) == 64
    assert not store.manifest.miniature and store.manifest.spec.table_tokens == 4000
    assert corpus.state(store) == "ready"


def test_vocabulary_counts_the_table_tokens(tmp_path, args):
    store = made(tmp_path / "run", args)
    tokens = load_windows(store.folder, "train").tokens.reshape(-1)[: 4000 // 64 * 64]
    counts = Counter(tokens.tolist())
    vocabulary = store.read("vocabulary")
    assert dict(zip(vocabulary.token_id, vocabulary["count"], strict=True)) == {i: counts[i] for i in range(265)}
    tokenizer = tiny_tokenizer()
    pieces = tokenizer.convert_ids_to_tokens(list(range(265)))
    assert store.vocabulary().tolist() == [readable(token_bytes(piece)) for piece in pieces]


def test_ready_is_skipped_and_more_tokens_are_added(tmp_path, args, monkeypatch):
    store = made(tmp_path / "run", args)
    before = store.manifest
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "load_model", lambda *a: pytest.fail("the model was loaded for nothing"))
        assert made(tmp_path / "run", args).manifest == before
    more = made(tmp_path / "run", replace(args, train_tokens=8000))
    assert more.manifest.corpus["n_train_tokens"] == 8000
    assert more.manifest.corpus["hash"] != before.corpus["hash"]
    assert corpus.state(more) == "ready"


@pytest.mark.parametrize("killed_in", ["tokenise_to", "vocabulary_frame"])
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, args, monkeypatch, killed_in):
    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(corpus, killed_in, kill)
        made(tmp_path / "run", args)
    store = RunStore.open(tmp_path / "run")
    assert corpus.state(store) == {"tokenise_to": "missing", "vocabulary_frame": "partial"}[killed_in]
    resumed, whole = made(tmp_path / "run", args), made(tmp_path / "whole", args)
    assert resumed.manifest.corpus["hash"] == whole.manifest.corpus["hash"]
    assert resumed.read("vocabulary").equals(whole.read("vocabulary"))
    assert corpus.state(resumed) == "ready"


def test_windows_that_are_not_the_manifest_s_are_made_again(tmp_path, args):
    store = made(tmp_path / "run", args)
    other = made(tmp_path / "other", replace(args, train_tokens=5000, tokens=5000))
    for file in (other.folder / "corpus").iterdir():
        (store.folder / "corpus" / file.name).write_bytes(file.read_bytes())
    assert corpus.state(store) == "missing"
    assert load_windows(made(tmp_path / "run", args).folder, "train").hash == store.manifest.corpus["hash"]


def test_a_shipped_model_travels_and_leaves_no_path(tmp_path, args, model):
    args = replace(args, ship_model=True)
    store = made(tmp_path / "run", args)
    assert store.manifest.spec.model.name == store.manifest.model["name"] == "tiny"
    assert str(model) not in (store.folder / "manifest.json").read_text(encoding="utf-8")
    moved = tmp_path / "moved"
    store.folder.rename(moved)
    assert corpus.load_model(RunStore.open(moved), "cpu").hash == store.manifest.model["hash"]
    assert (moved / "model" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_the_miniature_brings_labels_and_registers(tmp_path, args):
    store = made(tmp_path / "run", replace(args, corpus="miniature", metric_tokens=6000))
    assert store.manifest.miniature and {"register", "bracket_depth"} <= set(store.manifest.corpus["factors"])
    windows = load_windows(store.folder, "held_out")
    labels = windows.labels([0])
    register = windows.sources(windows.documents[0, 0])
    assert labels["register"][0, 0] == register in store.manifest.corpus["sources"]
    whole = tiny_tokenizer().decode(windows.tokens.reshape(-1).tolist()).split("<|endoftext|>")[:-1]
    assert len(whole) > 2 and all(map(is_held_out, whole))


def test_other_settings_are_refused(tmp_path, args):
    made(tmp_path / "run", args)
    with pytest.raises(RunError, match="table_tokens 3000 instead of 4000"):
        corpus.start(tmp_path / "run", replace(args, tokens=3000))


def test_bad_input(tmp_path, args):
    with pytest.raises(SpecError, match="at most 64 tokens"):
        made(tmp_path / "long", replace(args, context=128))
    with pytest.raises(CorpusError, match="no file"):
        made(tmp_path / "gone", replace(args, corpus="text:gone.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no config.json"):
        made(tmp_path / "ship", replace(args, model=str(tmp_path / "empty"), ship_model=True))
    assert not (tmp_path / "gone" / "corpus").exists()


def test_how_it_was_loaded_is_stored(tmp_path, args):
    store = made(tmp_path / "run", args)
    facts = store.manifest.model
    assert (facts["architecture"], facts["dtype"], facts["device"]) == ("gpt_neox", "float32", "cpu")
    assert store.manifest.spec.model.dtype == "auto" and store.model_spec.dtype == "float32"
    assert "commit" not in facts and store.model_spec.revision is None
    half = made(tmp_path / "half", replace(args, dtype="bfloat16"))
    assert half.manifest.model["dtype"] == "bfloat16" and half.manifest.model["hash"] != facts["hash"]
    corpus.start(tmp_path / "half", args)  # auto: what the run began with
    with pytest.raises(RunError, match="bfloat16"):
        corpus.start(tmp_path / "half", replace(args, dtype="float32"))


def test_choices_about_the_text_are_stored(tmp_path, args):
    store = made(tmp_path / "run", replace(args, end_of_text="none", skip_first=True))
    assert (store.manifest.spec.end_of_text, store.manifest.spec.first) == ("none", 1)
    tokens = load_windows(store.folder, "train").tokens
    assert not (tokens == tiny_tokenizer().eos_token_id).any()
    counted = tokens.reshape(-1)[: 4000 // 64 * 64].reshape(-1, 64)[:, 1:]
    assert store.read("vocabulary")["count"].sum() == counted.size
    with pytest.raises(RunError, match="skip_first False instead of True"):
        corpus.start(tmp_path / "run", replace(args, end_of_text="none"))
