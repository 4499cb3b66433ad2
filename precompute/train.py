"""Train dictionaries on a run's activations: every layer, site and alpha asked for from one pass of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from precompute import passes
from precompute.common import load_model, parse_layers
from precompute.passes import Settings, train_spec
from sae_core.corpus import load_windows
from sae_core.dictionaries import Dictionary, load_dictionary, read_metadata, save_dictionary
from sae_core.errors import DictionaryError, RunError, SpecError
from sae_core.specs import K_KINDS, DictionarySpec, Site, TrainSpec
from sae_core.store import DictionaryEntry, RunStore


@dataclass(frozen=True)
class Args(Settings):
    """Train dictionaries. Called again with other settings it adds to the run; those already there are skipped."""

    layers: str = "all"
    """layers: all, 0-5 or 0,2,4"""
    sites: str = "resid_post"
    """sites, separated by commas: resid_post, mlp_post, mlp_out, attn_out, embed (what enters layer 0; in no layer)"""
    space: Literal["raw", "centred"] = "raw"
    """activations as they are, or with the mean over d removed: only where a model ignores that mean"""
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


def run(store: RunStore, args: Args) -> None:
    """Train what is missing, save each dictionary as a SAELens folder and list it in the manifest."""
    sizes = {"kinds": (args.kind,), "ratios": (args.ratio,), "variant": args.variant, "space": args.space}
    wanted = grid(store, args.layers, args.sites, alphas=args.alphas, ks=args.ks, **sizes)
    train_missing(store, wanted, (args.tokens,), args)


def state(store: RunStore) -> str:
    """`missing`, `partial` (a checkpoint waits), `stale` (made from another model or corpus) or `ready`."""
    if any((store.folder / "scratch" / "train").glob("*.safetensors")):
        return "partial"
    if not store.dictionaries:
        return "missing"
    return "ready" if all(_made_from_this(store, entry) for entry in store.dictionaries) else "stale"


# ---- what is asked for


def grid(
    store: RunStore,
    layers: str,
    sites: str,
    *,
    kinds: Sequence[str],
    ratios: Sequence[float],
    alphas: Sequence[float],
    ks: Sequence[int],
    variant: str = "",
    space: str = "raw",
) -> list[DictionarySpec]:
    """One spec for each layer, site, kind, ratio and alpha, or k.

    Raises RunError where the run has no model and text yet, SpecError for values out of range.
    """
    _check_prepared(store)
    _check_grid(ratios, alphas, ks)
    n_layers = store.manifest.model["n_layers"]
    numbers = range(n_layers) if layers == "all" else parse_layers(layers, n_layers)
    places = [site for name in sites.split(",") for site in Site.each(numbers, name.strip(), space)]
    found = [
        DictionarySpec(site, kind, ratio, **sparsity, variant=variant)
        for site, kind, ratio in product(sorted(places, key=lambda site: site.layer), kinds, ratios)
        for sparsity in _sparsities(kind, alphas, ks)
    ]
    if len({spec.id for spec in found}) < len(found):
        expected = "alphas that differ in two significant digits, as ids show them, and nothing named twice"
        raise SpecError(expected, f"alphas {alphas}, ratios {ratios}, kinds {kinds}, sites {sites}", "Space them out")
    return found


def _check_prepared(store: RunStore) -> None:
    if not (store.manifest.model.get("hash") and store.manifest.corpus.get("hash")):
        fix = f"Run first: python -m precompute corpus --run {store.folder} --model NAME --corpus SPEC"
        raise RunError(f"a run with a model and token windows in {store.folder}", "none yet", fix)


def _check_grid(ratios: Sequence[float], alphas: Sequence[float], ks: Sequence[int]) -> None:
    if not alphas or min(alphas) < 0:
        raise SpecError("one or more alphas of 0 or more", str(alphas), "For example --alphas 3e-4 1e-3")
    if not ks:
        raise SpecError("one or more ks", "none", "For example --ks 15 30")
    if not ratios or min(ratios) <= 0:
        raise SpecError("a ratio above 0", str(ratios), "For example 4")


def _sparsities(kind: str, alphas: Sequence[float], ks: Sequence[int]) -> list[dict[str, Any]]:
    if kind in K_KINDS:
        return [{"k": k} for k in sorted(set(ks))]
    return [{"alpha": alpha} for alpha in sorted(set(alphas))]


# ---- what is there


def made_from(store: RunStore) -> dict[str, str]:
    """The model and the text that dictionaries of a run are made from."""
    return {"model_hash": store.manifest.model["hash"], "corpus_hash": store.manifest.corpus["hash"]}


def is_there(store: RunStore, spec: DictionarySpec, settings: dict[str, Any]) -> bool:
    """Whether the run lists the dictionary and its folder says that it was made with these settings.

    A grid dictionary counts as there while its metrics are: its weights were left out on purpose.
    """
    entry = next((entry for entry in store.dictionaries if entry.id == spec.id), None)
    if entry is None or entry.role == "grid":
        return entry is not None and _made_from_this(store, entry)
    return _parsed({"spec": spec.to_dict(), **settings}).items() <= _parsed(_metadata(store, spec.id)).items()


def _parsed(metadata: dict[str, Any]) -> dict[str, Any]:
    """With specs read, so that settings which older folders do not name count as their defaults."""
    kinds = {"spec": DictionarySpec, "train": TrainSpec}
    return {key: kinds[key].from_dict(value) if key in kinds and value else value for key, value in metadata.items()}


def _made_from_this(store: RunStore, entry: DictionaryEntry) -> bool:
    if entry.role == "grid":
        return store.table_state("metrics", entry.id) == "ready"
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


def train_missing(store: RunStore, wanted: Sequence[DictionarySpec], lengths: Sequence[int], args: Settings) -> None:
    """Train what is missing of each spec at each length (tokens): all that trains equally long in one pass.

    A shorter length is a snapshot of the same training, because the learning rate does not depend on what is to come;
    it is kept as a variant such as t300k. Raises SpecError for settings out of range.
    """
    lengths = sorted(set(lengths))
    passes.check(args, lengths)
    groups: dict[int, list[DictionarySpec]] = {}
    for spec in wanted:
        missing = [n for n in lengths if not _is_trained(store, spec, n, lengths[-1], args)]
        if missing:
            groups.setdefault(missing[-1], []).append(spec)
    model = load_model(store, args.device) if groups else None
    settled = passes.settled(args, model.device) if groups else args
    for site in dict.fromkeys(spec.site for specs in groups.values() for spec in specs):
        model.check_edit(site)
    for last, specs in groups.items():
        due = [n for n in lengths if n <= last and not all(_is_trained(store, s, n, lengths[-1], args) for s in specs)]
        windows, scratch = load_windows(store.folder, "train").tokens, store.scratch("train")
        first = store.manifest.spec.first
        for n, seconds, found in passes.trained(model, windows, specs, due, settled, scratch, made_from(store), first):
            _keep(store, found, n, lengths[-1], seconds / len(specs), settled)


def at(spec: DictionarySpec, tokens: int, longest: int) -> DictionarySpec:
    """The spec after so many tokens of a training of `longest`: itself at the end, before it a variant like t300k."""
    return spec if tokens == longest else replace(spec, variant=f"{spec.variant}t{_written(tokens)}")


def _written(tokens: int) -> str:
    """300000 -> 300k, 2000000 -> 2M, 12345 -> 12345."""
    unit, letter = next((u, n) for u, n in ((10**6, "M"), (10**3, "k"), (1, "")) if tokens % u == 0)
    return f"{tokens // unit}{letter}"


def _is_trained(store: RunStore, spec: DictionarySpec, tokens: int, longest: int, args: Settings) -> bool:
    return is_there(store, at(spec, tokens, longest), _settings(store, args, spec.kind, tokens))


def _settings(store: RunStore, args: Settings, kind: str, tokens: int) -> dict[str, Any]:
    """Everything besides its spec that decides how a dictionary comes out; any precision is right for auto."""
    precision = {} if args.precision == "auto" else {"precision": args.precision}
    return {"train": train_spec(args, kind, tokens).to_dict(), **precision, **made_from(store)}


def _keep(
    store: RunStore, found: Sequence[Dictionary], tokens: int, longest: int, seconds: float, args: Settings
) -> None:
    """Save and list what is not there yet of the dictionaries after so many tokens."""
    facts = {"train_tokens": tokens // args.batch_size * args.batch_size, "train_seconds": round(seconds, 2)}
    new = []
    for dictionary in found:
        spec = dictionary.spec
        if not _is_trained(store, spec, tokens, longest, args):
            own = replace(dictionary, spec=at(spec, tokens, longest))
            new.append(save(store, own, {**_settings(store, args, spec.kind, tokens), **facts}))
    # A snapshot is a point of a sweep, not something to compare with.
    add(store, new if tokens == longest else [replace(entry, role="sweep") for entry in new])


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
    """List dictionaries in the manifest, by layer, site, kind, ratio and sparsity; one with the same id is replaced."""
    store.reload()  # another `train` may have added its own meanwhile
    merged = {entry.id: entry for entry in [*store.dictionaries, *new]}
    store.update_manifest(dictionaries=tuple(sorted(merged.values(), key=_place)))


def _place(entry: DictionaryEntry) -> tuple:
    spec = entry.spec
    return spec.site.layer, spec.site.name, spec.kind, spec.ratio, spec.alpha, spec.k or 0, spec.variant
