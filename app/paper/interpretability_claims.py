"""What the paper claims about scores, judged on frames of means with intervals (app.paper.interpretability_frames).

`ours` marks the sparse autoencoder of each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, sqrt

import pandas as pd

from app.paper.claims import FAILS, HOLDS, OPEN, Claim, agreement
from app.paper.compare_means import (
    ABOVE,
    BASELINES,
    BELOW,
    LEVEL,
    OUTCOMES,
    Gap,
    Standing,
    at,
    brief,
    gap,
    layers,
    lines,
    pairs,
    standings,
)
from sae_core.results import kind_name

FLAT = 0.1
WHERE = {ABOVE: "above all", LEVEL: "level with the best", BELOW: "below the best"}


# ---- Figures 2 and 9


def above_baselines(means: pd.DataFrame, says: str, paper: str) -> Claim:
    """Ours above all baselines, layer by layer."""
    found = standings(means)
    verdict, reason = agreement([OUTCOMES[each.standing] for each in found], "layer with an SAE and a baseline")
    where = [f"{word} at {layers(at(found, standing))}" for standing, word in WHERE.items() if at(found, standing)]
    compared = f" Compared with {_compared(means)}: {'; '.join(where)}." if found else ""
    return Claim(says, paper, lines(found) or "No scores to compare.", verdict, reason + compared)


def _compared(means: pd.DataFrame) -> str:
    return ", ".join(kind_name(kind) for kind in BASELINES if kind in set(means["kind"]))


def early_lead(means: pd.DataFrame) -> Claim:
    """The margin over the best baseline, mean of the earlier half of the layers minus that of the later half."""
    says = "The lead over the baselines is largest in early layers and shrinks through the model."
    paper = "Figure 2: far above in early layers, about ICA's score in layer 4, little gain in the last (Pythia-70M)."
    found = standings(means)
    half = len(found) // 2
    if not half:
        run = "Layers that can be compared: " + (layers([each.layer for each in found]))
        return Claim(says, paper, run, OPEN, "At least two layers with the SAE and a baseline are needed.")
    early, late = _mean_margin(found[:half]), _mean_margin(found[-half:])
    change = Gap(early.value - late.value, hypot(early.half, late.half))
    first, last = ([each.layer for each in part] for part in (found[:half], found[-half:]))
    run = lines([f"Lead in {layers(first)}: {early}; in {layers(last)}: {late}.", f"Difference: {change}."])
    verdict = {1: HOLDS, 0: OPEN, -1: FAILS}[change.sign]
    where = {1: "above 0: the lead shrinks", 0: "on both sides of 0", -1: "below 0: the lead grows"}[change.sign]
    return Claim(says, paper, run, verdict, f"The interval of the difference lies {where}.")


def _mean_margin(found: Sequence[Standing]) -> Gap:
    margins = [each.margin for each in found]
    return Gap(sum(m.value for m in margins) / len(margins), sqrt(sum(m.half**2 for m in margins)) / len(margins))


def residual_basis(means: pd.DataFrame) -> Claim:
    """The default basis is nowhere above random directions."""
    says = "Residual basis directions are not more interpretable than random directions."
    paper = "App. C.2: none found to be more interpretable (Pythia-70M, residual stream)."
    both = pairs(means, "identity", "random")
    outcomes = [-1 if basis["lower"] > other["upper"] else 1 for _, basis, other in both]
    run = lines(f"Layer {layer}: {brief(basis)}; {brief(other)}." for layer, basis, other in both)
    return Claim(says, paper, run or "No layer has both.", *agreement(outcomes, "layer with both"))


def control(means: pd.DataFrame, kind: str, says: str, paper: str) -> Claim:
    """A control scores about as high as ours: their intervals meet, or the control is above."""
    both = pairs(means, "ours", kind)
    outcomes = [1 if other["upper"] >= ours["lower"] else -1 for _, ours, other in both]
    run = lines(
        f"Layer {n}: {brief(ours)}; {brief(other)}; SAE ahead by {gap(ours, other)}." for n, ours, other in both
    )
    verdict, reason = agreement(outcomes, "layer with both")
    rule = " The rule: the intervals meet, or the control is above." if both else ""
    return Claim(says, paper, run or "No layer has both.", verdict, reason + rule)


# ---- Figures 8, 9, 10, 18


def flat_in_ratio(means: pd.DataFrame) -> Claim:
    """From the smallest to the largest ratio of each layer the mean changes by less than FLAT."""
    says = "Scores do not depend on the ratio R of features to width."
    paper = "Figure 8: flat for R from 0.5 to 32, layers 0 to 5 (Pythia-70M, 20 million vectors, alpha 8.6e-4)."
    texts, outcomes = [], []
    for layer, here in means[means["n"] >= 2].groupby("layer"):
        small, large = (here.sort_values("ratio").iloc[place] for place in (0, -1))
        if small["ratio"] == large["ratio"]:
            continue
        change = gap(large, small)
        outcomes.append(int(max(-change.lower, change.upper) < FLAT) - int(max(change.lower, -change.upper) > FLAT))
        sizes = "; ".join(f"R {row['ratio']:g} {brief(row)}" for row in (small, large))
        texts.append(f"Layer {layer}: {sizes}; change {change}.")
    verdict, reason = agreement(outcomes, "layer with two ratios")
    rule = f" The rule: the whole interval of the change, smallest to largest R, lies within ±{FLAT:g}."
    return Claim(says, paper, lines(texts) or "No layer has two ratios.", verdict, reason + rule)


def lower_at_random(change: pd.DataFrame) -> Claim:
    """Random-only minus top-and-random, of the same features."""
    says = "Random-only scores are lower than top-and-random scores, for every method."
    paper = "App. C.2, Figures 2 and 9: significantly smaller; the axis ends at 0.2 instead of 0.35 (Pythia-70M)."
    run = lines(
        f"{kind_name(row['kind'])}: {row['mean']:+z.3f} [{row['lower']:+z.3f}, {row['upper']:+z.3f}] n {row['n']:,}."
        for _, row in change.iterrows()
    )
    outcomes = [int(upper < 0) - int(lower > 0) for lower, upper in zip(change["lower"], change["upper"], strict=True)]
    return Claim(says, paper, run or "No feature has both scores.", *agreement(outcomes, "method"))


def mixed(by_scheme: dict[str, pd.DataFrame]) -> Claim:
    """At some layers and schemes above all baselines, at others not."""
    says = "In MLP layers success is mixed: above the baselines at some layers, not at others."
    paper = "Figure 10, App. C.3: mixed success; untied, R = 1, alpha 3.2e-4 (Pythia-70M, six layers)."
    found = [(scheme, each) for scheme, means in by_scheme.items() for each in standings(means)]
    run = lines(f"{scheme.replace('_', '-')}. {each}" for scheme, each in found)
    above = sum(each.standing == ABOVE for _, each in found)
    reason = f"Above all baselines in {above} of {len(found)} comparisons of a layer and a scheme."
    if 0 < above < len(found):
        return Claim(says, paper, run, HOLDS, reason)
    if len({each.layer for _, each in found}) < 2:
        return Claim(says, paper, run or "No layer has both.", OPEN, f"{reason} One layer cannot show a mixture.")
    return Claim(says, paper, run, FAILS, f"{reason} The same outcome everywhere.")


def skipped_in_mlp(mlp: pd.DataFrame, residual: pd.DataFrame) -> Claim:
    """The share of features too rarely active to score, MLP against residual stream of the same layers."""
    says = "Many features of MLP dictionaries are too rarely active to be scored."
    paper = "App. C.3: at twice as many features as neurons less than half may be active enough; early layers excepted."
    both = [(a, b) for a in _ours(mlp) for b in _ours(residual) if a["layer"] == b["layer"]]
    found = [(a, b, _more_skipped(a, b)) for a, b in both]
    run = lines(f"Layer {a['layer']}: MLP {_left_out(a)}; residual stream {_left_out(b)}; {c}." for a, b, c in found)
    verdict, reason = agreement([change.sign for *_, change in found], "layer with both sites")
    rule = " The rule: a larger share than in the residual stream of the same layer." if found else ""
    return Claim(says, paper, run or "No layer has both.", verdict, reason + rule)


def _ours(means: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in means[means["ours"]].iterrows()]


def _left_out(row: pd.Series) -> str:
    total = row["n"] + row["skipped"]
    return f"{row['skipped']:,} of {total:,} skipped ({row['skipped'] / total:.0%})"


def _more_skipped(one: pd.Series, other: pd.Series) -> Gap:
    """Difference of two shares with its normal interval."""
    totals = [row["n"] + row["skipped"] for row in (one, other)]
    p, q = (row["skipped"] / total for row, total in zip((one, other), totals, strict=True))
    return Gap(p - q, 1.96 * sqrt(p * (1 - p) / totals[0] + q * (1 - q) / totals[1]))


def top_k_explains_little(means: pd.DataFrame) -> Claim:
    """Top-K form minus plain form is less than half of ours minus plain form, where there is such a gap at all."""
    says = "Keeping only the K strongest directions of PCA and ICA explains little of the gap to the SAE."
    paper = "Figure 18, App. G: no more than a small fraction (Pythia-70M, K = mean L0 of the SAE with R = 1)."
    texts, outcomes = [], []
    for base in ("pca", "ica"):
        plain = {layer: row for layer, _, row in pairs(means, "ours", base)}
        for layer, ours, cut in pairs(means, "ours", f"{base}_topk"):
            if layer not in plain:
                continue
            whole, part = gap(ours, plain[layer]), gap(cut, plain[layer])
            texts.append(f"Layer {layer}, over {kind_name(base)}: SAE {whole}, {kind_name(cut['kind'])} {part}.")
            if whole.lower > 0:
                outcomes.append(int(part.upper < whole.lower / 2) - int(part.lower > whole.upper / 2))
    verdict, reason = agreement(outcomes, "layer and method where the SAE is clearly ahead")
    rule = " The rule: the Top-K form gains less than half of the gap, by the intervals." if outcomes else ""
    return Claim(says, paper, lines(texts) or "No layer has a Top-K form.", verdict, reason + rule)


# ---- Table 2, detection


def heavy_tails(rows: pd.DataFrame, moments: Sequence[str], form: str) -> Claim:
    """Skew and kurtosis correlate with the score, in one form of the moments."""
    says = f"Features with larger skew and kurtosis of activation score higher ({form} moments)."
    paper = "Table 2: skew 0.20, kurtosis 0.15; the text of App. C.4 says 0.19 and 0.24 (Pythia-70M, all layers)."
    found = rows.set_index("moment").loc[list(moments)]
    run = lines(
        f"{name.split('_')[0].capitalize()}: {r['r']:+z.3f} [{r['lower']:+z.3f}, {r['upper']:+z.3f}] n {r['n']:,}."
        for name, r in found.iterrows()
    )
    outcomes = (found["lower"] > 0).astype(int) - (found["upper"] < 0).astype(int)
    return Claim(says, paper, run, *agreement(outcomes.tolist(), "moment"))


def above_chance(means: pd.DataFrame, scorer: str) -> Claim:
    """Mean accuracy above one half in every dictionary."""
    says = f"{scorer.capitalize()}: the explanations tell fragments apart better than chance."
    paper = "Not in this paper: Paulo et al. (2024) propose it; 0.5 is chance."
    here = means[(means["scorer"] == scorer) & (means["n"] >= 2)]
    run = lines(
        f"{r['id']}: {r['mean']:z.2f} [{r['lower']:z.2f}, {r['upper']:z.2f}] n {r['n']:,}." for _, r in here.iterrows()
    )
    outcomes = (here["lower"] > 0.5).astype(int) - (here["upper"] < 0.5).astype(int)
    return Claim(
        says, paper, run or "No dictionary has two judged features.", *agreement(outcomes.tolist(), "dictionary")
    )
