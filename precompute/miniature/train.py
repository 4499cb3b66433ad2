"""Train a small Pythia from scratch: `python -m precompute miniature --corpus SPEC --out FOLDER`.

1. A byte-level BPE is trained on a sample of the corpus.
2. A GPT-NeoX as Pythia-70M uses it (parallel residual, 25 % rotary, untied embeddings) is initialised, smaller.
3. Fresh text is tokenised, joined by the end-of-text token and cut into contexts; short contexts first, since
   attention over long ones is the dearest part of a step on a CPU. AdamW, warm-up, cosine.
4. Every few minutes a checkpoint is written beside `out`; the end is an ordinary Hugging Face folder.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from precompute.miniature import document, tokenizer_sample
from precompute.text_sources import documents_of
from sae_core.documents import is_held_out
from sae_core.errors import CorpusError, RunError, SpecError
from sae_core.specs import CorpusSpec
from sae_core.store import atomic, storage_errors

END_OF_TEXT = "<|endoftext|>"
DOCUMENTS_PER_BLOCK = 64
CHARS_PER_TOKEN = 5  # generous: bounds how much of a long finite corpus is held in memory
LOSS_POINTS = 200


@dataclass(frozen=True)
class Args:
    """Train a small Pythia on any corpus."""

    corpus: str = "miniature"
    """text:FILES, hub:DATASET[:split[:column]] or miniature"""
    out: Path = Path("data/runs/miniature-model")
    """folder of the finished model"""
    tokens: int = 30_000_000
    """tokens to train on"""
    device: str = "auto"
    """auto, cpu or cuda"""
    resume: bool = False
    """continue from the checkpoint beside `out`"""
    seed: int = 0
    """of the text, the initial weights and the order of documents"""
    d_model: int = 128
    """width of the residual stream"""
    n_layers: int = 6
    """blocks"""
    n_heads: int = 4
    """attention heads a block"""
    context: int = 256
    """longest context in tokens"""
    vocab: int = 4096
    """tokens of the byte-level BPE"""
    batch_tokens: int = 4096
    """tokens a step"""
    lr: float = 3e-3
    """peak learning rate"""
    warmup: float = 0.02
    """share of the steps that warms up"""
    short_share: float = 0.6
    """share of the steps with contexts of half the length"""
    tokenizer_chars: int = 12_000_000
    """characters the BPE is trained on"""
    checkpoint_seconds: float = 180
    """seconds between checkpoints"""


def run(args: Args) -> Path:
    """Train and save; returns the model's folder. Raises RunError if a checkpoint is there (or not) unexpectedly."""
    folder = args.out.with_name(args.out.name + ".checkpoint")
    _check(args, folder)
    text = numbered_text(CorpusSpec.parse(args.corpus), args.seed, args.tokens * CHARS_PER_TOKEN)
    if not args.resume:
        train_tokenizer(_tokenizer_text(args, text), args.vocab).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    trainer = Trainer(args, TokenStream(text, tokenizer), folder / "state.pt")
    trainer.train()
    trainer.save(args.out)
    shutil.rmtree(folder)
    return args.out


def _check(args: Args, folder: Path) -> None:
    if args.d_model % args.n_heads or args.batch_tokens % args.context or args.context % 2:
        raise SpecError(
            "n_heads that divide d_model, and a batch of whole, even contexts",
            f"{args.n_heads} of {args.d_model}, {args.batch_tokens} by {args.context}",
            "Change them",
        )
    there = (folder / "state.pt").exists()
    if there and not args.resume:
        raise RunError("no unfinished training", f"a checkpoint in {folder}", "Add --resume, or delete that folder")
    if args.resume and not there:
        raise RunError("a checkpoint to continue", f"none in {folder}", "Start without --resume")


