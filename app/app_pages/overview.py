"""Overview of a run: what it is, where to start, its dictionaries, their quality, and where all of it came from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import streamlit as st

from app import links, state
from app.components import cards, imported, layout, plots
from app.components.errors import show_errors
from app.components.numbers import count, digits, duration, percent
from app.components.overview_start import start_here
from app.components.tables import chosen_row
from app.figures.overview import density_histogram, fvu_against_l0
from app.glossary import TERMS, explain, plain
from app.names import layer_column
from sae_core import browse
from sae_core.results import all_metrics, kind_name
from sae_core.store import DictionaryEntry, RunStore

METRICS = ("l0", "fvu", "ce_recovered", "n_alive", "loss_clean", "loss_spliced", "loss_zero", "perplexity_spliced")
NAMES = {
    "l0": "L0", "fvu": "FVU", "ce_recovered": "CE recovered", "n_alive": "Alive", "loss_clean": "CE clean",
    "loss_spliced": "CE spliced", "loss_zero": "CE zero", "perplexity_spliced": "Perplexity",
}  # fmt: skip

OWN_FACTS = ("name", "dtype", "hash")  # of the model, shown in a form of their own
TEXT_CHOICES = {
    "end_of_text": ("End of text", {"after": "a token after each document", "none": "no token between documents"}),
    "skip_first": ("Position 0 of a context", {False: "counts like any other", True: "read, and counted nowhere"}),
}


def main() -> None:
    """The page, top to bottom."""
    run = state.store()
    header(run)
    start_here(run)
    metrics = all_metrics(run)
    st.subheader("Dictionaries")
    imported.warn(run)
    dictionary_table(run, metrics)
    st.subheader("One dictionary")
    entry = state.choose_dictionary(run)
    imported.origin(entry)
    metric_row(entry, metrics)
    left, right = layout.stacking_columns(2, "plots")
    with left, show_errors(stop=False):
        show_density(run, entry)
    with right:
        show_sweep(entry, metrics)
    st.subheader("Where this run comes from")
    provenance(run)


def header(run: RunStore) -> None:
    """Name, what the run is, and its size in one sentence."""
    manifest = run.manifest
    st.title("SAE feature explorer")
    if manifest.description:
        plots.note(manifest.description)
    if manifest.miniature:
        plots.note(state.MINIATURE)
    n_features = sum(d.n_features for d in run.main_dictionaries)
    plots.note(
        f"A sparse autoencoder (dictionary) writes a model's activations as sums of a few features. This run has "
        f"{count(n_features)} features in {len(run.main_dictionaries)} dictionaries with full tables, counted over "
        f"{count(manifest.spec.table_tokens)} tokens, and {len(run.dictionaries)} dictionaries with quality metrics."
    )


# ---- dictionaries


def dictionary_table(run: RunStore, metrics: pd.DataFrame) -> None:
    """Dictionaries by layer; a click opens one in Browse."""
    if metrics.empty:
        plots.note("No metrics yet. Make them: python -m precompute metrics --run FOLDER")
        return
    shown = metrics[metrics["role"] == "main"].sort_values(["layer", "site"], kind="stable").reset_index(drop=True)
    shown["ce_recovered"] *= 100
    shown["layer"] = layer_column(shown["layer"])
    shown["source"] = shown["dictionary"].map(imported.sources(run))
    n = int(shown["n_tokens"].iloc[0]) if len(shown) else 0
    config = st.column_config
    columns = {
        "layer": config.NumberColumn("Layer", format="%d"),
        "site": config.TextColumn("Site", help=TERMS["site"]),
        "kind": config.TextColumn("Kind", help="tied: the encoder is the decoder; untied: two matrices"),
        "ratio": config.NumberColumn("Ratio", format="%g", help=TERMS["ratio"]),
        "l0": config.NumberColumn("L0", format="%.1f", help=explain("metrics", "l0", n)),
        "fvu": config.NumberColumn("FVU", format="%.3f", help=explain("metrics", "fvu", n)),
        "ce_recovered": config.NumberColumn(
            "CE recovered (%)", format="%.1f", help=explain("metrics", "ce_recovered", n)
        ),
        "n_alive": config.NumberColumn("Alive", format="localized", help=explain("metrics", "n_alive", n)),
        "n_features": config.NumberColumn("Features", format="localized"),
        "alpha": config.NumberColumn("Alpha", format="%.2g", help=plain(TERMS["alpha"])),
        "k": config.NumberColumn("k", format="%d", help="active features a token that training aims at"),
        "headline": config.CheckboxColumn("Headline", help=TERMS["headline"]),
        "source": config.TextColumn("Imported from", help="the files of a dictionary that was trained elsewhere"),
    }
    st.dataframe(
        shown, column_order=_filled(shown, columns), column_config=columns, hide_index=True, key="dictionaries",
        on_select="rerun", selection_mode="single-row",
    )  # fmt: skip
    plots.note("Choose a row to browse its features.")
    row = chosen_row("dictionaries")
    if row is not None:
        links.go("browse", dictionary=shown["dictionary"].iloc[row])


def _filled(shown: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """The columns in order, without k and source where no dictionary has one."""
    return [name for name in columns if name not in ("k", "source") or shown[name].notna().any()]


def metric_row(entry: DictionaryEntry, metrics: pd.DataFrame) -> None:
    """Quality of one dictionary; each number explains itself on hover."""
    found = metrics[metrics["dictionary"] == entry.id]
    if found.empty:
        return
    row = found.iloc[0]
    n = int(row["n_tokens"])
    layout.metric_row([(NAMES[name], written(name, row), explain("metrics", name, n)) for name in METRICS])


def written(name: str, row: pd.Series) -> str:
    """A metric with its unit."""
    if name == "n_alive":
        return percent(row["n_alive"] / row["n_features"])
    if name == "ce_recovered":
        return f"{row[name]:.1%}"
    return digits(float(row[name])) + (" nats" if name.startswith("loss_") else "")


def show_density(run: RunStore, entry: DictionaryEntry) -> None:
    """Log-density histogram of the features table."""
    density = browse.feature_index(run, entry.id).columns["density"]
    plots.show_plot(
        "How often features fire", density_histogram(np.asarray(density), state.colours()), "density",
        help=explain("features", "density", run.manifest.spec.table_tokens),
    )  # fmt: skip


def show_sweep(entry: DictionaryEntry, metrics: pd.DataFrame) -> None:
    """FVU against L0 over everything that has metrics at the dictionary's site."""
    site = entry.spec.site
    here = metrics[(metrics["layer"] == site.layer) & (metrics["site"] == site.name)]
    if len(here):
        drawn = fvu_against_l0(here.assign(group=here.apply(_group, axis=1)), state.colours())
        title = f"Reconstruction against sparsity, {site.words}"
        plots.show_plot(title, drawn, "sweep", help=explain("metrics", "fvu"))


