"""The paper on this run, one section at a time: each figure beside what the paper reports, and whether it holds."""

from __future__ import annotations

import streamlit as st

from app import links, state
from app.components import plots
from app.components.errors import show_errors
from app.paper import CORRECTED, SECTIONS, SETTINGS, Result, Section
from sae_core.store import RunStore


def main() -> None:
    """Section and setting from the address, then every result of the section."""
    run = state.store()
    st.title("The paper on this run")
    plots.note(
        "Cunningham et al. (2023), Sparse Autoencoders Find Highly Interpretable Features in Language Models: each "
        "figure and table computed again on this run, beside what the paper reports."
    )
    if run.manifest.miniature:
        plots.note(state.MINIATURE)
    section = choose_section()
    setting = choose_setting()
    plots.note(f"{section.place}. Setting {setting}: {SETTINGS[setting]}.")
    with show_errors(stop=False):
        section.controls(run, setting)
        for result in section.results:
            show_result(run, result, setting)


def choose_section() -> Section:
    """The section in the address; the first if there is none."""
    titles = {key: section.title for key, section in SECTIONS.items()}
    bound = links.bound("section", next(iter(SECTIONS)), options=titles)
    key = st.segmented_control("Section", list(titles), format_func=titles.get, required=True, **bound)
    return SECTIONS[key]


def choose_setting() -> str:
    """`corrected` or `as-published`."""
    help = " ".join(f"**{name}**: {text}." for name, text in SETTINGS.items())
    bound = links.bound("setting", CORRECTED, options=list(SETTINGS))
    return st.segmented_control("Setting", list(SETTINGS), required=True, help=help, **bound)


def show_result(run: RunStore, result: Result, setting: str) -> None:
    """One figure or table; what the run lacks is said in its place, and the rest goes on."""
    st.subheader(f"{result.name} · {result.title}", divider="gray")
    with show_errors(stop=False):
        result.show(run, setting)


main()
