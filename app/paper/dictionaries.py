"""Section 2, Appendices B and E: what sparsity costs, how long training takes, what stays alive."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from app import links, state
from app.components import plots
from app.components.numbers import count
from app.components.tables import chosen_row
from app.figures import paper_dictionaries as figures
from app.glossary import TERMS, explain, plain
from app.names import layer_column
from app.paper import CORRECTED, Result
from app.paper import dictionaries_claims as judged
from app.paper.claims import show_claims
from app.paper.missing import command
from sae_core.errors import MissingTable
from sae_core.results import all_metrics, kind_name
from sae_core.specs import K_KINDS, L1_KINDS, Site
from sae_core.store import RunStore

PUBLISHED = "published"
LENGTH = re.compile(r"t\d+[kM]?")
"""Variants trained on fewer tokens, such as t300k."""
PLACE = ["layer", "site", "kind"]


# ---- frames


def metrics(run: RunStore) -> pd.DataFrame:
    """Metrics of every dictionary, read again when one is written. Raises TableError where there are none."""
    folder = run.folder / "tables" / "metrics"
    stamp = folder.stat().st_mtime_ns if folder.is_dir() else 0
    frame = _metrics(run.folder, stamp, (run.folder / "manifest.json").stat().st_mtime_ns, run)
    if frame.empty:
        raise MissingTable(
            "metrics of dictionaries", "none", f"Make them: python -m precompute metrics --run {run.folder}"
        )
    return frame


@st.cache_data(max_entries=8, show_spinner="Reading the metrics of every dictionary")
def _metrics(folder: Path, stamp: int, manifest: int, _run: RunStore) -> pd.DataFrame:
    del folder, stamp, manifest  # parts of the cache key only
    frame = all_metrics(_run)
    return frame.assign(training=[training(_run.dictionary_folder(id)) for id in frame["id"]])


def training(folder: Path) -> str:
    """How a dictionary was trained, from the metadata beside its weights; empty where that is not in the run."""
    try:
        metadata = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))["metadata"]
        train = metadata["train"]
        return f"batches of {train['batch_size']:,}, learning rate {train['lr']:g}, seed {train['seed']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def of_setting(run: RunStore, setting: str) -> pd.DataFrame:
    """The dictionaries of a setting that were trained in full. Raises TableError where there are none."""
    frame = metrics(run)
    if setting == CORRECTED:
        return frame[frame["variant"] == ""]
    found = frame[frame["variant"] == PUBLISHED]
    if found.empty:
        fix = f"Make them: {command(run, 'published')}"
        raise MissingTable("dictionaries trained as the authors trained theirs", "none in this run", fix)
    return found


def swept(frame: pd.DataFrame, column: str, at_least: int) -> pd.DataFrame:
    """The places with at least so many values of `column` with two or more dictionaries each, those with most first."""
    per_value = frame.groupby([*PLACE, column]).size()
    wide = per_value[per_value > 1].groupby(PLACE).size()
    wide = wide[wide >= at_least].sort_values(ascending=False, kind="stable")
    return wide.reset_index()[PLACE]


def choose_place(places: pd.DataFrame, key: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A selector of one place (layer, site, kind); what it returns picks the rows of a frame that lie there."""
    names = {f"{Site(row.layer, row.site).place}-{row.kind}": row for row in places.itertuples(index=False)}
    bound = links.bound(key, next(iter(names)), options=names)
    chosen = st.selectbox(
        "Place", list(names), format_func=lambda name: figures.place_name(*names[name]), **bound,
        help="layer, site and kind of dictionary; only those with a sweep are listed",
    )  # fmt: skip
    return lambda frame: frame[(frame[PLACE] == list(names[chosen])).all(axis=1)]


def show_points(drawn: tuple, key: str, run: RunStore) -> None:
    """A plot whose points are dictionaries: a click opens Browse where it has tables."""
    plots.show_plot("", drawn, key, help=explain("metrics", "fvu"), on_select=lambda: None)
    point = plots.clicked(key)
    data = point.get("customdata") if point else None
    if data:
        browse(run, data[0])


