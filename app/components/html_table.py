"""A plain table of text whose long cells wrap and whose first cells may be links; escaped here."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import streamlit as st


@dataclass(frozen=True)
class Anchor:
    """A cell that is a link: text and address (app.links.url)."""

    text: str
    href: str


def show_table(head: Sequence[str], rows: Sequence[Sequence[str | Anchor]], numbers: Collection[int] = ()) -> None:
    """Show rows below their head; the columns `numbers` are set to the right."""
    st.html(table_html(head, rows, numbers))


def table_html(head: Sequence[str], rows: Sequence[Sequence[str | Anchor]], numbers: Collection[int] = ()) -> str:
    """The table as HTML."""
    titles = "".join(_cell("th", text, i in numbers) for i, text in enumerate(head))
    body = "".join(f"<tr>{''.join(_cell('td', c, i in numbers) for i, c in enumerate(row))}</tr>" for row in rows)
    return f"<div class='sae-table'><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(tag: str, content: str | Anchor, number: bool) -> str:
    text = html.escape(content.text if isinstance(content, Anchor) else content)
    if isinstance(content, Anchor):
        text = f"<a href='{html.escape(content.href, quote=True)}' target='_self'>{text}</a>"
    return f"<{tag}{' class=sae-number' if number else ''}>{text}</{tag}>"
