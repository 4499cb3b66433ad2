"""The client and the stored answers against a real HTTP server that fails in every way a server does."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_core.autointerp.answers import ATTEMPTS, Answers
from sae_core.autointerp.client import BLANKED, Client, Reply, Request, model_names
from sae_core.errors import AnswerError, ServiceError
from tests.chat_server import Exchange, chat, chat_server, echoed
from tests.test_imports import imports, modules

KEY = "sk-a-key-that-nobody-may-see-0123456789"
ASK = Request("m", (("user", "say 4"),), max_tokens=9, temperature=0.0)


def number(reply: Reply) -> int:
    return int(reply.text)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    with chat_server(lambda body: chat("4", [("4", {"4": -0.1, "the": -3.0})])) as exchange:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", exchange.url)
        yield exchange


def test_a_chat_request_and_its_reply(server: Exchange) -> None:
    reply = Client().ask(Request("m", (("system", "s"), ("user", "u")), "", 9, 0.5, logprobs=True))
    assert reply == Reply("4", (("4", {"4": -0.1}),), 7, 5)
    asked = {"model": "m", "temperature": 0.5, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 20}
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert server.asked == [asked | {"messages": messages}]
    assert server.paths == ["/v1/chat/completions"] and server.keys == [KEY]


def test_an_unset_temperature_is_not_sent(server: Exchange) -> None:
    Client().ask(Request("m", (("user", "u"),)))
    assert "temperature" not in server.asked[0] and "logprobs" not in server.asked[0]


def test_an_echoed_prompt(server: Exchange) -> None:
    server.persona = lambda body: echoed([("a", {}), ("\t", {}), ("?", {"3": -0.5, "x": -1.0}), ("\n", {})])
    reply = Client().ask(Request("m", prompt="a\t?\n"))
    assert [token for token, _ in reply.tokens] == ["a", "\t", "?", "\n"]
    assert reply.tokens[2][1] == {"3": -0.5}
    assert server.asked[0] == {"model": "m", "prompt": "a\t?\n", "echo": True, "logprobs": 15, "max_tokens": 1}
    assert server.paths == ["/v1/completions"]


@pytest.mark.parametrize("trouble", ["500", "hang", "half"])
def test_passing_trouble_is_tried_again(server: Exchange, trouble: str) -> None:
    server.trouble.append(trouble)
    assert Client(timeout=0.6).ask(ASK).text == "4"
    assert len(server.asked) == 2


def test_retry_after_is_kept(server: Exchange) -> None:
    server.trouble.append("429")
    started = time.monotonic()
    assert Client().ask(ASK).text == "4"
    assert time.monotonic() - started >= 1.0 and len(server.asked) == 2


@pytest.mark.parametrize("trouble", ["429", "500", "hang", "half", "400"])
def test_lasting_trouble_is_an_answer_error(server: Exchange, trouble: str) -> None:
    server.trouble.extend([trouble] * 2)
    with pytest.raises(AnswerError) as caught:
        Client(timeout=0.5, retries=0).ask(ASK)
    assert "m" in caught.value.expected and KEY not in str(caught.value) and len(server.asked) == 1


@pytest.mark.parametrize("trouble", ["401", "404"])
def test_a_wrong_key_or_model_stops_at_once_and_never_shows_the_key(server: Exchange, trouble: str) -> None:
    server.trouble.append(trouble)
    with pytest.raises(ServiceError) as caught:
        Client().ask(ASK)
    assert not isinstance(caught.value, AnswerError) and len(server.asked) == 1
    assert KEY not in str(caught.value) and BLANKED in str(caught.value)


def test_no_server_is_an_answer_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(AnswerError, match="OPENAI_BASE_URL"):
        Client(retries=0).ask(ASK)


@pytest.mark.parametrize("trouble", ["not json", "other form", "half json"])
def test_a_reply_of_another_form_is_a_value_error(server: Exchange, trouble: str) -> None:
    server.trouble.append(trouble)
    with pytest.raises(ValueError, match="not in OpenAI's form"):
        Client().ask(ASK)


def test_without_a_key_a_sentence_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ServiceError, match="OPENAI_API_KEY"):
        Client()


def test_models_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAE_SIMULATOR_MODEL", raising=False)
    monkeypatch.setenv("SAE_EXPLAINER_MODEL", "big")
    assert model_names() == ("big", "big")
    monkeypatch.setenv("SAE_SIMULATOR_MODEL", "small")
    assert model_names() == ("big", "small")


def test_the_key_reaches_no_file_and_no_log(
    server: Exchange, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """Even from a server that repeats the key in its reply and in its errors, with every logger wide open."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    server.persona = lambda body: chat(f"4 and your key is {KEY}")
    server.trouble.extend(["500", "answer", "401"])
    answers = Answers(tmp_path / "a.jsonl")
    answers.ask(Client(), ASK, lambda reply: reply.text)
    with pytest.raises(ServiceError):
        Client().ask(ASK)
    printed = capfd.readouterr()
    assert caplog.records and server.keys == [KEY] * 3
    assert BLANKED in answers.path.read_text()
    for text in (answers.path.read_text(), caplog.text, printed.out, printed.err):
        assert KEY not in text


