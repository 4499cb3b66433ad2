"""Which features of one dictionary are found in another: nearest directions, one-to-one partners, four classes.

a_i and b_j are the decoder directions of A and B at norm 1; c_ij = a_i . b_j. Every feature of A is one of

    matched   its one-to-one partner in B has a cosine of at least `match`
    split     not matched, and at least two features of B have a cosine of at least `part` with it
    near      not matched, and exactly one feature of B has (weaker than `match`, or the partner of another of A)
    missing   no feature of B has

Partners come from the matching with the largest sum of cosines (Hungarian method) up to ONE_TO_ONE_UP_TO features, and
are mutual nearest neighbours beyond, where that matching would take minutes. Light: no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from sae_core.errors import DictionaryError, FeatureError
from sae_core.specs import EMBED, Site

WEIGHTS_FILE = "sae_weights.safetensors"
"""Name that SAELens gives to the weights of a dictionary."""
RESIDUAL_SITES = ("resid_post", "mlp_out", "attn_out", EMBED)
"""Sites whose directions live in the coordinates of the residual stream, whatever the layer."""
MATCHED, SPLIT, NEAR, MISSING = "matched", "split", "near", "missing"
CLASSES = (MATCHED, SPLIT, NEAR, MISSING)
MATCH, PART = 0.9, 0.5
NEAREST = 5
ONE_TO_ONE_UP_TO = 2048
BLOCK_NUMBERS = 2**24


def has_weights(folder: Path) -> bool:
    """Whether a dictionary's folder holds its weights: those of a grid have metrics only."""
    return (folder / WEIGHTS_FILE).is_file()


def decoder(folder: Path) -> np.ndarray:
    """W_dec [n_features, width] of a SAELens folder, float32. Raises DictionaryError if it cannot be read."""
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="np") as file:
            found = file.get_tensor("W_dec")
    except (OSError, SafetensorError, TypeError, AttributeError) as error:
        reason = str(error) if path.is_file() else f"no {WEIGHTS_FILE}"
        raise DictionaryError(f"a decoder W_dec in {folder.name}", reason, "Train the dictionary again") from None
    if found.ndim != 2 or not np.isfinite(found).all():
        shape = f"shape {list(found.shape)}, or numbers that are not finite"
        raise DictionaryError(f"W_dec [n_features, width] in {folder.name}", shape, "Train the dictionary again")
    return found.astype(np.float32)


def comparable(one: Site, other: Site) -> bool:
    """Whether directions of two sites live in the same coordinates, so that their cosine means something."""
    same = (one.layer, one.name) == (other.layer, other.name)
    return same or {one.name, other.name} <= set(RESIDUAL_SITES)


def meaning(one: Site, other: Site) -> str:
    """What the cosine of two decoder directions says for these sites, in a sentence."""
    if (one.layer, one.name) == (other.layer, other.name):
        said = "Both dictionaries write the same activations: a cosine of 1 means the same direction there."
    else:
        said = (
            "The two dictionaries read different places, but both write in the coordinates of the residual stream: a "
            "high cosine means that two features write the same direction, not that they fire on the same tokens."
        )
    return said if one.space == other.space else f"{said} One of them reads centred activations, the other raw ones."


# ---- counterparts


@dataclass(frozen=True)
class Counterparts:
    """Features of A [n] (their indices) and, for each, the k = NEAREST or fewer nearest features of B and a partner.

    nearest, cosines: [n, k], nearest first; among: [n, k, k], cosines of these k with each other.
    partner: [n], -1 for none; partner_cosine: [n], 0 for none. one_to_one: Hungarian, else mutual nearest neighbours.
    n_others: features of B that could be chosen.
    """

    features: np.ndarray
    nearest: np.ndarray
    cosines: np.ndarray
    among: np.ndarray
    partner: np.ndarray
    partner_cosine: np.ndarray
    one_to_one: bool
    n_others: int


def counterparts(
    own: np.ndarray, theirs: np.ndarray, features: np.ndarray | None = None, others: np.ndarray | None = None
) -> Counterparts:
    """Nearest features and partners in `theirs` [m, d] of the directions `own` [n, d].

    features, others: the indices that take part (live ones), all by default. Raises FeatureError if there are none.
    """
    features = np.arange(len(own)) if features is None else features
    others = np.arange(len(theirs)) if others is None else others
    if not len(features) or not len(others):
        found = f"{len(features)} and {len(others)}"
        raise FeatureError("live features in both dictionaries", found, "Choose dictionaries with live features")
    a, b = _unit(own[features]), _unit(theirs[others])
    nearest, cosines, among, back = _nearest(a, b)
    one_to_one = max(len(a), len(b)) <= ONE_TO_ONE_UP_TO
    partner, partner_cosine = _assigned(a, b) if one_to_one else _mutual(nearest[:, 0], cosines[:, 0], back)
    partner = np.where(partner < 0, -1, others[partner])
    return Counterparts(features, others[nearest], cosines, among, partner, partner_cosine, one_to_one, len(others))


