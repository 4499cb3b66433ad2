"""Step `baselines`: dictionaries to compare the headline ones with (paper Sec. 3, App. G), and two later controls.

Default basis, random directions, PCA and ICA, both sides of each direction a feature; PCA and ICA with the k largest
codes kept; a dictionary whose random decoder is never trained (Korznikov et al. 2026). The control on a model with
re-initialised weights (Heap et al. 2025) is a run of its own: `precompute.paper.reinitialised`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from precompute import train
from precompute.activation_files import BYTES
from precompute.common import bar, load_model, parse_layers
from precompute.paper.reinitialised import make_reinitialised
from sae_core.activations import ActivationStream
from sae_core.baselines import ICA_MAX_VECTORS, Linear, Moments, ica, identity, linear_spec, pca, random_directions
from sae_core.corpus import load_windows
from sae_core.dictionaries import read_metadata
from sae_core.errors import DictionaryError, SaeError, SpecError
from sae_core.language_model import LanguageModel
from sae_core.specs import COMPARISON_KINDS, LINEAR_KINDS, TOPK_KINDS, DictionarySpec, Site
from sae_core.store import DictionaryEntry, RunStore

STEP = "baselines"
BATCH = 1000
FACTORS = (0.5, 1.0, 2.0)
"""Of the headline's alpha: the same alpha need not give a control the same L0, and matched L0 is what is compared."""


@dataclass(frozen=True)
class Args:
    """Fit and list dictionaries to compare with; those already there are skipped."""

    layers: str = "all"
    """layers, out of those with a headline dictionary: all, 0-5 or 0,2,4"""
    sites: str = "resid_post"
    """sites, separated by commas; frozen, pca_topk and ica_topk take their sparsity from the layer's headline"""
    kinds: str = ",".join(COMPARISON_KINDS)
    """kinds, separated by commas: identity, random, pca, ica, pca_topk, ica_topk, frozen"""
    tokens: int = 1_000_000
    """activation vectors for PCA; no more than the training text has"""
    ica_vectors: int = ICA_MAX_VECTORS
    """activation vectors for ICA, at most 200,000"""
    tables: str = ""
    """kinds, separated by commas, that get all tables, so that every page lists them; dense ones need much disk"""
    reinitialised: Path | None = None
    """folder for a second run, such as RUN/controls/reinitialised, which Paper shows beside this one: the same text and
    headline settings on a model with re-initialised weights"""
    seed: int = 0
    """of the random directions, ICA's start and the order of the text"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    batch: int = 16
    """contexts passed through the model at once"""


def run(store: RunStore, args: Args) -> None:
    """Make what is missing. A fit that cannot be done is reported in a sentence, and the rest goes on."""
    kinds, headlines = _kinds(args.kinds), _headlines(store, args)
    _fit_linear(store, kinds, headlines, args)
    if "frozen" in kinds:
        for entry in headlines:
            train.run(store, like(store, entry, args.device, kind="frozen"))
    _give_tables(store, _kinds(args.tables))
    if args.reinitialised is not None:
        settings = [like(store, entry, args.device) for entry in headlines]
        make_reinitialised(store, args.reinitialised, args.seed, settings)


def state(store: RunStore) -> str:
    """`missing`, `partial`, `stale` (made from another model or text) or `ready`: every kind for every headline."""
    made = [entry for entry in store.dictionaries if entry.spec.kind in COMPARISON_KINDS and not entry.spec.variant]
    if not made:
        return "missing"
    if not all(train.is_there(store, e.spec, train.made_from(store)) for e in made):
        return "stale"
    found = {(e.spec.site, e.spec.kind) for e in made}
    wanted = {(e.spec.site, kind) for e in store.dictionaries if e.headline for kind in COMPARISON_KINDS}
    return "ready" if wanted <= found else "partial"


def like(store: RunStore, entry: DictionaryEntry, device: str, **changes: Any) -> train.Args:
    """Settings that train what a dictionary was trained with, at FACTORS of its alpha. Raises DictionaryError."""
    metadata, spec = read_metadata(store.dictionary_folder(entry.id)), entry.spec
    if "train" not in metadata:
        raise DictionaryError(f"training settings in the folder of {entry.id}", "none", "Train it again")
    names = ("tokens", "batch_size", "lr", "warmup_steps", "seed", "decay")
    settings = {name: metadata["train"][name] for name in names if name in metadata["train"]}
    alphas = tuple(factor * spec.alpha for factor in FACTORS) if spec.alpha else (0.0,)
    site = {"layers": str(spec.site.layer), "sites": spec.site.name, "ratio": spec.ratio}
    made = train.Args(**site, kind=spec.kind, alphas=alphas, precision="auto", device=device, **settings)
    return replace(made, **changes)


# ---- what is asked for


def _kinds(text: str) -> list[str]:
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()]
    unknown = sorted(set(kinds) - set(COMPARISON_KINDS))
    if unknown:
        raise SpecError(f"kinds out of {COMPARISON_KINDS}", ", ".join(unknown), "Choose some of them")
    return kinds


def _headlines(store: RunStore, args: Args) -> list[DictionaryEntry]:
    """The headline dictionaries of the layers asked for."""
    found = [entry for entry in store.dictionaries if entry.headline]
    if args.layers != "all":
        layers = parse_layers(args.layers, store.manifest.model["n_layers"])
        found = [entry for entry in found if entry.spec.site.layer in layers]
    if not found:
        fix = f"Make them: python -m precompute train --run {store.folder}, then metrics"
        raise DictionaryError(f"headline dictionaries in the layers {args.layers}", "none", fix)
    return found


def _specs(store: RunStore, kinds: Sequence[str], headline: DictionaryEntry, args: Args) -> list[DictionarySpec]:
    """What is wanted beside one headline dictionary, at every site asked for."""
    sites = [replace(headline.spec.site, name=name.strip()) for name in args.sites.split(",")]
    linear = [kind for kind in kinds if kind in (*LINEAR_KINDS, *TOPK_KINDS)]
    k = _l0(store, headline) if set(linear) & set(TOPK_KINDS) else None
    return [linear_spec(site, kind, k) for site in sites for kind in linear]


def _l0(store: RunStore, entry: DictionaryEntry) -> int:
    """The headline's L0 as the k of App. G, at least 1."""
    return max(1, round(float(store.read("metrics", entry.id, columns=["l0"])["l0"].iloc[0])))


