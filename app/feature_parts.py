"""What the Feature page shows, as frames and sentences: no widgets here."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd

from app import computed
from app.components.numbers import digits
from app.names import shortened
from sae_core import browse
from sae_core.labels import Label
from sae_core.schemas import HISTOGRAM_BINS, OTHER_TOKEN, REST_OF_PARENTS, TABLES
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import parent_of

EDGE_COLUMNS = ["dictionary", "feature", "relative_drop", "stderr", "n_contexts", "cosine"]


def heading(title: str, label: Label | None) -> str:
    """The page's title as HTML, with the feature's label and a mark of its source; where it is from on hover."""
    written = ""
    if label:
        why = html.escape(label.why, quote=True)
        mark = f"<span class='sae-badge' title='{why}'>{html.escape(label.source)}</span>"
        written = f"<span class='sae-label' title='{why}'>{html.escape(shortened(label.text))} {mark}</span>"
    return f"<h1 class='sae-heading'>{html.escape(title)} {written}</h1>"


def bands() -> dict[str, str]:
    """Names of the bands of contexts, strongest first."""
    share = 100 // HISTOGRAM_BINS
    bins = {f"bin{b}": f"{b * share}–{(b + 1) * share}%" for b in reversed(range(HISTOGRAM_BINS))}
    return {"top": "Strongest", **bins, "none": "Silent"}


def of_band(contexts: pd.DataFrame, histogram: pd.DataFrame, band: str, token: int | None) -> pd.DataFrame:
    """Contexts of a band, strongest first; of one peak token if given (OTHER_TOKEN: those the legend does not name)."""
    from app.figures.colours import legend_tokens

    shown = contexts[contexts["band"] == band]
    if token == OTHER_TOKEN:
        shown = shown[~shown["token_id"].isin(legend_tokens(histogram))]
    elif token is not None:
        shown = shown[shown["token_id"] == token]
    return shown.sort_values("rank")


def parents(run: RunStore, entry: DictionaryEntry, feature: int) -> pd.DataFrame | None:
    """Parents of a feature, strongest first, with the columns EDGE_COLUMNS; None where they are not computed yet.

    `attrs["rest"]` says in a sentence what the parents that are not listed do together.
    """
    if parent_of(run, entry) is None:
        return pd.DataFrame(columns=EDGE_COLUMNS)
    frame = computed.rows(run, "causal_edges", entry, feature)
    if frame is None:
        return None
    frame = frame.rename(columns={"feature": "self", "parent": "feature", "parent_dictionary": "dictionary"})
    rest = frame[frame["feature"] == REST_OF_PARENTS]
    listed = _strongest(frame[frame["feature"] != REST_OF_PARENTS])
    listed.attrs["rest"] = _rest(rest)
    return listed


def _rest(rest: pd.DataFrame) -> str:
    if rest.empty:
        return ""
    n, total = int(rest["n_contexts"].iloc[0]), float(rest["relative_drop"].iloc[0])
    return f"{n:,} weaker parents add up to {total:+.3f}."


def children(run: RunStore, entry: DictionaryEntry, feature: int) -> pd.DataFrame:
    """Features of the next layer's headline dictionary that name this one as a parent; columns EDGE_COLUMNS."""
    below = run.headline(entry.spec.site.layer + 1) if entry.headline else None
    if below is None:
        return pd.DataFrame(columns=EDGE_COLUMNS)
    return _strongest(browse.children(run, below.id, feature).assign(dictionary=below.id))


def _strongest(edges: pd.DataFrame) -> pd.DataFrame:
    order = np.argsort(-edges["relative_drop"].abs().to_numpy(), kind="stable")
    return edges[EDGE_COLUMNS].iloc[order].reset_index(drop=True)


def try_sentence(values: np.ndarray, tokens: Sequence[str], maximum: float) -> str:
    """What a typed sentence does to the feature, in a sentence. values: codes [t]."""
    if values.max() <= 0:
        return f"The feature stays silent on all {len(values)} tokens."
    peak = int(values.argmax())
    active = int((values > 0).sum())
    return (
        f"Active on {active} of {len(values)} tokens, most on {tokens[peak]} ({digits(float(values[peak]))}, "
        f"{values[peak] / maximum:.0%} of its maximum over the table tokens)."
        if maximum
        else f"Active on {active} of {len(values)} tokens, most on {tokens[peak]} ({digits(float(values[peak]))})."
    )


def tables(run: RunStore, entry: DictionaryEntry) -> list[str]:
    """Tables of this dictionary that are keyed by feature and present."""
    keyed = [t.name for t in TABLES.values() if t.per_dictionary and t.key[0] == "feature"]
    return [name for name in keyed if run.table_state(name, entry.id) == "ready"]
