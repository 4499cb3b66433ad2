"""Measure the trained dictionaries of all libraries alike, and write RESULTS.md."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from precompute.common import bar, load_model
from sae_core.corpus import load_windows
from sae_core.dictionaries import Dictionary
from sae_core.metrics import CodeMetrics, CodeSums, Variation, held_out_batches, measure
from sae_core.specs import Site
from sae_core.store import RunStore
from tests.benchmarks.trainers.compare import finalists
from tests.benchmarks.trainers.report import report
from tests.benchmarks.trainers.stored import load_activations, read

ROWS = 8192
SHOWN = ["trainer", "sparsity", "lr", "seed", "l0", "fvu", "alive", "seconds"]
CODES, SPLICED = "codes.csv", "spliced.csv"
Measured = Callable[[Sequence[Path]], list[dict]]


def main() -> None:
    """L0 and FVU of every dictionary; CE recovered of those that bracket the L0; a file already measured is kept."""
    args = _parse()
    codes = _complete(args.out / CODES, sorted(args.out.glob("*.npz")), lambda new: _codes(new, args))
    print(codes.sort_values(["trainer", "lr", "seed", "l0"])[SHOWN].to_string(index=False))
    if args.report is None:
        return
    chosen = [args.out / name for name in finalists(codes).file]
    spliced = _complete(args.out / SPLICED, chosen, lambda new: _spliced(new, args))
    finals = codes.drop(columns=["l0", "fvu"]).merge(spliced[spliced.file.isin(p.name for p in chosen)], on="file")
    args.report.write_text(report(codes, finals), encoding="utf-8")


def load(path: Path, site: Site) -> Dictionary:
    """A dictionary that `stored.save` wrote."""
    facts, weights = read(path)
    return Dictionary(site, **weights, apply_b_dec_to_input=facts["applies_b_dec"])


@torch.inference_mode()
def code_metrics(dictionary: Dictionary, x: Tensor) -> CodeMetrics:
    """L0 and FVU on activations x [n, width]."""
    variation, sums = Variation(), CodeSums.of(dictionary)
    for rows in x.split(ROWS):
        codes = dictionary.encode(rows)
        variation.add(rows)
        sums.add(codes, rows - dictionary.decode(codes))
    return sums.result(variation)


def _complete(table: Path, files: Sequence[Path], measured: Measured) -> pd.DataFrame:
    """The rows of a table of measurements, after those of the files it lacks were added."""
    known = [pd.read_csv(table)] if table.exists() else []
    missing = [path for path in files if not known or path.name not in set(known[0].file)]
    if missing:
        known = [pd.concat([*known, pd.DataFrame(measured(missing))], ignore_index=True)]
        known[0].to_csv(table, index=False)
    return known[0]


def _codes(files: Sequence[Path], args: argparse.Namespace) -> list[dict]:
    x, rows = load_activations(args.data, "held_out"), []
    for path in bar(files, "L0 and FVU"):
        found = code_metrics(load(path, Site(args.layer)), x)
        rows.append({"file": path.name, **read(path)[0], "l0": found.l0, "fvu": found.fvu, "alive": found.n_alive})
    return rows


def _spliced(files: Sequence[Path], args: argparse.Namespace) -> list[dict]:
    """The same numbers and CE recovered, by the function that measures the project's own dictionaries."""
    store = RunStore.open(args.run)
    model = load_model(store, "cpu")
    tokens = load_windows(store.folder, "held_out").tokens
    batches = list(held_out_batches(tokens, args.tokens, model.d_vocab, 16, model.device))
    dictionaries = [load(path, Site(args.layer)) for path in files]
    found = measure(model, dictionaries, bar(batches, f"CE of {len(files)} dictionaries"))
    return [
        {"file": path.name, "l0": m.codes.l0, "fvu": m.codes.fvu, "ce_recovered": m.losses.ce_recovered}
        for path, m in zip(files, found, strict=True)
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("data/miniature"))
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--data", type=Path, required=True, help="folder that store_activations wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder with the trained dictionaries")
    parser.add_argument("--tokens", type=int, default=200_000, help="held-out tokens for CE recovered")
    parser.add_argument("--report", type=Path, help="write the comparison here; without it L0 and FVU are printed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
