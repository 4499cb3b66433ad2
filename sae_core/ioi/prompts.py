"""Pairs of indirect-object prompts that differ in one name only, from a model's own single-token words.

A prompt names the indirect object IO and the subject S, then S again, and ends right before the space and name of the
IO. The target prompt is the base prompt with every IO replaced by a third name (paper Sec. 4.1), so the two have the
same number of tokens. Order ABBA names the IO first, BABA the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from sae_core.errors import InputError

NAMES = tuple(
    "Mary John Anna Tom Emma James Laura Peter Sarah Paul Julia David Alice Mike Jane Daniel Lucy Simon Helen Robert "
    "Kate Henry Maria George Susan Jack Linda Adam Lisa Ben Amy Charles Clara Frank Diana Eric Ella Kevin Rachel "
    "Martin Ruth Nick Grace Mark Karen Steven Carol Thomas Emily William Jessica Michael Christine Matthew Rose "
    "Joe".split()
)
PLACES = tuple(
    "store school park garden station library market office kitchen hospital museum restaurant church house "
    "bridge hotel bank bar".split()
)
OBJECTS = tuple(
    "book letter ring drink key ball ticket map box coat pen flower cake watch bag hat basket camera".split()
)
# None starts with a name: there a name would not follow a space.
TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} gave the {object} to",
    "Then, {A} and {B} went to the {place}. {S} gave the {object} to",
    "After {A} and {B} left the {place}, {S} handed the {object} to",
    "Yesterday {A} and {B} found the {object} near the {place}. {S} gave it to",
    "While {A} and {B} were working at the {place}, {S} passed the {object} to",
    "Then, {A} and {B} had a long talk at the {place}. In the end {S} gave the {object} to",
    "On Sunday {A} met {B} in front of the {place}. After a while {S} showed the {object} to",
    "In the evening {A} sat next to {B} at the {place}, and {S} offered the {object} to",
)
ORDERS = ("ABBA", "BABA")
FEWEST_NAMES = 3

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Words:
    """The words that prompts are made of; each is one token after a space."""

    names: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True)
class PromptPair:
    """Two prompts of equal token length; `base_io` and `target_io` are their indirect objects."""

    base: str
    target: str
    base_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    base_io: str
    target_io: str
    subject: str
    template: int
    order: str


def single_tokens(encode: Encode, words: Sequence[str]) -> tuple[str, ...]:
    """Those words that are one token after a space."""
    return tuple(word for word in words if len(encode(f" {word}")) == 1)


def words_of(encode: Encode) -> Words:
    """The names, places and objects that a tokenizer keeps whole.

    Raises InputError for a tokenizer that splits (nearly) all of them.
    """
    fix = "Use a model whose tokenizer keeps common English words whole, such as Pythia's"
    found = {}
    for what, words, fewest in (("names", NAMES, FEWEST_NAMES), ("places", PLACES, 1), ("objects", OBJECTS, 1)):
        found[what] = single_tokens(encode, words)
        if len(found[what]) < fewest:
            expected = f"a tokenizer that keeps at least {fewest} of {len(words)} common {what} as single tokens"
            raise InputError(expected, f"{len(found[what])}; it splits the others", fix)
    return Words(**found)


def prompt_pairs(encode: Encode, n: int, seed: int = 0) -> list[PromptPair]:
    """n pairs, drawn uniformly over templates, orders, names, places and objects; the same seed gives the same pairs.

    encode: text -> token ids, without special tokens (`LanguageModel.encode`). Raises InputError as `words_of`.
    """
    words, rng = words_of(encode), Random(f"indirect objects {seed}")
    return [_pair(encode, words, rng) for _ in range(n)]


def _pair(encode: Encode, words: Words, rng: Random) -> PromptPair:
    base_io, subject, target_io = rng.sample(words.names, 3)
    template, order = rng.randrange(len(TEMPLATES)), rng.choice(ORDERS)
    place, thing = rng.choice(words.places), rng.choice(words.objects)
    base, target = (fill(template, order, io, subject, place, thing) for io in (base_io, target_io))
    ids = tuple(encode(base)), tuple(encode(target))
    check_lengths(*ids)
    return PromptPair(base, target, *ids, base_io, target_io, subject, template, order)


def fill(template: int, order: str, io: str, subject: str, place: str, thing: str) -> str:
    """The prompt of one choice of words."""
    a, b = (io, subject) if order == "ABBA" else (subject, io)
    return TEMPLATES[template].format(A=a, B=b, S=subject, place=place, object=thing)


def check_lengths(base_ids: Sequence[int], target_ids: Sequence[int]) -> None:
    """Raise InputError unless both prompts have the same number of tokens: codes are patched position by position."""
    if len(base_ids) != len(target_ids):
        found = f"{len(base_ids)} tokens in the base and {len(target_ids)} in the target"
        raise InputError("two sentences of equal token length", found, "Replace words by others of as many tokens")
