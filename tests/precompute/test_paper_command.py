"""`precompute paper`: every step is whole and reachable, wrong names are a sentence, one failure spares the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from precompute import __main__ as command
from precompute.paper import PAPER_STEPS
from precompute.steps import Step
from sae_core.errors import CorpusError
from tests.precompute.tiny_run import tiny_run


@dataclass(frozen=True)
class Args:
    """No settings."""


@pytest.mark.parametrize("name", PAPER_STEPS)
def test_every_step_is_whole(name: str) -> None:
    module = PAPER_STEPS[name].module
    assert module.STEP == name and module.__doc__ and callable(module.run) and callable(module.state)
    module.Args()  # every setting has a default


def test_an_unknown_result_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["paper", "tables"]) == 2
    assert "a result out of baselines" in capsys.readouterr().err


def test_one_result_that_cannot_be_had_spares_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, done = tiny_run(tmp_path / "run", n_contexts=2), []

    def refuse(store: object, args: object) -> None:
        raise CorpusError("labels", "none", "Use the miniature")

    def module(run: object) -> SimpleNamespace:
        return SimpleNamespace(Args=Args, run=run, state=lambda store: "missing")

    modules = {"first": module(refuse), "second": module(lambda store, args: done.append(store.folder))}
    monkeypatch.setattr(Step, "module", property(lambda step: modules[step.name]))
    monkeypatch.setattr(command, "PAPER_STEPS", {name: Step(name, "", "") for name in modules})
    assert command.main(["paper", "--run", str(store.folder)]) == 0
    assert done == [store.folder] and "first left out: Expected labels" in capsys.readouterr().err
