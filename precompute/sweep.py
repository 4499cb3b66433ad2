"""Many small dictionaries from one pass of the model: alpha x ratio x site x kind x tokens (paper App. E), measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from precompute import metrics
from precompute.passes import Settings
from precompute.train import grid, train_missing
from sae_core.store import RunStore


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Train every combination on the same batches, then measure what is new. What is there already is skipped."""

    run: Path
    """the run folder, after the step corpus"""
    layers: str = "all"
    """layers: all, 0-5 or 0,2,4"""
    sites: str = "resid_post"
    """sites, separated by commas: resid_post, mlp_post, mlp_out, attn_out, embed"""
    space: Literal["raw", "centred"] = "raw"
    """activations as they are, or with the mean over d removed: only where a model ignores that mean"""
    kinds: str = "tied"
    """kinds, separated by commas: tied, untied, frozen, batchtopk, jumprelu"""
    ratios: tuple[float, ...] = (1, 2, 4, 8)
    """features per coordinate of the site"""
    alphas: tuple[float, ...] = (1e-4, 1.9e-4, 3.7e-4, 7.2e-4, 1.4e-3, 2.7e-3, 5.2e-3, 1e-2)
    """sparsity coefficients of tied, untied and frozen"""
    ks: tuple[int, ...] = (15, 30, 60)
    """active features a token of batchtopk and jumprelu, in place of alphas"""
    lengths: tuple[int, ...] = (4_000_000,)
    """activation vectors trained on; what the longest training was after fewer is kept as a variant such as t300k"""


def run(args: Args) -> None:
    """Train and measure what is missing. Raises SpecError for settings out of range."""
    store = RunStore.open(args.run)
    kinds = [kind.strip() for kind in args.kinds.split(",")]
    sizes = {"kinds": kinds, "ratios": args.ratios, "space": args.space}
    wanted = grid(store, args.layers, args.sites, alphas=args.alphas, ks=args.ks, **sizes)
    train_missing(store, wanted, args.lengths, args)
    held_out = store.manifest.spec.metric_tokens
    metrics.run(store, metrics.Args(metric_tokens=held_out, device=args.device, batch=args.batch))
