"""The miniature corpus generator: documents, vocabulary, registers and templates."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from itertools import islice
from random import Random

import pytest

from precompute.miniature import NAMES, OBJECTS, PLACES, REGISTERS, document, documents, tokenizer_sample
from precompute.miniature.documents import write
from precompute.miniature.grammar import Grammar
from precompute.miniature.morphology import article, inflect
from precompute.miniature.registers import code, dialogue, everyday, markup, repeats, reports, scholarly, story
from precompute.miniature.topics import topics
from precompute.miniature.words import lists, word_families, words
from precompute.miniature.writer import Writer, curl

SEED = 11
SAMPLE_CHARACTERS = 2_000_000
MODULES = (code, dialogue, everyday, markup, repeats, reports, scholarly, story)


@pytest.fixture(scope="module")
def sample() -> list:
    """Documents from the start of the corpus, two million characters of them."""
    found, total = [], 0
    for each in documents(SEED):
        found.append(each)
        total += len(each.text)
        if total > SAMPLE_CHARACTERS:
            return found
    raise AssertionError("unreachable")


def several(register: str, n: int = 40) -> list:
    return [write(register, Random(f"several/{register}/{i}")) for i in range(n)]


def test_document_depends_only_on_seed_and_index():
    in_order = list(islice(documents(SEED), 60))
    backwards = [document(SEED, i) for i in reversed(range(60))][::-1]
    assert in_order == backwards
    assert document(SEED + 1, 0) != document(SEED, 0)


def test_same_text_in_another_process():
    # string hashing differs between processes: nothing may hang on the order of a set
    script = "from precompute.miniature import document; print([document(11, i).text for i in range(80)])"
    runs = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ".", "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
        runs.add(done.stdout)
    assert len(runs) == 1


def test_registers_and_lengths(sample):
    assert len({each.register for each in sample}) == len(REGISTERS) >= 15
    lengths = [len(each.text) for each in sample]
    assert max(lengths) <= 8000
    assert sum(100 <= n <= 6000 for n in lengths) / len(lengths) > 0.99  # drills of repeats are short


def test_share_of_repeats(sample):
    characters = sum(len(each.text) for each in sample)
    share = sum(len(each.text) for each in sample if each.register == "repeats") / characters
    assert 0.02 < share < 0.06  # training adds rows of repeated random tokens of its own


def test_distinct_words(sample):
    found: dict[str, int] = {}
    for each in sample:
        for word in re.findall(r"[A-Za-z]+", each.text):
            found[word.lower()] = found.get(word.lower(), 0) + 1
    assert sum(len(word) > 2 and n > 1 for word, n in found.items()) >= 5000


def test_lists_of_names_places_and_objects():
    assert len(set(NAMES)) == len(NAMES) >= 100
    assert len(set(PLACES)) == len(PLACES) >= 30
    assert len(set(OBJECTS)) == len(OBJECTS) >= 30
    assert all(word.isalpha() for word in (*NAMES, *PLACES, *OBJECTS))


@pytest.mark.parametrize(("family", "affix"), [("dis-", r"^dis"), ("un-", r"^un"), ("-ing", r"ing$")])
def test_word_families_have_forty_members(family, affix):
    members = {word for word, its_family in word_families().items() if its_family == family}
    assert len(members) >= 40
    assert all(re.search(affix, word) for word in members)
    assert not members & {"king", "ring", "under", "uncle", "dish", "distance", "string"}


def test_bases_of_prefixes():
    assert len({word for name in ("disgo", "disdo", "disperson", "disidea", "disfail") for word in lists()[name]}) >= 40
    assert len(set(words("unverb") + words("unperson") + words("unthing"))) >= 40


def test_no_replacement_character_and_no_stray_template_braces(sample):
    for each in sample:
        assert "\ufffd" not in each.text
        assert not re.search(r"\{\^|\{@|\.pl\}|\.ed\}|\{a ", each.text)


@pytest.mark.parametrize("register", list(REGISTERS))
def test_brackets_and_quotes_balance(register):
    for each in several(register):
        check_balanced(each.text)
        assert each.text.count('"') % 2 == 0
        assert each.text.count("\u201c") == each.text.count("\u201d")
        assert each.text == each.text.strip() or register in ("python", "c")


def check_balanced(text: str) -> None:
    """Cut innermost pairs away until none is left."""
    rest = re.sub(r"[^()\[\]{}]", "", text)
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", rest)) != rest:
        rest = shorter
    assert rest == ""


def test_python_parses():
    for each in several("python"):
        assert re.search(r"^ +if ", each.text, re.M) or "def " in each.text
        ast.parse(each.text)


def test_json_parses():
    found = [json.loads(each.text) for each in several("json")]
    assert all(found)
    assert any(isinstance(value, list) for value in found) and any(isinstance(value, dict) for value in found)


def test_html_elements_close():
    for each in several("html", 20):
        open_tags = []
        for closing, tag in re.findall(r"<(/?)([a-z]\w*)", each.text):
            if not closing:
                open_tags.append(tag)
            else:
                assert open_tags.pop() == tag
        assert open_tags == []


def test_repeats_come_again_word_for_word():
    for each in several("repeats", 20):
        spans = [span for span in each.spans if span.factor == "repeat_position"]
        marked = [(span.value, each.text[span.start : span.end]) for span in spans]
        drills, copies = [], []
        for value, word in marked:
            if value == "first" and (not copies or copies[-1][0] != "first"):
                drills.append([])
            if value == "repeat 1" or not drills[-1]:
                drills[-1].append([])
                copies.append([""])
            copies[-1][0] = value
            drills[-1][-1].append(word)
        assert all(len(copies_of) >= 2 and all(copy == copies_of[0] for copy in copies_of) for copies_of in drills)


def test_both_apostrophes_occur(sample):
    talk = [each.text for each in sample if each.register == "dialogue"]
    assert any("don't" in text for text in talk) and any("don\u2019t" in text for text in talk)
    assert not any("'" in text and "\u2019" in text for text in talk)


def test_curl_keeps_the_length():
    text = 'He said "it\'s late" and "no".'
    assert curl(text) == "He said \u201cit\u2019s late\u201d and \u201cno\u201d."
    assert curl('odd " one') == 'odd " one'


def test_every_template_compiles():
    for grammar in {id(g): g for module in MODULES for g in vars(module).values() if isinstance(g, Grammar)}.values():
        for rule in grammar.templates:
            assert grammar.compile_rule(rule)


def test_unknown_slot_unbalanced_brace_and_shadowing_rule_are_refused():
    with pytest.raises(ValueError, match="thinggg"):
        Grammar("== a\nthe {thinggg}").write(Writer(Random(0)), "a")
    with pytest.raises(ValueError, match="balance"):
        Grammar("== a\nthe {thing").write(Writer(Random(0)), "a")
    with pytest.raises(ValueError, match="town"):
        Grammar("== town\nsomewhere")


def test_grammar_slots_on_a_hand_made_grammar():
    line = "{@name} met {@name2}. {^he name} saw {a acr} sign; {he name2} saw {{bird}|{bird}}."
    grammar = Grammar(f"== line\n{line}\n== bird\nowls")
    writer = Writer(Random(5), facts={"name": "Mary", "name2": "John", "org": "National Energy Board"})
    grammar.write(writer, "line")
    assert "".join(writer.parts) == "Mary met John. She saw an NEB sign; he saw owls."
    marked = [("".join(writer.parts)[start:end], factor, value) for start, end, factor, value in writer.marks]
    assert marked == [("Mary", "name_role", "new"), ("John", "name_role", "new"), ("NEB", "acronym", "used")]


@pytest.mark.parametrize(
    ("word", "form", "expected"),
    [
        ("box", "pl", "boxes"),
        ("berry", "pl", "berries"),
        ("child", "pl", "children"),
        ("stop", "ing", "stopping"),
        ("bake", "ed", "baked"),
        ("tie", "ing", "tying"),
        ("carry", "ed", "carried"),
        ("visit", "ed", "visited"),
        ("unzip", "ed", "unzipped"),
        ("admit", "ing", "admitting"),
        ("gentle", "ly", "gently"),
        ("happy", "ness", "happiness"),
        ("play", "s", "plays"),
        ("agree", "ing", "agreeing"),
    ],
)
def test_inflection(word, form, expected):
    assert inflect(word, form) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [("apple", "an "), ("unit", "a "), ("hour", "an "), ("SSF", "an "), ("CMC", "a "), ("box", "a ")],
)
def test_article(word, expected):
    assert article(word) == expected


def test_tokenizer_sample_stops_after_the_asked_length_and_repeats():
    texts = list(tokenizer_sample(3, 50_000))
    assert 50_000 <= sum(map(len, texts)) < 65_000
    assert texts == list(tokenizer_sample(3, 50_000))


def test_topics_share_their_slots():
    assert len(topics()) >= 30
    assert all(topic.keys() == topics()[0].keys() and all(topic.values()) for topic in topics())
