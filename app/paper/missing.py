"""What a run lacks for a result of the paper, and the command that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sae_core.errors import TableError
from sae_core.store import RunStore


@contextmanager
def made_by(run: RunStore, step: str) -> Iterator[None]:
    """Tables read in the block come from a step of `paper`: a TableError names the command that makes them."""
    try:
        yield
    except TableError as error:
        raise type(error)(error.expected, error.found, f"Make it: {command(run, step)}") from None


def command(run: RunStore, step: str) -> str:
    """The command that makes a result of the paper."""
    return f"python -m precompute paper {step} --run {run.folder}"
