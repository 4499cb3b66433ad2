"""The part of the Compare page on A against B: every feature of A matched, split, near or missing in B."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from app import links, names, state
from app.components import cards, layout, plots
from app.components.compare_choice import Pair, show_feature, why_not
from app.components.downloads import frame_buttons
from app.components.numbers import count, percent
from app.components.tables import chosen_row
from app.figures.compare import largest_cosines
from app.glossary import explain
from sae_core import browse, compare
from sae_core.errors import DictionaryError
from sae_core.store import DictionaryEntry, RunStore

SHOWN_ROWS = 4096
DEFINITIONS = {
    compare.MATCHED: "its one-to-one partner in B has a cosine of at least {match:.2f}",
    compare.SPLIT: "no match, and two or more features of B have a cosine of at least {part:.2f} with it",
    compare.NEAR: "no match, and exactly one feature of B has a cosine of at least {part:.2f} with it "
    "(below {match:.2f}, or it is the partner of another feature of A)",
    compare.MISSING: "no feature of B has a cosine of {part:.2f} or more with it",
}
FEATURE_COLUMNS = ["density", "max_activation", "top_tokens"]


# ---- weights and counterparts, computed once for all sessions


def decoder(run: RunStore, entry: DictionaryEntry) -> np.ndarray:
    """Decoder directions [n_features, width] of a dictionary. Raises DictionaryError if they cannot be read."""
    return _decoder(run.dictionary_folder(entry.id), entry.hash)


@st.cache_resource(max_entries=12, show_spinner="Reading the directions")
def _decoder(folder: Path, hash: str) -> np.ndarray:
    del hash  # part of the cache key only: retrained weights are read again
    directions = compare.decoder(folder)
    directions.flags.writeable = False
    return directions


def has_features(run: RunStore, entry: DictionaryEntry) -> bool:
    """Whether the dictionary has the `features` table, so that its features have names, densities and pages."""
    return run.table_state("features", entry.id) == "ready"


def live(run: RunStore, entry: DictionaryEntry) -> np.ndarray:
    """Features that are not dead; all of them where that is not known."""
    return browse.feature_index(run, entry.id).alive if has_features(run, entry) else np.arange(entry.n_features)


def counterparts(run: RunStore, pair: Pair) -> compare.Counterparts:
    """Counterparts in B of the live features of A. Raises DictionaryError for other widths, FeatureError for none."""
    own, theirs = decoder(run, pair.a), decoder(run, pair.b)
    if own.shape[1] != theirs.shape[1]:
        widths = f"{own.shape[1]} and {theirs.shape[1]} coordinates"
        raise DictionaryError("two dictionaries of the same width", widths, "Choose another for A or B")
    return _counterparts(own, theirs, live(run, pair.a), live(run, pair.b), pair.a.hash, pair.b.hash)


@st.cache_resource(max_entries=24, show_spinner="Comparing every direction of A with every one of B")
def _counterparts(
    _own: np.ndarray, _theirs: np.ndarray, features: np.ndarray, others: np.ndarray, own_hash: str, their_hash: str
) -> compare.Counterparts:
    del own_hash, their_hash  # parts of the cache key only, in the place of the weights
    return compare.counterparts(_own, _theirs, features, others)


# ---- the part of the page


def matching(run: RunStore, pair: Pair, ids: list[str]) -> None:
    """Counts by class, the histogram of largest cosines, and the table of A's features."""
    problem = why_not(run, pair.a, pair.b)
    if problem:
        raise problem
    found = counterparts(run, pair)
    classes = compare.classify(found, pair.match, pair.part)
    left, right = layout.stacking_columns(2, "matching")
    with left:
        class_counts(run, pair, found, classes)
    with right:
        chance = compare.chance_cosine(found.n_others, decoder(run, pair.b).shape[1])
        drawn = largest_cosines(classes, pair.match, pair.part, chance, state.colours())
        plots.show_plot("How near B comes to each feature of A", drawn, "cosines")
    feature_table(run, pair, classes, ids)


def class_counts(run: RunStore, pair: Pair, found: compare.Counterparts, classes: pd.DataFrame) -> None:
    """How many features of A are in each class, and exactly what the classes mean."""
    numbers = classes["class"].value_counts().reindex(compare.CLASSES, fill_value=0)
    rows = [
        (
            name.capitalize(),
            f"{count(int(numbers[name]))} ({percent(numbers[name] / len(classes))}): "
            f"{DEFINITIONS[name].format(match=pair.match, part=pair.part)}",
        )
        for name in compare.CLASSES
    ]
    st.markdown(f"###### {count(len(classes))} features of A")
    st.html(cards.facts(rows))
    plots.note(f"{how_paired(found)} {compare.meaning(pair.a.spec.site, pair.b.spec.site)} {caution(pair)}".strip())
    plots.note(f"{left_over(found, int(numbers[compare.MATCHED]))} {who_took_part(run, pair)}")


