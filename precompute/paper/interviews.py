"""Everything a language model is asked about one dictionary: its features, their fragments, the answers on disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import islice

import numpy as np

from precompute.common import bar
from precompute.paper.pool import dictionary_pool
from precompute.paper.sides import TABLE as SIDES
from precompute.paper.sides import make_sides, published
from sae_core.autointerp.answers import Answers, Service
from sae_core.autointerp.client import Request
from sae_core.autointerp.cost import Use
from sae_core.autointerp.fragments import AS_PUBLISHED, active_fragments, in_pool, judged, select
from sae_core.autointerp.interview import Interviewer, Outcome, Plan
from sae_core.code_index import CodeIndex, FeatureCodes, above_zero
from sae_core.errors import AnswerError, ServiceError
from sae_core.schemas import SCORE_MIN_FRAGMENTS
from sae_core.signed import SIGNED_KINDS
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import table_text

FAILURES_IN_A_ROW = 3


class Interviews:
    """The interviews of one dictionary. `skipped`: by feature, why nothing is asked about it.

    n_features: how many are drawn, or the first as published; also: features that are asked about besides.
    """

    def __init__(
        self,
        store: RunStore,
        entry: DictionaryEntry,
        index: CodeIndex,
        interviewer: Interviewer,
        n_features: int,
        setting: str,
        also: np.ndarray,
    ) -> None:
        self.id, self.interviewer = entry.id, interviewer
        self.answers = Answers(store.folder / "answers" / f"{entry.id}.jsonl")
        self.plans, self.skipped = _plans(store, entry, index, n_features, setting, also)

    def unanswered(self) -> Iterator[tuple[Request, int]]:
        """The requests without a stored answer, and about how many tokens each brings back."""
        for plan in self.plans:
            yield from self.interviewer.unanswered(plan, self.answers)

    def used(self) -> list[Use]:
        """What the server counted for all stored answers."""
        return [Use(model, *counts) for model, counts in self.answers.used.items()]

    def ask(self, service: Service, workers: int) -> tuple[list[Outcome], dict[int, str]]:
        """The outcomes by feature, and for the features that stayed without an answer, why.

        Raises ServiceError after three failures in a row; what was answered by then is stored.
        """
        outcomes, failed = [], {}
        in_a_row = 0
        with ThreadPoolExecutor(workers) as pool:
            try:
                ask = self.interviewer.interview
                waiting = {pool.submit(ask, plan, service, self.answers): plan.feature for plan in self.plans}
                for future in bar(as_completed(waiting), f"explaining {self.id}", len(waiting), "feature"):
                    error = _failure(future)
                    in_a_row = in_a_row + 1 if error else 0
                    if error is None:
                        outcomes.append(future.result())
                    elif in_a_row == FAILURES_IN_A_ROW:
                        found = f"{in_a_row} features in a row without; the last: {error.found}"
                        raise ServiceError("answers from the language model", found, error.fix)
                    else:
                        failed[waiting[future]] = str(error)
            except BaseException:
                # Threads at work ask nothing more, so that a stop takes no longer than one request.
                self.answers.close()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return sorted(outcomes, key=lambda outcome: outcome.feature), failed


def _failure(future: Future) -> AnswerError | None:
    """The AnswerError of a finished future, if it has one. Raises any other error."""
    error = future.exception()
    if error is not None and not isinstance(error, AnswerError):
        raise error
    return error


def choose_features(counts: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most n features, ascending, drawn among those with an active token.

    counts: active tokens of each feature. Without any live feature, the first n: their rows then say so.
    """
    live = np.flatnonzero(counts)
    if not len(live):
        return np.arange(min(n, len(counts)))
    # The first of one order, so that more features include the fewer ones, whose answers are kept.
    return np.sort(np.random.default_rng(seed).permutation(live)[:n])


def _plans(
    store: RunStore, entry: DictionaryEntry, index: CodeIndex, n_features: int, setting: str, also: np.ndarray
) -> tuple[list[Plan], dict[int, str]]:
    """What to ask about each chosen feature, and by feature why others are skipped."""
    text, seed = table_text(store), store.manifest.spec.seed
    pool = dictionary_pool(store, entry, text, setting)
    plans, skipped = [], {}
    for feature in _chosen(store, entry, index, n_features, setting, also):
        found = in_pool(feature, pool, text)
        selection = select(found, pool, text, seed, setting)
        if selection is None:
            n = len(active_fragments(found, pool, text.window))
            skipped[found.feature] = f"skipped: active in {n} fragments, {SCORE_MIN_FRAGMENTS} are needed"
        else:
            parts = judged(above_zero(found), pool, text, seed, selection.explained.windows)
            plans.append(Plan(found.feature, selection, *parts))
    return plans, skipped


def _chosen(
    store: RunStore, entry: DictionaryEntry, index: CodeIndex, n: int, setting: str, also: np.ndarray
) -> Iterator[FeatureCodes]:
    """The features to ask about; of PCA and ICA signed ones as published, else only the better side of a direction."""
    if setting == AS_PUBLISHED:
        yield from islice(published(entry, index), n)
        return
    counts = index.counts()
    if entry.spec.kind in SIGNED_KINDS:
        make_sides(store, entry, index)
        counts = counts * store.read(SIDES, entry.id)["best"].to_numpy()
    yield from index.chosen(np.union1d(choose_features(counts, n, store.manifest.spec.seed), also).astype(np.int64))
