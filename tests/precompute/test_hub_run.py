"""A run from the hub, end to end: model and data set pinned to their commits, continued, refused by a sentence.

The commands run as their own processes, which find the hub (a real local HTTP server) by HF_ENDPOINT.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from precompute.__main__ import main
from precompute.common import load_model
from sae_core.corpus import load_windows
from sae_core.store import RunStore
from tests.conftest import ROOT
from tests.hub_server import Hub, commit_of, hub_server, use
from tests.tiny_model import tiny_model_folder, tiny_tokenizer

MODEL, TEXT = "tiny/pythia", "some/words"
SIZES = ["--tokens", "1000", "--metric-tokens", "200", "--context", "64", "--window", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    place = tmp_path_factory.mktemp("hub")
    with hub_server() as found:
        found.add(MODEL, tiny_model_folder(place / "model"), "step3")
        found.add(f"datasets/{TEXT}", words(place / "old", "cat"))
        yield found


def words(folder: Path, animal: str) -> Path:
    """A data set folder: one Parquet file with the column `content`."""
    (folder / "data").mkdir(parents=True)
    rows = [f"the {animal} {i} sat in a hat and that's the end of document {i}\n" for i in range(900)]
    pd.DataFrame({"content": rows, "id": range(900)}).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def asked_for(run: Path, text: str, model: str, train_tokens: int) -> list[str]:
    """Arguments of the step `corpus`."""
    return ["--run", str(run), "--model", model, "--corpus", text, "--train-tokens", str(train_tokens), *SIZES]


def corpus(hub: Hub, run: Path, *asked: object) -> subprocess.CompletedProcess:
    """The step `corpus` in a process of its own."""
    env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(run.parent / "home")}
    command = [sys.executable, "-m", "precompute", "corpus", *asked_for(run, *asked)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)


@pytest.mark.timeout(600)
def test_model_and_text_are_pinned_and_a_continued_run_reads_the_same(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, old = tmp_path / "run", hub.revisions[f"datasets/{TEXT}"]["main"]
    spec = (f"hub:{TEXT}:train:content", f"{MODEL}@step3")
    done = corpus(hub, run, *spec, 2000)
    assert done.returncode == 0, done.stderr
    facts, text = RunStore.open(run).manifest.model, RunStore.open(run).manifest.corpus
    assert (facts["name"], facts["revision"], facts["dtype"], facts["device"]) == (MODEL, "step3", "float32", "cpu")
    commit = hub.add(MODEL, hub.revisions[MODEL]["step3"], "step3")
    assert facts["commit"] == commit == RunStore.open(run).model_spec.revision
    assert text["commit"] == commit_of(old)
    first = np.array(load_windows(run, "train").tokens)

    hub.revisions[f"datasets/{TEXT}"] = {"main": words(tmp_path / "new", "dog"), "before": old}
    done = corpus(hub, run, *spec, 4000)
    assert done.returncode == 0, done.stderr
    again = load_windows(run, "train").tokens
    assert len(again) > len(first) and (again[: len(first)] == first).all()
    assert RunStore.open(run).manifest.corpus["commit"] == text["commit"]

    # The model is in the cache at its commit, so later steps need no network.
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "home" / "hub")
    assert load_model(RunStore.open(run), "cpu").hash == facts["hash"]


def test_what_the_hub_lacks_is_said_in_a_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, hub.endpoint, tmp_path / "cache")
    for number, (model, text, found) in enumerate(
        (
            (f"{MODEL}@step4", f"hub:{TEXT}", "without this revision"),
            (f"{MODEL}@step3", f"hub:{TEXT}@v9", "RevisionNotFoundError"),
            (f"{MODEL}@step3", "hub:some/gone", "RepositoryNotFoundError"),
        )
    ):
        assert main(["corpus", *asked_for(tmp_path / f"run{number}", text, model, 2000)]) == 2
        assert found in capsys.readouterr().err


@pytest.mark.timeout(600)
def test_one_configuration_of_a_data_set_with_several(hub: Hub, tmp_path: Path) -> None:
    name, folder = "some/animals", tmp_path / "animals"
    for animal in ("cat", "dog"):
        words(folder / animal, animal)
    configs = "".join(f"- config_name: {animal}s\n  data_files: {animal}/data/*.parquet\n" for animal in ("cat", "dog"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    commit = hub.add(f"datasets/{name}", folder)
    model = f"{MODEL}@step3"

    done = corpus(hub, tmp_path / "run", f"hub:{name}::content:dogs", model, 2000)
    assert done.returncode == 0, done.stderr
    store = RunStore.open(tmp_path / "run")
    assert store.manifest.corpus["commit"] == commit and store.manifest.spec.corpus.config == "dogs"
    assert str(store.manifest.spec.corpus) == f"hub:{name}:train:content:dogs"
    tokens = load_windows(store.folder, "train").tokens.reshape(-1)
    text = tiny_tokenizer().decode(tokens.tolist())
    assert "the dog 1 sat" in text and "cat" not in text

    wrong = (("", "available configs: ['cats', 'dogs']"), (":owls", "'owls' not found"))
    for number, (config, found) in enumerate(wrong):
        done = corpus(hub, tmp_path / f"without{number}", f"hub:{name}:train:content{config}", model, 2000)
        assert done.returncode == 2 and found in done.stderr, done.stderr
        assert "configuration" in done.stderr
