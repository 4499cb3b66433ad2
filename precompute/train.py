"""Train dictionaries on a run's activations: every layer, site and alpha asked for from one pass of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from precompute.common import load_model, parse_layers
from sae_core.activations import ActivationStream
from sae_core.corpus import Windows, load_windows
from sae_core.dictionaries import Dictionary, load_dictionary, read_metadata, save_dictionary
from sae_core.ensemble import Ensemble
from sae_core.errors import DictionaryError, RunError, SpecError
from sae_core.language_model import LanguageModel
from sae_core.losses import LossParts
from sae_core.specs import DictionarySpec, Site, TrainSpec
from sae_core.store import DictionaryEntry, RunStore
from sae_core.training import fingerprint, train

STEPS_BETWEEN_READINGS = 50


@dataclass(frozen=True)
class Args:
    """Train dictionaries. Called again with other settings it adds to the run; those already there are skipped."""

    layers: str = "all"
    """layers: all, 0-5 or 0,2,4"""
    sites: str = "resid_post"
    """sites, separated by commas: resid_post, mlp_post, mlp_out, attn_out"""
    kind: str = "tied"
    """tied (the paper's residual form) or untied"""
    ratio: float = 4.0
    """features per coordinate of the site"""
    alphas: tuple[float, ...] = (3e-4, 8.6e-4, 2.7e-3)
    """sparsity coefficients, trained together on the same batches"""
    tokens: int = 4_000_000
    """activation vectors each dictionary is trained on; a smaller corpus is passed several times"""
    batch_size: int = 1024
    """activation vectors a step"""
    lr: float = 1e-3
    """Adam's learning rate, constant after the warm-up"""
    warmup_steps: int = 100
    """steps in which the learning rate rises linearly"""
    seed: int = 0
    """of the initial weights and of the order of the text"""
    precision: str = "fp32"
    """matrix products in fp32 or bf16 (faster where the processor knows it); weights and sums are always fp32"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    batch: int = 16
    """contexts passed through the model at once"""


def run(store: RunStore, args: Args) -> None:
    """Train what is missing, save each dictionary as a SAELens folder and list it in the manifest."""
    _check_prepared(store)
    settings = _settings(store, args)
    wanted = [spec for spec in specs(args, store.manifest.model["n_layers"]) if not _is_there(store, spec, settings)]
    if not wanted:
        return
    model = load_model(store, args.device)
    windows = load_windows(store.folder, "train")
    ensembles = _ensembles(wanted, model, _train_spec(args), args.precision)
    checkpoint = store.scratch("train") / f"{fingerprint(ensembles, **settings)}.safetensors"
    seconds = _train(ensembles, model, windows, args, checkpoint)
    entries = [_save(store, d, settings, seconds / len(wanted)) for e in ensembles for d in e.dictionaries()]
    store.reload()  # another `train` may have added its own meanwhile
    store.update_manifest(dictionaries=_with(store.dictionaries, entries))
    checkpoint.unlink(missing_ok=True)


def state(store: RunStore) -> str:
    """`missing`, `partial` (a checkpoint waits), `stale` (made from another model or corpus) or `ready`."""
    if any((store.folder / "scratch" / "train").glob("*.safetensors")):
        return "partial"
    if not store.dictionaries:
        return "missing"
    return "ready" if all(_made_from_this(store, entry) for entry in store.dictionaries) else "stale"


def _check_prepared(store: RunStore) -> None:
    if not (store.manifest.model.get("hash") and store.manifest.corpus.get("hash")):
        fix = f"Run first: python -m precompute corpus --run {store.folder} --model NAME --corpus SPEC"
        raise RunError(f"a run with a model and token windows in {store.folder}", "none yet", fix)


# ---- what is asked for


def specs(args: Args, n_layers: int) -> list[DictionarySpec]:
    """One spec for each layer, site and alpha. Raises SpecError for settings out of range."""
    _check(args)
    layers = range(n_layers) if args.layers == "all" else parse_layers(args.layers, n_layers)
    names = [name.strip() for name in args.sites.split(",")]
    alphas = sorted(set(args.alphas))
    found = [DictionarySpec(Site(layer, n), args.kind, args.ratio, a) for layer, n, a in product(layers, names, alphas)]
    if len({spec.id for spec in found}) < len(found):
        raise SpecError("alphas that differ in two significant digits, as ids show them", str(alphas), "Space them out")
    return found


def _check(args: Args) -> None:
    if not args.alphas or min(args.alphas) < 0:
        raise SpecError("one or more alphas of 0 or more", str(args.alphas), "For example --alphas 3e-4 1e-3")
    if args.ratio <= 0:
        raise SpecError("a ratio above 0", str(args.ratio), "For example --ratio 4")
    if args.tokens < args.batch_size or args.batch_size < 1:
        found = f"{args.tokens} tokens in batches of {args.batch_size}"
        raise SpecError("tokens for at least one batch", found, "Ask for more tokens or a smaller batch")


def _train_spec(args: Args) -> TrainSpec:
    return TrainSpec(args.tokens, args.batch_size, args.lr, args.warmup_steps, args.seed)


def _settings(store: RunStore, args: Args) -> dict[str, Any]:
    """Everything besides its spec that decides how a dictionary comes out."""
    made_from = {"model_hash": store.manifest.model["hash"], "corpus_hash": store.manifest.corpus["hash"]}
    return {"train": _train_spec(args).to_dict(), "precision": args.precision, **made_from}


def _is_there(store: RunStore, spec: DictionarySpec, settings: dict[str, Any]) -> bool:
    if spec.id not in {entry.id for entry in store.dictionaries}:
        return False
    return {"spec": spec.to_dict(), **settings}.items() <= _metadata(store, spec.id).items()


def _made_from_this(store: RunStore, entry: DictionaryEntry) -> bool:
    made_from = {"hash": entry.hash, "model_hash": store.manifest.model["hash"]}
    return made_from.items() <= _metadata(store, entry.id).items()


def _metadata(store: RunStore, id: str) -> dict[str, Any]:
    """What a dictionary's folder says; a missing or foreign folder is one to make again."""
    try:
        metadata = read_metadata(store.dictionary_folder(id))
        load_dictionary(store.dictionary_folder(id))
    except DictionaryError:
        return {}
    return metadata


# ---- training


def _ensembles(
    wanted: Sequence[DictionarySpec], model: LanguageModel, train_spec: TrainSpec, precision: str
) -> list[Ensemble]:
    """One ensemble for each site; `wanted` is of one kind and ratio."""
    by_site: dict[Site, list[DictionarySpec]] = {}
    for spec in wanted:
        by_site.setdefault(spec.site, []).append(spec)
    return [
        Ensemble(group, site.width(model.d_model), train_spec, model.device, precision)
        for site, group in by_site.items()
    ]


def _train(ensembles: list[Ensemble], model: LanguageModel, windows: Windows, args: Args, checkpoint: Path) -> float:
    sites = tuple(e.site for e in ensembles)
    stream = ActivationStream(model, windows.tokens, sites, args.batch_size, args.seed, args.batch)
    steps = args.tokens // args.batch_size
    with tqdm(total=steps * args.batch_size, desc="train", unit="tok", unit_scale=True, dynamic_ncols=True) as bar:
        return train(ensembles, stream, steps, checkpoint, _reporter(bar, ensembles, args.batch_size))


def _reporter(bar: tqdm, ensembles: list[Ensemble], batch_size: int) -> Callable[[int, list[LossParts]], None]:
    """Moves the bar; shows now and then the range of the losses over all dictionaries."""

    def report(step: int, parts: list[LossParts]) -> None:
        bar.update(step * batch_size - bar.n)
        if step % STEPS_BETWEEN_READINGS == 0:
            mse = torch.cat([p.mse for p in parts])
            bar.set_postfix_str(f"{len(mse)} dictionaries, mse {mse.min():.3g} .. {mse.max():.3g}")

    return report


# ---- saving


def _save(store: RunStore, dictionary: Dictionary, settings: dict[str, Any], seconds: float) -> DictionaryEntry:
    spec = dictionary.spec
    save_dictionary(dictionary, store.dictionary_folder(spec.id), _facts(store, settings, seconds))
    return DictionaryEntry(spec.id, spec, dictionary.n_features, dictionary.hash, role="sweep")


def _facts(store: RunStore, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the folder tells other tools and the metrics step."""
    spec, train_spec = store.manifest.spec, settings["train"]
    return {
        **settings,
        "model_name": store.manifest.model.get("name", spec.model.name),
        "dataset_path": str(spec.corpus),
        "context_size": spec.context,
        "train_tokens": train_spec["tokens"] // train_spec["batch_size"] * train_spec["batch_size"],
        "train_seconds": round(seconds, 2),
    }


def _with(entries: Sequence[DictionaryEntry], new: Sequence[DictionaryEntry]) -> tuple[DictionaryEntry, ...]:
    """The entries with new ones added, or put in the place of those with the same id; by layer, site, alpha."""
    merged = {entry.id: entry for entry in [*entries, *new]}
    return tuple(
        sorted(merged.values(), key=lambda e: (e.spec.site.layer, e.spec.site.name, e.spec.kind, e.spec.alpha))
    )