def how_paired(found: compare.Counterparts) -> str:
    """Which way of pairing is shown, in a sentence."""
    if found.one_to_one:
        return "Partners: the one-to-one matching with the largest sum of cosines of decoder directions (Hungarian)."
    return (
        f"Partners: mutual nearest neighbours by cosine of decoder directions, because beyond "
        f"{count(compare.ONE_TO_ONE_UP_TO)} features the best one-to-one matching would take too long."
    )


def caution(pair: Pair) -> str:
    """What to keep in mind with decoders that were never trained."""
    drawn = [name for name, entry in (("A", pair.a), ("B", pair.b)) if entry.spec.kind == "frozen"]
    return f"The decoder of {' and '.join(drawn)} was drawn at random and never trained." if drawn else ""


def left_over(found: compare.Counterparts, n_matched: int) -> str:
    """How much of B no feature of A matches."""
    return f"{count(found.n_others - n_matched)} of {count(found.n_others)} features of B match none of A."


def who_took_part(run: RunStore, pair: Pair) -> str:
    """Which features were left out for being dead."""
    dead = [
        f"{count(entry.n_features - len(live(run, entry)))} of {name}"
        if has_features(run, entry)
        else f"none of {name}, because it has no tables that tell"
        for name, entry in (("A", pair.a), ("B", pair.b))
    ]
    return f"Left out as dead: {dead[0]}; {dead[1]}."


# ---- the table


def feature_table(run: RunStore, pair: Pair, classes: pd.DataFrame, ids: list[str]) -> None:
    """A's features with their counterparts; a click shows the two side by side."""
    st.markdown("###### Features of A")
    numbers = classes["class"].value_counts()
    bound = links.bound_list("classes", list(compare.CLASSES), options=compare.CLASSES)
    wanted = st.pills("Classes", compare.CLASSES, selection_mode="multi", label_visibility="collapsed",
                      format_func=lambda n: f"{n} ({numbers.get(n, 0):,})", **bound)  # fmt: skip
    kept = classes[classes["class"].isin(wanted)].sort_values("cosine", ascending=False, kind="stable")
    if kept.empty:
        plots.note("No feature of A is in these classes. Choose another, or move the thresholds.")
        return
    shown = with_features(run, pair, kept.head(SHOWN_ROWS).reset_index(drop=True))
    key = f"table-{pair.a.id}-{pair.b.id}-{'-'.join(wanted)}-{pair.match}-{pair.part}"
    columns = {name: column for name, column in table_columns().items() if name in shown}
    st.dataframe(
        shown, column_order=list(columns), column_config=columns, hide_index=True, key=key, height=420,
        selection_mode="single-row", on_select=lambda: _row_chosen(key, pair.a.id, ids, shown["feature"].tolist()),
    )  # fmt: skip
    cut = f" The {count(SHOWN_ROWS)} with the largest cosine are listed." if len(kept) > SHOWN_ROWS else ""
    plots.note(f"Choose a row to see the two features side by side. A click on a column's head sorts by it.{cut}")
    frame_buttons("", lambda: kept, f"{pair.a.id}-against-{pair.b.id}", "matched", "All rows of these classes")


def _row_chosen(key: str, a: str, ids: list[str], features: list[int]) -> None:
    row = chosen_row(key)
    show_feature(a, ids, None if row is None else features[row])


def with_features(run: RunStore, pair: Pair, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with names and what the `features` tables know: density, maximum, tokens both share."""
    shown = frame.assign(
        name=frame["feature"].map(names.feature_names(run, pair.a.id, frame["feature"])),
        counterpart=frame["other"].map(names.feature_names(run, pair.b.id, frame["other"])),
    )
    if not has_features(run, pair.a):
        return shown
    own = browse.feature_index(run, pair.a.id).rows(frame["feature"].to_numpy())[FEATURE_COLUMNS]
    shown["density"], shown["max_activation"] = 100 * own["density"].astype(float), own["max_activation"]
    if has_features(run, pair.b):
        theirs = browse.feature_index(run, pair.b.id).rows(frame["other"].to_numpy())["top_tokens"]
        shown["shared"] = [compare.shared_tokens(*both) for both in zip(own["top_tokens"], theirs, strict=True)]
    return shown


def table_columns() -> dict:
    """Column settings of the table of A's features."""
    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    nearest = f"Of the {compare.NEAREST} nearest features of B, how many are parts (cosine from the threshold)"
    return {
        "name": text("Feature of A", width=195, help="index, and one's own label or the top tokens"),
        "class": text("Class", help="matched, split, near or missing, as defined above"),
        "cosine": number("Cosine", format="%.3f", help="of the decoder directions of the feature and its counterpart"),
        "counterpart": text("Counterpart in B", width=185, help="the partner of a match, else the nearest"),
        "n_parts": number("Parts", format="%d", help=nearest),
        "together": number("Together", format="%.3f", help="Cosine with the sum of its parts: 1 if they make it up"),
        "density": number("Density (%)", format="%.3g", help=explain("features", "density")),
        "max_activation": number("Maximum", format="%.3g", help=explain("features", "max_activation")),
        "shared": number(
            "Shared tokens", format="%.2f", help="Jaccard index of the two lists of top tokens: 1 if they are equal"
        ),
    }
