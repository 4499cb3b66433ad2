"""What the paper and later work claim of dictionaries in the plane of sparsity and error: pure functions to Claims.

The table of metrics holds one number a dictionary, without an interval: text and seed are the same for all. Where the
run has a twin trained with another seed, the largest difference between twins is the least that counts as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from app.components.numbers import count, digits
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY, Claim, agreement
from sae_core.results import kind_name
from sae_core.specs import HEADLINE_L0, format_alpha

MIN_SWEEP = 6
"""Dictionaries a line needs before one turn among the others can be seen."""
KNEE = 0.5
"""A knee: one turn of a line carries more than this share of all its turning."""
CONVERGED = 0.05
"""Converged: a doubling of the training text lowers FVU by less than this share."""
ALIVE = 0.95
DEAD_MANY = 0.9
"""Many dead features: fewer than this share alive."""


# ---- reading a line


def at_l0(line: pd.DataFrame, l0: float) -> float:
    """FVU of a sweep at this L0, linear in log L0 between its two nearest dictionaries; NaN outside what it covers."""
    ordered = line.sort_values("l0")
    x = np.log(ordered["l0"].to_numpy(dtype=float))
    return float(np.interp(np.log(l0), x, ordered["fvu"].to_numpy(dtype=float), left=np.nan, right=np.nan))


def common_l0(lines: list[pd.DataFrame]) -> float | None:
    """The L0 nearest 30 that every line covers; None where there is none."""
    low, high = max(line["l0"].min() for line in lines), min(line["l0"].max() for line in lines)
    return float(np.clip(HEADLINE_L0, low, high)) if low <= high else None


def largest_turn(line: pd.DataFrame) -> float:
    """Share of a line's turning (angles between successive pieces, both axes scaled to 1) in its largest turn.

    The axes are log L0 and FVU. A circle's arc gives 1 / turns, a knee between straight arms 1.
    """
    ordered = line.sort_values("l0")
    points = np.column_stack([np.log(ordered["l0"].to_numpy(dtype=float)), ordered["fvu"].to_numpy(dtype=float)])
    steps = np.diff(points / np.ptp(points, axis=0), axis=0)
    turns = np.abs(np.diff(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))))
    return float(turns.max() / turns.sum()) if turns.sum() else 0.0


def twins_differ(frame: pd.DataFrame) -> float:
    """The largest difference of FVU between a dictionary and its twin of another seed; 0 where there is no twin."""
    keys = ["layer", "site", "kind", "ratio", "alpha"]
    twins = frame[frame["variant"].str.fullmatch(r"seed\d+")]
    both = twins.merge(frame[frame["variant"] == ""], on=keys, suffixes=("", "_first"))
    return float((both["fvu"] - both["fvu_first"]).abs().max()) if len(both) else 0.0


def lines_of(frame: pd.DataFrame, column: str) -> Iterator[tuple[float, pd.DataFrame]]:
    yield from ((value, line) for value, line in frame.groupby(column) if line["l0"].nunique() > 1)


# ---- Figure 6


def smooth(frame: pd.DataFrame) -> Claim:
    """One place; a line for each ratio. Without alpha 0, which is no point of the trade-off."""
    outcomes, told = [], []
    for ratio, line in lines_of(frame[frame["alpha"] > 0], "ratio"):
        if len(line) < MIN_SWEEP:
            continue
        falls, turn = bool(line.sort_values("l0")["fvu"].is_monotonic_decreasing), largest_turn(line)
        outcomes.append(1 if falls and turn <= KNEE else -1)
        told.append(
            f"R = {ratio:g}: {turn:.0%} of the turning in one of {len(line) - 2} turns{'' if falls else ', a bump'}"
        )
    verdict, reason = agreement(outcomes, f"ratio with {MIN_SWEEP} or more dictionaries")
    return Claim(
        "The trade-off between sparsity and accuracy is smooth, without a bump or knee.",
        "no number printed; MLP of layer 0, Figure 6",
        f"{'; '.join(told) or 'Too few dictionaries of one ratio'} (n = {tokens_of(frame)} held-out tokens).",
        verdict,
        f"{reason} The rule: FVU falls with every step to a larger L0, and no turn of the line (FVU against log L0, "
        f"both scaled to their range) carries more than {KNEE:.0%} of all turning.",
    )  # fmt: skip


def larger_is_better(frame: pd.DataFrame, tolerance: float) -> Claim:
    """One place: FVU at the same L0 from each ratio to the next larger one."""
    lines = dict(lines_of(frame[frame["alpha"] > 0], "ratio"))
    l0 = common_l0(list(lines.values())) if len(lines) > 1 else None
    found = {ratio: at_l0(line, l0) for ratio, line in lines.items()} if l0 else {}
    verdict, reason = agreement(falls(list(found.values()), tolerance), "step to the next larger ratio")
    told = ", ".join(f"R = {ratio:g}: {digits(fvu)}" for ratio, fvu in found.items())
    run = (
        f"FVU at L0 = {digits(l0)}: {told} (n = {tokens_of(frame)} held-out tokens)."
        if l0
        else "No L0 that two ratios cover."
    )
    return Claim(
        "Larger dictionaries explain more of the variance at the same sparsity.",
        "said of small dictionaries (R below 1 reconstruct less accurately, App. C.1), no number printed",
        run, verdict, reason + seed_note(tolerance),
    )  # fmt: skip


def falls(values: list[float], tolerance: float) -> list[int]:
    """Of each step from a value to the next: 1 if it falls by more than the tolerance, -1 if it rises so."""
    return [int(b < a - tolerance) - int(b > a + tolerance) for a, b in pairwise(values)]


def seed_note(tolerance: float) -> str:
    if not tolerance:
        return " One training run each: no twin of another seed says how much chance does."
    return f" Twins of another seed differ by at most {digits(tolerance)}; smaller differences count as none."


def tokens_of(frame: pd.DataFrame) -> str:
    return count(int(frame["n_tokens"].min())) if len(frame) else "0"


# ---- Figure 7


def converges(frame: pd.DataFrame) -> Claim:
    """One place; a line for each training length. Judged on the last lengthening, at one L0."""
    lines = dict(lines_of(frame, "length"))
    l0 = common_l0(list(lines.values())) if len(lines) > 1 else None
    found = {length: at_l0(line, l0) for length, line in lines.items()} if l0 else {}
    gains = [
        float((one - other) / other / np.log2(longer / length))
        for (length, one), (longer, other) in pairwise(found.items())
    ]
    told = ", ".join(f"{count(int(length))} vectors: {digits(fvu)}" for length, fvu in found.items())
    gained = ", ".join(f"{gain:+.1%}" for gain in gains)
    return Claim(
        "Training has converged after a few passes.",
        "no number printed; 5M to 50M activation vectors, 1 to 3 epochs (App. B, Figure 7)",
        f"FVU at L0 = {digits(l0)}: {told}; a doubling lowers it by {gained}." if l0 else "Lengths share no L0.",
        _converged(gains),
        f"The rule: the last lengthening lowers FVU by less than {CONVERGED:.0%} for each doubling; in part where it "
        "lowers it by less than the one before. One training run each.",
    )  # fmt: skip


def _converged(gains: list[float]) -> str:
    if not gains:
        return OPEN
    if gains[-1] < CONVERGED:
        return HOLDS
    return PARTLY if len(gains) > 1 and gains[-1] < gains[-2] else FAILS


# ---- Figure 16


def residual_alive(frame: pd.DataFrame) -> Claim:
    """Of each layer the tied residual dictionary of R = 4 or the next larger one, with its L0 nearest 30."""
    found = frame[
        (frame["site"] == "resid_post") & (frame["kind"] == "tied") & (frame["ratio"] >= 4) & (frame["alpha"] > 0)
    ]
    found = found.assign(far=(found["l0"] - HEADLINE_L0).abs()).sort_values(["layer", "ratio", "far"])
    chosen = found.groupby("layer").head(1)
    shares = chosen["n_alive"] / chosen["n_features"]
    verdict, reason = agreement([1 if share >= ALIVE else -1 for share in shares], "layer")
    told = ".\n".join(
        f"Layer {row.layer}: {row.n_alive} of {row.n_features} at alpha {format_alpha(row.alpha)} "
        f"({row.n_alive / row.n_features * row.ratio:.2f} for each dimension)"
        for row in chosen.itertuples()
    )
    return Claim(
        "Residual dictionaries become at least 4 times overcomplete before features start to drop out.",
        "no number printed (App. E); Pythia-70M, 10M tokens by the caption of Figure 16, 2.1M in the authors' code",
        f"Alive at R = 4 or next larger, L0 near {HEADLINE_L0}, n = {tokens_of(frame)} tokens.\n{told or 'None'}.",
        verdict, f"{reason} The rule: at least {ALIVE:.0%} of the features are active on more than 10 tokens.",
    )  # fmt: skip


def mlp_dead(frame: pd.DataFrame) -> Claim:
    """Every dictionary of the MLP's hidden layer with alpha 0."""
    free = frame[(frame["site"] == "mlp_post") & (frame["alpha"] == 0)]
    shares = free["n_alive"] / free["n_features"]
    verdict, reason = agreement([1 if share < DEAD_MANY else -1 for share in shares], "MLP dictionary with alpha 0")
    told = ", ".join(f"{row.id} {row.n_alive} of {row.n_features}" for row in free.itertuples())
    return Claim(
        "In MLP layers many features are dead even with alpha 0.",
        "no number printed (App. E); at R = 2 fewer than half may be active enough (App. C.3)",
        f"Alive: {told} (n = {tokens_of(free)} tokens)." if told else "No MLP dictionary with alpha 0 in this run.",
        verdict, f"{reason} The rule: fewer than {DEAD_MANY:.0%} of the features alive.",
    )  # fmt: skip


