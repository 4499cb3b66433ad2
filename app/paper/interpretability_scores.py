"""The scores of a run as the section Interpretability reads them: once a run and setting, then filtered."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import streamlit as st

from app import links, state
from app.paper import AS_PUBLISHED
from app.paper.interpretability_frames import EACH, PUBLISHED_FEATURES, TAIL, beside, catalogue, means, sided
from app.paper.missing import command
from sae_core.errors import MissingTable, SaeError
from sae_core.results import all_metrics, all_scores, described, mean_interval
from sae_core.signed import SIGNED_KINDS
from sae_core.store import RunStore

TOP_AND_RANDOM, RANDOM_ONLY = "top_and_random", "random_only"
SCHEMES = {TOP_AND_RANDOM: "top and random", RANDOM_ONLY: "random only"}
RULE = "rule"
REINITIALISED = "-reinitialised"
"""What the model of a run with re-initialised weights has behind its name (step baselines of the paper)."""
CONTROL_RUNS = "controls"
"""Folder of a run that holds other runs, there only to be compared with: the selector does not list them."""


@dataclass(frozen=True)
class Reading:
    """The scores of one explainer in one setting, and how the sides of a direction count."""

    run: RunStore
    setting: str
    explainer: str
    scheme: str
    sides: str

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Rows of `all_scores` that count, skipped ones with their flag."""
        return _counted(self.run, self.setting, self.explainer, self.sides)

    @cached_property
    def dictionaries(self) -> pd.DataFrame:
        """The dictionaries these scores are of, with their L0."""
        return _catalogue(self.run, self.setting, self.explainer)

    def beside(self, site: str) -> pd.DataFrame:
        return beside(self.dictionaries, site, self.setting)

    def means(self, site: str, scheme: str, without: tuple[str, ...] = ()) -> pd.DataFrame:
        """Mean score of the dictionary that stands for each kind in each layer of a site."""
        chosen = self.beside(site)
        return means(self.scores, chosen[~chosen["kind"].isin(without)], scheme)

    def of(self, id: str, scheme: str) -> pd.DataFrame:
        """The features of one dictionary."""
        return self.scores[(self.scores["id"] == id) & (self.scores["scheme"] == scheme)]

    def control(self, other: RunStore, frame: pd.DataFrame) -> pd.DataFrame:
        """Means of the other run's SAEs of the same kind, in each layer the one nearest in L0 to ours."""
        scores = _counted(other, self.setting, self.explainer, self.sides)
        ours = self.dictionaries[self.dictionaries["id"].isin(frame.loc[frame["ours"], "id"])]
        known = _catalogue(other, self.setting, self.explainer).assign(headline=False, role="sweep")
        known = known[known["kind"].isin(ours["kind"]) & known["layer"].isin(ours["layer"])]
        near = beside(known, "resid_post", self.setting, target=ours.set_index("layer")["l0"])
        return means(scores, near.assign(kind="reinitialised", ours=False), self.scheme)

    @property
    def population(self) -> str:
        """Which features are counted, in a sentence."""
        if self.setting == AS_PUBLISHED:
            return (
                f"Counted: the first {PUBLISHED_FEATURES} features of each dictionary, of two-sided directions the "
                "positive sides; as the authors did, negative values of PCA and ICA enter the correlation. Features "
                "active in too few fragments are left out."
            )
        sides = {
            EACH: "each side of a direction is a feature",
            TAIL: "of each direction of PCA and ICA the side with the heavier tail (larger third moment)",
        }.get(self.sides, "of each direction the better side")
        return (
            f"Counted: every feature with a score by {self.explainer}; {sides}. The same text for all "
            "dictionaries. Features active in too few fragments are left out (hover: skipped)."
        )


def reading(run: RunStore, setting: str) -> Reading:
    """The scores the address asks for."""
    names = explainers(read_scores(run, setting))
    return Reading(
        run, setting, links.read("explainer", names[0], options=names),
        links.read("scheme", TOP_AND_RANDOM, options=list(SCHEMES)), links.read("sides", TAIL),
    )  # fmt: skip


def explainers(scores: pd.DataFrame) -> list[str]:
    """Who explained, rules first."""
    return sorted(scores["explainer"].unique(), key=lambda name: (name != RULE, name))


def layers_of(scores: pd.DataFrame) -> list[int]:
    """The layers whose residual stream has scores; any layers if none has."""
    residual = scores[scores["site"] == "resid_post"]
    return sorted(int(layer) for layer in (residual if len(residual) else scores)["layer"].unique())


