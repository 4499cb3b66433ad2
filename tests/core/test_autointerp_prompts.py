"""Prompts, simulators, judges and costs: what is asked, and how replies of all kinds are read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from sae_core.autointerp import detection, explain, prompts
from sae_core.autointerp.client import Reply, Request
from sae_core.autointerp.cost import Use, describe, estimate
from sae_core.autointerp.fragments import Fragments
from sae_core.autointerp.simulate import SIMULATORS, expected_from_chat, expected_from_echo, numbers_from_json

NAMES = np.array([f"␣w{i}" for i in range(20)], dtype=object)


def fragments(activations: list[list[float]]) -> Fragments:
    values = np.array(activations, np.float32)
    return Fragments(np.arange(len(values)), np.arange(values.size).reshape(values.shape) % 20, values)


# ---- explain


def test_the_explainer_sees_tokens_with_numbers_of_the_strongest() -> None:
    request = explain.request("m", fragments([[0, 1.0, 0.55, -2], [0, 4.0, 0, 2.0]]), NAMES, 1.0)
    shown = request.messages[-1][1]
    assert shown == "Passage 1\n␣w0\t0\n␣w1\t2\n␣w2\t1\n␣w3\t0\n\nPassage 2\n␣w4\t0\n␣w5\t10\n␣w6\t0\n␣w7\t5"
    assert request.temperature == 1.0 and request.messages[0][0] == "system"


def test_sparse_passages_list_their_strong_tokens_once_more() -> None:
    shown = explain.request("m", fragments([[0, 0, 0, 1.0, 0, 0, 0.6, 0, 0, 0, 0, 0]]), NAMES, None).messages[-1][1]
    assert shown.endswith("Only the tokens above 0, in the same order\n␣w3\t10\n␣w6\t6")
    assert "Only" not in explain.request("m", fragments([[1.0, 0, 0, 0, 0]]), NAMES, None).messages[-1][1]


def test_passages_without_any_positive_number_can_be_shown() -> None:
    assert "\t10" not in explain.request("m", fragments([[-1.0, 0, -3.0]]), NAMES, None).messages[-1][1]


def test_an_explanation_is_one_line_without_quotes() -> None:
    assert explain.parse(Reply(' "Days of\n the week." ')) == "Days of the week."
    for text in ("", "  ", "...", "\n"):
        with pytest.raises(ValueError):
            explain.parse(Reply(text))


# ---- simulate


def split(text: str, at: dict[int, dict[str, float]]) -> Reply:
    """A reply of one-character tokens; at: alternatives (probabilities) by position."""
    tokens = tuple((c, {t: math.log(p) for t, p in at.get(i, {}).items()}) for i, c in enumerate(text))
    return Reply(text, tokens)


def test_expected_value_over_zero_to_ten() -> None:
    reply = split("1:0\n2:7", {2: {"0": 0.5, "10": 0.25, "the": 0.2}, 6: {"7": 0.9, "8": 0.1, "11": 0.3, "07": 0.2}})
    assert expected_from_chat(reply, 2) == pytest.approx([10 * 0.25 / 0.75, 7.1])


def test_a_number_behind_a_colon_in_one_token() -> None:
    reply = Reply("1:3\n", (("1", {}), (":3", {":3": math.log(0.6), ":5": math.log(0.4), "3": 0.0}), ("\n", {})))
    assert expected_from_chat(reply, 1) == pytest.approx([3.8])


def test_a_ten_taken_apart_by_the_tokenizer() -> None:
    ten = split("1:10", {2: {"1": 0.8, "2": 0.2}, 3: {"0": 0.75, "\n": 0.25}})
    assert expected_from_chat(ten, 1) == pytest.approx([0.6 * 10 + 0.2 * 1 + 0.2 * 2])
    one = split("1:1\n2:0", {2: {"1": 0.8, "2": 0.2}, 3: {"0": 0.25}, 6: {"0": 1.0}})
    assert expected_from_chat(one, 2) == pytest.approx([0.2 * 10 + 0.6 * 1 + 0.2 * 2, 0])
    whole = Reply("1:1\n2:0", (("1:", {}), ("1", {"1": -0.1, "10": -3.0}), ("\n", {}), ("2:", {}), ("0", {"0": 0.0})))
    p = math.exp(-0.1), math.exp(-3.0)
    assert expected_from_chat(whole, 2) == pytest.approx([(p[0] + 10 * p[1]) / sum(p), 0])


@pytest.mark.parametrize(
    "text", ["1:0", "1:0\n3:0", "1:0\n2:", "2:0\n1:0", "1:0\n2:0\n3:0", "I would say 1:0\n2:0", "nothing"]
)
def test_replies_that_do_not_line_up_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        expected_from_chat(split(text, {i: {"0": 1.0} for i in range(len(text))}), 2)


def test_a_number_without_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="no number"):
        expected_from_chat(split("1:0", {2: {"x": 1.0}}), 1)


def test_servers_without_log_probabilities_are_told_apart() -> None:
    for read in (expected_from_chat, expected_from_echo):
        with pytest.raises(ValueError, match="json"):
            read(Reply("1:0"), 1)


def echo(tokens: list[tuple[str, dict[str, float]]]) -> Reply:
    parts = tuple((t, {a: math.log(p) for a, p in others.items()}) for t, others in tokens)
    return Reply("".join(t for t, _ in tokens), parts)


def test_an_echoed_prompt_is_read_at_its_question_marks() -> None:
    reply = echo(
        [("shown\t3\n", {}), ("?", {"9": 1.0}), ("\t", {"1": 1.0}), ("?\n", {"2": 0.5, "4": 0.5, "?": 0.1})]
        + [("␣w\t", {}), ("?", {"x": 0.9}), ("\n", {})]
    )
    assert expected_from_echo(reply, 2).tolist() == pytest.approx([3, 0])
    with pytest.raises(ValueError, match="2 open numbers instead of 3"):
        expected_from_echo(reply, 3)


def test_the_echoed_prompt_asks_for_every_token() -> None:
    request = SIMULATORS["echo"].request("m", "Cats.", ["␣a", "?", "␣cat"], 0.0)
    assert request.prompt.endswith("Responds to: Cats.\n␣a\t?\n?\t?\n␣cat\t?\n") and request.messages == ()
    assert request.prompt.count("\t?") == 3


@pytest.mark.parametrize("way", ["logprobs", "json"])
def test_chat_simulators_count_the_tokens(way: str) -> None:
    request = SIMULATORS[way].request("m", "Cats.", ["␣a", "␣cat"], 0.0)
    assert request.messages[-1] == ("user", "Responds to: Cats.\n1\t␣a\n2\t␣cat")
    assert request.logprobs == (way == "logprobs")
    # The worked example must itself be a reply that is understood.
    example = Reply(request.messages[2][1])
    assert SIMULATORS["json"].parse(example, 5).tolist() == [0, 7, 9, 0, 0] if way == "json" else "2:7" in example.text


def test_numbers_written_out() -> None:
    text = 'Sure!\n```json\n{"1": 0, "2": 10, "3": 2.5}\n```'
    assert numbers_from_json(Reply(text), 3).tolist() == [0, 10, 2.5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"1": 0',
        '{"1": 0, "2": 11}',
        '{"1": 0}',
        '{"1": 0, "2": "3"}',
        '{"1": 0, "2": NaN}',
        '{"1": 0, "2": true}',
    ]
    + ['{"1": 0, "2": 0, "3": 0}', "[0, 0]", '{"1": 0, "2": null}', '{"1": 0, "2": -1}'],
)
def test_numbers_that_cannot_be_used_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        numbers_from_json(Reply(text), 2)


# ---- detection and fuzzing


def test_passages_are_running_text_with_runs_marked() -> None:
    tokens = ["The", "␣cat", "␣sat", "↵", "on"]
    assert prompts.passage(tokens) == "The cat sat↵on"
    assert prompts.passage(tokens, np.array([1, 1, 0, 0, 1], bool)) == "«The cat» sat↵«on»"


def test_fuzzing_marks_what_is_active_and_as_much_of_what_is_not() -> None:
    active = fragments([[0, 1, 1, 0], [2, 0, 0, 0], [0, 0, 0, 3]])
    silent = fragments([[0, 0, 0, 0]] * 3)
    rng = np.random.default_rng(0)
    items = detection.items(active, silent, NAMES, detection.FUZZING, rng)
    true = {item.text for item in items if item.fits}
    assert true == {" w0« w1 w2» w3", "« w4» w5 w6 w7", " w8 w9 w10« w11»"}
    n_marked = [
        sum(part.count("w") for part in item.text.split("«")[1:] for part in [part.split("»")[0]])
        for item in items
        if not item.fits
    ]
    assert sorted(n_marked) == [1, 1, 2]
    plain = detection.items(active, silent, NAMES, detection.DETECTION, rng)
    assert all("«" not in item.text for item in plain) and sum(item.fits for item in plain) == 3


def test_judges_are_asked_five_passages_at_a_time() -> None:
    items = [detection.Item(f"passage {i}", True) for i in range(7)]
    asked = detection.requests("m", "Cats.", items, detection.DETECTION, 0.0)
    assert [request.messages[1][1].count("passage") for request in asked] == [5, 2]
    assert asked[1].messages[1][1] == "Responds to: Cats.\n1\tpassage 5\n2\tpassage 6"
    assert "«" in detection.requests("m", "Cats.", items, detection.FUZZING, 0.0)[0].messages[0][1]


def test_judgements() -> None:
    assert detection.parse(Reply('{"1": 1, "2": 0}'), 2) == [True, False]
    for text in ("yes", '{"1": 1}', '{"1": 1, "2": 2}', '{"1": 1, "2": "no"}', '{"1": 1, "3": 0}', '{"1": [], "2": 1}'):
        with pytest.raises(ValueError):
            detection.parse(Reply(text), 2)


def test_verdicts_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    fits, said = rng.random(40) < 0.5, rng.random(40) < 0.3
    found = detection.verdict(fits, said)
    interval = binomtest(int((fits == said).sum()), 40).proportion_ci(method="wilson")
    assert found.accuracy == (fits == said).mean() and found.n == 40
    assert found.f1 == pytest.approx(f1_score(fits, said))
    assert (found.lower, found.upper) == (interval.low, interval.high)
    assert detection.verdict(np.zeros(4, bool), np.zeros(4, bool)).f1 == 0


# ---- cost


def test_costs_add_up_by_model() -> None:
    asked = [
        (Request("a", (("user", "x" * 26),)), 100),
        (Request("b", prompt="y" * 9), 0),
        (Request("a", prompt="z"), 1),
    ]
    uses = estimate(asked)
    assert uses == [Use("a", 2, 11, 101), Use("b", 1, 3, 0)]
    prices = {"a": (2.0, 10.0), "b": (1.0, 1.0)}
    assert uses[0].price(prices) == pytest.approx((11 * 2 + 101 * 10) / 1e6)
    assert uses[1].price({}) is None


def test_costs_are_described_with_and_without_prices() -> None:
    uses = [Use("a", 2, 1_000_000, 500_000), Use("b", 1, 2_000_000, 0)]
    assert (
        describe(uses, {})
        == "  a: 2 requests, 1,000,000 tokens out, 500,000 back\n  b: 1 requests, 2,000,000 tokens out, 0 back"
    )
    assert describe(uses, {"a": (2, 10), "b": (1, 4)}).endswith("0 back, 2.00\n  together 9.00")
    assert "together" not in describe(uses, {"a": (2, 10)})
    assert "nothing" in describe([], {})


def test_the_request_hash_depends_on_everything_asked() -> None:
    base = Request("m", (("user", "a"),), "", 5, 0.0, False)
    others = [
        Request("n", (("user", "a"),), "", 5, 0.0, False),
        Request("m", (("user", "b"),), "", 5, 0.0, False),
        Request("m", (("system", "a"),), "", 5, 0.0, False),
        Request("m", (("user", "a"),), "p", 5, 0.0, False),
        Request("m", (("user", "a"),), "", 6, 0.0, False),
        Request("m", (("user", "a"),), "", 5, None, False),
        Request("m", (("user", "a"),), "", 5, 0.0, True),
    ]
    assert len({base.key, *(request.key for request in others)}) == 8
    assert base.key == Request(**json.loads(json.dumps(vars(base)))).key