def _settings(store: RunStore, spec: DictionarySpec, args: Args) -> dict[str, Any]:
    """Everything besides its spec that decides how a dictionary comes out."""
    return {"fit": {"seed": args.seed, "asked": _n_vectors(store, _base(spec), args)}, **train.made_from(store)}


def _base(spec: DictionarySpec) -> str:
    return spec.kind.removesuffix("_topk")


def _n_vectors(store: RunStore, base: str, args: Args) -> int:
    """Vectors a method is fitted on: none for what is only drawn."""
    asked = {"pca": args.tokens, "ica": args.ica_vectors}.get(base, 0)
    return min(asked, load_windows(store.folder, "train").tokens.size)


# ---- fitting


def _fit_linear(store: RunStore, kinds: Sequence[str], headlines: Sequence[DictionaryEntry], args: Args) -> None:
    wanted = [spec for headline in headlines for spec in _specs(store, kinds, headline, args)]
    missing = [spec for spec in wanted if not train.is_there(store, spec, _settings(store, spec, args))]
    if not missing:
        return
    fitter = Fitter(store, load_model(store, args.device), args)
    fitter.read_moments([spec.site for spec in missing if _base(spec) == "pca"])
    pairs = dict.fromkeys((spec.site, _base(spec)) for spec in missing)
    for site, base in bar(pairs, "baselines", unit="fit"):
        specs = [spec for spec in missing if (spec.site, _base(spec)) == (site, base)]
        try:
            _fit(store, fitter, site, base, specs, args)
        except SaeError as error:
            tqdm.write(f"baselines: no {base} for {site.hook}: {error}")


def _fit(store: RunStore, fitter: Fitter, site: Site, base: str, specs: Sequence[DictionarySpec], args: Args) -> None:
    started = time.perf_counter()
    linear = fitter.fit(site, base)
    seconds = round(time.perf_counter() - started, 2)
    facts = {"train_tokens": linear.facts.get("n_vectors", 0), "train_seconds": seconds, "found": linear.facts}
    if linear.facts.get("converged") is False:
        tqdm.write(f"baselines: ICA for {site.hook} did not converge in {linear.facts['n_iter']} iterations")
    for spec in specs:
        train.add(store, [train.save(store, linear.dictionary(spec), {**_settings(store, spec, args), **facts})])


class Fitter:
    """Fits directions to the activations of a run's training text."""

    def __init__(self, store: RunStore, model: LanguageModel, args: Args) -> None:
        self.store, self.model, self.args = store, model, args
        self.tokens = load_windows(store.folder, "train").tokens
        self.moments: dict[Site, Moments] = {}

    def read_moments(self, sites: Sequence[Site]) -> None:
        """Mean and covariance of every site, in one pass of the model."""
        sites = tuple(dict.fromkeys(sites))
        if not sites:
            return
        self.moments = {site: Moments(self.model.width(site)) for site in sites}
        stream, steps = self._stream(sites, "pca")
        for batch in bar(stream.batches(0, steps), "covariances", steps, "batch"):
            for site, moments in self.moments.items():
                moments.add(batch[site])

    def fit(self, site: Site, base: str) -> Linear:
        """The directions of one method at one site."""
        width = self.model.width(site)
        match base:
            case "identity":
                return identity(width)
            case "random":
                return random_directions(width, self.args.seed + site.layer)
            case "pca":
                return pca(self.moments[site])
        return ica(self._vectors(site), self.args.seed)

    def _vectors(self, site: Site) -> Tensor:
        stream, steps = self._stream((site,), "ica")
        needed = steps * stream.batch_size * self.model.width(site) * BYTES
        stream = replace(stream, buffer_bytes=needed)  # one as large as usual would be filled to the end
        return torch.cat([batch[site].cpu() for batch in stream.batches(0, steps)])

    def _stream(self, sites: tuple[Site, ...], base: str) -> tuple[ActivationStream, int]:
        """Batches of whole contexts, and how many of them hold at most the vectors the method asks for."""
        first = self.store.manifest.spec.first
        context, asked = self.tokens.shape[1] - first, _n_vectors(self.store, base, self.args)
        batch = context * max(1, min(BATCH, asked) // context)
        stream = ActivationStream(self.model, self.tokens, sites, batch, self.args.seed, self.args.batch, first=first)
        return stream, max(1, asked // batch)


def _give_tables(store: RunStore, kinds: Sequence[str]) -> None:
    """Make dictionaries of these kinds `main`, so that the other steps write their tables."""
    chosen = {entry.id for entry in store.dictionaries if entry.spec.kind in kinds and not entry.spec.variant}
    if chosen:
        entries = (replace(e, role="main") if e.id in chosen else e for e in store.dictionaries)
        store.update_manifest(dictionaries=tuple(entries))
