"""Every step in order for one run: text to finished tables, one command."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from precompute.steps import STEPS, Step
from sae_core.store import RunStore


@dataclass(frozen=True)
class Args:
    """Make a whole run: windows, dictionaries, metrics and every table. What is up to date is skipped."""

    run: Path
    """folder of the run; made if it does not exist, continued if it does"""
    model: str
    """pythia-70m-deduped and its sisters, a hub id such as EleutherAI/pythia-70m@step143000, or a folder"""
    corpus: str
    """text:FILES, hub:DATASET[@revision][:split[:column[:config]]] or miniature"""
    revision: str | None = None
    """branch, tag or commit of a hub model, as after the @"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the model's weights; auto: float32, or bfloat16 on a GPU too small for that"""
    context: int = 256
    """tokens a context"""
    window: int = 64
    """tokens a window: what contexts, effects and trees are shown and computed on"""
    end_of_text: Literal["after", "none"] = "after"
    """the end-of-text token after each document, or none"""
    skip_first: bool = False
    """position 0 of each context is read by the model and counted nowhere: its activations are often outliers"""
    layers: str = "all"
    """layers that get a dictionary: all, 0-5 or 0,2,4"""
    sites: str = "resid_post"
    """sites that get dictionaries, separated by commas: resid_post, mlp_post, mlp_out, attn_out, embed"""
    space: Literal["raw", "centred"] = "raw"
    """activations as they are, or with the mean over d removed"""
    kind: str = "tied"
    """tied (the paper's residual form) or untied"""
    ratio: float = 4.0
    """features per coordinate of the site"""
    alphas: tuple[float, ...] = (3e-4, 8.6e-4, 2.7e-3)
    """sparsity coefficients, trained together; tables are made for the one whose L0 is nearest 30"""
    tokens: int = 2_000_000
    """tokens for the tables"""
    train_tokens: int = 4_000_000
    """activation vectors each dictionary is trained on"""
    metric_tokens: int = 200_000
    """held-out tokens for the metrics"""
    seed: int = 0
    """of every draw"""
    features: str = "all"
    """which get contexts, effects and edges: all; 3,17,40; 0-99; or a filter such as `alive and density<0.01`"""
    precision: str = "fp32"
    """matrix products of dictionary training in fp32 or bf16 (faster where the processor knows it)"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""


def run(args: Args) -> None:
    """Run each step with those settings of `args` that it knows."""
    store: RunStore | None = None
    for step in STEPS.values():
        settings = step_settings(step, args)
        store = store or step.module.start(args.run, settings)
        print(f"== {step.name}: {step.makes}", flush=True)
        step.run(store, settings)
        store = RunStore.open(args.run)
    print(f"done: open it with  SAE_RUNS={args.run.parent} make app  (run {args.run.name})")


def step_settings(step: Step, args: Args) -> Any:
    """The step's own Args, filled from the settings of `all` that carry the same name."""
    own = {"train": {"tokens": args.train_tokens}}.get(step.name, {})
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(args)} | own
    names = {f.name for f in dataclasses.fields(step.module.Args)}
    return step.module.Args(**{name: value for name, value in given.items() if name in names})
