"""`python -m tests.benchmarks [NAME ...]`: run every `bench_*.py` here, or those named, one after the other."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(names: list[str]) -> None:
    """Each benchmark is a module with a `main()` that prints."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    for name in names or [stem.removeprefix("bench_") for stem in found]:
        print(f"\n== {name} ==", flush=True)
        importlib.import_module(f"tests.benchmarks.bench_{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