# ---- text


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
    texts = list(_first_chars((d.text for d in documents_of(spec) if not is_held_out(d.text)), n_chars))
    if not texts:
        raise CorpusError("a corpus with training documents", f"only held-out ones in {spec}", "Use a longer corpus")
    n = len(texts)
    return NumberedText(lambda i: texts[_order(n, seed, i // n)[i % n]], n)


def _unless_held_out(text: str) -> str:
    return "" if is_held_out(text) else text


def _first_chars(texts: Iterable[str], n_chars: int) -> Iterator[str]:
    for text in texts:
        yield text
        n_chars -= len(text)
        if n_chars <= 0:
            return


@lru_cache(maxsize=1)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}/{epoch}").sample(range(n), n)


def _tokenizer_text(args: Args, text: NumberedText) -> Iterator[str]:
    if args.corpus == "miniature":
        return tokenizer_sample(args.seed, args.tokenizer_chars)
    return _first_chars(map(text.get, range(text.n)), args.tokenizer_chars)


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


# ---- model


def new_model(args: Args, n_tokens: int, end_of_text: int) -> GPTNeoXForCausalLM:
    """A GPT-NeoX in Pythia's form with Pythia's initialisation (GPT-NeoX's `small_init` and `wang_init`)."""
    torch.manual_seed(args.seed)
    config = GPTNeoXConfig(
        vocab_size=n_tokens,
        hidden_size=args.d_model,
        num_hidden_layers=args.n_layers,
        num_attention_heads=args.n_heads,
        intermediate_size=4 * args.d_model,
        max_position_embeddings=args.context,
        rotary_pct=0.25,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    model = GPTNeoXForCausalLM(config)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            writes = name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
            small = math.sqrt(2 / (5 * args.d_model))
            torch.nn.init.normal_(weight, std=2 / (args.n_layers * math.sqrt(args.d_model)) if writes else small)
    return model


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over `warmup` x steps, then a cosine from `peak` down to a tenth of it."""
    start = max(1, round(warmup * steps))
    if step < start:
        return peak * (step + 1) / start
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - start) / max(1, steps - start)))


def optimiser_of(model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW; weight decay on the matrices inside the blocks only."""
    decay = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    plain = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


class Trainer:
    """The loop. Nothing is random after initialisation, so weights, optimiser and stream position make a checkpoint."""

    def __init__(self, args: Args, stream: TokenStream, checkpoint: Path) -> None:
        self.args, self.stream, self.checkpoint = args, stream, checkpoint
        self.device = pick_device(args.device)
        self.steps = max(1, args.tokens // args.batch_tokens)
        tokenizer = stream.tokenizer
        self.model = new_model(args, len(tokenizer), tokenizer.eos_token_id).to(self.device)
        self.optimiser = optimiser_of(self.model)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        if args.resume:
            self._load()

    def train(self) -> None:
        """Run to the last step, saving every `checkpoint_seconds`."""
        bar = tqdm(total=self.steps * self.args.batch_tokens, initial=self.step * self.args.batch_tokens, unit="tok")
        start = saved = time.perf_counter()
        before = self.seconds
        self.model.train()
        with bar:
            while self.step < self.steps:
                self.losses.append(self._step())
                bar.update(self.args.batch_tokens)
                bar.set_postfix(loss=f"{sum(self.losses[-50:]) / len(self.losses[-50:]):.3f}", refresh=False)
                now = time.perf_counter()
                self.seconds = before + now - start
                if now - saved > self.args.checkpoint_seconds:
                    self._save()
                    saved = now

    def _step(self) -> float:
        """One optimiser step; the mean cross-entropy of its batch in nats."""
        short = self.step < self.args.short_share * self.steps
        context = self.args.context // (2 if short else 1)
        # Measured on a CPU in bf16: plain attention is the faster one at 128 tokens, the fused one at 256.
        self.model.set_attn_implementation("eager" if short and self.device.type == "cpu" else "sdpa")
        inputs, targets = self.stream.take(self.args.batch_tokens // context, context)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(inputs.to(self.device), use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.to(self.device).flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.args.lr, self.args.warmup)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        return loss.item()

    def _save(self) -> None:
        state = {
            "settings": _settings(self.args),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "stream": {"position": self.stream.position, "rest": self.stream.rest},
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        with atomic(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["settings"] != _settings(self.args):
            raise SpecError(
                f"the settings of the checkpoint, {state['settings']}", f"{_settings(self.args)}", "Repeat them"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.stream.position, self.stream.rest = state["stream"]["position"], state["stream"]["rest"].cpu()
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]

    def save(self, out: Path) -> None:
        """Write the Hugging Face folder and `training.json`: settings, seconds, versions and the loss curve."""
        report = {
            "settings": _settings(self.args),
            "tokens": self.step * self.args.batch_tokens,
            "documents": self.stream.position,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "loss": _curve(self.losses),
        }
        with storage_errors(out):
            self.model.float().cpu().eval().save_pretrained(out)
            self.stream.tokenizer.save_pretrained(out)
        with atomic(out / "training.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises SpecError for a device that is not there."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("auto", "cpu", found):
        raise SpecError(f"a device this machine has (cpu, {found})", repr(device), "Use --device auto")
    return torch.device(found if device == "auto" else device)


def _settings(args: Args) -> dict[str, Any]:
    """What must be equal for a resumed run to end as an uninterrupted one."""
    free = ("out", "device", "resume", "checkpoint_seconds")
    return {name: value for name, value in asdict(args).items() if name not in free}


def _curve(losses: list[float]) -> list[dict[str, float]]:
    """Mean loss of at most 200 equal stretches of the training."""
    stretch = max(1, -(-len(losses) // LOSS_POINTS))
    parts = [losses[i : i + stretch] for i in range(0, len(losses), stretch)]
    return [{"step": i * stretch, "loss": round(sum(p) / len(p), 4)} for i, p in enumerate(parts)]
