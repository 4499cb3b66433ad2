"""What is trained on: numbered documents, the byte-level BPE made from them, the endless stream of tokens; repeats."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from precompute.miniature import document
from precompute.text_sources import documents_of
from sae_core.documents import is_held_out
from sae_core.errors import CorpusError
from sae_core.specs import CorpusSpec

END_OF_TEXT = "<|endoftext|>"
DOCUMENTS_PER_BLOCK = 64


@dataclass(frozen=True)
class NumberedText:
    """Training document number i for any i >= 0; `n` of them are different, or without end where `n` is None."""

    get: Callable[[int], str]
    n: int | None


def numbered_text(spec: CorpusSpec, seed: int, n_chars: int) -> NumberedText:
    """Never a held-out document (`get` may give "" instead). A finite corpus goes round in another order each time.

    At most about `n_chars` characters of a finite corpus are held in memory. Raises CorpusError if it has no text.
    """
    if spec.kind == "miniature":
        return NumberedText(lambda i: _unless_held_out(document(seed, i).text), None)
    texts = list(first_chars((d.text for d in documents_of(spec) if not is_held_out(d.text)), n_chars))
    if not texts:
        raise CorpusError("a corpus with training documents", f"only held-out ones in {spec}", "Use a longer corpus")
    n = len(texts)
    return NumberedText(lambda i: texts[_order(n, seed, i // n)[i % n]], n)


def _unless_held_out(text: str) -> str:
    return "" if is_held_out(text) else text


def first_chars(texts: Iterable[str], n_chars: int) -> Iterator[str]:
    """Whole texts until they hold `n_chars` characters or more."""
    for text in texts:
        yield text
        n_chars -= len(text)
        if n_chars <= 0:
            return


@lru_cache(maxsize=1)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}/{epoch}").sample(range(n), n)


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocab` tokens, `<|endoftext|>` first, as Pythia's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


class TokenStream:
    """Endless training tokens. `position` and `rest` say where it is, and are all that a checkpoint needs."""

    def __init__(self, text: NumberedText, tokenizer: PreTrainedTokenizerFast) -> None:
        self.text, self.tokenizer = text, tokenizer
        self.position = 0
        self.rest = torch.empty(0, dtype=torch.int64)

    def take(self, rows: int, context: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets [rows, context]; the targets are the inputs moved on by one token."""
        n = rows * context
        while len(self.rest) <= n:
            self.rest = torch.cat([self.rest, self._block()])
        piece, self.rest = self.rest[: n + 1], self.rest[n:].clone()
        return piece[:-1].view(rows, context), piece[1:].view(rows, context)

    def _block(self) -> Tensor:
        numbers = range(self.position, self.position + DOCUMENTS_PER_BLOCK)
        texts = [text for text in map(self.text.get, numbers) if text]
        self.position = numbers.stop
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        end = self.tokenizer.eos_token_id
        return torch.tensor([i for e in encoded for i in (*e.ids, end)], dtype=torch.int64)


def repeated_tokens(rows: int, context: int, n_tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [rows, context] of repeated sequences, drawn from tokens 1 to n_tokens - 1 uniformly.

    A sequence has from 4 tokens to a third of the context and comes two or three times. Token 0 ends texts.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, n: int = 1) -> Tensor:
        return torch.randint(low, high, (n,), generator=generator)

    def row() -> Tensor:
        pieces: list[Tensor] = []
        while sum(map(len, pieces)) <= context:
            pieces += [draw(1, n_tokens, int(draw(4, context // 3 + 2)))] * int(draw(2, 4))
        return torch.cat(pieces)[: context + 1]

    found = torch.stack([row() for _ in range(rows)]) if rows else torch.empty(0, context + 1, dtype=torch.int64)
    return found[:, :-1], found[:, 1:]