def untied_alive(frame: pd.DataFrame) -> Claim:
    """Tied and untied MLP dictionaries of the same layer, ratio and alpha."""
    mlp = frame[frame["site"] == "mlp_post"]
    pairs = mlp[mlp["kind"] == "untied"].merge(mlp[mlp["kind"] == "tied"], on=["layer", "ratio", "alpha"])
    differences = np.sign(pairs["n_alive_x"] - pairs["n_alive_y"]).astype(int).tolist()
    verdict, reason = agreement(differences, "layer, ratio and alpha")
    told = ", ".join(
        f"layer {row.layer}, R = {row.ratio:g}, alpha {format_alpha(row.alpha)} {row.n_alive_x} against {row.n_alive_y}"
        for row in pairs.itertuples()
    )
    return Claim(
        "In MLP layers more features stay alive with an encoder of its own (untied).",
        "no number printed (App. C.3, Figure 16)",
        f"Alive untied against tied: {told}." if told else "No pair of a tied and an untied MLP dictionary.",
        verdict, reason,
    )  # fmt: skip


# ---- later forms

LATER = {
    "batchtopk": (1, "BatchTopK dictionaries explain more at the same L0 than the L1 form.", "Bussmann et al. 2024"),
    "jumprelu": (1, "JumpReLU dictionaries explain more at the same L0.", "Rajamanoharan et al. 2024"),
    "frozen": (
        -1,
        "With a random decoder that is never trained, less is explained.",
        "control of Korznikov et al. 2026",
    ),
}
"""Kind: whether its FVU is claimed to be lower (1) or higher (-1) than the L1 form's, the claim, and whose it is."""


def later_form(frame: pd.DataFrame, kind: str, tolerance: float) -> Claim:
    """Each dictionary of a kind against the tied SAEs of the same place and ratio, interpolated to its L0."""
    sign, says, source = LATER[kind]
    told, outcomes = [], []
    for row in frame[frame["kind"] == kind].sort_values("l0").itertuples():
        tied = frame[(frame["kind"] == "tied") & (frame["alpha"] > 0) & (frame["ratio"] == row.ratio)]
        fvu = at_l0(tied, row.l0) if len(tied) > 1 else np.nan
        if not np.isnan(fvu):
            outcomes += [sign * step for step in falls([fvu, row.fvu], tolerance)]
            told.append(f"at L0 {digits(row.l0)} {digits(row.fvu)} against {digits(fvu)}")
    verdict, reason = agreement(outcomes, "dictionary whose L0 the SAEs cover")
    found = f"FVU of {kind_name(kind)} against SAE: {'; '.join(told)} (n = {tokens_of(frame)} held-out tokens)."
    run = found if told else "No such dictionary whose L0 the SAEs of its ratio cover."
    return Claim(says, f"not in the paper; {source}", run, verdict, reason + seed_note(tolerance))
