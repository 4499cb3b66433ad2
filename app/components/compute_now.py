"""What a page shows where something is not computed yet: how far the run is, and a button that does it now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from app import computed
from app.components import plots
from sae_core.store import DictionaryEntry, RunStore
from sae_core.table_making import how_far


def offer(
    run: RunStore,
    step: str,
    what: str,
    entries: Sequence[DictionaryEntry],
    compute: Callable[[computed.Tell], None],
    key: str,
) -> None:
    """Say that `what` is not computed, and compute it on a click, with a bar that shows how far it is.

    entries: the dictionaries whose weights it takes. compute: one of app.computed, waiting for `tell`.
    """
    so_far = how_far(run, step)
    command = f"python -m precompute {step} --run {run.folder}"
    plots.note(f"{what} not computed yet{f' (the run has {so_far})' if so_far else ''}. All at once: {command}")
    reason = computed.cannot(run, entries)
    if reason:
        plots.note(reason)
        return
    if not st.button("Compute now", key=key, icon=":material/bolt:", help="With the model, here; kept in the run"):
        return
    shown = st.progress(0.0, "Loading the model")
    compute(lambda share, text: shown.progress(min(1.0, share), text))
    st.rerun()
