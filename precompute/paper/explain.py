"""Step `explain`: a language model explains features and predicts their activations (paper Sec. 3, App. A).

Asks a server that speaks OpenAI's protocol, which may cost money: without --spend only the estimate is shown. The
environment names the server and the models: OPENAI_API_KEY, OPENAI_BASE_URL, SAE_EXPLAINER_MODEL and, if another
model shall simulate and judge, SAE_SIMULATOR_MODEL.

Answers are kept in the run's `answers/DICTIONARY.jsonl` as they come: what has been answered is never asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from precompute.harvest import HarvestArgs, code_indexes, drop_codes
from precompute.paper.interviews import Interviews
from precompute.paper.llm_rows import Source, report
from precompute.paper.score_rows import TABLE, maker, merge_scores, scores_state
from sae_core.autointerp.answers import Service
from sae_core.autointerp.client import EXPLAINER, Client, model_names
from sae_core.autointerp.cost import Price, describe, estimate
from sae_core.autointerp.fragments import AS_PUBLISHED, CORRECTED
from sae_core.autointerp.interview import Interviewer
from sae_core.code_index import CodeIndex
from sae_core.errors import ServiceError, SpecError
from sae_core.feature_selection import parse
from sae_core.store import DictionaryEntry, Provenance, RunStore
from sae_core.table_making import token_names

STEP = "explain"


@dataclass(frozen=True)
class Args(HarvestArgs):
    """Explanations by a language model, their scores, detection and fuzzing. May cost money: see --spend."""

    spend: bool = False
    """ask the model; without it, requests, tokens and price are only estimated"""
    dictionaries: tuple[str, ...] = ()
    """ids of dictionaries; none: all main ones"""
    n_features: int = 150
    """features of each dictionary: drawn among live ones (corrected) or the first, at most 150 (as-published)"""
    features: str = ""
    """these instead: 3,17,40; 0-99; or a filter such as `alive and density<0.01`. What was asked before stays"""
    setting: Literal["corrected", "as-published"] = CORRECTED
    """as-published: other fragments for every dictionary, drawn ones may repeat strong ones, explainer temperature 1"""
    simulator: Literal["logprobs", "echo", "json"] = "logprobs"
    """expected numbers of a chat reply, expected numbers of an echoed prompt, or numbers written out"""
    detection: bool = True
    """also judge which fragments and which marked tokens fit"""
    temperature: float | None = 0.0
    """of every reply; None leaves it to the server (some models take no other)"""
    explainer_price: tuple[float, float] | None = None
    """price of a million tokens out and back, of the explainer; of the simulator too if that has none of its own"""
    simulator_price: tuple[float, float] | None = None
    """the same for the simulator"""
    workers: int = 8
    """features asked about at the same time"""
    timeout: float = 120.0
    """seconds a request may take"""
    retries: int = 5
    """how often a request is tried again after a rate limit, a server error or a time-out"""


def state(store: RunStore) -> str:
    """`ready` if a model has explained features of every main dictionary, `partial` or `missing` otherwise."""
    done = [_explained(store, entry) for entry in store.main_dictionaries]
    return "ready" if done and all(done) else "partial" if any(done) else "missing"


def _explained(store: RunStore, entry: DictionaryEntry) -> bool:
    ready = store.table_state(TABLE, entry.id) == "ready"
    return ready and any("judge" in made for made in store.table_info(TABLE, entry.id).settings.values())


def run(store: RunStore, args: Args) -> None:
    """Write `scores` and `detection` of one explainer. What is answered or made already is not asked for again."""
    models = model_names()
    if args.setting == AS_PUBLISHED and args.features:
        fix = "Leave --features out: the setting says which features are explained"
        raise SpecError("no choice of features for the setting as-published", args.features, fix)
    if not all(models):
        return _without_models(args)
    chosen = [store.dictionary(id) for id in args.dictionaries] or store.main_dictionaries
    entries = [entry for entry in chosen if _left(store, entry, args, models)]
    if not entries:
        return
    service = Client(args.timeout, args.retries) if args.spend else None
    indexes = code_indexes(store, entries, args.device, args.batch)
    names, prices = token_names(store), _prices(args, models)
    works = [_interviews(store, entry, indexes[entry.id], args, models, names) for entry in entries]
    uses = estimate(asked for work in works for asked in work.unanswered())
    print(f"explaining {len(works)} dictionaries would ask about\n{describe(uses, prices)}", flush=True)
    if service is None:
        print("nothing was asked: add --spend to ask", flush=True)
    for entry, work in zip(entries, works, strict=True) if service else ():
        _write(store, entry, args, models, work, service)
        print(f"answers so far for {entry.id}\n{describe(work.used(), prices)}", flush=True)
    drop_codes(store, entries)


def _interviews(
    store: RunStore, entry: DictionaryEntry, index: CodeIndex, args: Args, models: tuple[str, str], names: np.ndarray
) -> Interviews:
    explaining = 1.0 if args.setting == AS_PUBLISHED else args.temperature
    temperatures, seed = (explaining, args.temperature), store.manifest.spec.seed
    interviewer = Interviewer(*models, args.simulator, names, temperatures, args.detection, seed)
    n, also = (0, _chosen(store, entry, args)) if args.features else (args.n_features, np.zeros(0, np.int64))
    also = np.union1d(also, _asked_before(store, entry, args, models))
    return Interviews(store, entry, index, interviewer, n, args.setting, also)


def _write(
    store: RunStore, entry: DictionaryEntry, args: Args, models: tuple[str, str], work: Interviews, service: Service
) -> None:
    """Ask, then write the rows of all features that were answered."""
    outcomes, failed = work.ask(service, args.workers)
    source = Source(*models, args.simulator, args.setting)
    made_from = _provenance(store, entry, args, models, len(failed))
    verdicts, rows = source.verdict_rows(outcomes), source.score_rows(outcomes, work.skipped)
    # `scores` is looked at to tell whether all is done, so it comes last.
    if len(verdicts):
        merge_scores(store, entry, verdicts, made_from, "detection")
    if len(rows):
        merge_scores(store, entry, rows, made_from)
    report(entry.id, rows, failed)


def _without_models(args: Args) -> None:
    if args.spend:
        fix = f"Set {EXPLAINER} to a model of the server that OPENAI_BASE_URL names"
        raise ServiceError(f"a model's name in the environment variable {EXPLAINER}", "none", fix)
    print(f"no language model is asked: set {EXPLAINER} to see what it would cost, and add --spend to ask", flush=True)


def _left(store: RunStore, entry: DictionaryEntry, args: Args, models: tuple[str, str]) -> bool:
    if args.features:
        before = _asked_before(store, entry, args, models)
        own = _settings(store, entry, args, models)
        return bool(own.get("unanswered")) or not set(_chosen(store, entry, args)) <= set(before)
    made_from = _provenance(store, entry, args, models)
    return scores_state(store, entry, models[0], args.setting, made_from) != "ready"


def _chosen(store: RunStore, entry: DictionaryEntry, args: Args) -> np.ndarray:
    return parse(args.features).of(store, entry.id)


def _settings(store: RunStore, entry: DictionaryEntry, args: Args, models: tuple[str, str]) -> dict[str, Any]:
    """The settings that this explainer's rows were made with; empty where there are none."""
    if store.table_state(TABLE, entry.id) != "ready":
        return {}
    return store.table_info(TABLE, entry.id).settings.get(maker(models[0], args.setting), {})


