# ruff: noqa: E501 (one template or word list per line)
"""Python-like and C-like programs: nested blocks, calls and literals whose brackets close far away."""

from __future__ import annotations

from keyword import kwlist

from precompute.miniature.grammar import Grammar
from precompute.miniature.words import words
from precompute.miniature.writer import Writer

TEXTS = Grammar(
    r"""
== comment
{^handle} the {thing.pl} before {run.ing} the {codenoun}.
{^run} every {codenoun} of the {thing}.
If the {codenoun} is {unthing}, {reverb} it.
TODO: {reverb} this {codenoun} ({fullname})
Do not {disdo} the {codenoun}: {unthing} callers still use it.
The {worker} expects {numeral} {thing.pl} here (see {url})
{^unthing} {codenoun}s are kept.
== message
{unthing} {codenoun}
cannot {run} {codenoun}
{thing} is {adj}
{codenoun} not found
too many {thing.pl}
{run.ed} all {thing.pl}
expected {a codenoun} (got none)
"""
)
DEPTH = 3
METHODS = ("append", "update", "add", "write")
RESERVED = frozenset(("switch", "case", "default", "register", "union", *kwlist))


def text(w: Writer, rule: str) -> None:
    TEXTS.write(w, rule)


def noun(w: Writer) -> str:
    """A variable name: a word of programming or of the topic that neither language keeps for itself."""
    while (name := w.pick(w.pick((words("codenoun"), w.topic["thing"])))) in RESERVED:
        pass
    return name.replace("-", "_")


def function_name(w: Writer) -> str:
    return f"{w.pick(words('codeverb'))}_{noun(w)}"


def expression(w: Writer, variables: list[str], depth: int = 0) -> str:
    """A Python expression over ``variables`` with nested brackets."""
    kind = w.number(0, 9) if depth < DEPTH else w.number(0, 3)
    name = w.pick(variables)
    if kind < 2:
        return name
    if kind == 2:
        return str(w.number(0, 99))
    if kind == 3:
        return f'"{w.pick(words("codenoun"))}"'
    inner = expression(w, variables, depth + 1)
    if kind == 4:
        return f"{w.pick(('len', 'sorted', 'list', 'str', 'sum', 'max', 'min', 'set'))}({inner})"
    if kind == 5:
        return f"{name}[{w.number(0, 9)}]" if w.chance(0.5) else f'{name}["{w.pick(words("codenoun"))}"]'
    if kind == 6:
        return f"{name} {w.pick('+-*%')} {inner}"
    if kind == 7:
        return f"{w.pick(words('codeverb'))}({inner}, {expression(w, variables, depth + 1)})"
    if kind == 8:
        return f"({inner} {w.pick(('+', '-', '*', '//'))} {expression(w, variables, depth + 1)})"
    return f"{name}.{w.pick(words('codeverb'))}({inner})"


def condition(w: Writer, variables: list[str]) -> str:
    """A Python condition."""
    name = w.pick(variables)
    right = expression(w, variables, 2)
    return w.pick(
        (
            f"{name} is None",
            f"not {name}",
            f"{name} == {right}",
            f"{name} < {w.number(1, 99)}",
            f"{name} in {right}",
            f"len({name}) > {w.number(0, 20)}",
            f"isinstance({name}, {w.pick(('int', 'str', 'list', 'dict'))})",
            f"{name} and {name}[{w.number(0, 3)}] != {right}",
            f"{name} >= {right}",
        )
    )


def write_python(w: Writer) -> None:
    """A module: imports, constants, functions and classes."""
    if w.chance(0.6):
        docstring(w, "")
        w.add("\n")
    modules = ("os", "re", "json", "math", "time", "random", "logging")
    for module in dict.fromkeys(w.pick(modules) for _ in range(w.number(1, 3))):
        w.add(f"import {module}\n")
    w.add(f"from {w.pick(words('module'))} import {function_name(w)}\n")
    if w.chance(0.6):
        w.add("\n")
        constant(w)
    for _ in range(w.number(1, 4)):
        w.add("\n\n")
        if w.chance(0.25):
            python_class(w)
        else:
            python_function(w, "")


def docstring(w: Writer, indent: str) -> None:
    w.add(f'{indent}"""')
    text(w, "comment")
    w.add('"""\n')


def constant(w: Writer) -> None:
    """A dictionary or list over several lines."""
    name = noun(w).upper()
    opening, closing = w.pick(("{}", "[]"))
    w.add(f"{name}S = {opening}\n")
    for _ in range(w.number(3, 9)):
        key = f'"{noun(w)}": ' if opening == "{" else ""
        value = w.pick(
            (
                str(w.number(0, 999)),
                f'"{noun(w)}"',
                f"[{w.number(1, 9)}, {w.number(1, 9)}]",
                f'("{noun(w)}", {w.number(1, 9)})',
            )
        )
        w.add(f"    {key}{value},\n")
    w.add(f"{closing}\n")


