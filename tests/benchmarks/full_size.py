"""Every step on a randomly initialised model of a real Pythia's shape, with Pythia's tokenizer and real text.

    python -m tests.benchmarks.full_size --out DIR --tokenizer FOLDER --text FILE [--shape 70m] [--device cpu]

Weights that were never trained cost what trained ones cost. Of the alphas given, `metrics` takes the dictionary whose
L0 is nearest 30. Each step is a process of its own, so that the peak memory is its own. The report extrapolates by the
rule beside each step; nothing in it is measured at full size.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from sae_core.store import RunStore

SHAPES = {
    "70m": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048},
    "410m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
FULL_TOKENS, FULL_FEATURES, FULL_METRIC_TOKENS = 10_000_000, 32_768, 200_000
STEPS = ("corpus", "train", "metrics", "features", "contexts", "effects", "edges", "neighbours")
RULES = {
    "corpus": ("tokens",),
    "train": ("train tokens", "features", "layers"),
    "metrics": ("held-out tokens", "features", "layers"),
    "features": ("tokens", "features", "layers"),
    "contexts": ("tokens", "some features", "layers"),
    "effects": ("some features", "layers"),
    "edges": ("some features", "layers"),
    "neighbours": ("features", "features", "layers"),
}
"""What a step's time grows with. An edge's parents are those active in its contexts, whose number L0 bounds and not the
size of the dictionary. Of all these only the encoder and decoder grow with the features, and the model's own blocks do
not, so what is extrapolated is an upper bound."""


@dataclass(frozen=True)
class Args:
    """Make the run in `out`, continue it if it was stopped, and print the report as Markdown."""

    out: Path
    """folder for the model and the run; outside the repository"""
    tokenizer: Path
    """folder with Pythia's tokenizer.json"""
    text: Path
    """.txt, .jsonl or .parquet file"""
    shape: str = "70m"
    """70m or 410m"""
    layers: str = "2,3"
    """layers that get a dictionary"""
    tokens: int = 200_000
    """tokens for the tables, and to train on"""
    ratio: float = 4.0
    """features per coordinate"""
    alphas: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    """prices of tied dictionaries, trained together"""
    some: int = 32
    """so many features of each dictionary get contexts, effects and edges"""
    metric_tokens: int = 20_000
    """held-out tokens for the metrics; a real run takes 200,000"""
    device: str = "auto"
    """auto, cpu or cuda"""


def make_model(args: Args) -> Path:
    """A Hugging Face folder with random weights of the shape, and the tokenizer."""
    folder = args.out / f"pythia-{args.shape}-random"
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = GPTNeoXConfig(vocab_size=50304, max_position_embeddings=2048, rotary_pct=0.25, **SHAPES[args.shape])
        GPTNeoXForCausalLM(config).save_pretrained(folder)
        shutil.copy(args.tokenizer / "tokenizer.json", folder)
        special = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def commands(args: Args, model: Path, run: Path) -> dict[str, list[str]]:
    """The options of each step."""
    sizes = ["--tokens", str(args.tokens), "--train-tokens", str(args.tokens)]
    held_out = ["--metric-tokens", str(args.metric_tokens)]
    corpus = ["--model", str(model), "--corpus", f"text:{args.text}", *sizes, *held_out]
    train = ["--alphas", *map(str, args.alphas), "--ratio", str(args.ratio), "--layers", args.layers]
    own = {
        "corpus": corpus,
        "train": [*train, "--tokens", str(args.tokens), "--precision", "auto"],
        "metrics": held_out,
        **{step: ["--features", f"0-{args.some - 1}"] for step in ("contexts", "effects", "edges")},
    }
    device = {step: ["--device", args.device] for step in STEPS if step != "neighbours"}
    return {step: ["--run", str(run), *own.get(step, []), *device.get(step, [])] for step in STEPS}


def run_steps(args: Args, model: Path, run: Path) -> None:
    """Each step in a process of its own; what is done already is skipped by the step itself."""
    for step, options in commands(args, model, run).items():
        print(f"== {step}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "precompute", step, *options], check=True)


def times_larger(args: Args, run: RunStore) -> dict[str, float]:
    """How many times larger a full run is in each quantity that the rules name."""
    main = run.main_dictionaries
    n_features = main[0].n_features
    return {
        "tokens": FULL_TOKENS / args.tokens,
        "train tokens": FULL_TOKENS / args.tokens,
        "held-out tokens": FULL_METRIC_TOKENS / args.metric_tokens,
        "features": FULL_FEATURES / n_features,
        "some features": FULL_FEATURES / args.some,
        "layers": run.manifest.model["n_layers"] / len({entry.spec.site.layer for entry in main}),
    }


def report(args: Args, run: RunStore) -> str:
    """A Markdown table: what was measured, by which rule it grows, and what that gives at full size."""
    larger = times_larger(args, run)
    lines = [
        f"Pythia-{args.shape} shape, {run.manifest.model['n_layers']} layers, dictionaries of "
        f"{run.main_dictionaries[0].n_features:,} features in layers {args.layers} (contexts, effects and edges of "
        f"{args.some}), {args.tokens:,} tokens, {args.device}, {torch.get_num_threads()} threads.",
        "",
        "| step | seconds | peak memory (MB) | grows with | extrapolated (hours) |",
        "|---|---:|---:|---|---:|",
    ]
    for step in STEPS:
        cost, factor = run.manifest.steps[step], 1.0
        for quantity in RULES[step]:
            factor *= larger[quantity]
        hours = cost["seconds"] * factor / 3600
        lines.append(
            f"| {step} | {cost['seconds']:.1f} | {cost['peak_memory_mb']:,} | {' x '.join(RULES[step])} | {hours:.1f} |"
        )
    return "\n".join([*lines, "", *sizes(run)])


def sizes(run: RunStore) -> list[str]:
    """Size of every table on disk, per dictionary feature where it has rows for features."""
    lines = ["| table | MB |", "|---|---:|"]
    for path in sorted((run.folder / "tables").glob("[a-z]*")):
        files = [path] if path.is_file() else list(path.rglob("*.parquet"))
        lines.append(f"| {path.stem} | {sum(file.stat().st_size for file in files) / 1e6:.1f} |")
    return lines


def main(args: Args) -> None:
    """Make the run and print the report."""
    started = time.perf_counter()
    run = args.out / f"run-{args.shape}"
    run_steps(args, make_model(args), run)
    print(report(args, RunStore.open(run)))
    print(f"\n{time.perf_counter() - started:.0f} s in all.")


if __name__ == "__main__":
    main(tyro.cli(Args))
