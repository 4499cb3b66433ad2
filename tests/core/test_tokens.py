"""Readable tokens: visible, and never the same for two different tokens."""

from __future__ import annotations

import pytest
from tokenizers import pre_tokenizers

from sae_core.tokens import byte_of_symbol, original, readable, token_bytes


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b" the", "␣the"),
        (b"\n\n", "↵↵"),
        (b"\t", "⇥"),
        (b"\xe2\x80", "‹E2›‹80›"),
        (b" \xe2", "␣‹E2›"),
        ("’s".encode(), "’s"),
        ("␣".encode(), "\\u{2423}"),
        ("\u200f".encode(), "\\u{200f}"),
        ("\u00a0".encode(), "\\u{a0}"),
        (b"<script>", "<script>"),
        (b"\x00", "\\u{0}"),
    ],
)
def test_readable(raw: bytes, shown: str) -> None:
    assert readable(raw) == shown


@pytest.mark.parametrize(
    "raw",
    [b" the", b"\n\n\t\r", b"\xe2\x80", b" \xe2", "’s ␣ ‹E2› é".encode(), "\u200f\u00a0".encode(), b"<script>\x00",
     b"\\n \\u", "好😀".encode()],
)  # fmt: skip
def test_original_is_the_inverse(raw: bytes) -> None:
    assert original(readable(raw)) == raw.decode("utf-8", "replace")


def test_original_of_every_byte_and_of_many_characters() -> None:
    assert all(original(readable(bytes([b]))) == bytes([b]).decode("utf-8", "replace") for b in range(256))
    assert all(original(readable(chr(c).encode())) == chr(c) for c in range(0x3000) if not 0xD800 <= c < 0xE000)


def test_every_byte_has_its_own_form() -> None:
    assert len({readable(bytes([b])) for b in range(256)}) == 256


def test_alphabet_is_the_tokenizers_own() -> None:
    assert set(byte_of_symbol()) == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize("text", [" naïve café", "’", "\n\t x", "漢字", "🙂"])
def test_pieces_become_the_bytes_they_stand_for(text: str) -> None:
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert b"".join(token_bytes(piece) for piece, _ in pieces) == text.encode()
