"""Rows of `scores` and `detection` made of what a language model answered, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from sae_core.autointerp.interview import Outcome
from sae_core.autointerp.score import SCHEMES, Score, mean_interval

LISTED = 10
CONSTANT = "skipped: its activation does not vary in the fragments"


@dataclass(frozen=True)
class Source:
    """Who explained, who simulated and judged and in which way, under which setting."""

    explainer: str
    judge: str
    simulator: str
    setting: str

    def score_rows(self, outcomes: Sequence[Outcome], skipped: Mapping[int, str]) -> pd.DataFrame:
        """Rows of `scores`: every outcome and every skipped feature under both schemes."""
        found = [(o.feature, scheme, o.explanation, o.scores[scheme]) for o in outcomes for scheme in SCHEMES]
        found += [(feature, scheme, why, None) for feature, why in skipped.items() for scheme in SCHEMES]
        return pd.DataFrame([self._score_row(*each) for each in found])

    def _score_row(self, feature: int, scheme: str, explanation: str, score: Score | None) -> dict:
        varies = score is not None or explanation.startswith("skipped")
        return {
            "feature": feature,
            "explainer": self.explainer,
            "scheme": scheme,
            "setting": self.setting,
            "simulator": f"{self.judge} {self.simulator}",
            "kind": "llm",
            "explanation": explanation if varies else CONSTANT,
            **asdict(score or Score(0.0, 0.0, 0.0, 0)),
            "skipped": score is None,
        }

    def verdict_rows(self, outcomes: Sequence[Outcome]) -> pd.DataFrame:
        """Rows of `detection`."""
        who = {"explainer": self.explainer, "setting": self.setting, "judge": self.judge}
        return pd.DataFrame(
            {"feature": outcome.feature, "scorer": scorer, **who, **asdict(verdict)}
            for outcome in outcomes
            for scorer, verdict in outcome.verdicts.items()
        )


def report(id: str, rows: pd.DataFrame, failed: dict[int, str]) -> None:
    """Mean scores with their 95 % intervals, and one sentence each on what was skipped and what failed."""
    scored = rows[~rows["skipped"]] if len(rows) else pd.DataFrame(columns=["scheme", "score"])
    for scheme in SCHEMES:
        scores = scored.loc[scored["scheme"] == scheme, "score"].to_numpy(np.float64)
        if len(scores):
            mean, lower, upper = mean_interval(scores)
            print(f"{id}: {scheme} {mean:.3f} ({lower:.3f} to {upper:.3f}), {len(scores)} features", flush=True)
    skipped = rows.loc[rows["skipped"], "feature"].unique().tolist() if len(rows) else []
    if skipped:
        print(f"{id}: {len(skipped)} features skipped, too few fragments with activity: {_few(skipped)}", flush=True)
    if failed:
        why = next(iter(failed.values()))
        print(f"{id}: {len(failed)} features without an answer: {_few(sorted(failed))}. {why}", flush=True)


def _few(features: list[int]) -> str:
    return ", ".join(map(str, features[:LISTED])) + (", ..." if len(features) > LISTED else "")