def browse(run: RunStore, id: str) -> None:
    """Leave for Browse, or say that the dictionary has no tables."""
    if run.dictionary(id).role == "main":
        links.go("browse", dictionary=id)
    plots.note(f"{id} has metrics only: Browse shows the dictionaries with all tables.")


# ---- results


def show_tradeoff(run: RunStore, setting: str) -> None:
    """Figure 6."""
    frame = of_setting(run, setting)
    here = choose_place(_needs(swept(priced(frame), "ratio", 1), run, "a sweep over alpha"), "sweep_place")(frame)
    show_points(figures.by_ratio(here, state.colours()), "tradeoff", run)
    tolerance = judged.twins_differ(metrics(run))
    show_claims([judged.smooth(here), judged.larger_is_better(here, tolerance)])


def show_lengths(run: RunStore, setting: str) -> None:
    """Figure 7. The full length is the variant without a name."""
    frame = metrics(run)
    kept = frame["variant"].str.fullmatch(LENGTH.pattern) | (frame["variant"] == "")
    frame = priced(frame[kept & (setting == CORRECTED)]).assign(length=lambda f: f["train_tokens"])
    place = choose_place(
        _needs(
            swept(frame, "variant", 2),
            run,
            "sweeps of two training lengths",
            "--tokens 300000 --variant t300k --alphas 3e-4 1e-3",
        ),
        "length_place",
    )
    here = lengths(place(frame))
    show_points(figures.by_length(here, state.colours()), "lengths", run)
    show_claims([judged.converges(here)])


def lengths(frame: pd.DataFrame) -> pd.DataFrame:
    """The ratio with most lengths; of every variant the commonest number of vectors stands for its length."""
    ratio = frame.groupby("ratio")["variant"].nunique().idxmax()
    frame = frame[frame["ratio"] == ratio]
    return frame.assign(length=frame.groupby("variant")["train_tokens"].transform(lambda v: int(v.mode().iloc[0])))


def show_alive(run: RunStore, setting: str) -> None:
    """Figure 16."""
    frame = of_setting(run, setting)
    frame = frame[frame["kind"].isin(("tied", "untied"))].sort_values(
        ["site", "kind", "layer"], ascending=[False, True, True]
    )
    drawn = frame[frame.groupby([*PLACE, "ratio"])["id"].transform("size") > 1]
    show_points(figures.alive_panels(_needs(drawn, run, "a sweep over alpha"), state.colours()), "alive", run)
    show_claims([judged.residual_alive(frame), judged.mlp_dead(frame), judged.untied_alive(frame)])


def show_kinds(run: RunStore, setting: str) -> None:
    """Forms of later work beside the paper's, where one was trained."""
    frame = of_setting(run, setting)
    frame = frame[frame["kind"].isin((*L1_KINDS, *K_KINDS)) & ((frame["alpha"] > 0) | frame["kind"].isin(K_KINDS))]
    later = frame[frame["kind"].isin(judged.LATER)]
    places = later.groupby(["layer", "site", "ratio"]).size().sort_values(ascending=False, kind="stable")
    names = {f"{Site(layer, site).place}-r{ratio:g}": (layer, site, ratio) for layer, site, ratio in places.index}
    _needs(later, run, "a BatchTopK, JumpReLU or frozen dictionary", "--kind batchtopk --ks 15 30 60")
    bound = links.bound("form_place", next(iter(names)), options=names)
    chosen = st.selectbox("Place", list(names), **bound, help="layer, site and ratio of features to dimensions")
    here = frame[(frame[["layer", "site", "ratio"]] == list(names[chosen])).all(axis=1)]
    show_points(figures.by_kind(here, state.colours()), "forms", run)
    tolerance = judged.twins_differ(metrics(run))
    show_claims([judged.later_form(here, kind, tolerance) for kind in judged.LATER if kind in set(here["kind"])])


