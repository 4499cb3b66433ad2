"""Whether an imported dictionary fits the activations it is said to read, and if not, what would.

1. Read it at the hook it names and at the neighbouring ones, in both spaces: FVU, L0, CE recovered.
2. Scale: at the scale s it was trained at, its biases are at rest. The derivative of the training loss by a bias is the
   mean of (error . w_j) over the tokens on which feature j is active, less a constant price; so that mean is the same
   for all features. The scale at which these means spread least (quartiles) is the estimate, for D(s x) / s.
3. Threshold: the number below which codes are set to 0 that gives the L0 training aimed at, else the lowest FVU.
4. The explanation that lowers the FVU most, if it lowers it clearly, is the verdict.

Position 0 of a context is left out of 1-3: its activation can be so large that it alone decides the FVU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sae_core.dictionaries import Dictionary
from sae_core.errors import ModelError, SpecError
from sae_core.language_model import LanguageModel
from sae_core.metrics import CodeSums, Variation, measure
from sae_core.specs import EMBED, SITE_HOOKS, SPACES, Site

BETTER_PLACE = 0.85  # of the named place's FVU: another place must stay below it
BETTER_SCALE = 0.75
BETTER_THRESHOLD = 0.5
CLEAR = 0.02  # and lower the FVU by this much
USUAL_SCALES = (0.25, 1.8)  # estimates between these are not told from 1
BAD_FVU = 0.7
TOO_MANY = 2.0  # times the active features that training aimed at
SCALES = tuple(float(s) for s in torch.logspace(-1.6, 1.6, 17))
FINER = tuple(float(s) for s in torch.logspace(-0.15, 0.15, 7))
QUANTILES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
FIT_TOKENS = 1024
SPLICED_TOKENS = 1024
FEATURES_TRIED = 1024
MIN_ACTIVE = 10
ROWS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Reading:
    """A dictionary read at one place. `named`: the place its file, or the user, names."""

    hook: str
    space: str
    fvu: float
    l0: float
    ce_recovered: float
    named: bool = False


@dataclass(frozen=True)
class Fit:
    """What one number does to the FVU and L0 at the named place: a scale of the input, or a threshold of the codes."""

    value: float
    fvu: float
    l0: float


@dataclass(frozen=True)
class Health:
    """All that was measured, and the verdict in words; `fits` is False where something is wrong."""

    fits: bool
    verdict: str
    readings: tuple[Reading, ...]
    scale: Fit
    threshold: Fit
    n_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def check(
    model: LanguageModel, dictionary: Dictionary, batches: Sequence[Tensor], expected_k: int | None = None
) -> Health:
    """Read a dictionary on token ids [b, t] of held-out text. expected_k: the L0 that training aimed at, if known."""
    found = readings(model, dictionary, batches)
    x = activations(model, dictionary.site, batches, FIT_TOKENS)
    scale, threshold = best_scale(dictionary, x), best_threshold(dictionary, x, expected_k)
    fits, words = judge(found, scale, threshold, dictionary, expected_k)
    return Health(fits, words, tuple(found), scale, threshold, sum(ids.numel() for ids in batches))


# ---- 1. readings


def places(dictionary: Dictionary, model: LanguageModel) -> list[Site]:
    """The dictionary's site first, then its neighbours of the same width, each in both spaces."""
    named = dictionary.site
    near = [(named.layer, name) for name in (named.name, *SITE_HOOKS)]
    near += [(named.layer + step, name) for step in (-1, 1) for name in (named.name, "resid_post", EMBED)]
    sites = [site for layer, name in near for space in SPACES if (site := _site(model, layer, name, space))]
    return list(dict.fromkeys([named, *(site for site in sites if model.width(site) == dictionary.width)]))


def _site(model: LanguageModel, layer: int, name: str, space: str) -> Site | None:
    """A site where a change is an addition to the stream; None where there is none, such as at centred neurons."""
    try:
        return model.check_edit(Site(layer, name, space))
    except (ModelError, SpecError):
        return None


@torch.inference_mode()
def readings(model: LanguageModel, dictionary: Dictionary, batches: Sequence[Tensor]) -> list[Reading]:
    """The dictionary at each of its places, the named one first."""
    sites = places(dictionary, model)
    sums = {site: (CodeSums.of(dictionary), Variation()) for site in sites}
    for ids in batches:
        found = model.sites(ids, sites)
        for site, (codes, variation) in sums.items():
            for x in _rows(dictionary, found[site][:, 1:].flatten(0, 1)):
                variation.add(x)
                here = dictionary.encode(x)
                codes.add(here, x - dictionary.reconstruct(x, here))
    recovered = _recovered(model, dictionary, _first(batches, SPLICED_TOKENS), sites)
    measured = {site: codes.result(variation) for site, (codes, variation) in sums.items()}
    return [
        Reading(site.hook, site.space, measured[site].fvu, measured[site].l0, recovered[site], site == dictionary.site)
        for site in sites
    ]


