"""The address is the only memory: widgets follow it, it follows widgets, and bad values become sentences."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest

from app import links
from sae_core.errors import InputError


def page() -> None:
    import streamlit as st

    from app import links
    from app.components.errors import show_errors

    with show_errors(stop=False):
        st.number_input("n", min_value=0, max_value=9, **links.bound("n", 1, int))
        st.selectbox("s", ["a", "b"], **links.bound("s", "a", options=["a", "b"], drops=("n",)))
        st.multiselect("m", [1, 2, 3], **links.bound_list("m", [3], int, options=[1, 2, 3]))
        st.toggle("t", **links.bound("t", False, links.flag))
        st.number_input("f", value=None, **{k: v for k, v in links.bound("f", None, float).items()})
        st.selectbox("d", ["x", "y"], **links.bound("dictionary", "x", options=["x", "y"]))


def opened(**query: str | list[str]) -> AppTest:
    test = AppTest.from_function(page, default_timeout=30)
    for key, value in query.items():
        test.query_params[key] = value
    return test.run()


def test_defaults_leave_the_address_empty() -> None:
    test = opened()
    assert test.number_input[0].value == 1 and test.selectbox[0].value == "a" and test.multiselect[0].value == [3]
    assert test.query_params == {}


def test_widgets_follow_the_address() -> None:
    test = opened(n="7", s="b", m=["1", "2"], t="1", f="0.25")
    assert test.number_input[0].value == 7 and test.selectbox[0].value == "b"
    assert test.multiselect[0].value == [1, 2] and test.toggle[0].value is True
    assert test.number_input[1].value == 0.25


def test_the_address_follows_widgets() -> None:
    test = opened()
    test.number_input[0].set_value(4).run()
    assert test.query_params == {"n": "4"}
    test.multiselect[0].set_value([1, 2]).run()
    assert test.query_params == {"n": "4", "m": ["1", "2"]}
    test.multiselect[0].set_value([]).run()
    assert test.multiselect[0].value == [] and test.query_params["m"] == ""
    test.toggle[0].set_value(True).run()
    test.number_input[0].set_value(1).run()
    assert test.query_params == {"m": "", "t": "1"}


def test_a_change_drops_what_depended_on_it() -> None:
    test = opened(n="5")
    test.selectbox[0].set_value("b").run()
    assert test.query_params == {"s": "b"} and test.number_input[0].value == 1


def test_what_is_looked_at_stays_in_the_address_even_at_its_default() -> None:
    test = opened(dictionary="y")
    test.selectbox(key="dictionary").set_value("x").run()
    assert test.query_params == {"dictionary": "x"}


@pytest.mark.parametrize("query", [{"n": "seven"}, {"s": "<script>"}, {"m": ["1", "9"]}, {"t": "yes"}, {"f": ""}])
def test_bad_values_become_sentences(query: dict) -> None:
    test = opened(**query)
    assert not test.exception
    [html] = [h.value for h in test.get("html")]
    assert "in the link" in html and "<script>" not in html


def test_flag_refuses_other_words() -> None:
    assert links.flag("1") is True and links.flag("0") is False
    with pytest.raises(ValueError, match="true"):
        links.flag("true")


def test_urls_quote_everything_and_keep_the_run() -> None:
    def script() -> None:
        import streamlit as st

        from app import links

        st.session_state["run"] = "my run"
        st.text(links.url("feature", dictionary="L1&x=2", feature=3, text="a b#c", none=None, tokens=[1, 2]))
        st.text(links.url("overview"))

    test = AppTest.from_function(script, default_timeout=30).run()
    parts = urlsplit(test.text[0].value)
    assert parts.path == "feature"
    assert parse_qs(parts.query) == {
        "run": ["my run"], "dictionary": ["L1&x=2"], "feature": ["3"], "text": ["a b#c"], "tokens": ["1", "2"],
    }  # fmt: skip
    assert test.text[1].value.startswith("./?")


def test_parse_errors_name_the_key() -> None:
    with pytest.raises(InputError, match="'n'"):
        links._parsed("n", "x", int, None)
