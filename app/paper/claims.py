"""A claim of the paper beside what the run says of it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

HOLDS, PARTLY, FAILS, OPEN = "holds", "holds in part", "does not hold", "cannot be told"
VERDICTS = (HOLDS, PARTLY, FAILS, OPEN)
MARKS = {HOLDS: "✓", PARTLY: "≈", FAILS: "✗", OPEN: "?"}


@dataclass(frozen=True)
class Claim:
    """What the paper says, what it reports for it, what this run gives, and whether the claim holds here.

    says: the claim in a sentence. paper: the paper's numbers and on what. run: this run's numbers with n and interval.
    verdict: one of VERDICTS. reason: one sentence, why.
    """

    says: str
    paper: str
    run: str
    verdict: str
    reason: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(self.verdict)


def agreement(outcomes: Sequence[int], case: str) -> tuple[str, str]:
    """Verdict and reason from cases that speak for a claim (1), against it (-1) or for neither (0).

    It holds where all speak for it, in part where some do, not where none does and some speak against it; where all
    are 0, or there is no case, it cannot be told. case: what one case is, such as `layer`.
    """
    yes, no, n = outcomes.count(1), outcomes.count(-1), len(outcomes)
    if not n:
        return OPEN, f"The run has no {case} to judge by."
    verdict = HOLDS if yes == n else PARTLY if yes else FAILS if no else OPEN
    rest = f"the reverse in {no}, not told apart in {n - yes - no}"
    return verdict, f"Clearly so in {yes} of {n} cases (each {case}), {rest}."


def show_claims(claims: Sequence[Claim]) -> None:
    """Claims below each other: verdict and claim, then the paper's number beside the run's."""
    st.html("".join(map(claim_html, claims)))


def claim_html(claim: Claim) -> str:
    """One claim as a block; line breaks of its texts are kept."""
    safe = {name: html.escape(text).replace("\n", "<br>") for name, text in vars(claim).items()}
    kind = VERDICTS.index(claim.verdict)
    return (
        f"<div class='sae-claim sae-verdict-{kind}'>"
        f"<div class='sae-claim-head'><span class='sae-verdict'>{MARKS[claim.verdict]} {safe['verdict']}</span>"
        f"<span>{safe['says']}</span></div>"
        f"<div class='sae-claim-sides'><span>Paper</span><span>{safe['paper']}</span>"
        f"<span>This run</span><span>{safe['run']}</span><span>Why</span><span>{safe['reason']}</span></div></div>"
    )
