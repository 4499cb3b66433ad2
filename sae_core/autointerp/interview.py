"""One feature from its fragments to its scores: explain, simulate, correlate, judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sae_core.autointerp import detection, explain
from sae_core.autointerp.answers import Answers, Service
from sae_core.autointerp.client import Request
from sae_core.autointerp.detection import SCORERS, Item, Verdict
from sae_core.autointerp.fragments import Fragments, Selection
from sae_core.autointerp.score import Score, scores_by_scheme
from sae_core.autointerp.simulate import SIMULATORS
from sae_core.sampling import feature_rng

# Stands for an explanation that is not known yet when costs are estimated.
TYPICAL = "Words that name a day of the week, above all where a date or an appointment is given."
EXPLANATION_TOKENS, JUDGEMENT_TOKENS = 40, 30


@dataclass(frozen=True)
class Plan:
    """One feature: its fragments to explain and score on, and those to judge, with and without activity."""

    feature: int
    selection: Selection
    active: Fragments
    silent: Fragments

    @property
    def judged(self) -> bool:
        """Whether there are enough fragments to judge."""
        return len(self.active) >= detection.FEWEST


@dataclass(frozen=True)
class Outcome:
    """The explanation of a feature, its score by scheme (None: nothing varies), its verdict by scorer."""

    feature: int
    explanation: str
    scores: dict[str, Score | None]
    verdicts: dict[str, Verdict]


@dataclass(frozen=True)
class Interviewer:
    """Who explains, who simulates and judges, in which of the three ways, with which randomness.

    names: readable token by id; temperatures: of the explainer and of the simulator, None for the server's own.
    """

    explainer: str
    simulator: str
    way: str
    names: np.ndarray
    temperatures: tuple[float | None, float | None] = (None, None)
    judges: bool = True
    seed: int = 0

    def interview(self, plan: Plan, service: Service, answers: Answers) -> Outcome:
        """Ask everything about one feature; answers that are stored are not asked for again.

        Raises AnswerError if a question stayed without a usable answer.
        """
        explanation = answers.ask(service, self._explain(plan), explain.parse)
        top, random = (
            (part.activations, self._simulated(part, explanation, service, answers))
            for part in (plan.selection.top, plan.selection.random)
        )
        verdicts = {
            scorer: self._verdict(plan, scorer, explanation, service, answers)
            for scorer in (SCORERS if self.judges and plan.judged else ())
        }
        return Outcome(plan.feature, explanation, scores_by_scheme(top, random, self.seed), verdicts)

    def unanswered(self, plan: Plan, answers: Answers) -> Iterator[tuple[Request, int]]:
        """The requests about a feature that have no stored answer, and about how many tokens each brings back."""
        first = self._explain(plan)
        stored = answers.stored(first)
        explanation = TYPICAL if stored is None else explain.parse(stored)
        asked = [(first, EXPLANATION_TOKENS), *self._later(plan, explanation)]
        return ((request, tokens) for request, tokens in asked if answers.stored(request) is None)

    def _later(self, plan: Plan, explanation: str) -> Iterator[tuple[Request, int]]:
        for part in (plan.selection.top, plan.selection.random):
            for request in self._simulate(part, explanation):
                yield request, SIMULATORS[self.way].tokens_a_line * part.token_ids.shape[1]
        for scorer in SCORERS if self.judges and plan.judged else ():
            for request in self._judge(explanation, self._items(plan, scorer), scorer):
                yield request, JUDGEMENT_TOKENS

    def _explain(self, plan: Plan) -> Request:
        return explain.request(self.explainer, plan.selection.explained, self.names, self.temperatures[0])

    def _simulate(self, part: Fragments, explanation: str) -> list[Request]:
        ask = SIMULATORS[self.way].request
        tokens = [self.names[ids].tolist() for ids in part.token_ids]
        return [ask(self.simulator, explanation, each, self.temperatures[1]) for each in tokens]

    def _simulated(self, part: Fragments, explanation: str, service: Service, answers: Answers) -> np.ndarray:
        parse, n_tokens = SIMULATORS[self.way].parse, part.token_ids.shape[1]
        requests = self._simulate(part, explanation)
        return np.stack([answers.ask(service, each, lambda reply: parse(reply, n_tokens)) for each in requests])

    def _items(self, plan: Plan, scorer: str) -> list[Item]:
        rng = feature_rng(self.seed, plan.feature)
        return detection.items(plan.active, plan.silent, self.names, scorer, rng)

    def _judge(self, explanation: str, items: list[Item], scorer: str) -> list[Request]:
        return detection.requests(self.simulator, explanation, items, scorer, self.temperatures[1])

    def _verdict(self, plan: Plan, scorer: str, explanation: str, service: Service, answers: Answers) -> Verdict:
        items = self._items(plan, scorer)
        said: list[bool] = []
        for request in self._judge(explanation, items, scorer):
            n = min(detection.AT_ONCE, len(items) - len(said))
            said += answers.ask(service, request, lambda reply, n=n: detection.parse(reply, n))
        return detection.verdict(np.array([item.fits for item in items]), np.array(said))
