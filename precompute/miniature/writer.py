"""What the generator hands out (Span, Document) and the Writer that a register fills while it records spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from precompute.miniature.topics import topics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a document carry ``value`` of the known factor ``factor``."""

    start: int
    end: int
    factor: str
    value: str


@dataclass(frozen=True, slots=True)
class Document:
    """A generated text with its register and the spans recorded while it was written."""

    text: str
    register: str
    spans: tuple[Span, ...]


@dataclass(slots=True)
class Writer:
    """Collects the pieces of one document; ``facts`` are the values this document keeps (its people, town, dates)."""

    rng: Random
    parts: list[str] = field(default_factory=list)
    length: int = 0
    marks: list[tuple[int, int, str, str]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    used: dict[str, set[int]] = field(default_factory=dict)
    topic: dict[str, tuple[str, ...]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.topic = self.pick(topics())

    def add(self, text: str) -> None:
        """Append ``text``."""
        self.parts.append(text)
        self.length += len(text)

    def mark(self, text: str, factor: str, value: str) -> None:
        """Append ``text`` and record that it carries ``value`` of ``factor``."""
        start = self.length
        self.add(text)
        self.marks.append((start, self.length, factor, value))

    def mention(self, name: str, role: str = "other") -> None:
        """Append a first name: ``new`` when the document has not named this person yet, else in ``role``."""
        self.mark(name, "name_role", role if name in self.named else "new")
        self.named.add(name)

    def pick(self, options: Sequence[T]) -> T:
        """One of ``options``, uniformly."""
        return options[int(self.rng.random() * len(options))]

    def number(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included, uniformly."""
        return low + int(self.rng.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.rng.random() < probability

    def insert(self, index: int, start: int, text: str) -> None:
        """Put ``text`` before piece ``index``, which begins at character ``start``; later spans move along."""
        self.parts[index] = text + self.parts[index]
        self.length += len(text)
        for i in range(len(self.marks) - 1, -1, -1):
            first, last, factor, value = self.marks[i]
            if first < start:
                break
            self.marks[i] = (first + len(text), last + len(text), factor, value)

    def document(self, register: str, curly: bool) -> Document:
        """The finished document; ``curly`` turns straight apostrophes and quotes into typographic ones, one for one."""
        text = "".join(self.parts)
        return Document(curl(text) if curly else text, register, tuple(Span(*mark) for mark in self.marks))


def curl(text: str) -> str:
    """Typographic apostrophes, and typographic quotes where the straight ones come in pairs; the length stays."""
    text = text.replace("'", "\u2019")
    pieces = text.split('"')
    if len(pieces) % 2 == 0:
        return text
    inside = (f"\u201c{piece}\u201d" if i % 2 else piece for i, piece in enumerate(pieces))
    return "".join(inside)