def python_class(w: Writer) -> None:
    """A class with an initialiser and one to three methods."""
    name = noun(w).title().replace("_", "") + w.pick(("Store", "Reader", "Index", "Queue", "Parser", "Manager"))
    fields = list(dict.fromkeys(noun(w) for _ in range(w.number(1, 4))))
    w.add(f"class {name}:\n")
    docstring(w, "    ")
    w.add(f"\n    def __init__(self, {', '.join(fields)}):\n")
    for field in fields:
        w.add(f"        self.{field} = {field}\n")
    for _ in range(w.number(1, 3)):
        w.add("\n")
        python_function(w, "    ", [f"self.{field}" for field in fields])


def python_function(w: Writer, indent: str, fields: list[str] | None = None) -> None:
    """A function with a documented body that ends in ``return``."""
    arguments = list(dict.fromkeys(noun(w) for _ in range(w.number(1, 3))))
    shown = (["self"] if fields else []) + arguments
    w.add(f"{indent}def {function_name(w)}({', '.join(shown)}):\n")
    variables = [*arguments, *(fields or ())]
    if w.chance(0.4):
        docstring(w, indent + "    ")
    python_block(w, indent + "    ", variables, w.number(1, 3), 0)
    w.add(f"{indent}    return {expression(w, variables)}\n")


def python_block(w: Writer, indent: str, variables: list[str], n: int, depth: int) -> None:
    """``n`` statements, some of which hold blocks themselves."""
    for _ in range(n):
        python_statement(w, indent, variables, depth)


def python_statement(w: Writer, indent: str, variables: list[str], depth: int) -> None:
    """One statement: assignment, call, if, for, while, try, raise or comment."""
    kind = w.number(0, 11) if depth < DEPTH else w.number(0, 4)
    if kind <= 2:
        name = noun(w)
        w.add(f"{indent}{name} = {expression(w, variables)}\n")
        variables.append(name)
    elif kind == 3:
        w.add(f"{indent}{w.pick(variables)}.{w.pick(METHODS)}({expression(w, variables)})\n")
    elif kind == 4:
        w.add(f"{indent}# ")
        text(w, "comment")
        w.add(f'\n{indent}print("')
        text(w, "message")
        w.add(f'", {expression(w, variables, 1)})\n')
    elif kind <= 7:
        python_if(w, indent, variables, depth)
    elif kind <= 9:
        python_loop(w, indent, variables, depth)
    elif kind == 10:
        w.add(f"{indent}{w.pick(words('codeverb'))}(\n")
        for _ in range(w.number(2, 4)):
            w.add(f"{indent}    {noun(w)}={expression(w, variables, 1)},\n")
        w.add(f"{indent})\n")
    else:
        python_try(w, indent, variables, depth)


def python_if(w: Writer, indent: str, variables: list[str], depth: int) -> None:
    inner = indent + "    "
    w.add(f"{indent}if {condition(w, variables)}:\n")
    if w.chance(0.25):
        w.add(f'{inner}raise ValueError("')
        text(w, "message")
        w.add('")\n')
        return
    python_block(w, inner, list(variables), w.number(1, 2), depth + 1)
    if w.chance(0.3):
        w.add(f"{indent}elif {condition(w, variables)}:\n")
        python_block(w, inner, list(variables), 1, depth + 1)
    if w.chance(0.4):
        w.add(f"{indent}else:\n")
        python_block(w, inner, list(variables), 1, depth + 1)


def python_loop(w: Writer, indent: str, variables: list[str], depth: int) -> None:
    name = w.pick(("i", "j", noun(w), noun(w)))
    if w.chance(0.2):
        w.add(f"{indent}while {condition(w, variables)}:\n")
    elif name in "ij":
        w.add(f"{indent}for {name} in range({expression(w, variables, 2)}):\n")
    else:
        w.add(f"{indent}for {name} in {expression(w, variables, 1)}:\n")
    python_block(w, indent + "    ", [*variables, name], w.number(1, 3), depth + 1)


def python_try(w: Writer, indent: str, variables: list[str], depth: int) -> None:
    w.add(f"{indent}try:\n")
    python_block(w, indent + "    ", list(variables), w.number(1, 2), depth + 1)
    w.add(f"{indent}except {w.pick(('KeyError', 'ValueError', 'OSError', 'TypeError'))} as error:\n")
    w.add(f'{indent}    logging.{w.pick(("warning", "error", "info"))}("')
    text(w, "message")
    w.add('", error)\n')