def _unit(directions: np.ndarray) -> np.ndarray:
    from sae_core.matching import unit_directions  # loads scipy, which browsing does not need

    return unit_directions(directions)


def _nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """nearest, cosines and among of `Counterparts`, and for each of b [m, d] the nearest of a; block by block."""
    rows = max(1, BLOCK_NUMBERS // len(b))
    parts, best, back = [], np.full(len(b), -np.inf), np.zeros(len(b), np.int64)
    for start in range(0, len(a), rows):
        cosines = a[start : start + rows] @ b.T
        top = cosines.argmax(0)
        largest = cosines[top, np.arange(len(b))]
        back = np.where(largest > best, start + top, back)
        best = np.maximum(best, largest)
        nearest, values = _largest(cosines, NEAREST)
        parts.append((nearest, values, b[nearest] @ b[nearest].swapaxes(1, 2)))
    nearest, values, among = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return nearest, values, among, back


def _largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the k largest of each row, largest first. Overwrites `values`."""
    rows, found = np.arange(len(values)), []
    for _ in range(min(k, values.shape[1])):
        column = values.argmax(1)
        found.append((column, values[rows, column]))
        values[rows, column] = -np.inf
    columns, largest = zip(*found, strict=True)
    return np.stack(columns, 1), np.stack(largest, 1)


def _assigned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sae_core.matching import match_one_to_one

    found = match_one_to_one(a, b)
    return found.others, found.cosines


def _mutual(nearest: np.ndarray, cosines: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mutual = back[nearest] == np.arange(len(nearest))
    return np.where(mutual, nearest, -1), np.where(mutual, cosines, 0)


# ---- classes


def classify(found: Counterparts, match: float = MATCH, part: float = PART) -> pd.DataFrame:
    """One row for each feature of A: feature, class, other, cosine, best_cosine, n_parts, together.

    class: as the head of this module defines it. other, cosine: the partner of a matched feature, else the nearest
    of B. best_cosine: with the nearest. n_parts: how many of the NEAREST have a cosine of at least `part`; together:
    cosine of a_i with their sum, sum_j c_ij / |sum_j b_j| (1: they make it up; 0 without parts).
    """
    matched = (found.partner >= 0) & (found.partner_cosine >= match)
    parts = found.cosines >= part
    n_parts = parts.sum(1)
    frame = {
        "feature": found.features,
        "class": np.select([matched, n_parts >= 2, n_parts == 1], [MATCHED, SPLIT, NEAR], MISSING),
        "other": np.where(matched, found.partner, found.nearest[:, 0]),
        "cosine": np.where(matched, found.partner_cosine, found.cosines[:, 0]),
        "best_cosine": found.cosines[:, 0],
        "n_parts": n_parts,
        "together": _together(found, parts),
    }
    return pd.DataFrame(frame)


def _together(found: Counterparts, parts: np.ndarray) -> np.ndarray:
    weights = parts.astype(np.float64)
    squared = np.einsum("ni,nij,nj->n", weights, found.among, weights)
    return np.where(parts.any(1), (weights * found.cosines).sum(1) / np.sqrt(np.maximum(squared, 1e-12)), 0.0)


def nearest_to(direction: np.ndarray, theirs: np.ndarray, others: np.ndarray | None = None) -> pd.DataFrame:
    """The NEAREST features of `theirs` [m, d] (of `others` only) to one direction [d]: feature, cosine."""
    others = np.arange(len(theirs)) if others is None else others
    cosines = _unit(theirs[others]) @ _unit(direction[None])[0]
    order = np.argsort(-cosines, kind="stable")[:NEAREST]
    return pd.DataFrame({"feature": others[order], "cosine": cosines[order]})


def chance_cosine(n: int, width: int) -> float:
    """Median of the largest cosine of a direction with n others drawn uniformly, in `width` coordinates.

    Phi^-1(0.5^(1/n)) / sqrt(width): a cosine of random directions is nearly normal with variance 1/width.
    """
    return NormalDist().inv_cdf(0.5 ** (1 / n)) / float(np.sqrt(width)) if n > 1 else 0.0


# ---- agreement of what fires them


def shared_tokens(own: list[str], theirs: list[str]) -> float:
    """Jaccard index of two lists of tokens; 0 if both are empty."""
    one, other = set(own), set(theirs)
    return len(one & other) / len(one | other) if one | other else 0.0


def token_overlap(own: pd.DataFrame, theirs: pd.DataFrame) -> float:
    """sum over tokens of min(p, q): p, q the shares of either feature's activity on a token, by `token_histograms`.

    Only listed tokens count (token_id >= 0), so it is a lower bound; 1 means the same tokens equally often.
    """
    one, other = (_token_shares(frame) for frame in (own, theirs))
    return float(np.minimum(*one.align(other, fill_value=0.0)).sum())


def _token_shares(histogram: pd.DataFrame) -> pd.Series:
    shares = histogram.groupby("token_id")["count"].sum() / max(1, histogram["count"].sum())
    return shares[shares.index >= 0]
