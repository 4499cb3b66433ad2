"""RESULTS.md: the comparison as a plain table, and every training that was tried."""

from __future__ import annotations

import pandas as pd

from tests.benchmarks.trainers.compare import L0, summary

OURS = "ours-"


def report(codes: pd.DataFrame, finals: pd.DataFrame) -> str:
    """Markdown of all runs (`codes`) and of those compared (`finals`, with ce_recovered)."""
    table = summary(finals)
    best = table[table.trainer.str.startswith(OURS)].iloc[0]
    size = codes.iloc[0]
    parts = [
        f"# Trainers compared at L0 = {L0:g}",
        f"Every dictionary was trained on {size.vectors:,} stored activations in batches of {size.batch:,}, R = 4, "
        "at its trainer's best learning rate, chosen on seed 0. FVU and CE recovered are measured on the same held-out "
        f"tokens and interpolated linearly in log L0 at {L0:g}: mean and range over seeds. README.md says how.",
        verdict(table, best),
        _compared(table, best),
        "## Every training",
        _all(codes),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(table: pd.DataFrame, best: pd.Series) -> str:
    """One sentence: our best beside the best of the others."""
    others = table[~table.trainer.str.startswith(OURS)]
    fvu, ce = others.loc[others.fvu.idxmin()], others.loc[others.ce.idxmax()]
    return (
        f"Our best, {best.trainer}: FVU {best.fvu:.4f} and CE recovered {best.ce:.4f}. Theirs: least FVU {fvu.fvu:.4f} "
        f"({fvu.trainer}), most CE recovered {ce.ce:.4f} ({ce.trainer})."
    )


def _compared(table: pd.DataFrame, best: pd.Series) -> str:
    lines = [
        "| trainer | learning rate | seeds | FVU | range | FVU / our best | CE recovered | range |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.trainer} | {row.lr:g} | {row.seeds} | {row.fvu:.4f} | {row.fvu_low:.4f} to {row.fvu_high:.4f} "
        f"| {row.fvu / best.fvu:.3f} | {row.ce:.4f} | {row.ce_low:.4f} to {row.ce_high:.4f} |"
        for row in table.itertuples()
    ]
    return "\n".join(lines)


def _all(codes: pd.DataFrame) -> str:
    shown = [
        column
        for column in ("trainer", "sparsity", "lr", "batch", "seed", "l0", "fvu", "alive", "seconds", "made_with")
        if column in codes
    ]
    ordered = codes.sort_values(["trainer", "lr", "seed", "l0"])[shown]
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in ordered.itertuples(index=False)]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
