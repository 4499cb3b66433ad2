"""Train dictionaries on a run's activations: every layer, site and alpha asked for from one pass of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from sae_core.k_ensemble import ensemble_class
from sae_core.language_model import LanguageModel
from sae_core.losses import LossParts
from sae_core.specs import K_KINDS, DictionarySpec, Site, TrainSpec
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
    """tied (the paper's residual form), untied, frozen (untied, random decoder), batchtopk or jumprelu"""
    ratio: float = 4.0
    """features per coordinate of the site"""
    alphas: tuple[float, ...] = (3e-4, 8.6e-4, 2.7e-3)
    """sparsity coefficients of tied, untied and frozen, trained together on the same batches"""
    ks: tuple[int, ...] = (15, 30, 60)
    """the same for batchtopk and jumprelu: active features a token, in place of alphas"""
    variant: str = ""
    """kept beside, not in place of, dictionaries of the same settings: such as seed1 with --seed 1"""
    tokens: int = 4_000_000
    """activation vectors each dictionary is trained on; a smaller corpus is passed several times"""
    batch_size: int = 1024
    """activation vectors a step"""
    lr: float = 1e-3
    """Adam's learning rate, constant between warm-up and decay"""
    warmup_steps: int = 100
    """steps in which the learning rate rises linearly"""
    decay: float = 0.0
    """last share of the steps, in which the learning rate falls linearly to 0"""
    aux: float = 1 / 32
    """weight of the auxiliary loss that revives dead features of batchtopk and jumprelu; 0: none"""
    dead_tokens: int = 200_000
    """tokens without activity after which that loss takes a feature for dead"""
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
    wanted = [spec for spec in specs(args, store.manifest.model["n_layers"]) if not is_there(store, spec, settings)]
    if not wanted:
        return
    model = load_model(store, args.device)
    windows = load_windows(store.folder, "train")
    ensembles = _ensembles(wanted, model, _train_spec(args), args.precision)
    checkpoint = store.scratch("train") / f"{fingerprint(ensembles, **settings)}.safetensors"
    seconds = _train(ensembles, model, windows, args, checkpoint)
    trained = args.tokens // args.batch_size * args.batch_size
    facts = {**settings, "train_tokens": trained, "train_seconds": round(seconds / len(wanted), 2)}
    add(store, [save(store, d, facts) for e in ensembles for d in e.dictionaries()])
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
    """One spec for each layer, site and alpha, or k. Raises SpecError for settings out of range."""
    _check(args)
    layers = range(n_layers) if args.layers == "all" else parse_layers(args.layers, n_layers)
    names = [name.strip() for name in args.sites.split(",")]
    found = [
        DictionarySpec(Site(layer, name), args.kind, args.ratio, **sparsity, variant=args.variant)
        for layer, name, sparsity in product(layers, names, _sparsities(args))
    ]
    if len({spec.id for spec in found}) < len(found):
        expected = "alphas that differ in two significant digits, as ids show them"
        raise SpecError(expected, str(args.alphas), "Space them out")
    return found


def _sparsities(args: Args) -> list[dict[str, Any]]:
    if args.kind in K_KINDS:
        return [{"k": k} for k in sorted(set(args.ks))]
    return [{"alpha": alpha} for alpha in sorted(set(args.alphas))]


def _check(args: Args) -> None:
    if not args.alphas or min(args.alphas) < 0:
        raise SpecError("one or more alphas of 0 or more", str(args.alphas), "For example --alphas 3e-4 1e-3")
    if not args.ks:
        raise SpecError("one or more ks", "none", "For example --ks 15 30")
    if not 0 <= args.decay <= 1:
        raise SpecError("a decay from 0 to 1, a share of the steps", str(args.decay), "For example --decay 0.2")
    if args.aux < 0 or args.dead_tokens < 1:
        found = f"{args.aux} and {args.dead_tokens}"
        raise SpecError("aux of 0 or more and dead_tokens of 1 or more", found, "For example --aux 0.03")
    if args.ratio <= 0:
        raise SpecError("a ratio above 0", str(args.ratio), "For example --ratio 4")
    if args.tokens < args.batch_size or args.batch_size < 1:
        found = f"{args.tokens} tokens in batches of {args.batch_size}"
        raise SpecError("tokens for at least one batch", found, "Ask for more tokens or a smaller batch")


def _train_spec(args: Args) -> TrainSpec:
    spec = TrainSpec(args.tokens, args.batch_size, args.lr, args.warmup_steps, args.seed, args.decay)
    return replace(spec, aux=args.aux, dead_tokens=args.dead_tokens) if args.kind in K_KINDS and args.aux else spec


def _settings(store: RunStore, args: Args) -> dict[str, Any]:
    """Everything besides its spec that decides how a dictionary comes out."""
    return {"train": _train_spec(args).to_dict(), "precision": args.precision, **made_from(store)}


def made_from(store: RunStore) -> dict[str, str]:
    """The model and the text that dictionaries of a run are made from."""
    return {"model_hash": store.manifest.model["hash"], "corpus_hash": store.manifest.corpus["hash"]}


def is_there(store: RunStore, spec: DictionarySpec, settings: dict[str, Any]) -> bool:
    """Whether the run lists the dictionary and its folder says that it was made with these settings."""
    if spec.id not in {entry.id for entry in store.dictionaries}:
        return False
    return _parsed({"spec": spec.to_dict(), **settings}).items() <= _parsed(_metadata(store, spec.id)).items()


def _parsed(metadata: dict[str, Any]) -> dict[str, Any]:
    """With specs read, so that settings which older folders do not name count as their defaults."""
    kinds = {"spec": DictionarySpec, "train": TrainSpec}
    return {key: kinds[key].from_dict(value) if key in kinds and value else value for key, value in metadata.items()}


def _made_from_this(store: RunStore, entry: DictionaryEntry) -> bool:
    wanted = {"hash": entry.hash, "model_hash": store.manifest.model["hash"]}
    return wanted.items() <= _metadata(store, entry.id).items()


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
    make = ensemble_class(wanted[0].kind)
    return [
        make(group, site.width(model.d_model), train_spec, model.device, precision) for site, group in by_site.items()
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


def save(store: RunStore, dictionary: Dictionary, facts: dict[str, Any]) -> DictionaryEntry:
    """Write a dictionary's folder, with these facts and what other tools expect; the entry to `add`."""
    spec, run = dictionary.spec, store.manifest.spec
    general = {
        "model_name": store.manifest.model.get("name", run.model.name),
        "dataset_path": str(run.corpus),
        "context_size": run.context,
    }
    save_dictionary(dictionary, store.dictionary_folder(spec.id), {**facts, **general})
    role = "baseline" if spec.is_comparison else "sweep"
    return DictionaryEntry(spec.id, spec, dictionary.n_features, dictionary.hash, role)


def add(store: RunStore, new: Sequence[DictionaryEntry]) -> None:
    """List dictionaries in the manifest, by layer, site, kind and sparsity; one with the same id is replaced."""
    store.reload()  # another `train` may have added its own meanwhile
    merged = {entry.id: entry for entry in [*store.dictionaries, *new]}
    store.update_manifest(dictionaries=tuple(sorted(merged.values(), key=_place)))


def _place(entry: DictionaryEntry) -> tuple:
    spec = entry.spec
    return spec.site.layer, spec.site.name, spec.kind, spec.alpha, spec.k or 0
