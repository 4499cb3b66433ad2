# ruff: noqa: E501 (one template or word list per line)
"""HTML pages, Markdown notes, JSON records and log files."""

from __future__ import annotations

import json

from precompute.miniature import slots
from precompute.miniature.grammar import Grammar
from precompute.miniature.registers.phrases import PHRASES
from precompute.miniature.words import words
from precompute.miniature.writer import Writer

PAGE = Grammar(
    PHRASES,
    r"""
== title
{^adj} {thing.pl} in {@town}
{@company}: {thing.pl} and {stuff}
{^tion} and {tion}
About the {@org}
{^thing} {hobby}
== short
{^thing}
{^quality} {thing}
{^stuff}
{^unthing} {thing.pl}
{@town}
== sentence
{^fact}.
{^fact}, and {fact}.
The {@org} ({acr_defined}) has {act.ed} the {tion}.
If the {thing} is {unthing}, {reverb} it.
We {make} {thing.pl} of {metal}, {cloth} and {stuff} {aside}.
{^worker.pl} {disagree|are unsure} about {thing.pl}.
Open from {clock} to {clock} (closed on {weekday}).
You can {reverb} or {unverb} it {moment}.
{^hobby} is {adj}, {hobby} is not.
See {url} for {thing.pl}.
The {worker} said: "{fact}".
It's {unthing} but {adj}.
First {study.ed} in {year}.
== entry
{a adj} {thing}
{thing.pl} and {stuff}
{handle.ing} {thing.pl}
{reverb} the {thing}
how to {unverb} {a container}
{numeral} {thing.pl} ({price})
== link
{url}
== command
git clone {url}
pip install {thing}
cd {thing} && make {thing}
python {thing}.py --{thing} {int 1 99}
curl {url} | sort | head -n {int 2 20}
if [ -f {thing}.txt ]; then cat {thing}.txt; fi
== cell
{thing}
{int 2 900}
{decimal 0 90}
{adj}
{stuff}
""",
)

LOG = Grammar(
    r"""
== message
{run.ed} {int 2 900} {codenoun}s in {int 2 900} ms
user {@user} disconnected from {host}
{run.ing} {codenoun} {hex} (attempt {int 1 9} of {int 9 12})
cannot {run} "{thing}.{filetype}": {codenoun} is {unthing}
connection to {host}:{int 1024 9999} {disconnected|disappeared|disengaged} after {int 2 90} s
GET /{stuff}/{thing}?id={int 2 9999} {int 200 204} {int 100 9999}
POST /{thing}/{int 1 99} {int 400 404} [{hex}]
cache {codenoun}={decimal 0 99}% limit={int 10 99} queue=[{int 1 9}, {int 1 9}, {int 1 9}]
{reverb.ed} {@user}'s session {@hex}
session {@hex} opened for {@user} ({@host})
session {@hex} still {unthing}, {reverb.ing}
{codenoun} {thing} {unverb.ed} by {@user}
request {hex} took {decimal 0 9} s
"""
)
INDENT = "  "


def write_html(w: Writer) -> None:
    """A page with nested elements, lists, links and attributes."""
    w.add("<!DOCTYPE html>\n<html>\n<head>\n  <title>")
    PAGE.write(w, "title")
    w.add("</title>\n</head>\n<body>\n")
    for _ in range(w.number(2, 5)):
        element(w, INDENT, 0)
    w.add("</body>\n</html>")


def element(w: Writer, indent: str, depth: int) -> None:
    """One block element, which may hold others."""
    kind = w.number(0, 5 if depth < 3 else 2)
    if kind <= 1:
        line(w, indent, w.pick(("p", "p", "h2", "h3")), "sentence")
    elif kind == 2:
        w.add(f'{indent}<a href="')
        PAGE.write(w, "link")
        w.add('">')
        PAGE.write(w, "short")
        w.add("</a>\n")
    elif kind == 3:
        html_list(w, indent)
    else:
        tag = w.pick(("div", "section", "article", "footer", "nav"))
        w.add(f'{indent}<{tag} class="{w.pick(w.topic["thing"])}" id="{w.pick(w.topic["stuff"])}-{w.number(1, 99)}">\n')
        for _ in range(w.number(1, 3)):
            element(w, indent + INDENT, depth + 1)
        w.add(f"{indent}</{tag}>\n")


def line(w: Writer, indent: str, tag: str, rule: str) -> None:
    """An element on one line; words inside it may be emphasised."""
    w.add(f"{indent}<{tag}>")
    PAGE.write(w, rule)
    if tag == "p" and w.chance(0.4):
        w.add(" <em>")
        PAGE.write(w, "sentence")
        w.add("</em>")
    w.add(f"</{tag}>\n")


def html_list(w: Writer, indent: str) -> None:
    tag = w.pick(("ul", "ol"))
    w.add(f"{indent}<{tag}>\n")
    for _ in range(w.number(2, 6)):
        line(w, indent + INDENT, "li", "entry")
    w.add(f"{indent}</{tag}>\n")