def priced(frame: pd.DataFrame) -> pd.DataFrame:
    """Dictionaries trained with a price of sparsity, alpha 0 included."""
    return frame[frame["kind"].isin(("tied", "untied"))]


def _needs(found: pd.DataFrame, run: RunStore, what: str, options: str = "--alphas 1e-4 3e-4 1e-3") -> pd.DataFrame:
    """The frame itself. Raises TableError with the commands that train `what` where it is empty."""
    if len(found):
        return found
    commands = [f"python -m precompute {step} --run {run.folder}" for step in (f"train {options}", "metrics")]
    raise MissingTable(what, "none with metrics in this run and setting", f"Make it: {', then '.join(commands)}")


# ---- the table


def show_table(run: RunStore, setting: str) -> None:
    """Every dictionary with its metrics, whatever the setting."""
    del setting
    frame = metrics(run).sort_values(["layer", "site", "kind", "ratio", "alpha"], kind="stable").reset_index(drop=True)
    shown = table(frame)
    config = st.column_config
    columns = {
        "id": config.TextColumn(
            "Dictionary", width=235, help="behind the rest, seed1: another seed; published; t300k: so many tokens"
        ),
        "l0": config.NumberColumn("L0", format="%.1f", help=explain("metrics", "l0")),
        "fvu": config.NumberColumn("FVU", format="%.3f", help=explain("metrics", "fvu")),
        "ce_recovered": config.NumberColumn("CE rec. (%)", format="%.1f", help=explain("metrics", "ce_recovered")),
        "n_alive": config.NumberColumn("Alive", format="localized", help=explain("metrics", "n_alive")),
        "kind": config.TextColumn("Kind", width=130),
        "layer": config.NumberColumn("Layer", format="%d"),
        "site": config.TextColumn("Site", help=TERMS["site"]),
        "ratio": config.NumberColumn("R", format="%g", help=TERMS["ratio"]),
        "alpha": config.NumberColumn("Alpha", format="%.2g", help=plain(TERMS["alpha"])),
        "k": config.NumberColumn("k", format="%d", help="active features a token that it was trained to, or keeps"),
        "n_features": config.NumberColumn("Features", format="localized"),
        "train_tokens": config.NumberColumn("Trained on", format="localized", help=explain("metrics", "train_tokens")),
        "n_tokens": config.NumberColumn("Held-out tokens", format="localized"),
    }  # fmt: skip
    st.dataframe(
        shown, column_order=list(columns), column_config=columns, hide_index=True, key="all_dictionaries",
        height=420, placeholder="", on_select="rerun", selection_mode="single-row",
    )  # fmt: skip
    plots.note(f"{count(len(shown))} dictionaries. Click a column to sort by it; choose a row to browse its features.")
    text = frame.drop(columns="training").to_csv(index=False)
    st.download_button(
        "Download as CSV", text, f"dictionaries-{run.manifest.name}.csv", "text/csv", icon=":material/download:"
    )
    row = chosen_row("all_dictionaries")
    if row is not None:
        browse(run, shown["id"].iloc[row])


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The metrics as they are shown: kinds in words, shares in percent, no alpha where the kind has none."""
    return frame.assign(
        kind=frame["kind"].map(kind_name), layer=layer_column(frame["layer"]), ce_recovered=frame["ce_recovered"] * 100,
        alpha=frame["alpha"].where(frame["kind"].isin(L1_KINDS)),
    )  # fmt: skip


RESULTS = (
    Result("Figure 6", "sparsity against reconstruction, by dictionary size", show_tradeoff),
    Result("Figure 7", "convergence: the same by training length", show_lengths),
    Result("Figure 16", "features that stay alive", show_alive),
    Result("Later forms", "BatchTopK, JumpReLU and a frozen decoder in the same plane", show_kinds),
    Result("All dictionaries", "their metrics as a table", show_table),
)
