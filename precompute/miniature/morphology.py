"""Regular English inflection and the word families of the miniature corpus (pure functions on words)."""

from __future__ import annotations

VOWELS = frozenset("aeiou")
SIBILANTS = ("s", "x", "z", "ch", "sh")
IRREGULAR_PLURALS = dict(
    pair.split(":")
    for pair in (
        "man:men woman:women child:children foot:feet tooth:teeth mouse:mice goose:geese sheep:sheep deer:deer "
        "trout:trout salmon:salmon leaf:leaves loaf:loaves knife:knives wolf:wolves shelf:shelves thief:thieves "
        "hypothesis:hypotheses diagnosis:diagnoses postman:postmen fisherman:fishermen signalman:signalmen "
        "ferryman:ferrymen boatman:boatmen ploughman:ploughmen groundsman:groundsmen cargo:cargoes hero:heroes "
        "scarf:scarves tomato:tomatoes potato:potatoes mango:mangoes "
    ).split()
)
DOUBLING = frozenset(
    (
        "admit cancel commit compel control disbar enrol expel fulfil handicap label model occur omit outwit overlap "
        "permit prefer propel refer regret signal transfer travel unravel "
    ).split()
)
SOUNDS_LIKE_CONSONANT = ("uni", "use", "eu", "one", "usu", "uran")
SOUNDS_LIKE_VOWEL = ("hour", "honest", "honour", "heir")


def inflect(word: str, form: str) -> str:
    """``word`` in the form ``pl``, ``s``, ``ed``, ``ing``, ``er``, ``ly`` or ``ness``."""
    return FORMS[form](word)


def plural(noun: str) -> str:
    """boat -> boats, box -> boxes, berry -> berries; irregular nouns from a table."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    return third_person(noun)


def third_person(verb: str) -> str:
    """walk -> walks, push -> pushes, carry -> carries."""
    if verb.endswith(SIBILANTS):
        return verb + "es"
    if verb[-1] == "y" and verb[-2] not in VOWELS:
        return verb[:-1] + "ies"
    if verb.endswith("o") and verb[-2] not in VOWELS and len(verb) <= 4:
        return verb + "es"
    return verb + "s"


def doubled(verb: str) -> str:
    """The stem before ``-ed``, ``-ing``, ``-er``: the last consonant doubles after one short stressed vowel."""
    if verb in DOUBLING:
        return verb + verb[-1]
    bare = verb.removeprefix("un").removeprefix("re")
    short = len(bare) >= 3 and bare[-1] not in "aeiouwxy" and bare[-2] in VOWELS and bare[-3] not in VOWELS
    one_syllable = sum(letter in VOWELS for letter in bare) == 1
    return verb + verb[-1] if short and one_syllable else verb


def past(verb: str) -> str:
    """walk -> walked, bake -> baked, carry -> carried, stop -> stopped."""
    if verb.endswith("e"):
        return verb + "d"
    if verb[-1] == "y" and verb[-2] not in VOWELS:
        return verb[:-1] + "ied"
    return doubled(verb) + "ed"


def gerund(verb: str) -> str:
    """walk -> walking, bake -> baking, tie -> tying, stop -> stopping."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return doubled(verb) + "ing"


def agent(verb: str) -> str:
    """paint -> painter, bake -> baker, carry -> carrier."""
    return past(verb)[:-1] + "r"


def adverb(adjective: str) -> str:
    """slow -> slowly, happy -> happily, gentle -> gently, basic -> basically."""
    if adjective.endswith("y") and adjective[-2] not in VOWELS and adjective not in ("shy", "dry", "sly"):
        return adjective[:-1] + "ily"
    if adjective.endswith("le") and adjective[-3] not in VOWELS:
        return adjective[:-1] + "y"
    if adjective.endswith("ic") and adjective != "public":
        return adjective + "ally"
    return adjective + ("y" if adjective.endswith("ll") else "ly")


def quality(adjective: str) -> str:
    """kind -> kindness, happy -> happiness."""
    if adjective.endswith("y") and adjective[-2] not in VOWELS and adjective not in ("shy", "dry", "sly"):
        return adjective[:-1] + "iness"
    return adjective + "ness"


def article(text: str) -> str:
    """``a `` or ``an `` for the word that follows."""
    if text.isupper() and len(text) > 1:
        return "an " if text[0] in "AEFHILMNORSX" else "a "
    lower = text[:7].lower()
    vowel = lower[:1] in "aeiou" and not lower.startswith(SOUNDS_LIKE_CONSONANT)
    return "an " if vowel or lower.startswith(SOUNDS_LIKE_VOWEL) else "a "


FORMS = {"pl": plural, "s": third_person, "ed": past, "ing": gerund, "er": agent, "ly": adverb, "ness": quality}
