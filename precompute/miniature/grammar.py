"""A small template grammar: rules are blocks of text with ``{slots}``, compiled to steps when first used.

A grammar is written as blocks ``== rule`` followed by one template per line; ``\\n`` in a template is a line
break. Slots:

    {rule}          one template of the rule (a document repeats a template only after it has used the others)
    {boat|oar|}     one of the alternatives, which may hold slots themselves
    {handle.ed}     a word of the list ``handle`` in a form; {thing}, {worker}, {site} come from the document's topic
    {int 3 90}      a generated value of ``slots.MAKERS`` with arguments
    {@town}         the document's own value, drawn when first used and kept; {@town2} is another, different one
    {@name/giver}   the same for a person, with the role of the name in this sentence
    {he name2}      the pronoun (he, him, his) of the person bound to ``name2``
    {^x} {a x}      x with a capital letter; x after its indefinite article
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from precompute.miniature import names, slots, words
from precompute.miniature.morphology import article
from precompute.miniature.topics import topics
from precompute.miniature.writer import Writer

Step = str | Callable[[Writer], None]


class Grammar:
    """Named rules over the shared phrases; ``write`` expands one of them into a Writer."""

    def __init__(self, *texts: str) -> None:
        self.templates: dict[str, list[str]] = {}
        for text in texts:
            self.templates |= blocks(text)
        if shadowed := [name for name in self.templates if is_word_slot(name)]:
            raise ValueError(f"Rules {shadowed} have the names of word lists, topic slots or makers; rename the rules.")
        self.compiled: dict[str, list[list[Step]]] = {}

    def write(self, writer: Writer, rule: str) -> None:
        """Append one expansion of ``rule``."""
        expansions = self.compiled.get(rule) or self.compile_rule(rule)
        run(writer, expansions[fresh(writer, rule, len(expansions))])

    def sentences(self, writer: Writer, rule: str, n: int, between: str = " ") -> None:
        """Append ``n`` expansions of ``rule`` with ``between`` between them."""
        for i in range(n):
            if i:
                writer.add(between)
            self.write(writer, rule)

    def paragraphs(self, writer: Writer, rule: str, n: int, low: int = 3, high: int = 5) -> None:
        """Append ``n`` paragraphs of ``low`` to ``high`` expansions of ``rule``."""
        for i in range(n):
            if i:
                writer.add("\n\n")
            self.sentences(writer, rule, writer.number(low, high))

    def compile_rule(self, rule: str) -> list[list[Step]]:
        """The steps of every template of ``rule``, kept for the next time."""
        self.compiled[rule] = [self.compile(template) for template in self.templates[rule]]
        return self.compiled[rule]

    def compile(self, template: str) -> list[Step]:
        """Steps of one template: literal text and slots."""
        return [self.slot(piece) if is_slot else piece for is_slot, piece in pieces(template) if piece or is_slot]

    def slot(self, body: str) -> Step:
        """The step that fills one slot; an unknown name is an error."""
        if body[0] == "^":
            return partial(capitalised, step=self.slot(body[1:]))
        if len(options := alternatives(body)) > 1:
            return partial(choose, options=[self.compile(option) for option in options])
        if body.startswith("a "):
            return partial(with_article, step=self.slot(body[2:]))
        if body[0] == "@":
            return self.bound(body[1:])
        return self.value(body)

    def bound(self, body: str) -> Step:
        """A slot whose value the document keeps."""
        key, _, role = body.partition("/")
        base = key.rstrip("0123456789")
        if base == "name":
            return partial(person, key=key, role=role)
        if base in slots.MAKERS:
            make, factor, value = slots.MAKERS[base]
            return partial(kept_value, key=key, make=make, factor=factor, value=value)
        return partial(kept_text, key=key, step=self.value(base))

    def value(self, body: str) -> Step:
        """A slot that is drawn anew each time: pronoun, generated value, rule, topic word or list word."""
        name, *arguments = body.split(" ")
        if name in slots.PRONOUNS and arguments:
            return partial(pronoun, forms=slots.PRONOUNS[name], key=arguments[0])
        if name in slots.MAKERS:
            make, factor, value = slots.MAKERS[name]
            return partial(made, make=partial(make, **slots.bounds(arguments)), factor=factor, value=value)
        if name in self.templates:
            return partial(Grammar.write, self, rule=name)
        if name in topics()[0]:
            return partial(topic_word, slot=name)
        if words.is_slot(name):
            return partial(list_word, options=words.words(name))
        raise ValueError(f"A template asks for the slot {{{body}}}; use a rule, a word list, a topic slot or a maker.")


def is_word_slot(name: str) -> bool:
    """Whether ``name`` is a word list, a topic slot or a maker, so that no rule may have it."""
    return name in topics()[0] or words.is_slot(name) or name in slots.MAKERS


def blocks(text: str) -> dict[str, list[str]]:
    """Rules of a grammar text: name -> templates."""
    found: dict[str, list[str]] = {}
    for block in text.strip().removeprefix("== ").split("\n== "):
        name, *templates = block.strip().split("\n")
        found[name] = [line.replace("\\n", "\n") for line in templates if line]
    return found


def pieces(template: str) -> list[tuple[bool, str]]:
    """(is slot, text) in turn; a slot is what stands between outermost braces."""
    found, depth, start = [], 0, 0
    for i, character in enumerate(template):
        if character not in "{}":
            continue
        if character == "{" and depth == 0 or character == "}" and depth == 1:
            found.append((depth == 1, template[start:i]))
            start = i + 1
        depth += 1 if character == "{" else -1
    if depth:
        raise ValueError(f"Braces of the template {template!r} do not balance; close every slot.")
    return [*found, (False, template[start:])]


def alternatives(body: str) -> list[str]:
    """Alternatives of a slot, split at the bars outside inner braces."""
    found, depth, start = [], 0, 0
    for i, character in enumerate(body):
        depth += (character == "{") - (character == "}")
        if character == "|" and depth == 0:
            found.append(body[start:i])
            start = i + 1
    return [*found, body[start:]]


def run(writer: Writer, steps: list[Step]) -> None:
    """Append every step's text."""
    parts = writer.parts
    for step in steps:
        if step.__class__ is str:
            parts.append(step)
            writer.length += len(step)
        else:
            step(writer)