def _recovered(
    model: LanguageModel, dictionary: Dictionary, batches: Sequence[Tensor], sites: Sequence[Site]
) -> dict[Site, float]:
    """CE recovered at each site; the sites of a layer share their clean pass."""
    found: dict[Site, float] = {}
    for layer in dict.fromkeys(site.layer for site in sites):
        here = [site for site in sites if site.layer == layer]
        metrics = measure(model, [replace(dictionary, site=site) for site in here], batches, first=1)
        found |= {site: each.losses.ce_recovered for site, each in zip(here, metrics, strict=True)}
    return found


@torch.inference_mode()
def activations(model: LanguageModel, site: Site, batches: Sequence[Tensor], n: int) -> Tensor:
    """About n activations [n, width] at a site, from as many batches as that takes, without positions 0."""
    read = (model.sites(ids, [site])[site] for ids in _first(batches, n))
    whole = torch.cat([x[:, 1:].flatten(0, 1).float() for x in read])
    return whole[torch.linspace(0, len(whole) - 1, min(n, len(whole))).long()]


def _first(batches: Sequence[Tensor], n: int) -> list[Tensor]:
    """The first batches with at least n tokens together, all of them if there are fewer."""
    sizes = torch.tensor([ids.numel() for ids in batches]).cumsum(0)
    return list(batches[: int((sizes < n).sum()) + 1])


