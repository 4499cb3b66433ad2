"""The known factors of every token: what the generator recorded as spans, and what follows from the text's structure.

Labels are computed only when asked for, so that documents for training cost nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from precompute.miniature.words import word_families
from precompute.miniature.writer import Document, Span

FACTORS: dict[str, str] = {
    "register": "The kind of document the token stands in.",
    "line_kind": "Whether the token's line is prose, code, a list item or markup.",
    "bracket_depth": "How many brackets ( [ { are open around the token; a bracket counts as inside itself.",
    "bracket_kind": "The innermost open bracket around the token: (, [ or {.",
    "quote_state": "Whether the token opens double quotes, stands inside them or closes them.",
    "name_role": "The role of a first name: new, giver, receiver, subject_repeated or other (named before).",
    "contraction": "The apostrophe and letters of a contraction, such as 't or 're.",
    "possessive": "The apostrophe and s of a possessive.",
    "date": "Inside a date: date, iso, day or year.",
    "acronym": "An organisation's initials: defined (in the brackets after the full name) or used (later).",
    "number": "Inside a number: integer or decimal.",
    "citation": "Inside a citation: case, statute or paper.",
    "url": "Inside a web address (url) or e-mail address (email).",
    "sentence_start": "The token is the first of a sentence of prose (yes).",
    "indent_level": "How many steps the token's line is indented.",
    "repeat_position": "Inside a random sequence: first, or word of its repetition: repeat 1, repeat 2-8, repeat 9+.",
    "word_family": "The word belongs to a family: dis-, un-, re-, -ing, -ness, -ly or -tion.",
}
STRUCTURAL = ("register", "line_kind", "bracket_depth", "bracket_kind", "quote_state", "indent_level")
PAIRS = {")": "(", "]": "[", "}": "{"}
CODE_REGISTERS, LIST_REGISTERS, MARKUP_REGISTERS = ("python", "c", "json", "log"), ("repeats",), ("html",)
LIST_LINE = re.compile(r"\s*([-*]|\d+\.|\[[ x\d]+\]|\(\d+\)) ")
MARKUP_LINE = re.compile(r"(#+ |\||> |```)")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
CLITIC = re.compile(r"([A-Za-z]+)(['\u2019](?:s|t|re|ve|ll|d|m))\b")
IS_CONTRACTED = frozenset("it he she that this there here what who where when how why let".split())
WORD = re.compile(r"[A-Za-z]+")
SENTENCE = re.compile(r"(?:^|\n|([^\s.!?]*)[.!?][\"\u201d)\]]* )(?=[\"\u201c(\[]*[A-Z])")
ABBREVIATIONS = frozenset("v No Inc pp al Id Ct Cir Supp J S".split())


def token_labels(document: Document, offsets: list[tuple[int, int]]) -> dict[str, list[str]]:
    """Factor -> one value per token, ``""`` where the factor says nothing of the token.

    ``offsets`` are the tokens' (start, end) characters in ``document.text``. A token takes the label of its first
    character that is no white space; a token of white space alone takes the structural labels at its last character;
    an empty one none.
    """
    text = document.text
    anchors = [anchor(text, start, end) for start, end in offsets]
    labels: dict[str, list[str]] = {}
    for factor, values in character_labels(document).items():
        blank = factor not in STRUCTURAL
        labels[factor] = ["" if at is None or blank and text[at].isspace() else values[at] for at in anchors]
    return labels


def anchor(text: str, start: int, end: int) -> int | None:
    """The character whose label a token takes."""
    if start >= end:
        return None
    return next((i for i in range(start, end) if not text[i].isspace()), end - 1)


def character_labels(document: Document) -> dict[str, list[str]]:
    """Factor -> one value per character."""
    text, n = document.text, len(document.text)
    found = {factor: [""] * n for factor in FACTORS}
    found["register"] = [document.register] * n
    found["bracket_depth"], found["bracket_kind"] = brackets(text)
    found["quote_state"] = quotes(text)
    found["line_kind"] = by_line(text, line_kinds(document))
    found["indent_level"] = by_line(text, indent_levels(text))
    for span in (*document.spans, *textual_spans(document, found["line_kind"])):
        found[span.factor][span.start : span.end] = [span.value] * (span.end - span.start)
    return found


def brackets(text: str) -> tuple[list[str], list[str]]:
    """Depth and kind per character; a closer without its opener is ignored."""
    stack: list[str] = []
    depths, kinds = [], []
    for character in text:
        if character in "([{":
            stack.append(character)
        depths.append(str(len(stack)))
        kinds.append(stack[-1] if stack else "")
        if stack and PAIRS.get(character) == stack[-1]:
            stack.pop()
    return depths, kinds


def quotes(text: str) -> list[str]:
    """``open``, ``inside``, ``close`` or ``""`` per character; three straight quotes in a row count as one."""
    states: list[str] = []
    inside = False
    for match in re.finditer(r'"""|["\u201c\u201d]|[^"\u201c\u201d]+', text):
        piece = match.group()
        if piece[0] in '"\u201c\u201d':
            states += ["close" if inside else "open"] * len(piece)
            inside = not inside
        else:
            states += ["inside" if inside else ""] * len(piece)
    return states


