"""Train a small Pythia from scratch: `python -m precompute miniature --corpus SPEC --out FOLDER`.

1. A byte-level BPE is trained on a sample of the corpus.
2. A GPT-NeoX as Pythia-70M uses it (parallel residual, 25 % rotary, untied embeddings) is initialised, smaller.
3. A primer: random tokens that repeat, first few of them in short contexts, then all, then in longer contexts. On 30
   million tokens of text alone a model this small formed no induction heads (the second of two equal sequences cost it
   as much as the first); on the primer they form within two million tokens.
4. Fresh text is tokenised, joined by the end-of-text token and cut into contexts; short contexts first, since
   attention over long ones is the dearest part of a step on a CPU. One row in eight stays with repeated tokens, or
   the first thousand steps of text would wipe the heads out again. AdamW, warm-up, cosine.
5. Every few minutes a checkpoint is written beside `out`; the end is an ordinary Hugging Face folder.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from precompute.miniature import tokenizer_sample
from precompute.miniature.stream import (
    NumberedText,
    TokenStream,
    first_chars,
    numbered_text,
    repeated_tokens,
    train_tokenizer,
)
from sae_core.errors import RunError, SpecError
from sae_core.language_model import choose_device
from sae_core.specs import CorpusSpec
from sae_core.store import atomic, storage_errors

CHARS_PER_TOKEN = 5  # generous: bounds how much of a long finite corpus is held in memory
LOSS_POINTS = 200
PRIMER_CONTEXT, PRIMER_TOKENS = 32, 64
EAGER_UP_TO = 128  # measured on a CPU in bf16: plain attention is the faster one up to here, the fused one above


@dataclass(frozen=True)
class Args:
    """Train a small Pythia on any corpus."""

    corpus: str = "miniature"
    """text:FILES, hub:DATASET[@revision][:split[:column[:config]]] or miniature"""
    out: Path = Path("data/runs/miniature-model")
    """folder of the finished model"""
    tokens: int = 30_000_000
    """tokens of text to train on"""
    primer: int = 1000
    """steps on repeated random tokens before the text"""
    repeats: float = 0.125
    """share of the rows with repeated random tokens beside the text"""
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
    n_heads: int = 2
    """attention heads a block; two have the 64 dimensions of Pythia's"""
    context: int = 256
    """longest context in tokens"""
    vocab: int = 4096
    """tokens of the byte-level BPE"""
    batch_tokens: int = 2048
    """tokens a step"""
    lr: float = 2e-3
    """peak learning rate"""
    warmup: float = 0.01
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


def _tokenizer_text(args: Args, text: NumberedText) -> Iterator[str]:
    if args.corpus == "miniature":
        return tokenizer_sample(args.seed, args.tokenizer_chars)
    return first_chars(map(text.get, range(text.n)), args.tokenizer_chars)


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
        self.device = choose_device(args.device)
        text_tokens_a_step = args.batch_tokens - args.context * round(args.repeats * args.batch_tokens / args.context)
        self.steps = args.primer + math.ceil(args.tokens / text_tokens_a_step)
        tokenizer = stream.tokenizer
        self.n_tokens = len(tokenizer)
        self.model = new_model(args, self.n_tokens, tokenizer.eos_token_id).to(self.device)
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
        inputs, targets = self._batch()
        eager = inputs.shape[1] <= EAGER_UP_TO and self.device.type == "cpu"
        self.model.set_attn_implementation("eager" if eager else "sdpa")
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

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets [rows, context] of this step: the primer, then short, then whole contexts of text."""
        args, text_step = self.args, self.step - self.args.primer
        if text_step < 0:
            return self._primer(self.step / args.primer)
        context = args.context // (2 if text_step < args.short_share * (self.steps - args.primer) else 1)
        rows = args.batch_tokens // context
        repeats = round(args.repeats * args.batch_tokens / args.context) * (args.context // context)
        parts = self.stream.take(rows - repeats, context), self._repeats(repeats, context, self.n_tokens)
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    def _primer(self, done: float) -> tuple[Tensor, Tensor]:
        """The part of the primer that comes when the share `done` of it is over."""
        context = min(PRIMER_CONTEXT, self.args.context // 2) if done < 0.7 else self.args.context // 2
        few = min(PRIMER_TOKENS, self.n_tokens) if done < 0.3 else self.n_tokens
        return self._repeats(self.args.batch_tokens // context, context, few)

    def _repeats(self, rows: int, context: int, n_tokens: int) -> tuple[Tensor, Tensor]:
        return repeated_tokens(rows, context, n_tokens, self.args.seed * self.steps + self.step)

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
            "tokens": self.args.tokens,
            "tokens_with_repeats": self.step * self.args.batch_tokens,
            "documents": self.stream.position,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "loss": _curve(self.losses),
        }
        with storage_errors(out):
            self.model.half().cpu().eval().save_pretrained(out)  # as Pythia is published
            self.stream.tokenizer.save_pretrained(out)
        with atomic(out / "training.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")


def _settings(args: Args) -> dict[str, Any]:
    """What must be equal for a resumed run to end as an uninterrupted one."""
    free = ("out", "device", "resume", "checkpoint_seconds")
    return {name: value for name, value in asdict(args).items() if name not in free}


def _curve(losses: list[float]) -> list[dict[str, float]]:
    """Mean loss of at most 200 equal stretches of the training."""
    stretch = max(1, -(-len(losses) // LOSS_POINTS))
    parts = [losses[i : i + stretch] for i in range(0, len(losses), stretch)]
    return [{"step": i * stretch, "loss": round(sum(p) / len(p), 4)} for i, p in enumerate(parts)]
