"""Indirect-object sentences: templates, the combinations held out of the corpus, and test prompts made of these.

A sentence names two people, then the subject S again, and ends with the indirect object IO:
``Then, Mary and John went to the park. John gave a book to`` -> ``Mary``. The order is ABBA when the IO is named
first, BABA when the subject is. A combination (template, the two names, place, object) is held out when its hash says
so, in both orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from zlib import crc32

from precompute.miniature.grammar import fresh
from precompute.miniature.morphology import article
from precompute.miniature.names import COMMON_OBJECTS, COMMON_PLACES, NAMES, OBJECTS, PLACES, common_name
from precompute.miniature.writer import Writer

HELD_OUT_ONE_IN = 10
TEMPLATES = tuple(
    line.split("|")
    for line in """
Then, {A} and {B} went to the {place}. |{S}| gave {object} to
When {A} and {B} went to the {place}, |{S}| gave {object} to
After {A} and {B} went to the {place}, |{S}| handed {object} to
While {A} and {B} were working at the {place}, |{S}| gave {object} to
Then, {A} and {B} had a long argument at the {place}. Afterwards |{S}| said goodbye and passed {object} to
The {place} was quiet when {A} and {B} came in. |{S}| decided to give {object} to
{A} and {B} found {object} near the {place}. |{S}| gave it to
Yesterday {A} and {B} met at the {place}, and |{S}| brought {object} for
Friends since childhood, {A} and {B} walked to the {place}. On the way |{S}| lent {object} to
As soon as {A} and {B} arrived at the {place}, |{S}| offered {object} to
{A} and {B} were waiting outside the {place}. A little later |{S}| threw {object} to
Before {A} and {B} left the {place}, |{S}| bought {object} for
{A} sat next to {B} at the {place}. After a while |{S}| showed {object} to
It was raining when {A} and {B} reached the {place}, so |{S}| carried {object} for
{A} met {B} in front of the {place}. |{S}| had promised to bring {object} to
In the {place}, {A} and {B} talked for an hour. In the end |{S}| sold {object} to
{A} waved at {B} across the {place}, and |{S}| smiled and held out {object} to
There was {object} on the floor of the {place}, and {A} and {B} saw it. |{S}| picked it up and gave it to
On Sunday {A} invited {B} to the {place}, where |{S}| sent {object} over to
{A} had a meeting with {B} at the {place}. When it was over, |{S}| mailed {object} to
""".strip().splitlines()
)


@dataclass(frozen=True, slots=True)
class IOIPrompt:
    """A prompt that ends right before the space and name of the indirect object."""

    text: str
    indirect_object: str
    subject: str
    template: int
    order: str


@dataclass(frozen=True, slots=True)
class Combination:
    """The choices that make one indirect-object sentence."""

    template: int
    indirect_object: str
    subject: str
    place: str
    object: str
    order: str

    def held_out(self) -> bool:
        """Whether the corpus never shows this combination, in either order of the names."""
        first, second = sorted((self.indirect_object, self.subject))
        key = f"{self.template}|{first}|{second}|{self.place}|{self.object}"
        return crc32(key.encode()) % HELD_OUT_ONE_IN == 0

    def pieces(self) -> tuple[str, str, str]:
        """Text before the subject's second mention, the subject, text up to the indirect object."""
        a, b = (self.indirect_object, self.subject) if self.order == "ABBA" else (self.subject, self.indirect_object)
        thing = article(self.object) + self.object
        setting, _, action = TEMPLATES[self.template]
        before = setting.replace("{A}", a).replace("{B}", b).replace("{place}", self.place).replace("{object}", thing)
        return before, self.subject, action.replace("{object}", thing)


def draw(rng: Random, names: tuple[str, ...], places: tuple[str, ...], objects: tuple[str, ...]) -> Combination:
    """A combination, uniformly, of two different names."""
    a, b = rng.sample(names, 2)
    order = "ABBA" if rng.random() < 0.5 else "BABA"
    return Combination(int(rng.random() * len(TEMPLATES)), a, b, rng.choice(places), rng.choice(objects), order)


def ioi_prompts(
    n: int,
    seed: int,
    names: tuple[str, ...] | None = None,
    places: tuple[str, ...] | None = None,
    objects: tuple[str, ...] | None = None,
) -> list[IOIPrompt]:
    """``n`` different prompts of held-out combinations, from all names, places and objects unless some are given."""
    rng, found = Random(f"ioi/{seed}"), {}
    pools = tuple(names or NAMES), tuple(places or PLACES), tuple(objects or OBJECTS)
    while len(found) < n:
        combination = draw(rng, *pools)
        if combination.held_out():
            found[combination] = None
    return [prompt(combination) for combination in found]


def prompt(combination: Combination) -> IOIPrompt:
    """The prompt of ``combination``."""
    c = combination
    return IOIPrompt("".join(c.pieces()), c.indirect_object, c.subject, c.template, c.order)


def write_sentence(writer: Writer) -> None:
    """Append one indirect-object sentence with new people, never a held-out combination, and record the roles."""
    combination = corpus_combination(writer)
    before, subject, action = combination.pieces()
    write_setting(writer, before, {combination.indirect_object, subject})
    writer.mention(subject, "subject_repeated")
    writer.add(action + " ")
    writer.mention(combination.indirect_object, "receiver")


def write_setting(writer: Writer, text: str, people: set[str]) -> None:
    """Append ``text``, recording the first mention of each of ``people``."""
    start = 0
    for at, name in sorted((text.index(name), name) for name in people):
        writer.add(text[start:at])
        writer.mention(name)
        start = at + len(name)
    writer.add(text[start:])


def corpus_combination(writer: Writer) -> Combination:
    """A combination that is not held out; most names, places and objects are common ones."""
    template = fresh(writer, "ioi", len(TEMPLATES))
    while True:
        a, b = common_name(writer), common_name(writer)
        places, objects = (COMMON_PLACES, COMMON_OBJECTS) if writer.chance(0.9) else (PLACES, OBJECTS)
        order = "ABBA" if writer.chance(0.5) else "BABA"
        combination = Combination(template, a, b, writer.pick(places), writer.pick(objects), order)
        if a != b and not combination.held_out():
            return combination