def _rows(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, ...]:
    return x.to(dictionary.W_dec.dtype).split(max(1, ROWS_AT_ONCE // dictionary.n_features))


# ---- 2. scale


@torch.inference_mode()
def best_scale(dictionary: Dictionary, x: Tensor) -> Fit:
    """The scale of x [n, width] at which the biases are most nearly at rest: coarse steps, then finer ones around.

    It is 1 for a dictionary that standardises what it reads: to that one every scale is the same.
    """
    if dictionary.standardises:
        return at_scale(dictionary, x, 1.0)[1]
    coarse = [at_scale(dictionary, x, s) for s in SCALES]
    best = SCALES[_least(coarse)]
    scales = [best * step for step in FINER]
    fine = [at_scale(dictionary, x, s) for s in scales]
    i = _least(fine)
    return Fit(scales[i], fine[i][1].fvu, fine[i][1].l0)


def at_scale(dictionary: Dictionary, x: Tensor, scale: float) -> tuple[float, Fit]:
    """How far the biases are from rest if x [n, width] is multiplied by `scale`, and the FVU and L0 then.

    The distance between the quartiles, over features active on more than MIN_ACTIVE tokens, of the mean error along
    the feature's direction; infinite where too few features are active or nothing is explained.
    """
    codes = dictionary.encode(scale * x) / scale
    error = x - dictionary.reconstruct(scale * x, scale * codes) / scale
    fit = Fit(scale, _fvu(x, error), float((codes != 0).sum() / len(x)))
    often = (codes != 0).sum(0).topk(min(FEATURES_TRIED, dictionary.n_features))
    features = often.indices[often.values > MIN_ACTIVE]
    if len(features) < MIN_ACTIVE or fit.fvu >= 1:
        return float("inf"), fit
    directions = torch.nn.functional.normalize(dictionary.W_dec[features], dim=1)
    active = (codes[:, features] != 0).float()
    means = ((error @ directions.T) * active).sum(0) / active.sum(0)
    low, high = torch.quantile(means, torch.tensor([0.25, 0.75], device=means.device))
    return float(high - low), fit


def _least(found: Sequence[tuple[float, Fit]]) -> int:
    """The least spread; where no scale has one, that nearest to 1."""
    return min(range(len(found)), key=lambda i: (found[i][0], abs(torch.tensor(found[i][1].value).log().item())))


def _fvu(x: Tensor, error: Tensor) -> float:
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


# ---- 3. threshold


@torch.inference_mode()
def best_threshold(dictionary: Dictionary, x: Tensor, expected_k: int | None = None) -> Fit:
    """The threshold, 0 or a quantile of the positive codes of x [n, width], that gives the lowest FVU.

    With expected_k: the one that leaves so many codes a token, or 0 if there are no more.
    """
    codes = dictionary.encode(x)
    own = dictionary.in_own_units(x, codes)
    positive = own[own > 0]
    if expected_k is not None and len(positive) > expected_k * len(x):
        least = positive.kthvalue(len(positive) - expected_k * len(x)).values
        return at_threshold(dictionary, x, codes, float(least))
    if expected_k is not None or not len(positive):
        return at_threshold(dictionary, x, codes, 0.0)
    some = positive[:: max(1, len(positive) // 100_000)].float()
    values = torch.quantile(some, torch.tensor(QUANTILES, device=some.device))
    fits = [at_threshold(dictionary, x, codes, value) for value in (0.0, *values.tolist())]
    return min(fits, key=lambda fit: fit.fvu)


def at_threshold(dictionary: Dictionary, x: Tensor, codes: Tensor, value: float) -> Fit:
    """FVU and L0 with the codes [n, F] of x [n, width] that are not above `value`, a threshold, set to 0."""
    kept = codes * (dictionary.in_own_units(x, codes) > value)
    return Fit(value, _fvu(x, x - dictionary.reconstruct(x, kept)), float((kept != 0).sum() / len(x)))


# ---- 4. verdict


def judge(
    found: Sequence[Reading], scale: Fit, threshold: Fit, dictionary: Dictionary, expected_k: int | None = None
) -> tuple[bool, str]:
    """Whether it fits where it is said to, and one sentence: where and how it fits, else what does not."""
    named, best = found[0], min(found, key=lambda reading: reading.fvu)
    explanations = [
        (best.fvu, BETTER_PLACE, _elsewhere(best, named)),
        (scale.fvu if scale.value > USUAL_SCALES[1] else named.fvu, BETTER_SCALE, _scaled(scale, named)),
        (threshold.fvu if threshold.value > 0 else named.fvu, BETTER_THRESHOLD, _thresholded(threshold, named)),
    ]
    fvu, share, words = min(explanations, key=lambda explanation: explanation[0])
    if fvu < share * named.fvu and fvu < named.fvu - CLEAR and fvu < BAD_FVU:
        return False, words
    if named.fvu > BAD_FVU:
        return False, f"fits none of the places tried: FVU {best.fvu:.2f} at best, {named.fvu:.2f} at {_place(named)}"
    if expected_k is not None and named.l0 > TOO_MANY * expected_k:
        return False, _too_many(threshold, named, expected_k)
    if named.l0 > dictionary.width:
        many = f"L0 is far too high: more than the {dictionary.width} coordinates it reads"
        return False, f"{_fit_words(named)}, but {many}; a threshold or a factor of the input seems to be missing"
    if scale.value < USUAL_SCALES[0]:
        return False, f"{_fit_words(named)}, but more sparsely (L0 {scale.l0:.0f}) if activations are multiplied by " \
                      f"{scale.value:.2g}"  # fmt: skip
    return True, _fit_words(named)


def _place(reading: Reading) -> str:
    return f"{reading.hook}, {reading.space}"


def _fit_words(reading: Reading) -> str:
    return f"fits {_place(reading)}, FVU {reading.fvu:.2f}, L0 {reading.l0:.0f}"


def _elsewhere(best: Reading, named: Reading) -> str:
    what = "in the space you named" if best.hook == named.hook else "at the hook you named"
    return f"fits {_place(best)}, FVU {best.fvu:.2f}; {what} ({_place(named)}) {named.fvu:.2f}"


def _scaled(scale: Fit, named: Reading) -> str:
    return f"fits {_place(named)} if activations are multiplied by {scale.value:.3g}: FVU {scale.fvu:.2f}; " \
           f"as it is {named.fvu:.2f}"  # fmt: skip


def _thresholded(threshold: Fit, named: Reading) -> str:
    return f"a threshold seems to be missing: with codes up to {threshold.value:.2g} set to 0, FVU is " \
           f"{threshold.fvu:.2f} and L0 {threshold.l0:.0f} at {_place(named)}; as it is {named.fvu:.2f} and " \
           f"{named.l0:.0f}"  # fmt: skip


def _too_many(threshold: Fit, named: Reading, expected_k: int) -> str:
    return f"a threshold seems to be missing: L0 is {named.l0:.0f} at {_place(named)}, where training aimed at " \
           f"{expected_k}; with codes up to {threshold.value:.2g} set to 0 it is {threshold.l0:.0f}, and FVU " \
           f"{threshold.fvu:.2f} instead of {named.fvu:.2f}"  # fmt: skip
