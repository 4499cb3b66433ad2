"""What pages share: the runs there are, the open run, the chosen dictionary, the theme, and the live model.

Browsing never loads torch: the model and the dictionaries' weights are imported inside the functions that need them.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from app import links
from app.palette import Palette, palette
from sae_core.errors import RunError, UnfinishedRun
from sae_core.store import DictionaryEntry, RunStore

if TYPE_CHECKING:
    from sae_core.dictionaries import Dictionary
    from sae_core.language_model import LanguageModel

ROOT = Path(__file__).resolve().parents[1]
MINIATURE = (
    "This run is a miniature: a small language model trained here on generated text, so that everything works at once "
    "and offline. Its numbers say nothing about Pythia."
)
BROWSED = "browsed"  # session state: run, dictionary and its features in the order Browse last listed them
_MODEL_LOCK = threading.Lock()


# ---- runs


def run_folders() -> dict[str, Path]:
    """Folder by name of every run: data/miniature, data/runs/*, then those of the environment variable SAE_RUNS.

    SAE_RUNS lists folders (separated as in PATH); each is a run or holds runs. Of two runs with one name the first
    counts.
    """
    found: dict[str, Path] = {}
    for place in [ROOT / "data" / "miniature", ROOT / "data" / "runs", *_extra_places()]:
        inside = [place, *sorted(place.iterdir())] if place.is_dir() else []
        for folder in inside:
            if (folder / "manifest.json").is_file():
                found.setdefault(folder.name, folder)
    return found


def _extra_places() -> list[Path]:
    return [Path(text) for text in os.environ.get("SAE_RUNS", "").split(os.pathsep) if text]


def choose_run() -> RunStore:
    """The run selector of the sidebar. Raises RunError if there is no run, or not the one in the link."""
    folders = run_folders()
    if not folders:
        raise RunError(
            "a run in data/miniature, data/runs or SAE_RUNS",
            "none",
            "Make one: python -m precompute all --run data/runs/NAME --model NAME --corpus SPEC",
        )
    asked = st.query_params.get("run")
    if asked is not None and asked not in folders:
        raise RunError(f"a run out of: {', '.join(folders)}", f"{asked!r} in the link", "Choose a run from the list")
    names = list(folders)
    bound = links.bound("run", names[0], drops=("dictionary", "feature"))
    name = st.sidebar.selectbox("Run", names, **bound, help="A language model, a corpus, and its dictionaries")
    return open_run(folders[name])


def store() -> RunStore:
    """The run chosen in the sidebar."""
    return open_run(run_folders()[st.session_state["run"]])


def open_run(folder: Path) -> RunStore:
    """A run, opened once for all sessions and again when its manifest changes."""
    path = folder / "manifest.json"
    return _open_run(folder, path.stat().st_mtime_ns if path.exists() else 0)


@st.cache_resource(max_entries=16, show_spinner=False)
def _open_run(folder: Path, stamp: int) -> RunStore:
    del stamp  # part of the cache key only
    return RunStore.open(folder)


# ---- dictionary and theme


def default_dictionary(run: RunStore) -> DictionaryEntry:
    """The dictionary a page opens with: the headline one of the middle layer, else the first with tables."""
    entries = run.main_dictionaries
    if not entries:
        step = "metrics" if run.dictionaries else "train"
        raise UnfinishedRun(
            "a dictionary with tables",
            f"none in {run.manifest.name}",
            f"Make them: python -m precompute {step} --run {run.folder}, then features",
        )
    headline = [d for d in entries if d.headline]
    return headline[len(headline) // 2] if headline else entries[0]


def choose_dictionary(run: RunStore, key: str = "dictionary") -> DictionaryEntry:
    """Dictionary selector bound to the address. Raises DictionaryError for an unknown one in the link."""
    asked = st.query_params.get(key)
    if asked is not None:
        run.dictionary(asked)
    ids = [d.id for d in run.main_dictionaries]
    bound = links.bound(key, default_dictionary(run).id, options=ids, drops=("feature",))
    chosen = st.selectbox("Dictionary", ids, **bound, help="layer, site, kind, ratio to the site's width, alpha")
    return run.dictionary(chosen)


def feature_in_link(run: RunStore, dictionary: str, key: str = "feature") -> int:
    """The feature the address asks for, 0 if none. Raises InputError or FeatureError for one that does not exist."""
    links.bound(key, 0, int)
    return run.check_feature(dictionary, st.session_state[key])


def beside(run: RunStore, dictionary: str, feature: int) -> tuple[int, int, bool]:
    """The features before and after this one, and whether that is in the order Browse last listed them.

    By number where Browse did not list it; at either end the feature itself.
    """
    name, listed, order = st.session_state.get(BROWSED, ("", "", np.empty(0, dtype=int)))
    at = np.flatnonzero(order == feature) if (name, listed) == (run.folder.name, dictionary) else ()
    if len(at):
        i = int(at[0])
        return int(order[max(i - 1, 0)]), int(order[min(i + 1, len(order) - 1)]), True
    return max(feature - 1, 0), min(feature + 1, run.dictionary(dictionary).n_features - 1), False


def dark() -> bool:
    """Whether the reader sees the dark theme."""
    return st.context.theme.type == "dark"


def colours() -> Palette:
    """The palette of the reader's theme."""
    return palette(dark())


@st.cache_data(max_entries=8, show_spinner=False)
def _tokens(folder: Path, stamp: int, _run: RunStore) -> pd.Series:
    del folder, stamp  # parts of the cache key only
    return _run.vocabulary()


def tokens(run: RunStore) -> pd.Series:
    """Readable token by id. Raises TableError if the run has no vocabulary."""
    path = run.table_path("vocabulary")
    return _tokens(run.folder, path.stat().st_mtime_ns if path.exists() else 0, run)


# ---- the live model: torch is imported here, at the first use


def live_model(run: RunStore) -> LanguageModel:
    """The language model of a run, one for all sessions (it has no hooks, so sharing is safe)."""
    spec = run.model_spec
    with _MODEL_LOCK:
        return _model(spec.name, spec.revision, run.manifest.model.get("hash", ""), spec)


@st.cache_resource(max_entries=2, show_spinner="Loading the language model")
def _model(name: str, revision: str | None, hash: str, _spec: object) -> LanguageModel:
    del name, revision, hash  # parts of the cache key only
    from sae_core.language_model import load_language_model

    return load_language_model(_spec, "auto")


def live_dictionary(run: RunStore, id: str) -> Dictionary:
    """The weights of a dictionary, one copy for all sessions, on the model's device."""
    device = str(live_model(run).device)
    return _dictionary(run.dictionary_folder(id), run.dictionary(id).hash, device)


@st.cache_resource(max_entries=32, show_spinner="Loading the dictionary")
def _dictionary(folder: Path, hash: str, device: str) -> Dictionary:
    del hash  # part of the cache key only: retrained weights are read again
    from sae_core.dictionaries import load_dictionary

    return load_dictionary(folder, device)
