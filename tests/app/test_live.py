"""The seam to the model, against plain Hugging Face forward passes with hooks, and with many threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from app import live, live_effects, state
from app.live import Edit, Sentence
from sae_core.dictionaries import load_dictionary
from sae_core.errors import FeatureError, InputError
from tests.app.live_run import headline, live_run

TEXT = "the cat's in the hat"
ODD = [
    "😀 naïve 👩‍🔬",
    "שלום עולם",
    "<script>alert('x')</script>",
    "$x$ | *a* `b` _c_",
    "a\x00b\x07c\x1b[0m",
    "   .",
    "\u2028a\u0085b",
]


def sentence(text: str = TEXT) -> Sentence:
    return live.sentences(live_run(), text)[0]


def oracle_logprobs(
    ids: tuple[int, ...], dictionary: str, features: list[int], positions: list[int] | None = None
) -> Tensor:
    """Log-probabilities [t, V] with features removed, through a forward hook on a model loaded apart."""
    run = live_run()
    model = GPTNeoXForCausalLM.from_pretrained(run.folder / "model").eval()
    weights = load_dictionary(run.dictionary_folder(dictionary))
    at = slice(None) if positions is None else positions

    def hook(module: object, inputs: object, output: Tensor | tuple) -> Tensor | tuple:
        resid = output[0] if isinstance(output, tuple) else output
        changed = resid.clone()
        for f in features:
            code = torch.relu(resid[:, at] @ weights.W_enc[:, f] + weights.b_enc[f])
            changed[:, at] -= code[..., None] * weights.W_dec[f]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = model.gpt_neox.layers[weights.site.layer].register_forward_hook(hook)
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    handle.remove()
    return found


# ---- text


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_read_as_typed(text: str) -> None:
    model = state.live_model(live_run())
    found = sentence(text)
    assert model.tokenizer.decode(found.ids) == text
    assert len(found.tokens) == len(found.ids) > 0


def test_one_sentence_a_line_and_marks_for_breaks() -> None:
    lines = live.sentences(live_run(), "one\r\n\n  \nif x:↵⇥y")
    assert [line.text for line in lines] == ["one", "if x:\n\ty"]
    assert live.one_line(live_run(), list(lines[1].ids)) == "if x:↵⇥y"


@pytest.mark.parametrize("text", ["", "  \n \n", "\r\n"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty text box"):
        live.sentences(live_run(), text)


def test_too_long_a_sentence_says_by_how_much() -> None:
    with pytest.raises(InputError, match=r"at most 64 tokens.*70 tokens in sentence 2.*by 6 tokens"):
        live.sentences(live_run(), "ok\n" + "x" * 70)
    assert len(live.sentences(live_run(), "x" * 64)[0].ids) == 64


def test_too_many_sentences_are_refused() -> None:
    with pytest.raises(InputError, match="at most 20 sentences"):
        live.sentences(live_run(), "a\n" * 21)


# ---- edits


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("positions", [(), (2, 5)])
def test_removal_agrees_with_hooks(layer: int, positions: tuple[int, ...]) -> None:
    found = live.outcome(live_run(), sentence(), Edit(headline(layer), (3, 5, 8), positions=positions))
    wanted = oracle_logprobs(found.sentence.ids, headline(layer), [3, 5, 8], list(positions) or None)
    clean = oracle_logprobs(found.sentence.ids, headline(layer), [])
    torch.testing.assert_close(found.effect.edited_logprobs, wanted, atol=2e-4, rtol=1e-4)
    kl = (clean.exp() * (clean - wanted)).sum(-1).numpy()
    np.testing.assert_allclose(found.kl, kl, atol=2e-4, rtol=1e-3)
    chosen = torch.tensor(found.sentence.ids[1:])[:, None]
    losses = [-logprobs[:-1].gather(1, chosen).sum() for logprobs in (clean, wanted)]
    assert found.loss.total == pytest.approx(float(losses[1] - losses[0]), abs=1e-3)
    assert kl.max() > 0.01


def test_an_edit_that_changes_nothing_is_the_clean_run_bit_for_bit() -> None:
    found = live.outcome(live_run(), sentence(), Edit(headline(1), (3, 5), "scale", 1.0))
    assert found.moved_most is None and not found.kl.any()
    assert torch.equal(found.effect.clean_logprobs, found.effect.edited_logprobs)


def test_nothing_moves_before_the_edited_token() -> None:
    found = live.outcome(live_run(), sentence(), Edit(headline(1), tuple(range(64)), "add", 5.0, positions=(4,)))
    assert not found.kl[:4].any() and found.kl[4:].all()


def test_a_feature_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FeatureError, match="0 to 63"):
        live.outcome(live_run(), sentence(), Edit(headline(1), (64,)))


def test_patch_takes_the_codes_of_the_other_sentence() -> None:
    one, other = live.sentences(live_run(), "the cat\nthe hat")[0], sentence("a cats")
    assert len(one.ids) != len(other.ids)
    with pytest.raises(InputError, match="equal token length"):
        live.outcome(live_run(), one, Edit(headline(1), (3,), "patch", source=other))
    every = tuple(range(64))
    same = live.outcome(live_run(), one, Edit(headline(1), every, "patch", source=one))
    assert same.moved_most is None


def test_the_clean_run_of_a_sentence_is_kept() -> None:
    first = live.clean(live_run(), headline(1), sentence("kept cat"))
    assert live.clean(live_run(), headline(1), sentence("kept cat")) is first
    assert live.clean(live_run(), headline(0), sentence("kept cat")) is not first


def test_threads_with_different_edits_give_what_each_gives_alone() -> None:
    run = live_run()
    texts = [sentence(text) for text in ("the cat sat", "in the hat", "a cat's hat", "that cat")]
    jobs = [
        (text, Edit(headline(layer), (f, f + 7), operation, 1.5, keep_error=f % 3 > 0))
        for f, text in enumerate(texts * 3)
        for layer in (0, 1)
        for operation in ("remove", "add")
    ]
    alone = [live.outcome(run, *job).effect.edited_logprobs for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: live.outcome(run, *job).effect.edited_logprobs, jobs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len({tuple(logprobs.flatten()[:50].tolist()) for logprobs in alone}) > len(jobs) / 2


# ---- what pages draw


def test_token_changes_leave_out_padded_rows_and_are_sorted() -> None:
    found = live.outcome(live_run(), sentence(), Edit(headline(1), (3, 5)))
    changes = live_effects.token_changes(live_run(), found, 6)
    assert len(changes) == state.live_model(live_run()).n_tokens < found.clean.logprobs.shape[-1]
    assert changes["change_logprob"].is_monotonic_increasing
    shown = live_effects.most_changed(changes, 4)
    assert (shown["change_logprob"][:4] > 0).all() and (shown["change_logprob"][4:] < 0).all() and len(shown) == 8


def test_most_changed_of_few_rows_has_no_overlap() -> None:
    found = live.outcome(live_run(), sentence(), Edit(headline(1), (3,)))
    few = live_effects.token_changes(live_run(), found, 6).head(3)
    assert len(live_effects.most_changed(few, 4)) == 3


def test_dose_response_meets_the_clean_run_and_the_removal() -> None:
    edit = Edit(headline(1), (3, 5))
    found = live.outcome(live_run(), sentence(), edit)
    position = found.moved_most
    frame = live_effects.dose_response(live_run(), sentence(), edit, position, 20).set_index("strength")
    assert len(frame) == 17 and frame.loc[1.0, "kl"] == pytest.approx(0, abs=1e-6)
    assert frame.loc[0.0, "kl"] == pytest.approx(found.kl[position], abs=1e-5)
    assert frame.loc[0.0, "logprob"] == pytest.approx(float(found.effect.edited_logprobs[position, 20]), abs=1e-5)


def test_downstream_lists_only_later_layers() -> None:
    found = live.outcome(live_run(), sentence(), Edit(headline(1), (3, 5)))
    frame = live_effects.downstream(live_run(), found)
    assert set(frame["dictionary"]) == {headline(2)} and (frame["change"] != 0).all()
    last = live.outcome(live_run(), sentence(), Edit(headline(2), (3, 5)))
    assert live_effects.downstream(live_run(), last).empty


def test_greedy_continuation_is_the_argmax_of_full_passes() -> None:
    run, start = live_run(), sentence()
    model = GPTNeoXForCausalLM.from_pretrained(run.folder / "model").eval()
    n_tokens, ids = state.live_model(run).n_tokens, list(start.ids)
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1, :n_tokens].argmax()))
    clean, edited = live_effects.continuations(run, start, Edit(headline(1), (3,), "scale", 1.0), 6, 0.0, 0)
    assert clean == edited == [live.vocabulary(run)[i] for i in ids[len(start.ids) :]]


def test_tokens_to_follow_begin_with_the_one_that_came_next_and_hold_the_one_asked_for() -> None:
    found = live.outcome(live_run(), sentence(), Edit(headline(1), (3, 5)))
    changes = live_effects.token_changes(live_run(), found, 2)
    options = live_effects.tokens_to_follow(changes, sentence(), 2, "77")
    assert next(iter(options)) == sentence().ids[3] and 77 in options
    assert "nonsense" not in map(str, live_effects.tokens_to_follow(changes, sentence(), 2, "nonsense"))


def test_loss_table_has_a_row_a_sentence() -> None:
    lines = live.sentences(live_run(), "the cat sat\nin the hat")
    edit = Edit(headline(1), (3, 5))
    frame = live_effects.loss_table(live_run(), lines, edit)
    wanted = [live.outcome(live_run(), line, edit).loss.total for line in lines]
    assert frame["loss_change"].tolist() == pytest.approx(wanted)
    assert frame["tokens"].tolist() == [len(line.ids) for line in lines]


def test_reproduction_names_the_run_and_compiles() -> None:
    script = live_effects.reproduction(live_run(), sentence(), Edit(headline(1), (3,), "scale", 0.5, (1, 2)))
    compile(script, "reproduction.py", "exec")
    assert str(live_run().dictionary_folder(headline(1)).resolve()) in script and "(3, 'scale', 0.5, (1, 2))" in script
