"""The Paper page: every section opens, links are refused in a sentence, and a bare run says what to run."""

from __future__ import annotations

import html

import pytest

from app.paper import SECTIONS, SETTINGS, Result
from app.paper.claims import HOLDS, VERDICTS, Claim, claim_html
from sae_core.store import RunStore
from tests.app.conftest import Opener, errors, texts


@pytest.mark.parametrize("setting", list(SETTINGS))
@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_section_opens_without_its_tables(open_page: Opener, section: str, setting: str) -> None:
    test = open_page("paper", section=section, setting=setting)
    assert not test.exception, [e.value for e in test.exception]
    assert SECTIONS[section].place in texts(test) and html.escape(SETTINGS[setting]) in texts(test)
    for error in errors(test):
        assert "python -m precompute" in error


def test_a_section_without_any_table_says_what_to_run_once(open_page: Opener, run: RunStore) -> None:
    test = open_page("paper", section="interpretability")
    assert not test.subheader and len(errors(test)) == 1
    assert f"python -m precompute paper rules --run {run.folder} --setting corrected" in errors(test)[0]


@pytest.mark.parametrize(("key", "value"), [("section", "<b>x</b>"), ("setting", "both")])
def test_unknown_values_in_the_link(open_page: Opener, key: str, value: str) -> None:
    test = open_page("paper", **{key: value})
    assert not test.exception and len(errors(test)) == 1 and key in errors(test)[0] and "<b>x" not in errors(test)[0]
    test.button(key="start_again").click().run()
    assert test.title[0].value == "SAE feature explorer"


def test_the_address_follows_the_choice(open_page: Opener) -> None:
    test = open_page("paper")
    test.button_group(key="section").set_value("stability").run()
    assert test.query_params["section"] == "stability"
    assert SECTIONS["stability"].place in texts(test)


@pytest.mark.parametrize("section", list(SECTIONS))
def test_results_are_named(section: str) -> None:
    results = SECTIONS[section].results
    assert all(isinstance(result, Result) and result.name and result.title for result in results)
    assert len({(result.name, result.title) for result in results}) == len(results)


def test_a_claim_is_escaped_and_keeps_its_lines() -> None:
    claim = Claim("<i>says</i>", "paper & co", "one\ntwo", HOLDS, "why <b>")
    text = claim_html(claim)
    assert "&lt;i&gt;says" in text and "paper &amp; co" in text and "one<br>two" in text and "why &lt;b&gt;" in text


def test_a_claim_needs_a_known_verdict() -> None:
    with pytest.raises(ValueError):
        Claim("", "", "", "perhaps", "")
    assert len(VERDICTS) == 4
