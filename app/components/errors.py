"""How an error looks: what was expected, what was found, what to do. Never a traceback."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from app import links
from sae_core.errors import NotComputed, SaeError


@contextmanager
def show_errors(stop: bool = True) -> Iterator[None]:
    """Show a SaeError of the block as three calm lines, then stop the page; without `stop` the rest of it goes on.

    What has not been computed yet is no error: it is said in a sentence.
    """
    try:
        yield
    except SaeError as error:
        st.html(missing_html(error) if isinstance(error, NotComputed) else error_html(error))
        if not stop:
            return
        links.button("Start again at the overview", "overview", key="start_again", run=None)
        st.stop()


def missing_html(error: NotComputed) -> str:
    """What has not been computed yet, and the command that makes it."""
    text = f"Not computed yet: {error.expected}. {error.fix}."
    return f"<p class='sae-missing' role='status'>{html.escape(text)}</p>"


def error_html(error: SaeError) -> str:
    """The three parts of an error, one a line."""
    rows = (("Expected", error.expected), ("Found", error.found), ("What to do", error.fix))
    items = "".join(f"<span>{name}</span><span>{html.escape(text)}</span>" for name, text in rows)
    return f"<div class='sae-error' role='alert'>{items}</div>"