def write_c(w: Writer) -> None:
    """A C file: includes, a struct, functions."""
    headers = ("stdio.h", "stdlib.h", "string.h", "math.h", "errno.h")
    for header in dict.fromkeys(w.pick(headers) for _ in range(w.number(1, 3))):
        w.add(f"#include <{header}>\n")
    w.add(f'#include "{w.pick(words("module"))}.h"\n\n')
    if w.chance(0.5):
        w.add(f"#define MAX_{noun(w).upper()} {2 ** w.number(3, 12)}\n\n")
    if w.chance(0.6):
        c_struct(w)
    for _ in range(w.number(1, 4)):
        c_function(w)


def c_struct(w: Writer) -> None:
    w.add(f"struct {noun(w)} {{\n")
    for name in dict.fromkeys(noun(w) for _ in range(w.number(2, 5))):
        w.add(f"    {w.pick(words('ctype'))} {name}{w.pick(('', '', f'[{2 ** w.number(3, 9)}]'))};\n")
    w.add("};\n\n")


def c_function(w: Writer) -> None:
    """A C function with a comment above it."""
    w.add("/* ")
    text(w, "comment")
    w.add(" */\n")
    arguments = list(dict.fromkeys(noun(w) for _ in range(w.number(1, 3))))
    shown = ", ".join(f"{w.pick(words('ctype'))} {w.pick(('', '*'))}{name}" for name in arguments)
    w.add(f"static {w.pick(words('ctype'))} {function_name(w)}({shown})\n{{\n")
    c_block(w, "    ", arguments, w.number(1, 4), 0)
    w.add(f"    return {c_expression(w, arguments)};\n}}\n\n")


def c_expression(w: Writer, variables: list[str], depth: int = 0) -> str:
    """A C expression with nested brackets."""
    kind = w.number(0, 7) if depth < DEPTH else w.number(0, 2)
    name = w.pick(variables)
    if kind < 2:
        return name
    if kind == 2:
        return w.pick((str(w.number(0, 255)), f"0x{w.number(16, 255):02x}", "NULL", "0"))
    inner = c_expression(w, variables, depth + 1)
    if kind == 3:
        return f"{function_name(w)}({inner}, {c_expression(w, variables, depth + 1)})"
    if kind == 4:
        return f"{name}[{inner}]"
    if kind == 5:
        return f"({inner} {w.pick(('+', '-', '*', '<<', '&', '|'))} {c_expression(w, variables, depth + 1)})"
    return f"{name}->{noun(w)}" if kind == 6 else f"({w.pick(words('ctype'))})({inner})"


def c_block(w: Writer, indent: str, variables: list[str], n: int, depth: int) -> None:
    """``n`` statements; blocks nest up to three deep."""
    for _ in range(n):
        c_statement(w, indent, variables, depth)


def c_statement(w: Writer, indent: str, variables: list[str], depth: int) -> None:
    kind = w.number(0, 9) if depth < DEPTH else w.number(0, 4)
    if kind <= 2:
        name = noun(w)
        w.add(f"{indent}{w.pick(words('ctype'))} {name} = {c_expression(w, variables)};\n")
        variables.append(name)
    elif kind == 3:
        w.add(f"{indent}{w.pick(variables)} {w.pick(('=', '+=', '-=', '|='))} {c_expression(w, variables)};\n")
    elif kind == 4:
        w.add(f'{indent}printf("')
        text(w, "message")
        w.add(f': %d\\n", {c_expression(w, variables, 2)});\n')
    else:
        c_nested(w, indent, variables, depth, loop=kind >= 8)


def c_nested(w: Writer, indent: str, variables: list[str], depth: int, loop: bool) -> None:
    """``if`` with an optional ``else``, or ``for``, around a block."""
    test = f"{w.pick(variables)} {w.pick(('==', '!=', '<', '>='))} {c_expression(w, variables, 2)}"
    if loop:
        w.add(f"{indent}for (int i = 0; i < {w.pick(variables)}; i++) {{\n")
    else:
        w.add(f"{indent}if ({w.pick((test, test, f'!{w.pick(variables)}'))}) {{\n")
    c_block(w, indent + "    ", [*variables, *("i" * loop)], w.number(1, 3), depth + 1)
    if not loop and w.chance(0.3):
        w.add(f"{indent}}} else {{\n")
        c_block(w, indent + "    ", list(variables), 1, depth + 1)
    w.add(f"{indent}}}\n")