def fresh(writer: Writer, rule: str, n: int) -> int:
    """An index below ``n`` that this document has not used for ``rule`` while others are left."""
    index = int(writer.rng.random() * n)
    if n < 4:
        return index
    used = writer.used.setdefault(rule, set())
    if len(used) >= n:
        used.clear()
    while index in used:
        index = (index + 1) % n
    used.add(index)
    return index


def choose(writer: Writer, options: list[list[Step]]) -> None:
    run(writer, options[int(writer.rng.random() * len(options))])


def list_word(writer: Writer, options: tuple[str, ...]) -> None:
    word = options[int(writer.rng.random() * len(options))]
    writer.parts.append(word)
    writer.length += len(word)


def topic_word(writer: Writer, slot: str) -> None:
    list_word(writer, writer.topic[slot])


def made(writer: Writer, make: Callable[[Writer], str], factor: str, value: str) -> None:
    text = make(writer)
    if factor:
        writer.mark(text, factor, value)
    else:
        writer.add(text)


def kept_value(writer: Writer, key: str, make: Callable[[Writer], str], factor: str, value: str) -> None:
    text = writer.facts.get(key)
    made(writer, (lambda _: text) if text else partial(bind, key=key, make=make), factor, value)


def bind(writer: Writer, key: str, make: Callable[[Writer], str]) -> str:
    """Draw a value for ``key`` that no other fact of the document has."""
    text = make(writer)
    for _ in range(8):
        if text not in writer.facts.values():
            break
        text = make(writer)
    writer.facts[key] = text
    return text


def kept_text(writer: Writer, key: str, step: Step) -> None:
    text = writer.facts.get(key)
    if text is None:
        text = bind(writer, key, partial(captured, step=step))
    writer.add(text)


def captured(writer: Writer, step: Step) -> str:
    """The text that ``step`` would append, taken back again."""
    parts, length, marks = len(writer.parts), writer.length, len(writer.marks)
    run(writer, [step])
    text = "".join(writer.parts[parts:])
    del writer.parts[parts:], writer.marks[marks:]
    writer.length = length
    return text


def person(writer: Writer, key: str, role: str = "") -> None:
    """The first name bound to ``key``: ``new`` when it appears, then ``role`` or ``other``."""
    name = writer.facts.get(key) or bind(writer, key, names.common_name)
    writer.mention(name, role or "other")


def pronoun(writer: Writer, forms: tuple[str, str], key: str) -> None:
    if key not in writer.facts:
        bind(writer, key, names.common_name)
    writer.add(forms[writer.facts[key] in names.FEMALE])


def capitalised(writer: Writer, step: Step) -> None:
    index = len(writer.parts)
    run(writer, [step])
    text = writer.parts[index]
    writer.parts[index] = text[:1].upper() + text[1:]


def with_article(writer: Writer, step: Step) -> None:
    index, start = len(writer.parts), writer.length
    run(writer, [step])
    writer.insert(index, start, article(writer.parts[index]))
