"""Indirect-object prompts: what they look like, and that the corpus never holds one."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from precompute.miniature import NAMES, OBJECTS, PLACES, documents, ioi_prompts
from precompute.miniature.ioi import TEMPLATES, Combination
from precompute.miniature.names import COMMON_NAMES, COMMON_OBJECTS, COMMON_PLACES


@pytest.fixture(scope="module")
def prompts():
    return ioi_prompts(1000, seed=1)


@pytest.fixture(scope="module")
def corpus() -> str:
    return "\n".join(document.text for document in islice(documents(5), 3000))


def test_prompts_are_different_and_repeatable(prompts):
    assert len({prompt.text for prompt in prompts}) == 1000
    assert prompts == ioi_prompts(1000, seed=1)
    assert prompts != ioi_prompts(1000, seed=2)


def test_templates_and_orders(prompts):
    assert len({prompt.template for prompt in prompts}) == len(TEMPLATES) >= 15
    assert {prompt.order for prompt in prompts} == {"ABBA", "BABA"}
    assert 0.4 < sum(prompt.order == "ABBA" for prompt in prompts) / len(prompts) < 0.6


def test_names_stand_where_the_order_says(prompts):
    for prompt in prompts:
        mentioned = [word for word in re.findall(r"[A-Z][a-z]+", prompt.text) if word in NAMES]
        io, subject = prompt.indirect_object, prompt.subject
        assert mentioned == ([io, subject, subject] if prompt.order == "ABBA" else [subject, io, subject])
        assert prompt.text == prompt.text.rstrip()


def test_prompts_draw_from_what_is_given():
    prompts = ioi_prompts(30, 4, names=("Mary", "John", "Tom"), places=("park",), objects=("ring", "apple"))
    text = " ".join(prompt.text for prompt in prompts)
    assert {name for name in NAMES if re.search(rf"\b{name}\b", text)} <= {"Mary", "John", "Tom"}
    assert not any(f"the {place}" in text for place in PLACES if place != "park")
    assert "an apple" in text and "a ring" in text


def test_corpus_holds_no_prompt_with_its_answer(corpus):
    prompts = ioi_prompts(1000, 6, COMMON_NAMES, COMMON_PLACES, COMMON_OBJECTS)
    assert not [prompt for prompt in prompts if f"{prompt.text} {prompt.indirect_object}" in corpus]


def test_corpus_sentences_parse_back_to_combinations_that_are_not_held_out(corpus):
    # an independent reading: every sentence of the corpus that a template matches is looked up in both orders
    found = 0
    for number, template in enumerate(TEMPLATES):
        for match in pattern(template).finditer(corpus):
            a, b, place, thing = (match[key] for key in ("A", "B", "place", "object"))
            assert match["S"] in (a, b) and match["IO"] in (a, b) and match["S"] != match["IO"]
            assert not Combination(number, match["IO"], match["S"], place, thing, "ABBA").held_out()
            assert not Combination(number, match["S"], match["IO"], place, thing, "BABA").held_out()
            found += 1
    assert found > 1000


def pattern(template: list[str]) -> re.Pattern[str]:
    """A template as a regular expression with a group per choice."""
    text = re.escape("".join(template)).replace(r"\{S\}", r"(?P<S>\w+)") + r" (?P<IO>[A-Z]\w+)"
    for key in ("A", "B", "place"):
        text = text.replace(rf"\{{{key}\}}", rf"(?P<{key}>\w+)")
    return re.compile(text.replace(r"\{object\}", r"an? (?P<object>\w+)"))


def test_names_places_and_objects_all_occur(corpus):
    for words in (NAMES, PLACES, OBJECTS):
        assert all(re.search(rf"\b{word}\b", corpus) for word in words)


def test_enough_documents_hold_indirect_object_sentences():
    texts = [document.text for document in islice(documents(8), 1500)]
    patterns = [pattern(template) for template in TEMPLATES]
    holding = sum(any(each.search(text) for each in patterns) for text in texts)
    assert 0.08 < holding / len(texts) < 0.30
