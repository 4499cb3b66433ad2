"""First names, places and objects of the indirect-object sentences; the first of each list are the common ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from precompute.miniature.writer import Writer

WOMEN = tuple(
    "Mary Anna Emma Laura Sarah Julia Alice Jane Lucy Helen Kate Maria Susan Linda Lisa Amy Clara Diana Ella "
    "Fiona Nina Sophie Petra "
    "Rachel Ruth Sandra Tina Vera Wendy Zoe Nora Olivia Hannah Irene Karen Carol Amanda Molly "
    "Bella Celia Daphne Edith Flora Gwen Heidi Ingrid Joyce Kirsten Leila Mabel Naomi Phoebe Rosa "
    "Stella Tessa Ursula".split()
)
MEN = tuple(
    "John Tom James Peter Paul David Mike Daniel Simon Robert Henry George Jack Adam Ben Charles Frank Eric Kevin "
    "Martin Nick Oliver "
    "Patrick Richard Sam Steven Thomas Victor Walter Alan Brian Edward Fred Jason Andrew Tim Leo Max "
    "Albert Boris Cedric Desmond Edgar Felix Gilbert Hugo Ivan Joel Kurt Lionel Morris Nigel Otto "
    "Percy Ralph Trevor".split()
)
FEMALE = frozenset(WOMEN)
NAMES = tuple(name for pair in zip(WOMEN, MEN, strict=True) for name in pair)
PLACES = tuple(
    "store school park garden beach station library market office kitchen hospital museum restaurant church farm "
    "bridge harbour castle "
    "theatre forest lake hotel bank bakery zoo stadium bar gallery factory airport "
    "temple pharmacy playground bookshop cinema campsite".split()
)
OBJECTS = tuple(
    "book letter ring drink key apple ball ticket map lamp box coat pen flower cake watch bag coin hat knife "
    "picture camera basket "
    "guitar blanket bottle cup phone umbrella sandwich "
    "necklace notebook bracelet lantern toy scarf".split()
)
COMMON_NAMES, COMMON_PLACES, COMMON_OBJECTS = NAMES[:76], PLACES[:30], OBJECTS[:30]
COMMON_SHARE = 0.93


def common_name(writer: Writer) -> str:
    """A first name, mostly one of the common ones, so that these become single tokens."""
    return writer.pick(COMMON_NAMES if writer.rng.random() < COMMON_SHARE else NAMES)
