"""Readable tokens: visible, and never the same for two different tokens."""

from __future__ import annotations

import pytest
from tokenizers import pre_tokenizers

from sae_core.tokens import byte_of_symbol, readable, token_bytes


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


def test_every_byte_has_its_own_form() -> None:
    assert len({readable(bytes([b])) for b in range(256)}) == 256


def test_alphabet_is_the_tokenizers_own() -> None:
    assert set(byte_of_symbol()) == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize("text", [" naïve café", "’", "\n\t x", "漢字", "🙂"])
def test_pieces_become_the_bytes_they_stand_for(text: str) -> None:
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    assert b"".join(token_bytes(piece) for piece, _ in pieces) == text.encode()
