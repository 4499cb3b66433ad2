"""The dashboard's entry: page set-up, sidebar and navigation. Run it with `streamlit run app/main.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `streamlit run` puts only app/ on the path

import streamlit as st  # noqa: E402
from streamlit.delta_generator import DeltaGenerator  # noqa: E402

from app import links, state  # noqa: E402
from app.components.banner import banner  # noqa: E402
from app.components.errors import show_errors  # noqa: E402
from app.components.style import style_sheet  # noqa: E402
from sae_core.store import RunStore  # noqa: E402

SIDEBAR_WIDTH = 210  # pixels; a screen of 800 has none to spare
TITLES = {
    "overview": ("Overview", ":material/home:"),
    "browse": ("Browse", ":material/table_rows:"),
    "feature": ("Feature", ":material/insights:"),
    "ablate": ("Ablate", ":material/content_cut:"),
    "causal_tree": ("Causal tree", ":material/account_tree:"),
    "patching": ("Patching", ":material/swap_horiz:"),
    "compare": ("Compare", ":material/compare_arrows:"),
    "paper": ("Paper", ":material/article:"),
}


def main() -> None:
    """Draw what every page shares, then the page."""
    st.set_page_config(
        page_title="SAE feature explorer",
        page_icon=":material/hub:",
        layout="wide",
        initial_sidebar_state=SIDEBAR_WIDTH,
    )
    page = st.navigation([_page(name) for name in TITLES], position="hidden")
    st.html(style_sheet(state.colours()))
    menu = st.sidebar.container()
    with show_errors():
        run = state.choose_run()
        sidebar(menu, run)
        banner(run)
        page.run()


def _page(name: str) -> st.Page:
    title, icon = TITLES[name]
    return st.Page(links.PAGES[name], title=title, icon=icon, url_path=name, default=name == "overview")


def sidebar(menu: DeltaGenerator, run: RunStore) -> None:
    """Navigation that keeps the run, dictionary and feature being looked at, and what the run is."""
    for name, (title, icon) in TITLES.items():
        links.link(title, name, menu, icon, **carried(run))
    if run.manifest.miniature:
        st.sidebar.badge("miniature", icon=":material/science:", color="gray", help=state.MINIATURE)


def carried(run: RunStore) -> dict[str, Any]:
    """What every page understands of the address: not a dictionary without tables, which only Compare shows."""
    here = links.here()
    known = {entry.id for entry in run.main_dictionaries}
    return here if here.get("dictionary") in {None, *known} else links.here("run")


main()
