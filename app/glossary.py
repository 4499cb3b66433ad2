"""What terms mean, for tooltips. Columns are explained by the schemas themselves: one source of truth."""

from __future__ import annotations

from app.components.numbers import closed_up
from sae_core.schemas import TABLES

TERMS = {
    "headline": "The resid_post dictionary of its layer whose held-out L0 is nearest 30; causal edges join these.",
    "alpha": "Price of sparsity in training: mean over d of the squared error + alpha x sum of |codes|.",
    "ratio": "Features divided by the width of the site.",
    "site": "Where the dictionary reads: resid_post, mlp_post, mlp_out or attn_out of a layer, or embed: what enters "
    "the first layer.",
    "causal": "Measured by removing the feature from the running model and reading its prediction again.",
    "direct": "What the feature's direction alone writes to the logits, past all later layers.",
    "band": "Which tenth of the range up to the largest activation the peak of the context lies in.",
}


def explain(table: str, column: str, n: int | None = None) -> str:
    """Formula and population of a column, as the schema states them; `n` is how many tokens were counted."""
    found = TABLES[table]
    doc = next(c.doc for c in found.columns if c.name == column)
    counted = f" n = {n:,}." if n is not None else ""
    return plain(f"{doc[0].upper()}{doc[1:]}. Counted over: {found.population}.{counted}")


def explain_flag(flag: str) -> str:
    """What a flag of the `features` table means."""
    return plain(next(c.doc for c in TABLES["features"].columns if c.name == flag))


def plain(text: str) -> str:
    """Text for a place that reads Markdown, with the characters it would interpret escaped."""
    text = closed_up(text)
    for mark in "\\`*_{}[]<>#+-|~$:":
        text = text.replace(mark, "\\" + mark)
    return text