def default_layer(layers: list[int]) -> int:
    """The paper's layer 1 where there is one."""
    return 1 if 1 in layers else layers[0]


def chosen_layer(scores: pd.DataFrame) -> int:
    """The layer of single features in the address."""
    layers = layers_of(scores)
    return links.read("layer", default_layer(layers), int, layers)


# ---- reading


def read_scores(run: RunStore, setting: str) -> pd.DataFrame:
    """All scores of a run in a setting. Raises TableError with the command if there is none."""
    scores = _scores(run, setting)
    if scores.empty:
        raise MissingTable(
            f"scores of features with the setting {setting}",
            "none",
            f"Make them: {command(run, 'rules')} --setting {setting}",
        )
    return scores


def _scores(run: RunStore, setting: str) -> pd.DataFrame:
    return _read(run.folder, _stamp(run.folder), setting, run)


def _counted(run: RunStore, setting: str, explainer: str, sides: str) -> pd.DataFrame:
    return _sided(run.folder, _stamp(run.folder), setting, explainer, sides, run)


def _catalogue(run: RunStore, setting: str, explainer: str) -> pd.DataFrame:
    return _listed(run.folder, _stamp(run.folder), setting, explainer, run)


# Frames are shared by all sessions and never changed; folder and stamp are parts of the cache's key only.


@st.cache_resource(max_entries=6, show_spinner="Reading the scores")
def _read(folder: Path, stamp: tuple[int, ...], setting: str, _run: RunStore) -> pd.DataFrame:
    return all_scores(_run, setting)


@st.cache_resource(max_entries=12, show_spinner="Choosing the features that count")
def _sided(
    folder: Path, stamp: tuple[int, ...], setting: str, explainer: str, sides: str, _run: RunStore
) -> pd.DataFrame:
    scores = _scores(_run, setting)
    scores = scores[scores["explainer"] == explainer]
    if sides == TAIL and setting != AS_PUBLISHED:
        return scores[_heavier(_run, scores)]
    return sided(scores, setting, sides)


def _heavier(run: RunStore, scores: pd.DataFrame) -> pd.Series:
    """True but for the lighter side of each direction whose dictionary has the table `sides`."""
    kept = pd.Series(True, index=scores.index)
    for id, rows in scores[scores["kind"].isin(SIGNED_KINDS)].groupby("id"):
        if run.table_state("sides", id) == "ready":
            best = run.read("sides", id, columns=["feature", "best"]).set_index("feature")["best"]
            kept[rows.index] = rows["feature"].map(best).to_numpy(dtype=bool)
    return kept


@st.cache_resource(max_entries=12, show_spinner=False)
def _listed(folder: Path, stamp: tuple[int, ...], setting: str, explainer: str, _run: RunStore) -> pd.DataFrame:
    return catalogue(_counted(_run, setting, explainer, EACH), all_metrics(_run))


def _stamp(folder: Path) -> tuple[int, ...]:
    """Changes when the manifest or a table that is read does."""
    tables = (path for name in ("scores", "metrics") for path in sorted((folder / "tables" / name).glob("*.parquet")))
    files = [folder / "manifest.json", *tables]
    return tuple(path.stat().st_mtime_ns for path in files)


def control_runs(run: RunStore) -> list[RunStore]:
    """The runs on this run's text whose model has re-initialised weights: in its own folder, or listed beside it."""
    wanted = (Path(run.manifest.spec.model.name).name + REINITIALISED, run.manifest.corpus.get("hash"))
    found = []
    for folder in [*sorted((run.folder / CONTROL_RUNS).glob("*")), *state.run_folders().values()]:
        with suppress(SaeError):
            other = state.open_run(folder)
            if (Path(other.manifest.spec.model.name).name, other.manifest.corpus.get("hash")) == wanted:
                found.append(other)
    return found


def detection_scores(run: RunStore, setting: str) -> pd.DataFrame:
    """Mean accuracy by explainer, scorer and dictionary, with its interval."""
    frames = [
        run.read("detection", entry.id).assign(**described(entry))
        for entry in run.dictionaries
        if run.table_state("detection", entry.id) == "ready"
    ]
    columns = ["explainer", "scorer", "layer", "id", "mean", "lower", "upper", "n", "skipped"]
    if not frames:
        return pd.DataFrame(columns=columns)
    every = pd.concat(frames)
    groups = every[every["setting"] == setting].groupby(columns[:4])["accuracy"]
    rows = [(*key, *mean_interval(values.to_numpy()), len(values), 0) for key, values in groups]
    return pd.DataFrame(rows, columns=columns)
