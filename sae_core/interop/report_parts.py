"""Parts of the HTML report of a feature: histogram, contexts, effects, tree. Strings of HTML, escaped here. Light."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np
import pandas as pd

from sae_core.interop.neuronpedia_records import dense_values
from sae_core.schemas import HISTOGRAM_BINS, OTHER_TOKEN
from sae_core.tree_growth import Node

TOKENS_NAMED = 9
AROUND = 20
EFFECTS = 10
WIDTH, HEIGHT, FOOT = 600, 190, 18


def token(text: str) -> str:
    """A token on its own."""
    return f"<span class=tok>{html.escape(text)}</span>"


def number(value: float) -> str:
    """Three significant digits; thousands for whole numbers."""
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.3g}"


def table(head: list[str], rows: list[str]) -> str:
    """Rows of ready cells below a head."""
    return f"<div class=scroll><table><tr>{''.join(f'<th>{h}' for h in head)}</tr>{''.join(rows)}</table></div>"


# ---- histogram


def histogram(frame: pd.DataFrame) -> str:
    """Counts by tenth of the range up to the maximum, split by token; SVG and legend.

    frame: rows of `token_histograms` of one feature. Bars: log10(1 + count) high; within a bar, parts are shares of it.
    """
    ids = named_tokens(frame)
    totals = frame.groupby("bin")["count"].sum().reindex(range(HISTOGRAM_BINS), fill_value=0)
    tallest = np.log10(1 + totals.max())
    bars = "".join(_bar(frame[frame["bin"] == b], b, ids, np.log10(1 + n) / tallest) for b, n in totals.items() if n)
    marks = "".join(_tick(i, frame["bin_high"].max() * i / HISTOGRAM_BINS) for i in (0, 5, 10))
    label = "Active tokens by tenth of the activation range, logarithmic, coloured by token"
    drawn = f"<svg viewBox='0 0 {WIDTH} {HEIGHT + FOOT}' role=img aria-label='{label}'>{bars}{marks}</svg>"
    return drawn + _legend(frame, ids)


def named_tokens(frame: pd.DataFrame) -> list[int]:
    """The tokens with a colour of their own, commonest first."""
    listed = frame[frame["token_id"] != OTHER_TOKEN]
    return listed.groupby("token_id")["count"].sum().sort_values(ascending=False, kind="stable").index[:9].tolist()


def _bar(part: pd.DataFrame, bin: int, ids: list[int], share: float) -> str:
    counts = part.set_index("token_id")["count"]
    pieces = [(f"var(--t{i})", int(counts.get(id, 0))) for i, id in enumerate(ids)]
    pieces.append(("var(--muted)", int(counts.sum()) - sum(n for _, n in pieces)))
    width, full, y, drawn = WIDTH / HISTOGRAM_BINS, HEIGHT * share, float(HEIGHT), []
    for colour, n in pieces:
        height = full * n / counts.sum()
        y -= height
        drawn.append(_rectangle(bin * width + 2, y, width - 4, height, colour) if height else "")
    low, high = part["bin_low"].iloc[0], part["bin_high"].iloc[0]
    return f"<g><title>{low:.3g} to {high:.3g}: {counts.sum():,} tokens</title>{''.join(drawn)}</g>"


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x={x:.1f} y={y:.1f} width={width:.1f} height={height:.1f} fill={colour} />"


def _tick(i: int, value: float) -> str:
    anchor = {0: "start", HISTOGRAM_BINS: "end"}.get(i, "middle")
    x = WIDTH * i / HISTOGRAM_BINS
    return f"<text x={x:.0f} y={HEIGHT + FOOT - 4} text-anchor={anchor}>{value:.3g}</text>"


def _legend(frame: pd.DataFrame, ids: list[int]) -> str:
    counts = frame.groupby("token_id")["count"].sum()
    words = frame.drop_duplicates("token_id").set_index("token_id")["token"]
    items = [(f"--t{i}", token(words[id]), counts[id]) for i, id in enumerate(ids)]
    items.append(("--muted", "all others", counts.sum() - counts[ids].sum()))
    drawn = "".join(f"<li><i style='background:var({c})'></i>{word} {number(int(n))}" for c, word, n in items if n)
    return f"<ul class=legend>{drawn}</ul>"


# ---- contexts


def contexts(rows: pd.DataFrame, windows: pd.DataFrame, words: Mapping[int, str], scale: float) -> str:
    """Rows of `contexts` as lines of tokens around the peak; scale: the activation that gets the full colour."""
    return "".join(_context(row, windows.loc[row.window], words, scale) for row in rows.itertuples(index=False))


def _context(row: tuple, window: pd.Series, words: Mapping[int, str], scale: float) -> str:
    ids = np.asarray(window["token_ids"])
    values = dense_values(row, len(ids))
    start, stop = max(0, row.position - AROUND), min(len(ids), row.position + AROUND + 1)
    parts = (
        _shown(words.get(int(ids[i]), f"token {ids[i]}"), values[i], scale, i == row.position)
        for i in range(start, stop)
    )
    source = html.escape(window["source"] or "unknown source")
    side = f"<small><span>{row.activation:.3g}</span><br>{source}</small>"
    return (
        f"<div class=ctx>{side}<div>{'…' if start else ''}{''.join(parts)}{'…' if stop < len(ids) else ''}</div></div>"
    )


def _shown(text: str, value: float, scale: float, peak: bool) -> str:
    end = "\n" if text.endswith("↵") else "<wbr>"
    if not value:
        return html.escape(text) + end
    strength = min(100, round(100 * value / scale))
    kind = " class=peak" if peak else ""
    return f"<b{kind} style=--a:{strength} title='{value:.3g}'>{html.escape(text)}</b>{end}"


# ---- effects


def effects(frame: pd.DataFrame) -> str:
    """The most lowered and the most raised next tokens, side by side; rows of `logit_effects` of one feature."""
    change = frame["mean_change_logprob"]
    largest = float(change.abs().max()) or 1.0
    lowered = frame[change < 0].nsmallest(EFFECTS, "mean_change_logprob")
    raised = frame[change > 0].nlargest(EFFECTS, "mean_change_logprob")
    sides = (("lowered", "Lowered by its removal", lowered), ("raised", "Raised by its removal", raised))
    return f"<div class=sides>{''.join(_side(*side, largest) for side in sides)}</div>"


def _side(kind: str, title: str, rows: pd.DataFrame, largest: float) -> str:
    lines = [
        f"<tr><td>{token(r.token)}<td class=bar><i style='width:{100 * abs(r.mean_change_logprob) / largest:.1f}%'></i>"
        f"<td class=n>{r.mean_change_logprob:+.3f} ± {r.stderr:.3f}<td class=n>{r.direct:+.3f}</tr>"
        for r in rows.itertuples(index=False)
    ]
    shown = table(["next token", "", "nats", "direct, logits"], lines) if lines else "<p class=note>None."
    return f"<div class={kind}><h4>{title}</h4>{shown}</div>"


# ---- tree


def tree(root: Node, links: pd.DataFrame, names: Mapping[Node, str]) -> str:
    """The tree as a nested list, the root first; a feature that stands further up is named but not opened again."""
    by_child = {key: part for key, part in links.groupby(["child_dictionary", "child"])} if len(links) else {}
    return f"<ul class=tree><li>{html.escape(names[root])}{_branches(root, by_child, names, {root})}</ul>"


def _branches(node: Node, by_child: Mapping[Node, pd.DataFrame], names: Mapping[Node, str], seen: set[Node]) -> str:
    found = by_child.get(node)
    if found is None:
        return ""
    items = []
    for link in found.itertuples(index=False):
        parent = (link.parent_dictionary, int(link.parent))
        again = parent in seen
        seen.add(parent)
        below = " (above)" if again else _branches(parent, by_child, names, seen)
        sign = "minus" if link.relative_drop > 0 else "plus"
        drop = f"<span class='drop {sign}'>{link.relative_drop:+.1%}</span> <small>± {link.stderr:.1%}</small> "
        items.append(f"<li>{drop}{html.escape(names[parent])}{below}")
    return f"<ul>{''.join(items)}</ul>"
