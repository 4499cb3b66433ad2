"""Section 4 and Appendix F: are indirect objects told with fewer features of a dictionary than components of PCA?"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import links, state
from app.components import plots
from app.components.numbers import count, digits
from app.figures.paper_indirect_objects import AXES, patching_layers, patching_panels, series_name
from app.glossary import explain
from app.paper import CORRECTED, Result
from app.paper.claims import show_claims
from app.paper.indirect_objects_claims import LEVELS, PAPER_PRICE, claims, pairs_of, reach
from app.paper.missing import command, made_by
from sae_core.errors import MissingTable
from sae_core.results import described
from sae_core.store import RunStore

TABLE = "patching"
ORDERS = {"acdc": "pruning (ACDC)", "magnitude": "largest edit first"}


def curves_of(run: RunStore, setting: str) -> pd.DataFrame:
    """Rows of `patching` of a setting with what their dictionary is. Raises TableError where there is none."""
    with made_by(run, "ioi"):
        frame = run.read(TABLE)
    # Tables made before settings were told apart hold the corrected one.
    frame = frame if "setting" in frame else frame.assign(setting=CORRECTED)
    frame = frame[frame["setting"] == setting]
    if frame.empty:
        fix = f"Make them: {command(run, 'ioi')} --setting {setting}"
        raise MissingTable(f"curves of the setting {setting}", "none in this run", fix)
    entries = pd.DataFrame([described(run.dictionary(id)) for id in frame["dictionary"].unique()])
    kept = entries[["id", "layer", "alpha", "ratio", "n_features"]]
    return frame.merge(kept, left_on="dictionary", right_on="id").drop(columns="id")


def controls(run: RunStore, setting: str) -> None:
    """The order of patching, for the whole section. Raises TableError where there are no curves."""
    here = orders(curves_of(run, setting))
    bound = links.bound("patch_order", here[0], options=here)
    help = explain(TABLE, "order")
    st.segmented_control("Order of patching", here, format_func=ORDERS.get, required=True, help=help, **bound)


def orders(frame: pd.DataFrame) -> list[str]:
    """The orders that the curves have."""
    return [order for order in ORDERS if order in set(frame["order"])]


def in_order(run: RunStore, setting: str) -> pd.DataFrame:
    """The curves of the order in the address."""
    frame = curves_of(run, setting)
    here = orders(frame)
    return frame[frame["order"] == links.read("patch_order", here[0], options=here)]


def show_layer(run: RunStore, setting: str) -> None:
    """Figure 3: one layer; the middle one where the address names none."""
    frame = in_order(run, setting)
    layers = sorted(map(int, frame["layer"].unique()))
    bound = links.bound("patch_layer", layers[(len(layers) - 1) // 2], int, layers)
    layer = st.segmented_control("Layer", layers, required=True, **bound)
    part = frame[frame["layer"] == layer]
    title = f"Layer {layer}: divergence from the target run"
    plots.show_plot(title, patching_panels(part, state.colours()), "patching_layer", explain(TABLE, "mean_kl"))
    plots.note(differing(part))
    plots.note(prices(part))
    links.link("Patch two sentences of your own", "patching", icon=":material/arrow_forward:")
    show_claims(claims(part))


def differing(layer: pd.DataFrame) -> str:
    """How many features can matter at all, by curve."""
    firsts = layer.drop_duplicates(["dictionary", "method"])
    told = ", ".join(
        f"{series_name(row.method, row.alpha)} {count(int(row.n_differing))} of {count(int(row.n_features))}"
        for row in firsts.itertuples()
    )
    return (
        "Patching a feature whose code is the same in both runs changes nothing, so only features that differ in some "
        f"of the {pairs_of(layer)} pairs are ordered; the others are left out. They differ: {told} "
        "(signed PCA counts both sides of a component as one)."
    )


def prices(layer: pd.DataFrame) -> str:
    """The SAEs' alphas made comparable with the paper's."""
    saes = layer[(layer["method"] == "sae") & (layer["alpha"] > 0)].drop_duplicates("alpha").sort_values("alpha")
    price = ", ".join(digits(row.alpha * row.n_features / row.ratio) for row in saes.itertuples()) or "none"
    return (
        f"Alphas compare between widths d as alpha x d: here {price}, in the paper {PAPER_PRICE} (d = 1,024). The "
        "larger it is, the sparser the dictionary and the more reconstruction error stays whatever is patched."
    )


def show_layers(run: RunStore, setting: str) -> None:
    """Figure 17: all layers, what each curve needs, and the claims in all of them."""
    frame = in_order(run, setting)
    bound = links.bound("patch_axis", next(iter(AXES)), options=AXES)
    axis = st.segmented_control("Horizontal axis", list(AXES), format_func=AXES.get, required=True, **bound)
    plots.show_plot("", patching_layers(frame, axis, state.colours()), "patching_layers")
    show_needs(frame)
    show_claims(claims(frame))


def show_needs(frame: pd.DataFrame) -> None:
    """What every curve needs to reach the levels, as a table."""
    config = st.column_config
    columns = {
        "layer": config.NumberColumn("Layer", format="%d"),
        "curve": config.TextColumn("Curve"),
        "n_differing": config.NumberColumn("Differ", format="localized", help=explain(TABLE, "n_differing")),
        "kl": config.NumberColumn("KL unpatched", format="%.3g", help="nats, no feature patched"),
        "kl_floor": config.NumberColumn("Floor", format="%.3g", help=explain(TABLE, "kl_floor")),
    }
    for name in LEVELS:
        what = f"to reach {name} of the unpatched KL; empty: never"
        columns[f"features {name}"] = config.NumberColumn(f"Features, {name}", format="%d", help=f"features {what}")
        columns[f"edit {name}"] = config.NumberColumn(f"Edit, {name}", format="%.3g", help=f"edit magnitude {what}")
    with st.expander("What every curve needs"):
        st.dataframe(needs(frame), column_config=columns, hide_index=True, key="patching_needs")


def needs(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each curve: the features and the edit it takes to reach every level, None where it never does."""
    rows = []
    for (layer, _, method), part in frame.groupby(["layer", "dictionary", "method"]):
        first = part.sort_values("n_patched").iloc[0]
        row = {"layer": layer, "curve": series_name(method, first["alpha"]), "kl": first["mean_kl"]}
        row |= {name: first[name] for name in ("n_differing", "kl_floor")}
        for name, share in LEVELS.items():
            row[f"features {name}"] = reach(part, share).value
            row[f"edit {name}"] = reach(part, share, "mean_magnitude").value
        rows.append(row)
    return pd.DataFrame(rows).replace(float("inf"), None)


RESULTS = (
    Result("Figure 3", "patching indirect objects in one layer", show_layer),
    Result("Figure 17", "the same in all layers", show_layers),
)
