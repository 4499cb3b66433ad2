"""Overview: what the run is, where to start, its dictionaries; and what happens when parts are missing or broken."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sae_core.specs import Site
from sae_core.store import RunStore
from tests.app.conftest import Opener, assert_calm, errors, texts


def test_it_says_what_the_run_is(open_page: Opener, run: RunStore) -> None:
    test = open_page("overview")
    assert_calm(test)
    assert "144 features in 3 dictionaries" in texts(test) and "This run is a miniature" in texts(test)
    assert "synthetic-co" in texts(test)  # the corpus hash, shortened
    assert "Model: dtype" in texts(test) and "a token after each document" in texts(test)
    assert "Position 0 of a context" in texts(test) and "counts like any other" in texts(test)
    assert len(test.dataframe[0].value) == 3
    assert [m.label for m in test.metric][:3] == ["L0", "FVU", "CE recovered"]
    metrics = run.read("metrics", run.main_dictionaries[1].id).iloc[0]
    assert test.metric[2].value == f"{100 * metrics['ce_recovered']:.1f}%"
    assert len(test.get("plotly_chart")) == 2


def test_the_sweep_plot_holds_every_dictionary_of_the_site(open_page: Opener, run: RunStore) -> None:
    for entry in run.main_dictionaries:
        figure = json.loads(open_page("overview", dictionary=entry.id).get("plotly_chart")[1].proto.spec)
        named = [text for trace in figure["data"] for text in trace.get("text", [])]
        assert sorted(named) == sorted(d.id for d in run.dictionaries if d.spec.site == entry.spec.site)


def test_choosing_a_dictionary_opens_browse(open_page: Opener, run: RunStore) -> None:
    test = open_page("overview")
    test.session_state["dictionaries"] = {"selection": {"rows": [2], "columns": [], "cells": []}}
    test.run()
    assert test.title[0].value == "Browse"
    assert test.query_params["dictionary"] == run.main_dictionaries[2].id


def test_landmarks_are_shown_escaped(open_page: Opener, run: RunStore) -> None:
    entry = {
        "title": "<script>x</script>",
        "dictionary": run.main_dictionaries[0].id,
        "feature": 3,
        "why": "It is $1, `<b>`.",
    }
    (run.folder / "landmarks.json").write_text(json.dumps([entry] * 4))
    test = open_page("overview")
    assert_calm(test)
    assert test.subheader[0].value == "Start here"
    assert texts(test).count("&lt;script&gt;x&lt;/script&gt;") == 4 and "<script>" not in texts(test)
    assert texts(test).count("It is $1, <code>&lt;b&gt;</code>.") == 4


@pytest.mark.parametrize("content", ["{", '[{"title": "x"}]', "3", '["x"]'])
def test_broken_landmarks_say_so(open_page: Opener, run: RunStore, content: str) -> None:
    (run.folder / "landmarks.json").write_text(content)
    test = open_page("overview")
    assert not test.exception and "landmarks.json" in errors(test)[0]


def test_a_run_without_metrics_or_features_still_opens(open_page: Opener, run: RunStore) -> None:
    for path in [*(run.folder / "tables" / "metrics").iterdir(), *(run.folder / "tables" / "features").iterdir()]:
        path.unlink()
    test = open_page("overview")
    assert not test.exception
    assert "No metrics yet" in texts(test)
    assert "python -m precompute" in errors(test)[0]


def test_unknown_run_in_the_link(open_page: Opener) -> None:
    test = open_page("overview", run="<b>nope</b>")
    assert not test.exception
    assert "synthetic" in errors(test)[0] and "&lt;b&gt;nope" in errors(test)[0]
    test.button(key="start_again").click().run()
    assert_calm(test)


def test_a_broken_manifest_says_what_to_do(open_page: Opener, run: RunStore) -> None:
    (run.folder / "manifest.json").write_text("{half a manif")
    test = open_page("overview")
    assert not test.exception and "manifest" in errors(test)[0]


def test_browsing_never_loads_torch(run: RunStore, repository: Path) -> None:
    code = f"""
import os, sys
os.environ["SAE_RUNS"] = {str(run.folder.parent)!r}
from streamlit.testing.v1 import AppTest
for page in ("overview", "browse", "feature"):
    test = AppTest.from_file("app/main.py", default_timeout=30)
    test.switch_page(f"app_pages/{{page}}.py")
    test.query_params["run"] = "synthetic"
    test.run()
    assert not test.exception, test.exception
heavy = {{"torch", "transformers", "transformer_lens"}} & set(sys.modules)
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_imported_dictionary_tells_its_origin_and_its_warning(open_page: Opener, run: RunStore) -> None:
    first, *rest = run.manifest.dictionaries
    told = {
        "from": "saelens:who/res-sm", "file": "blocks.0/sae_weights.safetensors", "revision": "abc", "sha256": "f" * 64,
        "fits": False, "verdict": "fits blocks.1.hook_resid_post, raw, FVU 0.08; <b> at the hook you named 0.61",
    }  # fmt: skip
    run.update_manifest(dictionaries=(replace(first, imported=told), *rest))
    test = open_page("overview", dictionary=first.id)
    assert_calm(test)
    warning = test.warning[0].value.replace("\\", "")  # Markdown's own marks are escaped
    assert len(test.warning) == 1 and warning.startswith(f"{first.id} may not fit") and "FVU 0.08" in warning
    assert "Imported from" in texts(test) and "sha256 ffffffffffff" in texts(test) and "<b>" not in texts(test)
    assert list(test.dataframe[0].value["source"].dropna()) == ["saelens:who/res-sm"]


def test_the_embedding_has_no_layer_and_is_called_by_its_name(open_page: Opener, run: RunStore) -> None:
    first, *rest = run.manifest.dictionaries
    embedding = replace(first, headline=False, spec=replace(first.spec, site=Site(-1, "embed")))
    run.update_manifest(dictionaries=(embedding, *rest))
    test = open_page("overview", dictionary=first.id)
    assert_calm(test)
    shown = test.dataframe[0].value
    assert list(shown["site"]) == ["embed", "resid_post", "resid_post"] and list(shown["layer"])[1:] == [1, 2]
    assert shown["layer"].isna().tolist() == [True, False, False]
    assert "Reconstruction against sparsity, embedding" in texts(test) and "layer -1" not in texts(test)
    feature = open_page("feature", dictionary=first.id, feature="3")
    assert not feature.exception and "embed feature 3" in texts(feature)
    assert "headline residual dictionaries only" in texts(feature) and "L-1" not in texts(feature)
    compared = open_page("compare", dictionary=first.id)
    assert not compared.exception and "layer -1" not in texts(compared)
