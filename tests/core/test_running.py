"""Marks of steps at work: kept fresh, removed at the end, recognised when they were left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from precompute import steps
from precompute.common import bar
from sae_core import running
from sae_core.running import STALE_AFTER, Mark, marked, marks, tell
from tests.precompute.tiny_run import tiny_run


def test_a_mark_lives_as_long_as_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "REFRESH", 0.05)
    with marked(tmp_path, "effects"):
        (mark,) = marks(tmp_path)
        assert mark.alive() and (mark.step, mark.pid) == ("effects", os.getpid()) and mark.how_far() == ""
        for item in bar("abcd", "effects of L2"):
            if item == "c":
                time.sleep(0.3)
                (later,) = marks(tmp_path)
        assert later.updated > mark.updated and later.how_far() == "effects of L2, 50 %"
    assert marks(tmp_path) == []
    tell("nobody", 1, 2)


def test_a_failing_step_removes_its_mark(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), marked(tmp_path, "edges"):
        raise RuntimeError
    assert marks(tmp_path) == []


def test_a_killed_process_leaves_a_mark_that_is_told_from_a_live_one(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sae_core.running import Marker; "
        "m = Marker(Path(sys.argv[1]), 'edges'); m.start(); print('marked', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "marked\n"
    assert [mark.alive() for mark in marks(tmp_path)] == [True]
    child.kill()
    child.wait()
    assert [mark.alive() for mark in marks(tmp_path)] == [False]


def test_marks_of_other_hosts_are_told_by_their_age() -> None:
    now = time.time()
    mark = Mark("train", 1, "elsewhere.example", now - 500, now - STALE_AFTER / 2)
    assert mark.alive(now) and not replace(mark, updated=now - 2 * STALE_AFTER).alive(now)


def test_files_that_are_no_marks_do_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "scratch" / "running"
    folder.mkdir(parents=True)
    for i, text in enumerate(["", "[]", "{}", '{"step": "x"}', "\x00"]):
        (folder / f"{i}.json").write_text(text)
    assert marks(tmp_path) == []


def test_steps_mark_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = tiny_run(tmp_path / "run"), []
    step = steps.STEPS["features"]
    monkeypatch.setattr(step.module, "run", lambda *_: seen.extend(marks(store.folder)))
    step.run(store, step.module.Args())
    assert [mark.step for mark in seen] == ["features"] and marks(store.folder) == []