def by_line(text: str, values: list[str]) -> list[str]:
    """A value per line as a value per character; a line break belongs to the line it ends."""
    lines = text.splitlines(keepends=True)
    return [value for line, value in zip(lines, values, strict=True) for _ in line]


def line_kinds(document: Document) -> list[str]:
    """``prose``, ``code``, ``list`` or ``markup`` for each line."""
    for kind, registers in (("code", CODE_REGISTERS), ("list", LIST_REGISTERS), ("markup", MARKUP_REGISTERS)):
        if document.register in registers:
            return [kind] * len(document.text.splitlines())
    kinds, fenced = [], False
    for line in document.text.splitlines():
        fence = line.startswith("```")
        kinds.append("code" if fenced and not fence else line_kind(line))
        fenced ^= fence
    return kinds


def line_kind(line: str) -> str:
    """The kind of a line of an ordinary document."""
    if LIST_LINE.match(line):
        return "list"
    return "markup" if MARKUP_LINE.match(line) else "prose"


def indent_levels(text: str) -> list[str]:
    """Leading spaces of each line in units of the smallest indentation of the text."""
    spaces = [len(line) - len(line.lstrip(" ")) for line in text.splitlines()]
    unit = min((n for n in spaces if n), default=1)
    return [str(n // unit) for n in spaces]


def textual_spans(document: Document, line_kind_at: list[str]) -> Iterator[Span]:
    """Spans that follow from the text alone: numbers, contractions, possessives, word families, sentence starts."""
    text = document.text
    for match in NUMBER.finditer(text):
        yield Span(*match.span(), "number", "decimal" if "." in match.group() else "integer")
    for match in CLITIC.finditer(text):
        yield clitic(match)
    families = word_families()
    for match in WORD.finditer(text):
        if family := families.get(match.group().lower()):
            yield Span(*match.span(), "word_family", family)
    yield from sentence_starts(text, lambda at: line_kind_at[at] == "prose")


def clitic(match: re.Match[str]) -> Span:
    """A contraction or possessive: ``'s`` after a pronoun or question word is *is*, anywhere else it marks an owner."""
    word, ending = match.groups()
    straight = ending.replace("\u2019", "'")
    owner = straight == "'s" and word.lower() not in IS_CONTRACTED
    return Span(*match.span(2), "possessive" if owner else "contraction", straight)


def sentence_starts(text: str, is_prose: Callable[[int], bool]) -> Iterator[Span]:
    """The first word (with quotes and brackets before it) of each sentence on lines of prose."""
    for match in SENTENCE.finditer(text):
        word = match.group(1)
        abbreviated = word is not None and (word in ABBREVIATIONS or len(word) == 1 and word.isupper())
        if is_prose(match.end()) and not abbreviated:
            yield Span(match.end(), match.end() + 1, "sentence_start", "yes")