def test_a_short_placeholder_key_blanks_nothing(server: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "4")
    assert Client().ask(ASK).text == "4"


# ---- stored answers


def test_an_answer_is_asked_for_once(server: Exchange, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    assert Answers(path).ask(Client(), ASK, number) == 4
    again = Answers(path)
    assert again.ask(Client(), ASK, number) == 4 and len(server.asked) == 1
    assert again.used == {"m": (1, 7, 5)}
    other = Request("m", (("user", "say 5"),), max_tokens=9, temperature=0.0)
    again.ask(Client(), other, number)
    assert len(server.asked) == 2 and len(Answers(path).used) == 1 and Answers(path).used["m"] == (2, 14, 10)


@pytest.mark.parametrize("trouble", ["nonsense", "not json", "other form", "half json"])
def test_unusable_answers_are_asked_for_again_and_not_kept(server: Exchange, tmp_path: Path, trouble: str) -> None:
    server.trouble.append(trouble)
    answers = Answers(tmp_path / "a.jsonl")
    assert answers.ask(Client(), ASK, number) == 4 and len(server.asked) == 2
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_lasting_nonsense_is_given_up(server: Exchange, tmp_path: Path) -> None:
    server.trouble.extend(["nonsense"] * 9)
    with pytest.raises(AnswerError, match="invalid literal"):
        Answers(tmp_path / "a.jsonl").ask(Client(), ASK, number)
    assert len(server.asked) == ATTEMPTS and not (tmp_path / "a.jsonl").exists()


def test_a_line_cut_short_by_a_kill_is_asked_again_and_spoils_nothing(server: Exchange, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first, second, third = (Request("m", (("user", text),)) for text in "abc")
    answers = Answers(path)
    for request in (first, second):
        answers.ask(Client(), request, number)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    cut = Answers(path)
    assert cut.stored(first) and cut.stored(second) is None
    cut.ask(Client(), third, number)
    assert Answers(path).stored(first) and Answers(path).stored(third) == Reply("4", (), 7, 5)


def test_nothing_is_asked_once_closed(server: Exchange, tmp_path: Path) -> None:
    answers = Answers(tmp_path / "a.jsonl")
    answers.ask(Client(), ASK, number)
    answers.close()
    assert answers.ask(Client(), ASK, number) == 4
    with pytest.raises(AnswerError):
        answers.ask(Client(), Request("m", (("user", "more"),)), number)
    assert len(server.asked) == 1


def test_lines_hold_only_hash_model_and_reply(server: Exchange, tmp_path: Path) -> None:
    answers = Answers(tmp_path / "a.jsonl")
    answers.ask(Client(), ASK, number)
    line = json.loads(answers.path.read_text())
    assert set(line) == {"request", "model", "reply"} and len(line["request"]) == 64


def test_only_the_client_imports_openai(repository: Path) -> None:
    users = [path for path in modules(repository) if {n.split(".")[0] for n in imports(path)} & {"openai"}]
    assert [path.relative_to(repository).as_posix() for path in users] == ["sae_core/autointerp/client.py"]
