"""Chosen features as one HTML file that opens without Python and without network: inline CSS and SVG, no script. Light.

Every text from the run (tokens, labels, sources) is escaped where it becomes HTML, in `report_parts` and here.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sae_core import labels
from sae_core.errors import TableError
from sae_core.interop import report_parts as parts
from sae_core.interop.circuit_tree import Growth, stored_tree
from sae_core.interop.report_style import style_sheet
from sae_core.names import feature_names
from sae_core.schemas import DROP_THRESHOLD
from sae_core.store import RunStore
from sae_core.tree_growth import Node

CONTEXTS = 10
MINIATURE = "This run is a miniature made of generated text: its numbers say nothing about Pythia."
HINT = (
    "Tokens are shown readable: ␣ is a space, ↵ a newline, ⇥ a tab, ‹E2› a byte. The stronger a token's colour, the "
    "nearer its activation to the feature's maximum; the outlined one is the peak. A change is edited minus clean."
)
NUMBERS = {
    "density": "of the tokens active", "n_active": "active tokens", "max_activation": "maximum",
    "mean_active": "mean where active", "entropy": "entropy, bits", "skew": "skew", "kurtosis": "kurtosis",
}  # fmt: skip
FLAGS = ("dead", "dense", "position_only", "outlier_direction")


def report(store: RunStore, roots: Sequence[Node], growth: Growth | None = None) -> str:
    """The whole page for features (dictionary, feature), in the order given.

    Raises TableError where the table `features` is missing; other parts that are missing say so in their place.
    """
    return "".join(report_pieces(store, roots, growth or Growth()))


def report_pieces(store: RunStore, roots: Sequence[Node], growth: Growth) -> Iterator[str]:
    """The page piece by piece, one feature each, so that a long report need not be held in memory."""
    words = dict(store.vocabulary().items())
    title = html.escape(f"Features of {store.manifest.name}")
    yield (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport "
        f"content='width=device-width,initial-scale=1'><title>{title}</title><style>{style_sheet()}</style></head>"
        f"<body><h1>{title}</h1>{_introduction(store)}{_contents(store, roots)}"
    )
    for root in roots:
        yield _Feature(store, root, growth, words).page()
    yield "</body></html>\n"


def _introduction(store: RunStore) -> str:
    spec, model = store.manifest.spec, store.manifest.model
    lines = [store.manifest.description, MINIATURE if store.manifest.miniature else "",
             f"Model {model.get('name') or spec.model.name}; text {spec.corpus}; "
             f"numbers over {spec.table_tokens:,} tokens in contexts of {spec.context}.", HINT]  # fmt: skip
    return "".join(f"<p class=note>{html.escape(line)}</p>" for line in lines if line)


def _contents(store: RunStore, roots: Sequence[Node]) -> str:
    if len(roots) < 2:
        return ""
    names = _names(store, pd.DataFrame(roots, columns=["dictionary", "feature"]))
    items = (f"<li><a href='#{_anchor(root)}'>{html.escape(names[root])}</a>" for root in roots)
    return f"<ol>{''.join(items)}</ol>"


def _title(store: RunStore, root: Node) -> str:
    return f"{store.dictionary(root[0]).spec.site.where.capitalize()}, feature {root[1]}"


def _anchor(root: Node) -> str:
    return html.escape(f"{root[0]}-{root[1]}", quote=True)


@dataclass(frozen=True)
class _Feature:
    """One article."""

    store: RunStore
    root: Node
    growth: Growth
    words: Mapping[int, str]

    def page(self) -> str:
        id, feature = self.root
        row = self.store.read("features", id, key=self.store.check_feature(id, feature)).iloc[0]
        body = [self._header(row), self._numbers(row), self._said()]
        if row["dead"]:
            body.append("<p class=note>Never active on these tokens, so it has no contexts and no effects.")
        else:
            body += [self._section(title, part, row) for title, part in self._parts().items()]
        return f"<article id='{_anchor(self.root)}'>{''.join(body)}</article>"

    def _parts(self) -> dict[str, Callable[[pd.Series], str]]:
        return {
            "When it fires": self._histogram,
            "Its strongest contexts": self._contexts,
            "What it does to the prediction": self._effects,
            "What causes it": self._tree,
        }

    def _section(self, title: str, part: Callable[[pd.Series], str], row: pd.Series) -> str:
        try:
            body = part(row)
        except TableError as error:
            body = f"<p class=note>{html.escape(f'Not here: {error}')}</p>"
        return f"<section><h3>{title}</h3>{body}</section>"

    def _read(self, table: str) -> pd.DataFrame:
        return self.store.read(table, self.root[0], key=self.root[1])

    def _header(self, row: pd.Series) -> str:
        label = labels.labels(self.store, self.root[0], [self.root[1]]).get(self.root[1])
        said = ""
        if label:
            text, source = html.escape(label.text), html.escape(label.source)
            said = f" <span class=label>{text}</span> <span class=badge>{source}</span>"
        flags = "".join(f" <span class=badge>{flag.replace('_', '-')}</span>" for flag in FLAGS if row[flag])
        tokens = " ".join(map(parts.token, row["top_tokens"]))
        title = html.escape(_title(self.store, self.root))
        return f"<h2>{title}{said}{flags}</h2><p><code>{html.escape(self.root[0])}</code> {tokens}</p>"

    def _numbers(self, row: pd.Series) -> str:
        shown = {name: parts.number(row[name]) for name in NUMBERS} | {"density": f"{100 * row['density']:.3g}%"}
        cells = "".join(f"<div><b>{shown[name]}</b><span>{title}</span></div>" for name, title in NUMBERS.items())
        population = f"Over all {self.store.manifest.spec.table_tokens:,} table tokens."
        return f"<div class=numbers>{cells}</div><p class=note>{population}</p>"

    def _said(self) -> str:
        try:
            frame = labels.explanations(self.store, *self.root)
        except TableError as error:
            return f"<p class=note>{html.escape(f'Explanations not here: {error}')}</p>"
        frame = frame[~frame["skipped"].astype(bool)]
        rows = [
            f"<tr><td>{html.escape(r.explanation)}<td>{html.escape(r.explainer)}"
            f"<td class=n>{'' if pd.isna(r.score) else f'{r.score:.2f}'}"
            f"<td>{html.escape(r.scheme.replace('_', ' '))}</tr>"
            for r in frame.itertuples(index=False)
        ]
        return f"<h3>Explanations</h3>{parts.table(['', 'by', 'score', 'fragments'], rows)}" if rows else ""

    def _histogram(self, row: pd.Series) -> str:
        note = f"Active tokens by tenth of the range up to {row['max_activation']:.3g}; bars are on a log scale, the "
        return (
            f"{parts.histogram(self._read('token_histograms'))}<p class=note>{note}parts of a bar are shares of it.</p>"
        )

    def _contexts(self, row: pd.Series) -> str:
        found = self._read("contexts")
        top = found[found["band"] == "top"].sort_values("rank").head(CONTEXTS)
        windows = self.store.read("windows", key=top["window"].tolist()).set_index("window")
        return parts.contexts(top, windows, self.words, float(row["max_activation"]))

    def _effects(self, row: pd.Series) -> str:
        frame = self._read("logit_effects")
        if frame.empty:
            return "<p class=note>Not measured: it has no active position in the drawn windows.</p>"
        first = frame.iloc[0]
        note = (
            f"Mean change of log-probability when the feature is removed, over {first['n_positions']} active positions "
            f"of {first['n_windows']} windows, ± one standard error; direct: what its direction alone would change. "
            f"{self._drops()}"
        )
        return f"{parts.effects(frame)}<p class=note>{note}</p>"

    def _drops(self) -> str:
        try:
            drops = self._read("next_token_drops")
        except TableError:
            return ""
        drops = drops[drops["population"] == "active"]
        if drops.empty:
            return ""
        n, looked_at = int(drops["count"].sum()), int(drops["n_positions"].iloc[0])
        return (
            f"The token that really came next loses more than {DROP_THRESHOLD} nats at {n:,} of {looked_at:,} of them."
        )

    def _tree(self, row: pd.Series) -> str:
        nodes, links = stored_tree(self.store, self.root, self.growth)
        if links.empty:
            return "<p class=note>No parent in the layer before passes the threshold, or none was measured.</p>"
        note = (
            "The share of a feature's activation that goes when the feature below it is removed (± standard error over "
            f"contexts); at most {self.growth.branching} parents each, from {self.growth.threshold:.0%} on."
        )
        return f"{parts.tree(self.root, links, _names(self.store, nodes))}<p class=note>{note}</p>"


def _names(store: RunStore, nodes: pd.DataFrame) -> dict[Node, str]:
    found: dict[Node, str] = {}
    for dictionary, group in nodes.groupby("dictionary"):
        site = store.dictionary(dictionary).spec.site
        names = feature_names(store, dictionary, group["feature"])
        found |= {(dictionary, feature): f"{site.short} {name}" for feature, name in names.items()}
    return found
