"""Ground truth: known directions and known factors, judged on frames of a run. Pure."""

from __future__ import annotations

import pandas as pd

from app.components.numbers import mean_of, percent, share_of
from app.paper.claims import FAILS, HOLDS, OPEN, PARTLY, Claim, agreement
from app.paper.ground_truth_frames import CASE, against
from sae_core.results import kind_name, mean_interval
from sae_core.specs import LINEAR_KINDS, TOPK_KINDS

RECOVERED, NEARLY = 0.95, 0.9
CLEARLY = 0.05


def recovered(toy: pd.DataFrame) -> Claim:
    """Some price and a size of at least the number of known directions find them all. toy: from `over_seeds`."""
    large = toy[toy["size"] >= toy["n_ground_truth"]]
    says = "With a fitting price and enough features, a dictionary finds the directions that made the data."
    paper = "Not measured here; the paper rests on Sharkey et al. (2022), who show MMCS near 1 in a band of prices."
    if large.empty:
        return Claim(says, paper, "No dictionary has as many features as there are directions.", OPEN, "Too small.")
    best = large.loc[large["mmcs"].idxmax()]
    n = int(best["n_ground_truth"])
    return Claim(
        says,
        paper,
        f"{_told(best)}; cosine above 0.9 for {share_of(round(best['n_found']), n)} known directions. "
        f"{int(best['n_samples']):,} samples, {_seeds(best)}.",
        HOLDS if best["mmcs"] > RECOVERED else PARTLY if best["mmcs"] > NEARLY else FAILS,
        f"It holds if the best MMCS is above {RECOVERED}, in part above {NEARLY}.",
    )


def needs_price(toy: pd.DataFrame) -> Claim:
    """At the best size, both the lowest and the highest price find less. toy: from `over_seeds`."""
    best = toy.loc[toy["mmcs"].idxmax()]
    line = toy[toy["size"] == best["size"]].sort_values("coefficient")
    ends = line.iloc[[0, -1]]
    lost = best["mmcs"] - ends["mmcs"].to_numpy()
    worse = int((lost > CLEARLY).sum())
    return Claim(
        "The price of sparsity decides: too low or too high a price finds fewer directions.",
        "Its alphas are chosen by sweeps (App. E).",
        f"{_told(best)}; at the lowest price {ends['coefficient'].iloc[0]:g} {ends['mmcs'].iloc[0]:.3f}, at the "
        f"highest {ends['coefficient'].iloc[1]:g} {ends['mmcs'].iloc[1]:.3f}. {_seeds(best)}.",
        HOLDS if worse == 2 else PARTLY if worse else FAILS,
        f"It holds if MMCS is lower by more than {CLEARLY} at both ends of the prices tried, in part at one end.",
    )


def _told(row: pd.Series) -> str:
    return f"Best MMCS {row['mmcs']:.3f} at coefficient {row['coefficient']:g} with {int(row['size']):,} features"


def _seeds(row: pd.Series) -> str:
    n = int(row["n_seeds"])
    return f"n = {n} seed{'s' if n > 1 else ''}"


def better_than_baselines(frame: pd.DataFrame) -> Claim:
    """The SAE's best features tell known factors better than those of the linear methods.

    frame: from `side_by_side`. A case is a kind; the difference of F1 is averaged over layers, then over factor values.
    """
    kinds = [kind for kind in (*LINEAR_KINDS, *TOPK_KINDS) if (frame["kind"] == kind).any()]
    told, outcomes = [], []
    for kind in kinds:
        both = against(frame, kind)
        if both.empty:
            continue
        per_value = both.groupby(CASE)["difference"].mean().to_numpy()
        interval = mean_interval(per_value)
        outcomes.append(int(interval[1] > 0) - int(interval[2] < 0))
        told.append(
            f"Against {kind_name(kind)}: above its interval at {percent(both['above'].mean())}, below at "
            f"{percent(both['below'].mean())} of {len(both):,} layer and factor values; mean difference of F1 "
            f"{mean_of(interval, len(per_value))}."
        )
    verdict, reason = agreement(outcomes, "baseline")
    return Claim(
        "Dictionary features match known properties of tokens better than baseline directions do.",
        "No known factors: the paper compares scores of explanations (Figure 2).",
        "\n".join(told) or "No baseline has the table.",
        verdict,
        reason + " Clearly so: the interval of the mean difference over factor values lies above 0.",
    )


def better_than_yes(frame: pd.DataFrame, yes: pd.Series) -> Claim:
    """The SAE's best features are above answering yes for every token. yes: F1 of that, by row of the frame."""
    ours = frame["ours"].to_numpy(bool)
    hits, n = int((frame["lower"] > yes)[ours].sum()), int(ours.sum())
    share = hits / n if n else 0.0
    return Claim(
        "For most known properties some feature tells the tokens that have it.",
        "No known factors; single examples (Sec. 5).",
        f"F1 surely above that of answering yes everywhere at {share_of(hits, n)} layer and factor values.",
        OPEN if not n else HOLDS if share > 0.5 else PARTLY if hits else FAILS,
        "It holds if that is so for more than half of them, in part for some.",
    )
