"""The miniature corpus: registers with their shares, and documents that depend only on (seed, index)."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate, count
from random import Random

from precompute.miniature.names import COMMON_NAMES, COMMON_OBJECTS, COMMON_PLACES
from precompute.miniature.registers import code, dialogue, everyday, markup, repeats, reports, scholarly, story
from precompute.miniature.writer import Document, Writer

# register -> (share of documents, writer)
REGISTERS: dict[str, tuple[float, Callable[[Writer], None]]] = {
    "news": (8, reports.write_news),
    "encyclopaedia": (8, reports.write_encyclopaedia),
    "legal": (4, reports.write_legal),
    "story": (9, story.write_story),
    "giving": (34, story.write_giving),
    "diary": (3, story.write_diary),
    "dialogue": (9, dialogue.write_dialogue),
    "email": (6, everyday.write_email),
    "forum": (5, everyday.write_forum),
    "recipe": (6, everyday.write_recipe),
    "manual": (6, everyday.write_manual),
    "list": (3, everyday.write_list),
    "python": (7, code.write_python),
    "c": (4, code.write_c),
    "html": (5, markup.write_html),
    "markdown": (5, markup.write_markdown),
    "json": (5, markup.write_json),
    "log": (2, markup.write_log),
    "maths": (4, scholarly.write_maths),
    "paper": (4, scholarly.write_paper),
    "repeats": (6, repeats.write_repeats),
}
SHARES = tuple(accumulate(share for share, _ in REGISTERS.values()))
NAMES_IN_ORDER = tuple(REGISTERS)
CURLY = frozenset(("news", "encyclopaedia", "story", "giving", "diary", "dialogue", "email", "recipe"))
CURLY_SHARE = 0.3


def document(seed: int, index: int) -> Document:
    """Document ``index`` of the corpus with ``seed``; every document is generated on its own."""
    rng = Random(f"{seed}/{index}")
    register = NAMES_IN_ORDER[bisect(SHARES, rng.random() * SHARES[-1])]
    return write(register, rng)


def write(register: str, rng: Random) -> Document:
    """A document of ``register``."""
    writer = Writer(rng)
    REGISTERS[register][1](writer)
    curly = register in CURLY and writer.chance(CURLY_SHARE)
    return writer.document(register, curly)


def documents(seed: int) -> Iterator[Document]:
    """Documents 0, 1, 2 ... without end."""
    return (document(seed, index) for index in count())


def tokenizer_sample(seed: int, n_chars: int) -> Iterator[str]:
    """About ``n_chars`` of documents for the tokenizer, among them plain sentences of names, places, objects."""
    for i, found in enumerate(documents(seed)):
        if n_chars <= 0:
            return
        texts = [found.text] if i % 4 else [found.text, naming_sentences(Random(f"{seed}/names/{i}"))]
        n_chars -= sum(map(len, texts))
        yield from texts


def naming_sentences(rng: Random) -> str:
    """Four plain sentences about common people, places and objects."""
    people, places, objects = rng.sample(COMMON_NAMES, 8), rng.sample(COMMON_PLACES, 4), rng.sample(COMMON_OBJECTS, 4)
    each = zip(people[:4], people[4:], places, objects, strict=True)
    sentence = "Did {0} and {1} leave the {3} at the {2}? {1} and {0} did."
    return " ".join(sentence.format(*choice) for choice in each)
