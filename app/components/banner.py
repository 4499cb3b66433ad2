"""What of a run is computed: shown on every page of a run that lacks something, with the command that goes on."""

from __future__ import annotations

import html
import time
from pathlib import Path

import streamlit as st

from app.components.numbers import closed_up, duration
from sae_core.running import Mark, marks
from sae_core.store import RunStore
from sae_core.table_making import how_far, run_states

LOOKED_AGAIN = 5.0  # seconds between looks at a run that is being computed
SEEN = "seen_run"  # session state: what the page shown was drawn from


def banner(run: RunStore) -> None:
    """Nothing for a finished run that no step works on; else what is done, running and missing."""
    st.session_state[SEEN] = _stamp(run.folder)
    at_work = any(mark.alive() for mark in marks(run.folder))
    (st.fragment(_watch, run_every=LOOKED_AGAIN) if at_work else _show)(run)


def _watch(run: RunStore) -> None:
    """Look again while a step is at work; draw the page anew when a table is finished."""
    if st.session_state.get(SEEN) != _stamp(run.folder):
        st.rerun()
    _show(run)


def _show(run: RunStore) -> None:
    lines = sentences(_states(run.folder, _stamp(run.folder), run), marks(run.folder), str(run.folder))
    if lines:
        st.html(
            "<div class='sae-banner' role='status'>" + "".join(f"<p>{html.escape(t)}</p>" for t in lines) + "</div>"
        )


def sentences(states: dict[str, str], found: list[Mark], folder: str, now: float | None = None) -> list[str]:
    """What a reader of an unfinished run should know; none for a finished one.

    states: of every step, in order: `ready`, `missing`, `stale`, or how far it is (`120 of 2,048 features`).
    """
    now = time.time() if now is None else now
    live = {mark.step: mark for mark in found if mark.alive(now)}
    lines = [f"{mark.step} is being computed: {_since(mark, now)}." for mark in live.values()]
    lines += [f"{m.step} stopped before its end; its command goes on from there." for m in found if m.step not in live]
    open_steps = [step for step, state in states.items() if state != "ready"]
    if open_steps:
        lines.append(_summary(states))
        following = [step for step in open_steps if step not in live]
        if following:
            lines.append(f"To go on: python -m precompute {following[0]} --run {folder}{_then(following[1:])}")
    return lines


def _since(mark: Mark, now: float) -> str:
    return f"{closed_up(mark.how_far()) or 'no part finished yet'} (for {duration(now - mark.started)})"


def _summary(states: dict[str, str]) -> str:
    done = [step for step, state in states.items() if state == "ready"]
    missing = [step for step, state in states.items() if state == "missing"]
    parts = [f"done: {', '.join(done)}"] if done else []
    parts += [f"{step}: {state}" for step, state in states.items() if state not in ("ready", "missing", "stale")]
    parts += [f"{step}: made from other inputs" for step, state in states.items() if state == "stale"]
    parts += [f"not yet: {', '.join(missing)}"] if missing else []
    return f"Not everything of this run is computed: {'; '.join(parts)}."


def _then(steps: list[str]) -> str:
    return f"   (then {', '.join(steps)})" if steps else ""


def _stamp(folder: Path) -> tuple[int, ...]:
    """Changes whenever a table or the manifest does: files are replaced, which touches their folder."""
    tables = folder / "tables"
    paths = [folder / "manifest.json", tables, *sorted(tables.glob("*/"))]
    return tuple(path.stat().st_mtime_ns for path in paths if path.exists())


@st.cache_data(max_entries=16, show_spinner=False)
def _states(folder: Path, stamp: tuple[int, ...], _run: RunStore) -> dict[str, str]:
    """State of every step, with how far it is where it is partial."""
    del folder, stamp  # parts of the cache key only
    found = run_states(_run)
    return {step: how_far(_run, step) or "partial" if state == "partial" else state for step, state in found.items()}
