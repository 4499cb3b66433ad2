"""Every permalink is built here, and every widget that a link can set is bound to the address here.

The address is the only memory: before a widget is drawn, `bound` copies the address into it; when the reader changes
the widget, its callback writes the address. So a copied link, the back button and a reload all give the same page.

    n = st.number_input("Feature", min_value=0, max_value=9, **links.bound("feature", 0, int))

Streamlit's own `bind="query-params"` cannot do this across pages (1.67, tried in a browser): with a bound key
`st.switch_page` raises, `st.page_link` doubles the key, and a value that does not exist vanishes without a word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sae_core.errors import InputError

T = TypeVar("T")

PAGES = {
    "overview": "app_pages/overview.py",
    "browse": "app_pages/browse.py",
    "feature": "app_pages/feature.py",
    "ablate": "app_pages/ablate.py",
    "causal_tree": "app_pages/causal_tree.py",
    "patching": "app_pages/patching.py",
    "compare": "app_pages/compare.py",
    "paper": "app_pages/paper.py",
}
SHARED = ("run", "dictionary", "feature")


# ---- widgets


def bound(
    key: str, default: T, parse: Callable[[str], T] = str, options: Collection[T] | None = None,
    drops: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """Keyword arguments that bind a widget to the address: key, on_change, args.

    A change of the widget also removes the keys `drops` from the address: what made sense only with the old value.

    The widget must not be given `value`, `index` or `default` besides. Raises InputError if the link holds a value
    that `parse` refuses (ValueError) or that is not among `options`.
    """
    st.session_state[key] = read(key, default, parse, options)
    return {"key": key, "on_change": _changed, "args": (key, default, drops)}


def read(key: str, default: T, parse: Callable[[str], T] = str, options: Collection[T] | None = None) -> T:
    """Value in the address without a widget. Raises InputError as `bound` does."""
    text = st.query_params.get(key)
    return default if text is None else _parsed(key, text, parse, options)


def write(key: str, value: Any) -> None:
    """Set a key of the address, in a callback; None removes it."""
    if value is None:
        st.query_params.pop(key, None)
    else:
        st.query_params[key] = _text(value)


def bound_list(
    key: str, default: list[T], parse: Callable[[str], T] = str, options: Collection[T] | None = None,
    drops: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """As `bound` for widgets with several values (multiselect, range slider): the key is repeated in the address."""
    texts = st.query_params.get_all(key)
    # An empty text stands for an empty list, so that clearing a non-empty default survives in the link.
    values = [_parsed(key, text, parse, options) for text in texts if text]
    st.session_state[key] = values if texts else list(default)
    return {"key": key, "on_change": _changed, "args": (key, default, drops)}


def flag(text: str) -> bool:
    """`1` or `0`, as checkboxes and toggles are written in a link."""
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _parsed(key: str, text: str, parse: Callable[[str], T], options: Collection[T] | None) -> T:
    fix = "Choose it on the page, or open the page from the menu"
    try:
        value = parse(text)
    except ValueError:
        raise InputError(f"a value of {key!r} that this page can read", f"{text!r} in the link", fix) from None
    if options is not None and value not in options:
        some = ", ".join(str(option) for option in list(options)[:12])
        raise InputError(f"{key!r} out of: {some}", f"{text!r} in the link", fix)
    return value


def _changed(key: str, default: Any, drops: tuple[str, ...] = ()) -> None:
    for other in drops:
        write(other, None)
    value = st.session_state[key]
    # What is looked at stays in the address even where it is the default, so that a link never depends on defaults.
    write(key, None if value == default and key not in SHARED else value)


def _text(value: Any) -> str | list[str]:
    if isinstance(value, list | tuple):
        return [str(_text(v)) for v in value] or [""]
    return str(int(value)) if isinstance(value, bool) else str(value)


# ---- links


def here(*keys: str) -> dict[str, Any]:
    """The parts of the present address that other pages understand: run, dictionary, feature, or the named keys."""
    return {key: st.query_params[key] for key in keys or SHARED if key in st.query_params}


def query(**values: Any) -> dict[str, Any]:
    """Query of a link: the present run, then `values` (None is left out)."""
    given = {"run": st.session_state.get("run"), **values}
    return {key: _text(value) for key, value in given.items() if value is not None}


def url(page: str, **values: Any) -> str:
    """Relative address of a page, for HTML anchors and for copying."""
    text = urlencode(query(**values), doseq=True)
    path = "./" if page == "overview" else page
    return f"{path}?{text}" if text else path


def link(
    label: str, page: str, container: DeltaGenerator | None = None, icon: str | None = None, **values: Any
) -> None:
    """A link to another page. Within the same page use `button`: a page link would not change the address."""
    (container or st).page_link(PAGES[page], label=label, icon=icon, query_params=query(**values))


def button(label: str, page: str, key: str, icon: str | None = None, **values: Any) -> None:
    """A button that goes to a page, which may be this one."""
    if st.button(label, key=key, icon=icon):
        go(page, **values)


def go(page: str, **values: Any) -> None:
    """Leave for a page now; nothing after this call runs."""
    st.switch_page(PAGES[page], query_params=query(**values))


def any_of(features: Sequence[int]) -> int:
    """One of these features, to leaf to."""
    return random.choice(features)
