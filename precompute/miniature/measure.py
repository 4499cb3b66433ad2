"""What the miniature has learnt: indirect objects, closing brackets and quotes, induction, loss by register.

All text is held out: documents whose hash keeps them from training, and sentences the generator never writes.
Only the plain Hugging Face model is used, so the numbers do not rest on the code they are shown by.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from precompute.miniature import NAMES, Document, documents, ioi_prompts
from sae_core.documents import is_held_out
from sae_core.errors import ModelError
from sae_core.results import wilson
from sae_core.store import atomic
from sae_core.tokens import token_bytes

BRACKETS = {")": "(", "]": "[", "}": "{"}
QUOTES = ('"', "\u201d")
# A closer, or punctuation and then a closer: `)`, `],`, `."`, `\n}`. A quote after white space would open.
CLOSER = re.compile(r"[\s.,;:!?%'\u2019]*([)\]}])|[.,;:!?%'\u2019]*([\"\u201d])")
WORD = re.compile(r" [A-Za-z]{2,}")
FEWEST_NAMES = 20
BATCH = 32
T = TypeVar("T")


@dataclass(frozen=True)
class Args:
    """Measure what a model trained on the miniature corpus has learnt."""

    model: Path = Path("data/miniature/model")
    """folder of the model"""
    out: Path | None = None
    """where the numbers are written; measurements.json in the model's folder if not given"""
    seed: int = 0
    """of the prompts, documents and random sequences"""
    prompts: int = 1000
    """indirect-object prompts"""
    documents: int = 1000
    """held-out documents"""
    sequences: int = 256
    """random sequences for induction"""


def run(args: Args) -> None:
    """Measure, print and write."""
    found = measure(args.model, args.seed, args.prompts, args.documents, args.sequences)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    with atomic(args.out or args.model / "measurements.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def measure(
    model_folder: Path, seed: int = 0, n_prompts: int = 1000, n_documents: int = 1000, n_sequences: int = 256
) -> dict[str, Any]:
    """All measurements, ready for JSON. Raises ModelError if the folder holds no model, or one that fits no prompt."""
    probe = Probe.load(model_folder)
    return {
        "seed": seed,
        "indirect_object": indirect_object(probe, n_prompts, seed),
        **held_out_documents(probe, islice(held_out(seed), n_documents)),
        "induction": induction(probe, n_sequences, seed),
    }


def held_out(seed: int) -> Iterator[Document]:
    """Documents of the corpus that training leaves out."""
    return (document for document in documents(seed) if is_held_out(document.text))


@dataclass(frozen=True)
class Probe:
    """The model with its tokenizer, and the text of every token (empty for parts of a character)."""

    model: GPTNeoXForCausalLM
    tokenizer: PreTrainedTokenizerFast
    texts: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> Probe:
        """Read a Hugging Face folder. Raises ModelError if it is none."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = GPTNeoXForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            fix = "Train it: python -m precompute miniature"
            raise ModelError(f"a GPT-NeoX model in {folder}", reason, fix) from None
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        return cls(model, tokenizer, tuple(map(_text_of, pieces)))

    @torch.inference_mode()
    def log_probs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-probability of every next token [rows, longest, vocabulary]; shorter rows are padded at the end."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.end] * (longest - len(row))] for row in rows])
        return self.model(ids, use_cache=False).logits[..., : len(self.texts)].log_softmax(-1)

    @property
    def end(self) -> int:
        return self.tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _text_of(piece: str) -> str:
    try:
        return token_bytes(piece).decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _batches(items: Iterable[T]) -> list[tuple[T, ...]]:
    some = list(items)
    return [tuple(some[i : i + BATCH]) for i in range(0, len(some), BATCH)]


def as_share(outcomes: Iterable[bool]) -> dict[str, Any]:
    """Count, share and its interval; nothing but the count if there is none."""
    outcomes = list(outcomes)
    n, hits = len(outcomes), sum(outcomes)
    if n == 0:
        return {"n": 0}
    return {"n": n, "hits": hits, "share": round(hits / n, 4), "interval_95": [round(x, 4) for x in wilson(hits, n)]}


# ---- indirect objects


def indirect_object(probe: Probe, n: int, seed: int) -> dict[str, Any]:
    """Share of held-out prompts with P(indirect object) > P(subject) for the next token; names are single tokens."""
    names = tuple(name for name in NAMES if len(probe.encode(f" {name}")) == 1)
    if len(names) < FEWEST_NAMES:
        found = f"{len(names)} in this tokenizer"
        raise ModelError(f"{FEWEST_NAMES} first names that are single tokens", found, "Train on the miniature corpus")
    prompts = ioi_prompts(n, seed, names=names)
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for some in tqdm(_batches(prompts), desc="indirect objects"):
        rows = [[probe.end, *probe.encode(prompt.text)] for prompt in some]  # as at the beginning of a document
        for row, prompt, log_probs in zip(rows, some, probe.log_probs(rows), strict=True):
            right, wrong = (probe.encode(f" {name}")[0] for name in (prompt.indirect_object, prompt.subject))
            outcomes[prompt.order].append(bool(log_probs[len(row) - 1, right] > log_probs[len(row) - 1, wrong]))
    every = [outcome for some in outcomes.values() for outcome in some]
    by_order = {order: as_share(some) for order, some in sorted(outcomes.items())}
    return {**as_share(every), "names": len(names), "by_order": by_order}


# ---- held-out documents: closers and loss


def held_out_documents(probe: Probe, some: Iterable[Document]) -> dict[str, Any]:
    """One pass over the first context of each document, an end-of-text token before it as in training.

    `brackets`: positions whose next token closes an open bracket; share at which the right kind has the largest
    probability among `)`, `]` and `}`, summed over the tokens that begin with it. `quotes`: positions whose next
    token closes an open double quote; the same among straight and curly closing quotes and the three brackets.
    `commonest` is the share of the commonest kind: what always naming that one would reach.
    """
    closers = Closers(probe.texts)
    right: dict[str, list[tuple[str, bool]]] = {"brackets": [], "quotes": []}
    losses: dict[str, list[Tensor]] = defaultdict(list)
    for batch in tqdm(_batches(some), desc="held-out documents"):
        cut = probe.model.config.max_position_embeddings
        encodings = probe.tokenizer.backend_tokenizer.encode_batch([d.text for d in batch], add_special_tokens=False)
        rows = [[probe.end, *encoding.ids][:cut] for encoding in encodings]
        for document, encoding, row, log_probs in zip(batch, encodings, rows, probe.log_probs(rows), strict=True):
            next_ids = torch.tensor(row[1:])
            losses[document.register].append(-log_probs[: len(row) - 1].gather(1, next_ids[:, None]).flatten())
            for group, kind, ok in closers.outcomes(document.text, encoding.offsets, row, log_probs):
                right[group].append((kind, ok))
    return {**{group: _closer_report(found) for group, found in right.items()}, "loss": _loss_report(losses)}


class Closers:
    """Which tokens close what."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.kind: dict[int, tuple[str, int]] = {}
        for i, text in enumerate(texts):
            if match := CLOSER.match(text):
                self.kind[i] = match.group(match.lastindex), match.start(match.lastindex)
        members = {kind: [i for i, (k, _) in self.kind.items() if k == kind] for kind in (*BRACKETS, *QUOTES)}
        self.members = {kind: torch.tensor(ids) for kind, ids in members.items() if ids}

    def outcomes(
        self, text: str, offsets: list[tuple[int, int]], row: list[int], log_probs: Tensor
    ) -> Iterator[tuple[str, str, bool]]:
        """(group, kind, whether that kind was ranked first) for every token of the row that closes something."""
        closing = closing_positions(text)
        for position, token in enumerate(row[1:]):
            kind, at = self.kind.get(token, ("", 0))
            if kind and offsets[position][0] + at in closing:
                group = "brackets" if kind in BRACKETS else "quotes"
                yield group, kind, self.first(log_probs[position], group) == kind

    def first(self, log_probs: Tensor, group: str) -> str:
        """The kind with the largest summed probability."""
        kinds = [kind for kind in self.members if kind in BRACKETS or group == "quotes"]
        return max(kinds, key=lambda kind: log_probs[self.members[kind]].logsumexp(0).item())