def _asked_before(store: RunStore, entry: DictionaryEntry, args: Args, models: tuple[str, str]) -> np.ndarray:
    """The features this explainer has rows for, if they were made with the same settings."""
    own, now = _settings(store, entry, args, models), _provenance(store, entry, args, models).to_dict()["settings"]
    numbers = ("features", "unanswered")
    if args.setting == AS_PUBLISHED or not own or any(own[name] != now[name] for name in now if name not in numbers):
        return np.zeros(0, np.int64)
    rows = store.read(TABLE, entry.id, columns=["feature", "explainer", "setting"])
    return rows.loc[(rows["explainer"] == models[0]) & (rows["setting"] == args.setting), "feature"].unique()


def _provenance(
    store: RunStore, entry: DictionaryEntry, args: Args, models: tuple[str, str], unanswered: int = 0
) -> Provenance:
    """What the rows are made from. Rows with features left unanswered are never taken for finished ones."""
    spec = store.manifest.spec
    return store.provenance(
        entry.id,
        table_tokens=spec.table_tokens,
        seed=spec.seed,
        features=_settings(store, entry, args, models).get("features", 0) if args.features else args.n_features,
        simulator=args.simulator,
        judge=models[1],
        detection=args.detection,
        temperature=args.temperature,
        unanswered=unanswered,
    )


def _prices(args: Args, models: tuple[str, str]) -> dict[str, Price]:
    given = {models[1]: args.simulator_price or args.explainer_price, models[0]: args.explainer_price}
    return {model: price for model, price in given.items() if price is not None}
