"""Known factors of the miniature corpus: labels against regular expressions, brute-force counts and hand-made cases."""

from __future__ import annotations

import re
from random import Random

import pytest

from precompute.miniature import FACTORS, Document, documents, token_labels
from precompute.miniature.documents import write

DATE = re.compile(r"\d{4}|\d{4}-\d\d-\d\d|([A-Z][a-z]+day, )?\d{1,2} [A-Z][a-z]+( \d{4})?|[A-Z][a-z]+ \d{1,2}, \d{4}")


def offsets_of(text: str) -> list[tuple[int, int]]:
    """Tokens as a byte-level BPE cuts them: a word or a run of signs with the space before it, or white space."""
    return [match.span() for match in re.finditer(r" ?\w+| ?[^\w\s]|\s+(?!\S)|\s", text)]


def labelled(text: str, register: str = "story") -> tuple[list[str], dict[str, list[str]]]:
    offsets = offsets_of(text)
    return [text[a:b] for a, b in offsets], token_labels(Document(text, register, ()), offsets)


def where(tokens: list[str], values: list[str]) -> list[tuple[str, str]]:
    return [(token.strip(), value) for token, value in zip(tokens, values, strict=True) if value]


@pytest.fixture(scope="module")
def sample():
    return [document for document, _ in zip(documents(23), range(250), strict=False)]


def test_one_value_per_token_for_every_factor(sample):
    for document in sample[:60]:
        offsets = offsets_of(document.text)
        labels = token_labels(document, offsets)
        assert labels.keys() == FACTORS.keys()
        assert all(len(values) == len(offsets) for values in labels.values())


def test_every_factor_occurs(sample):
    seen = {factor: set() for factor in FACTORS}
    for document in sample:
        for factor, values in token_labels(document, offsets_of(document.text)).items():
            seen[factor] |= set(values)
    assert all(len(values - {""}) >= 1 for values in seen.values())
    assert {"'s", "'t", "'re", "'ve", "'ll", "'d", "'m"} == seen["contraction"] - {""}
    assert {"new", "giver", "receiver", "subject_repeated", "other"} <= seen["name_role"]
    assert {"prose", "code", "list", "markup"} == seen["line_kind"]


def test_recorded_spans_hold_what_they_say(sample):
    for span, text in ((span, document.text[span.start : span.end]) for document in sample for span in document.spans):
        assert text and text == text.strip()
        if span.factor == "date":
            assert DATE.fullmatch(text)
        if span.factor == "acronym":
            assert re.fullmatch(r"[A-Z]{3}", text)
        if span.factor == "name_role":
            assert re.fullmatch(r"[A-Z][a-z]+", text)
        if span.factor == "url":
            assert ("@" in text) == (span.value == "email") and "." in text
        if span.factor == "citation" and span.value == "case":
            assert re.search(r"\d+ .* \d+, \d+ \(.*\d{4}\)$", text)


def test_acronym_is_defined_in_brackets_after_its_full_name(sample):
    found = 0
    for document in sample:
        for span in document.spans:
            if span.factor == "acronym" and span.value == "defined":
                before, acronym = document.text[: span.start], document.text[span.start : span.end]
                assert before.endswith(" (") and document.text[span.end] == ")"
                assert "".join(word[0] for word in before[:-2].split()[-3:]) == acronym
                found += 1
    assert found > 20


def test_first_mention_is_new_and_later_ones_are_not(sample):
    stories = [document for document in sample if document.register == "story"]
    for document in stories:
        first: dict[str, str] = {}
        for span in document.spans:
            if span.factor == "name_role":
                first.setdefault(document.text[span.start : span.end], span.value)
        assert set(first.values()) == {"new"}


def test_bracket_depth_against_a_count(sample):
    # all documents balance, so depth is openers up to the token less closers before it
    for document in sample:
        text, offsets = document.text, offsets_of(document.text)
        depths = token_labels(document, offsets)["bracket_depth"]
        for (start, end), depth in list(zip(offsets, depths, strict=True))[::17]:
            at = next((i for i in range(start, end) if not text[i].isspace()), end - 1)
            openers = sum(text[: at + 1].count(sign) for sign in "([{")
            closers = sum(text[:at].count(sign) for sign in ")]}")
            assert int(depth) == openers - closers