def closing_positions(text: str) -> set[int]:
    """Characters that close a bracket of their kind opened last, or a double quote that is open."""
    stack: list[str] = []
    found: set[int] = set()
    straight = curly = False
    for i, character in enumerate(text):
        if character in "([{":
            stack.append(character)
        elif character in BRACKETS and stack and stack[-1] == BRACKETS[character]:
            stack.pop()
            found.add(i)
        elif character == '"':
            if straight:
                found.add(i)
            straight = not straight
        elif character in "\u201c\u201d":
            if curly and character == "\u201d":
                found.add(i)
            curly = character == "\u201c"
    return found


def _closer_report(found: list[tuple[str, bool]]) -> dict[str, Any]:
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for kind, ok in found:
        by_kind[kind].append(ok)
    report = as_share(ok for _, ok in found)
    if found:
        report["commonest"] = round(max(map(len, by_kind.values())) / len(found), 4)
    return report | {"by_kind": {kind: as_share(some) for kind, some in sorted(by_kind.items())}}


def _loss_report(losses: dict[str, list[Tensor]]) -> dict[str, Any]:
    """Mean loss in nats per token, of all and by register, with the spread over documents as standard error."""
    every = [loss for some in losses.values() for loss in some]
    return {**_mean_loss(every), "by_register": {name: _mean_loss(some) for name, some in sorted(losses.items())}}


def _mean_loss(some: list[Tensor]) -> dict[str, Any]:
    tokens = sum(map(len, some))
    mean = sum(loss.sum().item() for loss in some) / tokens
    # Of a ratio of sums over documents (the delta method).
    residuals = [(loss.sum().item() - mean * len(loss)) ** 2 for loss in some]
    return {"nats": round(mean, 4), "stderr": round(math.sqrt(sum(residuals)) / tokens, 4),
            "tokens": tokens, "documents": len(some)}  # fmt: skip


# ---- induction


def induction(probe: Probe, n: int, seed: int, length: int = 50) -> dict[str, Any]:
    """Loss on random tokens and on their repetition: `words` (a space and letters) and `all` whole-character tokens."""
    pools = {
        "words": [i for i, text in enumerate(probe.texts) if WORD.fullmatch(text)],
        "all": [i for i, text in enumerate(probe.texts) if text and i not in probe.tokenizer.all_special_ids],
    }
    return {name: _repeat(probe, pool, n, length, random.Random(f"{seed}/{name}")) for name, pool in pools.items()}


def _repeat(probe: Probe, pool: list[int], n: int, length: int, rng: random.Random) -> dict[str, Any]:
    first = [[rng.choice(pool) for _ in range(length)] for _ in range(n)]
    losses = []
    for some in tqdm(_batches([probe.end, *half, *half] for half in first), desc="induction"):
        ids = torch.tensor(some)
        losses.append(-probe.log_probs(some)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2))
    loss = torch.cat(losses).double()
    halves = loss[:, :length].mean().item(), loss[:, length:].mean().item()
    return {"sequences": n, "length": length, "tokens_to_draw_from": len(pool), "first_half_nats": round(halves[0], 4),
            "second_half_nats": round(halves[1], 4), "ratio": round(halves[1] / halves[0], 4)}  # fmt: skip