def _group(row: pd.Series) -> str:
    """Name of the line a dictionary lies on: dictionaries of a site that differ in sparsity only."""
    return f"{kind_name(row['kind'])} ×{row['ratio']:g} {row['variant']}".strip()


# ---- provenance


def provenance(run: RunStore) -> None:
    """Model, corpus and hashes, and what each step cost."""
    left, right = layout.stacking_columns(2, "provenance")
    with left:
        st.html(cards.facts(origin(run)))
    with right:
        steps = pd.DataFrame(
            [(name, duration(cost["seconds"]), cost["peak_memory_mb"]) for name, cost in run.manifest.steps.items()],
            columns=["step", "time", "memory"],
        )
        config = st.column_config
        columns = {
            "step": config.TextColumn("Step"),
            "time": config.TextColumn("Wall time", alignment="right"),
            "memory": config.NumberColumn("Peak memory (MB)", format="localized"),
        }
        st.dataframe(steps, column_config=columns, hide_index=True, key="steps")


def origin(run: RunStore) -> list[tuple[str, str]]:
    """Facts of the manifest, in the order a reader asks for them."""
    manifest = run.manifest
    facts = [
        ("Run", manifest.name), ("Made", manifest.created[:16].replace("T", " ") + " UTC" * bool(manifest.created)),
        ("Model", str(manifest.model.get("name", manifest.spec.model.name))),
        *((f"Model: {key}", readable(value)) for key, value in manifest.model.items() if key not in OWN_FACTS),
        ("Model: dtype", run.model_spec.dtype), ("Model hash", str(manifest.model.get("hash", ""))[:12]),
        ("Corpus", str(manifest.spec.corpus)),
        *((f"Corpus: {key}", readable(value)) for key, value in manifest.corpus.items() if key != "hash"),
        ("Corpus hash", str(manifest.corpus.get("hash", ""))[:12]),
        ("Table tokens", count(manifest.spec.table_tokens)), ("Metric tokens", count(manifest.spec.metric_tokens)),
        ("Context, window", f"{manifest.spec.context}, {manifest.spec.window} tokens"),
        *((name, said[getattr(manifest.spec, field)]) for field, (name, said) in TEXT_CHOICES.items()),
        ("Headline rule", manifest.headline_rule),
    ]  # fmt: skip
    return [(name, text) for name, text in facts if text]


def readable(value: object) -> str:
    """A fact of the manifest as text: whole numbers with thousands, lists shortened to their length."""
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    if isinstance(value, list | dict):
        return ", ".join(map(str, value)) if len(value) <= 20 else f"{len(value)} entries"
    return digits(value) if isinstance(value, float) else str(value)


main()
