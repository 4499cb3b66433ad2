"""The command line: what it lists, what it refuses, and one whole run from text to tables on a tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from precompute.__main__ import main
from precompute.steps import STEPS
from sae_core.store import RunStore
from tests.tiny_model import tiny_model_folder

WORDS = "the cat sat on a mat and (the dog) didn't care if it rained in May".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short documents, all different."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    draw = random.Random(0)
    texts = (" ".join(draw.choices(WORDS, k=60)) for _ in range(120))
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def command(run: Path, model: Path, text: Path, *more: str) -> list[str]:
    sizes = "--tokens 2048 --train-tokens 4096 --metric-tokens 512 --alphas 1e-3 1e-2 --ratio 1 --layers 0-1".split()
    return ["all", "--run", str(run), "--model", str(model), "--corpus", f"text:{text}", *sizes, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Path, Path]:
    """A run made by `all`, and its model."""
    folder = tmp_path_factory.mktemp("all")
    model = tiny_model_folder(folder / "model", n_ctx=256)
    assert main(command(folder / "run", model, text)) == 0
    return folder / "run", model


def test_all_makes_every_table_and_notes_the_cost(finished: tuple[Path, Path]) -> None:
    store = RunStore.open(finished[0])
    assert {name: step.state(store) for name, step in STEPS.items()} == dict.fromkeys(STEPS, "ready")
    assert len(store.dictionaries) == 4 and len(store.main_dictionaries) == 2
    assert all(store.manifest.steps[name]["peak_memory_mb"] > 0 for name in STEPS)


def test_a_finished_run_is_left_alone(finished: tuple[Path, Path], text: Path) -> None:
    run, model = finished
    before = {path: path.stat().st_mtime_ns for path in (run / "tables").rglob("*.parquet")}
    assert main(command(run, model, text)) == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "tables").rglob("*.parquet")} == before


def test_list_shows_every_step_and_its_state(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--run", str(finished[0])]) == 0
    shown = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:2] for line in shown] == [[name, "ready"] for name in STEPS]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "--run", "nowhere"], "Expected a run folder"),
        (["train", "--run", "nowhere"], "Expected a run folder"),
        (["nonsense"], "usage: python -m precompute"),
    ],
)
def test_wrong_use_is_a_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_other_settings_for_the_same_run_are_refused(
    finished: tuple[Path, Path], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = finished
    assert main(command(run, model, text, "--seed", "5")) == 2
    assert "seed 5 instead of 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda model, text: (model / "nothing", text), "no such folder"),
        (lambda model, text: (model, text.with_name("none.txt")), "no file"),
        (lambda model, text: (model, model / "model.safetensors"), "files ending in"),
    ],
)
def test_bad_input_is_a_sentence(
    finished: tuple[Path, Path], text: Path, tmp_path: Path, spoil, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, corpus = spoil(finished[1], text)
    assert main(command(tmp_path / "run", model, corpus)) == 2
    assert sentence in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*STEPS, "all", "list", "miniature", "measure", "landmarks", "docs"))