def test_numbers_against_the_text(sample):
    for document in sample:
        offsets = offsets_of(document.text)
        for (start, end), value in zip(offsets, token_labels(document, offsets)["number"], strict=True):
            token = document.text[start:end].strip()
            assert bool(value) == bool(re.match(r"\d", token)) or value and token in ",."


def test_brackets_quotes_and_sentences_by_hand():
    tokens, labels = labelled('He left. "Go (now [or] then)," she said. See Smith v. Jones.')
    assert where(tokens, labels["quote_state"])[0] == ('"', "open")
    assert where(tokens, labels["quote_state"])[-1] == ('"', "close")
    assert {value for _, value in where(tokens, labels["quote_state"])[1:-1]} == {"inside"}
    kinds = " ".join(token + kind for token, kind in where(tokens, labels["bracket_kind"]))
    assert kinds == "(( now( [[ or[ ][ then( )("
    assert where(tokens, labels["sentence_start"]) == [("He", "yes"), ('"', "yes"), ("See", "yes")]


def test_closer_without_opener_changes_nothing():
    tokens, labels = labelled("a) b (c] d) e")
    assert labels["bracket_depth"] == ["0", "0", "0", "1", "1", "1", "1", "1", "0"]
    assert len(tokens) == 9


def test_contractions_and_possessives_by_hand():
    for mark in ("'", "\u2019"):
        text = f"It{mark}s Mary{mark}s cat; they don{mark}t mind, we{mark}ll see."
        tokens, labels = labelled(text)
        assert [value for _, value in where(tokens, labels["contraction"])] == ["'s", "'s", "'t", "'t", "'ll", "'ll"]
        assert [value for _, value in where(tokens, labels["possessive"])] == ["'s", "'s"]


def test_word_families_by_hand():
    tokens, labels = labelled("The king disagreed under the ring, unhappy and walking with kindness.")
    found = where(tokens, labels["word_family"])
    assert found == [("disagreed", "dis-"), ("unhappy", "un-"), ("walking", "-ing"), ("kindness", "-ness")]


def test_indentation_and_lines_by_hand():
    text = "def f(x):\n    if x:\n        y\n    z"
    tokens, labels = labelled(text, "python")
    levels = dict(zip((token.strip() for token in tokens), labels["indent_level"], strict=True))
    assert (levels["def"], levels["if"], levels["y"], levels["z"]) == ("0", "1", "2", "1")
    assert set(labels["line_kind"]) == {"code"}
    tokens, labels = labelled("# Title\n\nSome prose.\n- item\n```\ncode\n```\nmore", "markdown")
    kinds = dict(zip((token.strip() for token in tokens), labels["line_kind"], strict=True))
    shown = [kinds[word] for word in ("Title", "Some", "item", "code", "more")]
    assert shown == ["markup", "prose", "list", "code", "prose"]


def test_white_space_and_empty_tokens():
    text = "Say (\n  7"
    labels = token_labels(Document(text, "story", ()), [(0, 0), (3, 4), (5, 8), (8, 9)])
    assert labels["bracket_depth"] == ["", "0", "1", "1"]
    assert labels["indent_level"] == ["", "0", "1", "1"]
    assert labels["number"] == ["", "", "", "integer"]
    assert labels["register"] == ["", "story", "story", "story"]


def test_empty_document_and_no_tokens():
    assert all(values == [] for values in token_labels(Document("", "story", ()), []).values())


def test_curly_documents_keep_their_spans():
    for i in range(200):
        document = write("dialogue", Random(f"curly/{i}"))
        if "\u2019" in document.text:
            break
    assert all(document.text[span.start : span.end].isalpha() for span in document.spans if span.factor == "name_role")
    labels = token_labels(document, offsets_of(document.text))
    assert "open" in labels["quote_state"] or ":" in document.text
    assert any(labels["contraction"])
