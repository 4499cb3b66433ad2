"""Training a small Pythia: the token stream, kill and resume, what is saved; and the measurements on fake models."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from precompute.miniature import NAMES, measure, stream, tokenizer_sample, train
from precompute.miniature.measure import CLOSER, Probe, closing_positions, wilson
from sae_core.documents import is_held_out
from sae_core.errors import CorpusError, ModelError, RunError, SpecError
from sae_core.language_model import load_language_model
from sae_core.specs import CorpusSpec, ModelSpec
from sae_core.tokens import token_bytes

TEXTS = [f"Mary number {i} gave the old lamp to John, and John's cat {i * 7} slept.\n" * 3 for i in range(60)]

VOCABULARY, VOCABULARY_CHARS = 2500, 600_000


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def args(tmp_path, text) -> train.Args:
    """6 steps of repeats, then 24 of 256 tokens of text, a quarter of them repeats: about one and a half rounds."""
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 2, "context": 64, "vocab": 300, "batch_tokens": 256}
    return train.Args(
        f"text:{text}", tmp_path / "model", tokens=24 * 192, primer=6, repeats=0.25, device="cpu", **sizes
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return GPTNeoXForCausalLM.from_pretrained(folder).state_dict()


def interrupt_after(steps: int, monkeypatch) -> None:
    plain = train.Trainer._step

    def step(self):
        if self.step == steps:
            raise KeyboardInterrupt
        return plain(self)

    monkeypatch.setattr(train.Trainer, "_step", step)


# ---- the whole command


def test_an_ordinary_hugging_face_folder_that_has_learnt_something(args):
    assert train.run(replace(args, tokens=60 * 192)) == args.out
    names = {path.name for path in args.out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"} <= names
    report = json.loads((args.out / "training.json").read_text(encoding="utf-8"))
    assert report["tokens"] == 60 * 192 and len(report["loss"]) == 66
    assert report["loss"][0]["loss"] == pytest.approx(math.log(300), abs=0.7)
    assert report["loss"][-1]["loss"] < 0.7 * report["loss"][0]["loss"]
    model = load_language_model(ModelSpec(str(args.out)), "cpu")
    assert (model.d_model, model.n_layers, model.n_ctx, model.d_vocab, model.n_tokens) == (32, 2, 64, 300, 300)
    config = model.config
    assert config.use_parallel_residual and not config.tie_word_embeddings
    assert all(weight.dtype == torch.float16 for weight in weights(args.out).values())
    assert not args.out.with_name("model.checkpoint").exists()


@pytest.mark.parametrize("steps", [4, 10, 22, 28])  # repeats, short contexts, whole ones, the second round of the text
def test_killed_and_resumed_equals_uninterrupted(args, steps, monkeypatch, tmp_path):
    whole = replace(args, out=tmp_path / "whole")
    train.run(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(steps, patch)
        train.run(replace(args, checkpoint_seconds=0))
    assert not args.out.exists()
    train.run(replace(args, resume=True))
    first, second = weights(whole.out), weights(args.out)
    assert all(torch.equal(first[name], second[name]) for name in first)
    curves = [json.loads((f / "training.json").read_text())["loss"] for f in (whole.out, args.out)]
    assert curves[0] == curves[1]


def test_checkpoints_are_neither_lost_nor_mistaken(args, monkeypatch):
    with pytest.raises(RunError, match="without --resume"):
        train.run(replace(args, resume=True))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(3, patch)
        train.run(replace(args, checkpoint_seconds=0))
    with pytest.raises(RunError, match="--resume, or delete"):
        train.run(args)
    with pytest.raises(SpecError, match="settings of the checkpoint"):
        train.run(replace(args, resume=True, lr=1e-2))
    train.run(replace(args, resume=True, checkpoint_seconds=99))


def test_bad_settings(args, tmp_path):
    with pytest.raises(SpecError, match="n_heads that divide"):
        train.run(replace(args, n_heads=3))
    with pytest.raises(ModelError, match="a device of this machine"):
        train.run(replace(args, device="abacus"))
    with pytest.raises(CorpusError, match="no file"):
        train.run(replace(args, corpus="text:gone.txt"))
    held_out = next(f"document {i}" for i in range(99) if is_held_out(f"document {i}"))
    (tmp_path / "one.txt").write_text(held_out, encoding="utf-8")
    with pytest.raises(CorpusError, match="only held-out"):
        train.run(replace(args, corpus=f"text:{tmp_path / 'one.txt'}"))


# ---- the stream


def test_the_stream_is_the_documents_joined_whatever_the_batches(text):
    numbered = stream.numbered_text(CorpusSpec.parse(f"text:{text}"), seed=1, n_chars=10**6)
    tokenizer = stream.train_tokenizer(TEXTS, 300)
    n = 3 * numbered.n
    joined = [i for k in range(n) for i in [*tokenizer(numbered.get(k))["input_ids"], tokenizer.eos_token_id]]
    tokens = stream.TokenStream(numbered, tokenizer)
    at = 0
    for rows, context in ((4, 16), (2, 32), (100, 16), (1, 8)):
        inputs, targets = tokens.take(rows, context)
        assert inputs.shape == targets.shape == (rows, context)
        assert inputs.flatten().tolist() == joined[at : at + rows * context]
        assert targets.flatten().tolist() == joined[at + 1 : at + 1 + rows * context]
        at += rows * context
    assert tokenizer.eos_token_id == 0 and not numbered.get(0).startswith(" ")


def test_a_finite_corpus_goes_round_in_another_order_and_never_shows_held_out_text(text):
    numbered = stream.numbered_text(CorpusSpec.parse(f"text:{text}"), seed=1, n_chars=10**6)
    kept = sorted(t for t in TEXTS if not is_held_out(t))
    assert numbered.n == len(kept) < len(TEXTS)
    rounds = [[numbered.get(k * numbered.n + i) for i in range(numbered.n)] for k in range(3)]
    assert all(sorted(some) == kept for some in rounds)
    assert rounds[0] != rounds[1] != rounds[2] != rounds[0]


def test_the_miniature_never_shows_held_out_text():
    numbered = stream.numbered_text(CorpusSpec("miniature"), seed=0, n_chars=0)
    shown = [numbered.get(i) for i in range(200)]
    assert 5 < shown.count("") < 50 and not any(map(is_held_out, filter(None, shown)))


def test_repeated_tokens_repeat():
    inputs, targets = stream.repeated_tokens(rows=50, context=48, n_tokens=1000, seed=3)
    assert inputs.shape == targets.shape == (50, 48) and torch.equal(inputs[:, 1:], targets[:, :-1])
    assert 1 <= inputs.min() and inputs.max() <= 999
    again = [foretold(row) for row in inputs.tolist()]
    assert 0.4 < sum(map(sum, again)) / (50 * 48) < 0.62  # of 2 or 3 equal parts all but the first, less the cut ones
    assert torch.equal(inputs, stream.repeated_tokens(50, 48, 1000, seed=3)[0])
    assert not torch.equal(inputs, stream.repeated_tokens(50, 48, 1000, seed=4)[0])
    assert stream.repeated_tokens(0, 48, 1000, seed=3)[0].shape == (0, 48)


def foretold(row: list[int]) -> list[bool]:
    """Where the token is the one that followed the previous one the last time."""
    follower: dict[int, int] = {}
    found = [False]
    for before, token in zip(row, row[1:], strict=False):
        found.append(follower.get(before) == token)
        follower[before] = token
    return found


def test_primer_text_and_the_share_of_repeats(args, text):
    tokenizer = stream.train_tokenizer(TEXTS, 300)
    tokens = stream.TokenStream(stream.numbered_text(CorpusSpec.parse(f"text:{text}"), 0, 10**6), tokenizer)
    trainer = train.Trainer(replace(args, primer=10, tokens=10 * 192), tokens, Path("unused"))
    assert trainer.steps == 20
    shapes, largest = [], []
    for trainer.step in range(20):
        inputs, _ = trainer._batch()
        shapes.append(tuple(inputs.shape))
        largest.append(int(inputs.max()))
    # Few tokens, then all; short rows first; and text whose last quarter of rows is repeats.
    assert max(largest[:3]) < train.PRIMER_TOKENS <= max(largest[3:10])
    assert shapes == [(8, 32)] * 16 + [(4, 64)] * 4
    assert len(tokens.rest) and tokens.position == stream.DOCUMENTS_PER_BLOCK
    assert sum(foretold(inputs[-1].tolist())) > 20


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    rates = [train.learning_rate(step, 1000, 1e-3, 0.1) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and max(rates) == rates[99] == pytest.approx(1e-3)
    assert rates[99:] == sorted(rates[99:], reverse=True) and rates[-1] == pytest.approx(1e-4, rel=1e-3)


def test_initial_weights_are_pythias():
    model = train.new_model(train.Args(d_model=64, n_layers=4), 500, 0)
    small, writes = math.sqrt(2 / (5 * 64)), 2 / (4 * math.sqrt(64))
    layer = model.gpt_neox.layers[1]
    for weight in (model.lm_head.weight, layer.mlp.dense_h_to_4h.weight, layer.attention.query_key_value.weight):
        assert weight.std().item() == pytest.approx(small, rel=0.05)
    for weight in (layer.attention.dense.weight, layer.mlp.dense_4h_to_h.weight):
        assert weight.std().item() == pytest.approx(writes, rel=0.05)
    assert not layer.mlp.dense_4h_to_h.bias.any()


# ---- measurements


class Fake:
    """A stand-in for a model: logits from a function of one row of ids."""

    config = SimpleNamespace(max_position_embeddings=256)

    def __init__(self, logits: Callable[[list[int]], torch.Tensor]) -> None:
        self.logits = logits

    def __call__(self, ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.stack([self.logits(row) for row in ids.tolist()]))


@pytest.fixture(scope="module")
def tokenizer():
    return stream.train_tokenizer(tokenizer_sample(0, VOCABULARY_CHARS), VOCABULARY)


def probe(tokenizer, logits: Callable[[list[int]], torch.Tensor]) -> Probe:
    texts = [token_bytes(p).decode("utf-8", "replace") for p in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    return Probe(Fake(logits), tokenizer, tuple("" if "\ufffd" in t else t for t in texts))


def prefers(times: int, tokenizer) -> Callable[[list[int]], torch.Tensor]:
    """At every position, logit 9 for the first names that the row holds exactly so often."""
    single = {name: ids[0] for name in NAMES if len(ids := tokenizer(f" {name}")["input_ids"]) == 1}

    def logits(row: list[int]) -> torch.Tensor:
        words = re.findall(r"[A-Za-z]+", tokenizer.decode(row, skip_special_tokens=True))
        found = torch.zeros(len(row), len(tokenizer))
        found[:, [i for name, i in single.items() if words.count(name) == times]] = 9.0
        return found

    return logits


def test_indirect_object_tells_the_two_names_apart(tokenizer):
    # The indirect object is named once and the subject twice: one fake gets all prompts right, the other none.
    right = measure.indirect_object(probe(tokenizer, prefers(1, tokenizer)), 60, seed=0)
    wrong = measure.indirect_object(probe(tokenizer, prefers(2, tokenizer)), 60, seed=0)
    assert (right["n"], right["hits"], wrong["hits"]) == (60, 60, 0)
    assert set(right["by_order"]) == {"ABBA", "BABA"} and right["names"] >= 60


def test_names_that_are_not_tokens_are_an_error():
    letters = stream.train_tokenizer(["nothing here"], 270)
    with pytest.raises(ModelError, match="single tokens"):
        measure.indirect_object(probe(letters, prefers(1, letters)), 5, seed=0)


def test_induction_ratio_of_a_copier_and_of_a_uniform_guess(tokenizer):
    size = len(tokenizer)

    def copier(row: list[int]) -> torch.Tensor:
        logits = torch.zeros(len(row), size)
        for t, token in enumerate(row):
            for earlier in range(t):
                if row[earlier] == token:
                    logits[t, row[earlier + 1]] = 20.0
        return logits

    copied = measure.induction(probe(tokenizer, copier), 8, seed=0)
    uniform = measure.induction(probe(tokenizer, lambda row: torch.zeros(len(row), size)), 8, seed=0)
    for name in ("words", "all"):
        # The first repeated token follows the first half's end, so it alone cannot be copied.
        assert copied[name]["ratio"] < 0.1
        assert uniform[name]["first_half_nats"] == pytest.approx(math.log(size), abs=1e-3)
        assert uniform[name]["ratio"] == pytest.approx(1)
    assert copied["words"]["tokens_to_draw_from"] < copied["all"]["tokens_to_draw_from"]


def closing_by_hand(text: str) -> str:
    return "".join("^" if i in closing_positions(text) else "." for i in range(len(text)))


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("f(a[1], {b})", ".....^....^^"),
        ("1) (x)", ".....^"),
        ("(]) x", "..^.."),
        ('"a" "b"', "..^...^"),
        ("\u201ca\u201d b\u201d", "..^..."),
        ('("a")', "...^^"),
    ],
)
def test_closing_positions(text, marks):
    assert closing_by_hand(text) == marks


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (")", ")"), ("),", ")"), (" )", ")"), ("\n    }", "}"), (".]", "]"), ("?\u201d", "\u201d"),
        ('."', '"'), ('",', '"'), ('")', '"'),
        (' "', None), ('("', None), ("()", None), ("\u201c", None), ("a)", None), (".", None), ("", None),
    ],
)  # fmt: skip
def test_which_tokens_close(token, kind):
    match = CLOSER.match(token)
    assert (match and match.group(match.lastindex)) == kind


def test_closers_and_loss_on_documents(tokenizer):
    size = len(tokenizer)
    closers = measure.Closers(probe(tokenizer, prefers(1, tokenizer)).texts)
    favoured = closers.members[")"]

    def always_round(row: list[int]) -> torch.Tensor:
        logits = torch.zeros(len(row), size)
        logits[:, favoured] = 3.0
        return logits

    documents = [
        SimpleNamespace(text='He (the one) said "yes" to [a] and (b).', register="one"),
        SimpleNamespace(text="No closers in here at all", register="two"),
    ]
    found = measure.held_out_documents(probe(tokenizer, always_round), documents)
    assert (found["brackets"]["n"], found["brackets"]["hits"]) == (3, 2)
    assert found["brackets"]["by_kind"]["]"]["hits"] == 0
    assert found["brackets"]["commonest"] == pytest.approx(2 / 3, abs=1e-4)
    assert (found["quotes"]["n"], found["quotes"]["hits"]) == (1, 0)
    per_token = math.log(size - len(favoured) + len(favoured) * math.exp(3))
    n = len(tokenizer(documents[1].text)["input_ids"])
    second = found["loss"]["by_register"]["two"]
    assert second["nats"] == pytest.approx(per_token, abs=1e-3) and (second["tokens"], second["documents"]) == (n, 1)


def test_wilson_interval():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(950, 1000) == pytest.approx((0.9347, 0.9618), abs=1e-4)


def test_measuring_what_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="precompute miniature"):
        measure.measure(tmp_path)


def test_the_command_writes_what_it_measures(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(train, "train_tokenizer", lambda *_: tokenizer)  # made once for this file
    args = train.Args("miniature", tmp_path / "model", tokens=4 * 512, device="cpu", d_model=32, n_layers=1, n_heads=2,
                      primer=2, context=64, batch_tokens=512)  # fmt: skip
    train.run(args)
    measure.run(measure.Args(args.out, prompts=12, documents=12, sequences=4))
    found = json.loads((args.out / "measurements.json").read_text(encoding="utf-8"))
    assert found["indirect_object"]["n"] == 12 and found["loss"]["documents"] == 12
    # Hardly trained: near a uniform guess, and far from any of the goals.
    assert found["loss"]["nats"] == pytest.approx(math.log(VOCABULARY), rel=0.15)
    assert found["induction"]["words"]["ratio"] > 0.9
    assert len(AutoTokenizer.from_pretrained(args.out)) == VOCABULARY