def write_markdown(w: Writer) -> None:
    """Headings, paragraphs, lists, tables, quotes and fenced code."""
    w.add("# ")
    PAGE.write(w, "title")
    for _ in range(w.number(3, 8)):
        w.add("\n\n")
        w.pick((md_section, md_section, md_list, md_list, md_code, md_table, md_quote))(w)


def md_section(w: Writer) -> None:
    w.add(w.pick(("## ", "## ", "### ")))
    PAGE.write(w, "short")
    w.add("\n\n")
    PAGE.sentences(w, "sentence", w.number(2, 5))
    if w.chance(0.5):
        w.add(" See [")
        PAGE.write(w, "entry")
        w.add("](")
        PAGE.write(w, "link")
        w.add(w.pick((").", ") for **more**.", "), *if* you must.")))


def md_list(w: Writer) -> None:
    PAGE.write(w, "short")
    w.add(":\n")
    marker, box = w.pick(("-", "*", "1.")), w.chance(0.2)
    for i in range(1, w.number(4, 8)):
        w.add(f"\n{i}. " if marker == "1." else f"\n{marker} ")
        w.add(w.pick(("[ ] ", "[x] ")) if box else "")
        PAGE.write(w, "entry")
        if w.chance(0.2):
            w.add(f"\n  {marker} " if marker != "1." else "\n   - ")
            PAGE.write(w, "entry")


def md_code(w: Writer) -> None:
    w.add(f"```{w.pick(('', 'bash', 'sh'))}\n")
    PAGE.sentences(w, "command", w.number(1, 4), "\n")
    w.add("\n```")


def md_table(w: Writer) -> None:
    columns = w.number(2, 4)
    for row in range(w.number(3, 7)):
        w.add("|" if row == 0 else "\n|")
        for _ in range(columns):
            w.add(" ")
            PAGE.write(w, "short" if row == 0 else "cell")
            w.add(" |")
        if row == 0:
            w.add("\n|" + " --- |" * columns)


def md_quote(w: Writer) -> None:
    w.add("> ")
    PAGE.sentences(w, "sentence", w.number(1, 3), w.pick((" ", "\n> ")))


def write_json(w: Writer) -> None:
    """Records with nested objects and lists, indented or on one line."""
    record_keys = [w.pick(words("codenoun")) for _ in range(w.number(3, 6))]
    records = [{"id": i, **json_object(w, record_keys, 0)} for i in range(1, w.number(2, 7))]
    value = w.pick((records, {w.pick(words("codenoun")) + "s": records, "total": len(records)}, records[0]))
    w.add(json.dumps(value, indent=w.pick((2, 2, 4, None)), ensure_ascii=False))


def json_object(w: Writer, keys: list[str], depth: int) -> dict[str, object]:
    """An object with ``keys``; the same key holds the same kind of value in every record."""
    return {key: json_value(w, (ord(key[0]) + ord(key[-1]) + len(key)) % 10, depth) for key in keys}


def json_value(w: Writer, kind: int, depth: int) -> object:
    """A value of one of ten kinds; nested kinds only down to three levels."""
    if kind >= 8 and depth < 3:
        keys = [w.pick(words("codenoun")) for _ in range(w.number(2, 4))]
        return json_object(w, keys, depth + 1)
    if kind == 7 and depth < 3:
        return [json_value(w, w.number(0, 3), depth + 1) for _ in range(w.number(1, 5))]
    simple = (w.number(0, 999), w.pick(w.topic["thing"]), w.pick((True, False, None)), w.number(0, 9999) / 100)
    phrase = f"{w.pick(words('adj'))} {w.pick(w.topic['thing'])} ({w.pick(w.topic['stuff'])})"
    richer = (slots.full_name(w), slots.iso_date(w), phrase)
    return (*simple, *richer)[kind % 7]


def write_log(w: Writer) -> None:
    """Timestamps that go up, levels, messages about recurring sessions."""
    day, seconds, module = slots.iso_date(w), w.number(0, 80000), w.pick(words("module"))
    style = w.number(0, 2)
    for i in range(w.number(8, 28)):
        seconds += w.number(0, 90)
        if i:
            w.add("\n")
        log_head(w, style, day, f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}", module)
        LOG.write(w, "message")


def log_head(w: Writer, style: int, day: str, time: str, module: str) -> None:
    """The start of a log line in one of three styles."""
    level = w.pick(words("loglevel"))
    w.add("[" if style == 0 else "")
    w.mark(day, "date", "iso")
    if style == 0:
        w.add(f" {time}] {level} {module}: ")
    elif style == 1:
        w.add(f"T{time}Z {level:5} ({module}) ")
    else:
        w.add(f" {time} {module}[{w.number(100, 999)}]: {level.lower()}: ")
