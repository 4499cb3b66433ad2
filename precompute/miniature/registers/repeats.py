# ruff: noqa: E501 (one template or word list per line)
"""Random sequences that come again word for word: what teaches a model induction over ordinary tokens."""

from __future__ import annotations

from precompute.miniature import slots
from precompute.miniature.grammar import Grammar
from precompute.miniature.names import NAMES
from precompute.miniature.words import ordinary_words, words
from precompute.miniature.writer import Writer

FRAME = Grammar(
    r"""
== first
Word list {int 1 90}:
Read and remember:
Vocabulary drill, lesson {int 2 60}.
Key:
Copy the line below.
Password sheet ({town})
Say after me:
Test sequence {hex}
The {worker} wrote down:
== again
Again:
Once more:
Now repeat:
The same list:
Check:
Copy:
And again, from the beginning:
The {worker} read it back:
== neutral
---
***
/
;
|
"""
)
FRAGMENTS = tuple(
    "ing tion un dis re able ness ly er est pre sub ment ous al ic ish ful less th st tr pl gr br ck".split()
)
SIGNS = tuple(". , ; : - ? ! / + = % & # * 0 1 2 3 4 5 6 7 8 9".split())


def write_repeats(w: Writer) -> None:
    """One to four random sequences, each followed by one to three exact repetitions."""
    for i in range(w.number(1, 4)):
        w.add("\n\n" if i else "")
        drill(w)


def drill(w: Writer) -> None:
    """A sequence and its repetitions, framed by words, by a sign or by nothing."""
    style = w.number(0, 5)
    sequence = (ordinary, ordinary, ordinary, mixed, serials, named)[style](w)
    join = "\n" if style == 4 else w.pick((" ", " ", " ", ", ", "\n", "; "))
    frame = w.number(0, 2)
    if frame == 0:
        FRAME.write(w, "first")
        w.add("\n")
    repeated(w, sequence, join, first=True)
    for _ in range(w.number(1, 3)):
        between(w, frame, join)
        repeated(w, sequence, join, first=False)


def between(w: Writer, frame: int, join: str) -> None:
    """What stands between a sequence and its repetition."""
    if frame == 2:
        w.add(join)
        return
    w.add("\n")
    FRAME.write(w, "again" if frame == 0 else "neutral")
    w.add("\n")


def repeated(w: Writer, sequence: list[str], join: str, first: bool) -> None:
    """Append ``sequence`` and record how far into the repetition each word is."""
    for i, word in enumerate(sequence):
        if i:
            w.add(join)
        w.mark(word, "repeat_position", "first" if first else repeat_value(i))


def repeat_value(i: int) -> str:
    """Position in a repetition: its first word cannot be foretold, the next ones more and more surely."""
    if i == 0:
        return "repeat 1"
    return "repeat 2-8" if i < 8 else "repeat 9+"


def length(w: Writer) -> int:
    """Words in a sequence: mostly short ones, so that both the sequence and its repetition fit a short context."""
    return w.number(4, 16) if w.chance(0.7) else w.number(16, 50)


def ordinary(w: Writer) -> list[str]:
    """Random ordinary words."""
    vocabulary = ordinary_words()
    return [w.pick(vocabulary) for _ in range(length(w))]


def mixed(w: Writer) -> list[str]:
    """Words, capitalised words, names, fragments, numbers and signs run together: anything may follow anything."""
    return [mixed_piece(w) for _ in range(length(w))]


def mixed_piece(w: Writer) -> str:
    """One or two pieces run together; no brackets or quotes, which would have no partners."""
    word = w.pick(ordinary_words())
    return w.pick(
        (
            word,
            word,
            word.title(),
            w.pick(NAMES),
            w.pick(FRAGMENTS) + w.pick(FRAGMENTS),
            w.pick(SIGNS),
            word + w.pick(SIGNS),
            str(w.number(0, 9999)),
            w.pick(words("town")),
            w.pick(FRAGMENTS) + word,
        )
    )


def serials(w: Writer) -> list[str]:
    """Serial numbers and hexadecimal keys."""
    return [slots.serial(w) if w.chance(0.5) else slots.hexadecimal(w, 6, 16) for _ in range(w.number(1, 8))]


def named(w: Writer) -> list[str]:
    """Names, towns and surnames in no order."""
    pools = (NAMES, words("town"), words("surname"), words("country"))
    return [w.pick(w.pick(pools)) for _ in range(length(w))]
