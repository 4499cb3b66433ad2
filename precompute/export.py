"""Write what a run holds in other projects' formats: SAELens, Neuronpedia, circuit graphs, CSV, Parquet, HTML."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from precompute import export_dictionaries
from sae_core import feature_selection
from sae_core.errors import InputError
from sae_core.interop import circuit_graph, neuronpedia
from sae_core.interop.circuit_tree import Growth, has_parents, stored_tree
from sae_core.interop.export_tables import table_blocks, write_file
from sae_core.interop.report_html import report_pieces
from sae_core.schemas import TABLES
from sae_core.store import DictionaryEntry, RunStore, atomic
from sae_core.tree_growth import Node

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Export dictionaries, features, trees or tables of a run. The run itself is never changed."""

    run: Path
    """the run folder"""
    to: str
    """FORMAT:PATH with saelens (folder), neuronpedia (folder), circuit (folder), csv or parquet (file, or folder for
    several tables), html (file)"""
    dictionary: tuple[str, ...] = ()
    """dictionary ids; left out: all main ones"""
    features: str = ALL
    """which features: all, 3,17,40-99, or a filter such as 'alive and density<1%'; circuit and html need some named"""
    tables: tuple[str, ...] = ("features",)
    """csv and parquet: tables, or all"""
    losses: bool = True
    """neuronpedia: load the model for lossValues, logitContributions and the tokens that directions write"""
    creator: str = neuronpedia.SET
    """neuronpedia: who is named as the creator"""
    creator_id: str = neuronpedia.DEFAULT_CREATOR
    """neuronpedia: id of a user there; this one is the default of its own converter"""
    depth: int = 3
    """circuit and html: layers that a tree goes back"""
    branching: int = 3
    """circuit and html: parents a node"""
    threshold: float = 0.05
    """circuit and html: smallest relative drop of an edge"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""

    @property
    def growth(self) -> Growth:
        return Growth(self.depth, self.branching, self.threshold)


def run(args: Args) -> None:
    """Export. Raises InputError for an unknown format or a target that is in use, and what reading raises."""
    format, _, path = args.to.partition(":")
    if format not in EXPORTS or not path:
        raise InputError(f"--to FORMAT:PATH with a format out of {', '.join(EXPORTS)}", repr(args.to), "Name one")
    store = RunStore.open(args.run)
    entries = [store.dictionary(id) for id in args.dictionary] or list(store.main_dictionaries)
    if not entries:
        raise InputError("a run with dictionaries", f"none in {args.run}", "Train some, or name one by --dictionary")
    EXPORTS[format](store, entries, Path(path), args)


# ---- tables


def tables(store: RunStore, entries: Sequence[DictionaryEntry], path: Path, args: Args) -> None:
    """One file for one table of one dictionary; otherwise a folder with TABLE/DICTIONARY.csv."""
    format, selection = args.to.partition(":")[0], feature_selection.parse(args.features)
    wanted = list(_wanted_tables(store, entries, args.tables))
    folder = path.suffix != f".{format}"
    if not folder and len(wanted) > 1:
        expected = f"a folder for {len(wanted)} tables"
        raise InputError(expected, f"the file {path.name}", "Name a folder, or one --dictionary and one of --tables")
    for table, id in wanted:
        target = path / table / f"{id or table}.{format}" if folder else path
        features = None if args.features == ALL else selection.of(store, id) if id else None
        n = write_file(target, table_blocks(store, table, id, features), TABLES[table].arrow)
        print(f"{target}: {n:,} rows")


def _wanted_tables(
    store: RunStore, entries: Sequence[DictionaryEntry], names: Sequence[str]
) -> Iterator[tuple[str, str | None]]:
    """Table and dictionary (None: run-wide). A table asked for by name must be there; `all` are those that are."""
    unknown = [name for name in names if name not in (*TABLES, ALL)]
    if unknown:
        raise InputError(f"tables out of {', '.join(TABLES)}, or all", ", ".join(unknown), "Choose some of these")
    for name in TABLES if ALL in names else names:
        for id in [entry.id for entry in entries] if TABLES[name].per_dictionary else [None]:
            if ALL not in names or store.table_state(name, id) == "ready":
                yield name, id


# ---- chosen features: graphs and a report


def roots(store: RunStore, entries: Sequence[DictionaryEntry], args: Args) -> list[Node]:
    """The features asked for. Raises InputError unless they are named, for one dictionary or for several."""
    if args.features == ALL:
        example = "For example --dictionary ID --features 3,17 or --features 'alive and density<0.1%'"
        raise InputError("--features for this format", "none", example)
    if len(entries) > 1 and not args.dictionary:
        raise InputError("--dictionary for this format", "none", f"Choose among {', '.join(e.id for e in entries)}")
    selection = feature_selection.parse(args.features)
    found = [(entry.id, int(f)) for entry in entries for f in selection.of(store, entry.id)]
    if not found:
        raise InputError("features that pass the filter", f"none for {args.features!r}", "Loosen it")
    return found


def circuit(store: RunStore, entries: Sequence[DictionaryEntry], path: Path, args: Args) -> None:
    """SLUG.json for the tree of each feature, and graph-metadata.json, which lists them for circuit-tracer's server."""
    without = [entry.id for entry in entries if not has_parents(store, entry)]
    if without and args.dictionary:
        fix = "Choose the headline dictionary of a layer that has one below it"
        raise InputError("dictionaries between which edges are measured", ", ".join(without), fix)
    listed, bare = [], 0
    for root in roots(store, [e for e in entries if e.id not in without], args):
        nodes, links = stored_tree(store, root, args.growth)
        if links.empty:
            bare += 1
            continue
        found = circuit_graph.graph(store, root, nodes, links, args.growth)
        _write_json(path / f"{found['metadata']['slug']}.json", found)
        listed.append(found["metadata"])
    if listed:
        _write_json(path / "graph-metadata.json", {"graphs": listed})
    print(f"{path}: {len(listed):,} graphs; {bare:,} features have no parent above the threshold and got none")


def _write_json(path: Path, values: dict) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def report(store: RunStore, entries: Sequence[DictionaryEntry], path: Path, args: Args) -> None:
    """One HTML file, written feature by feature."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError("a file that ends in .html", repr(path.name), "Name it so")
    chosen = roots(store, entries, args)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for piece in report_pieces(store, chosen, args.growth):
            file.write(piece)
    print(f"{path}: {len(chosen):,} features, {path.stat().st_size / 1e6:.2f} MB")


# ---- dictionaries


def saelens(store: RunStore, entries: Sequence[DictionaryEntry], path: Path, args: Args) -> None:
    """PATH is the SAELens folder of the one dictionary named; of several, PATH/ID."""
    for entry in entries:
        target = path if len(entries) == 1 else path / entry.id
        export_dictionaries.saelens(store, entry, target)
        print(f"{target}: {entry.id}")


def to_neuronpedia(store: RunStore, entries: Sequence[DictionaryEntry], path: Path, args: Args) -> None:
    """PATH/MODEL/SOURCE for each dictionary."""
    selection = feature_selection.parse(args.features)
    settings = export_dictionaries.Settings(args.creator, args.creator_id, args.losses, args.device)
    for entry in entries:
        export_dictionaries.neuronpedia(store, entry, selection, path, settings)


EXPORTS: dict[str, Callable[[RunStore, Sequence[DictionaryEntry], Path, Args], None]] = {
    "saelens": saelens,
    "neuronpedia": to_neuronpedia,
    "circuit": circuit,
    "csv": tables,
    "parquet": tables,
    "html": report,
}
