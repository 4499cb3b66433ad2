"""`python -m precompute list | all | STEP | import | paper | sweep | ... | docs`: commands; without one, all are named.

Each command's options are the fields of its Args dataclass; this module only finds it, parses, and reports errors.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Set before numpy is imported: its BLAS threads otherwise spin after each product, on the cores that torch's threads
# need next. An iteration of ICA takes 0.24 s in place of 0.35.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import tyro

from precompute.paper import PAPER_STEPS
from precompute.steps import STEPS, Step
from sae_core.errors import SaeError, SpecError
from sae_core.store import RunStore
from sae_core.table_making import how_far

# Commands that are no step of a run: sweeps of dictionaries, and what makes or describes what the repository ships.
OTHERS = {
    "import": "precompute.import_",
    "miniature": "precompute.miniature.train",
    "measure": "precompute.miniature.measure",
    "sweep": "precompute.sweep",
    "export": "precompute.export",
    "labels": "precompute.labels",
    "prune": "precompute.prune",
    "landmarks": "precompute.landmarks",
    "docs": "precompute.docs",
}


@dataclass(frozen=True)
class ListArgs:
    """Show the steps: what each needs and makes, and its state in a run."""

    run: Path | None = None
    """the run folder whose state is shown"""


@dataclass(frozen=True)
class PaperArgs:
    """Compute the paper's results that a run still lacks."""

    run: Path
    """the run folder; its tables must be finished"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 with a sentence on stderr for anything the user can mend."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    try:
        command = _commands().get(name)
        if command is None:
            print(_usage(), file=sys.stdout if name in ("-h", "--help") else sys.stderr)
            return 0 if name in ("-h", "--help") else 2
        command(rest)
    except SaeError as error:
        print(f"precompute {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nprecompute {name}: stopped; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def _commands() -> dict[str, Callable[[list[str]], None]]:
    return {
        "list": _list,
        "all": _all,
        "paper": _paper,
        **{name: lambda rest, name=name: _step(name, rest) for name in STEPS},
        **{name: lambda rest, name=name: _other(name, rest) for name in OTHERS},
    }


def _usage() -> str:
    lines = ["usage: python -m precompute COMMAND [options]   (COMMAND --help shows its options)", ""]
    lines += [f"  {'list':12} the steps and their state in a run", f"  {'all':12} every step in order"]
    lines += [f"  {s.name:12} makes {s.makes}" for s in STEPS.values()]
    lines += [f"  {'paper':12} the paper's results on a finished run; alone: paper NAME, NAME out of {_paper_names()}"]
    lines += [f"  {n:12} {importlib.import_module(m).__doc__.splitlines()[0]}" for n, m in OTHERS.items()]
    return "\n".join(lines)


def _list(rest: list[str]) -> None:
    args = _parse("list", ListArgs, rest)
    store = RunStore.open(args.run) if args.run else None
    print(f"{'step':12} {'state':9} {'seconds':>8}  {'needs':36} makes")
    for step in STEPS.values():
        state = step.state(store) if store else "-"
        seconds = store.manifest.steps.get(step.name, {}).get("seconds", "") if store else ""
        some = f"  ({how_far(store, step.name)})" if store and how_far(store, step.name) else ""
        print(f"{step.name:12} {state:9} {seconds:>8}  {step.needs:36} {step.makes}{some}")


def _paper(rest: list[str]) -> None:
    """`paper NAME ...` is one step with its own options, `paper --run DIR` all of them with their defaults."""
    if rest and rest[0] in PAPER_STEPS:
        return _run_step(PAPER_STEPS[rest[0]], rest[1:])
    if rest and not rest[0].startswith("-"):
        raise SpecError(f"a result out of {_paper_names()}", repr(rest[0]), "Name one, or none for all of them")
    args = _parse("paper", PaperArgs, rest)
    for step in PAPER_STEPS.values():
        print(f"== {step.name}: {step.makes}", flush=True)
        try:
            step.run(RunStore.open(args.run), step.module.Args())
        except SaeError as error:  # one result that cannot be had must not keep the others back
            print(f"{step.name} left out: {error}", file=sys.stderr)


def _paper_names() -> str:
    return ", ".join(PAPER_STEPS)


def _step(name: str, rest: list[str]) -> None:
    _run_step(STEPS[name], rest)


def _run_step(step: Step, rest: list[str]) -> None:
    name = step.name
    args = _parse(name, _with_run(step.module.Args), rest)
    settings = step.module.Args(**{f.name: getattr(args, f.name) for f in dataclasses.fields(step.module.Args)})
    if name == "corpus":
        step.run(step.module.start(args.run, settings), settings)
    else:
        step.run(RunStore.open(args.run), settings)


def _all(rest: list[str]) -> None:
    pipeline = importlib.import_module("precompute.pipeline")
    pipeline.run(_parse("all", pipeline.Args, rest))


def _other(name: str, rest: list[str]) -> None:
    module = importlib.import_module(OTHERS[name])
    module.run(_parse(name, module.Args, rest))


def _parse(name: str, args: type, rest: list[str]) -> Any:
    return tyro.cli(args, prog=f"python -m precompute {name}", args=rest)


def _with_run(args: type) -> type:
    """The step's Args plus the run folder, which every step takes and none keeps."""
    run = dataclasses.make_dataclass("Run", [("run", Path)], frozen=True, kw_only=True)
    combined = dataclasses.dataclass(frozen=True, kw_only=True)(type(args.__name__, (args, run), {}))
    combined.__doc__ = args.__doc__
    return combined


if __name__ == "__main__":
    sys.exit(main())
