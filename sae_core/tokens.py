"""Tokens made readable: whitespace and byte fragments visible, never ambiguous. Light: needs no tokenizer."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
CLOSERS = (")", "]", "}")
_HIDDEN = {shown: raw for raw, shown in VISIBLE.items()}
_SHOWN = re.compile(r"\\u\{([0-9a-f]{1,6})\}|‹([0-9A-F]{2})›|(.)", re.DOTALL)


@lru_cache(maxsize=1)
def byte_of_symbol() -> dict[str, int]:
    """The byte that each printable symbol of a byte-level BPE vocabulary stands for.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for U+0100 and up.
    """
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in own}
    others = [byte for byte in range(256) if byte not in set(own)]
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_bytes(piece: str) -> bytes:
    """Bytes of a byte-level BPE piece such as `Ġthe`; added tokens (not in that alphabet) as UTF-8."""
    table = byte_of_symbol()
    if all(symbol in table for symbol in piece):
        return bytes(table[symbol] for symbol in piece)
    return piece.encode("utf-8")


def sentencepiece_bytes(piece: str) -> bytes:
    """Bytes of a SentencePiece piece such as `▁the`: `▁` is a space, `<0x0A>` one byte, the rest is text."""
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    return bytes([int(byte.group(1), 16)]) if byte else piece.replace("▁", " ").encode("utf-8")


def readable(raw: bytes) -> str:
    """Visible form of a token's bytes: ` the` -> `␣the`, a newline -> `↵`, a byte fragment -> `‹E2›`.

    Characters that serve as marks here are written as escapes, so two tokens never look the same.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(b) if 0x21 <= b < 0x7F else VISIBLE[" "] if b == 0x20 else f"‹{b:02X}›" for b in raw)
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in VISIBLE:
        return VISIBLE[character]
    marks = set(VISIBLE.values()) | {"‹", "›", "\\"}
    hidden = unicodedata.category(character)[0] in "CZ" or unicodedata.category(character)[0] == "M"
    if (character in marks and character != "\\") or hidden:
        return f"\\u{{{ord(character):x}}}"
    return character


def original(shown: str) -> str:
    """Inverse of `readable`, as text: `␣the` -> ` the`; bytes that are no whole characters become U+FFFD."""
    return b"".join(_raw(*match.groups()) for match in _SHOWN.finditer(shown)).decode("utf-8", "replace")


def _raw(escaped: str | None, byte: str | None, character: str | None) -> bytes:
    if byte:
        return bytes([int(byte, 16)])
    text = chr(int(escaped, 16)) if escaped else _HIDDEN.get(str(character), str(character))
    return text.encode("utf-8")


def closes(token: str) -> bool:
    """Whether a readable token begins with a closing bracket, a space before it left aside."""
    return token.lstrip("␣").startswith(CLOSERS)
