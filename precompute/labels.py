"""Import labels for features from Neuronpedia or feature-circuits; they are shown with their source beside your own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sae_core.dictionaries import read_metadata
from sae_core.errors import DictionaryError, InputError
from sae_core.imported_labels import LONGEST_TEXT, ImportedLabel, ImportedLabels
from sae_core.interop.labels_files import FORMATS, FileLabel, Problem, at, place_of, read_labels
from sae_core.interop.neuronpedia import model_id, source_id
from sae_core.specs import Site
from sae_core.store import DictionaryEntry, RunStore

PROBLEMS_SHOWN = 20
LABELS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class Args:
    """Keep labels of other projects with a run. Reading a file again changes nothing."""

    run: Path
    """the run folder"""
    source: Annotated[str, tyro.conf.arg(name="from")] = ""
    """FORMAT:FILE with neuronpedia (explanations, .jsonl or .jsonl.gz) or feature-circuits (annotations, .jsonl)"""
    dictionary: str | None = None
    """dictionary that gets the labels; by its layer and site if the file holds several"""
    map: tuple[str, ...] = ()
    """SOURCE=DICTIONARY for each source of the file whose dictionary cannot be guessed, such as 3-res-sm=ID"""
    forget: str = ""
    """remove all labels of a format from the run: neuronpedia or feature-circuits"""


def run(args: Args) -> None:
    """Import, and say what was kept and what was not. Raises InputError for arguments that do not fit."""
    store = RunStore.open(args.run)
    if args.forget:
        return _forget(store, args.forget)
    format, _, file = args.source.partition(":")
    if not file:
        raise InputError(f"--from FORMAT:FILE with a format out of {', '.join(FORMATS)}", repr(args.source), "Name it")
    if args.dictionary and args.map:
        raise InputError("--dictionary or --map", "both", "Leave one out")
    report = Import(store, format, Chooser(store, format, args.dictionary, mapped(store, args.map)))
    report.read(Path(file))
    report.show()


def _forget(store: RunStore, format: str) -> None:
    if format not in FORMATS:
        raise InputError(f"a format out of {', '.join(FORMATS)}", repr(format), "Choose one")
    print(f"{ImportedLabels(store).forget(format):,} labels of {format} removed")


def mapped(store: RunStore, pairs: Iterable[str]) -> dict[str, DictionaryEntry]:
    """`3-res-sm=ID` as a dictionary by source. Raises InputError or DictionaryError for anything else."""
    found = {}
    for pair in pairs:
        source, _, id = pair.partition("=")
        if not source or not id:
            raise InputError("--map SOURCE=DICTIONARY", repr(pair), "For example --map 3-res-sm=L3-resid_post-tied-r4")
        found[source] = store.dictionary(id)
    return found


class Chooser:
    """Which dictionary of the run a source of the file is, and how that is known; guesses are made once a source."""

    def __init__(
        self, store: RunStore, format: str, dictionary: str | None, mapped: dict[str, DictionaryEntry]
    ) -> None:
        self.format, self.mapped, self.model = format, mapped, model_id(store)
        self.named = store.dictionary(dictionary) if dictionary else None
        self.entries = [entry for entry in store.dictionaries if entry.role != "grid"]
        self.ids = {} if mapped or self.named else {_neuronpedia_id(store, e): e for e in self.entries}
        self.chosen: dict[tuple[str, str], tuple[DictionaryEntry | None, str]] = {}

    def __call__(self, label: FileLabel) -> tuple[DictionaryEntry | None, str]:
        """The entry, or None, and a sentence on why."""
        key = (label.model, label.source)
        if key not in self.chosen:
            self.chosen[key] = self._choose(label)
        return self.chosen[key]

    def _choose(self, label: FileLabel) -> tuple[DictionaryEntry | None, str]:
        if self.mapped:
            found = self.mapped.get(label.source)
            return found, "as --map says" if found else "not in --map"
        place = place_of(self.format, label.source)
        if self.named:
            fits = place is None or place == at(self.named.spec.site)
            return (self.named, "as --dictionary says") if fits else (None, f"not the place of {self.named.id}")
        own = self.ids.get(f"{label.model}/{label.source}") or self.ids.get(label.source)
        return (own, "by its name on Neuronpedia") if own else self._by_place(place, label.model)

    def _by_place(self, place: tuple[int, str] | None, model: str) -> tuple[DictionaryEntry | None, str]:
        if place is None:
            return None, "its name says no layer and site: name its dictionary with --map"
        here = [entry for entry in self.entries if at(entry.spec.site) == place]
        chosen = here if len(here) == 1 else [entry for entry in here if entry.headline]
        if len(chosen) == 1:
            other = (
                f" (the file is about {model}, this run about {self.model})" if model not in ("", self.model) else ""
            )
            return chosen[0], f"by layer and site only{other}: make sure that it is the same dictionary"
        what = f"{len(here)} dictionaries" if here else "no dictionary"
        return None, f"{what} at {Site(*place).words}: name its dictionary with --map"


def _neuronpedia_id(store: RunStore, entry: DictionaryEntry) -> str:
    """What a dictionary's own files say it is called there; else what our export calls it."""
    try:
        known = read_metadata(store.dictionary_folder(entry.id)).get("neuronpedia_id")
    except DictionaryError:
        known = None
    return known if isinstance(known, str) and known else f"{model_id(store)}/{source_id(entry)}"


class Import:
    """Labels on their way into the run, and what is to be said about them."""

    def __init__(self, store: RunStore, format: str, choose: Chooser) -> None:
        self.store, self.format, self.choose = store, format, choose
        self.waiting: dict[str, list[ImportedLabel]] = defaultdict(list)
        self.read_, self.new, self.outside, self.left_out = Counter(), Counter(), Counter(), Counter()
        self.problems: list[Problem] = []
        self.n_problems = 0

    def read(self, file: Path) -> None:
        """Read the whole file; memory does not grow with it."""
        for found in read_labels(self.format, file):
            if isinstance(found, Problem):
                self._note(found.line, found.why)
            else:
                self._take(found)
        self._write()

    def _take(self, label: FileLabel) -> None:
        entry, _ = self.choose(label)
        if entry is None:
            self.left_out[label.source] += 1
        elif label.feature >= entry.n_features:
            self.outside[entry.id] += 1
            self._note(label.line, f"feature {label.feature}, but {entry.id} has 0 to {entry.n_features - 1}")
        else:
            text, note = label.text[:LONGEST_TEXT], label.note[:LONGEST_TEXT]
            self.waiting[entry.id].append(ImportedLabel(label.feature, self.format, label.source, text, note))
            self.read_[entry.id] += 1
            if sum(map(len, self.waiting.values())) >= LABELS_AT_ONCE:
                self._write()

    def _note(self, line: int, why: str) -> None:
        self.n_problems += 1
        if len(self.problems) < PROBLEMS_SHOWN:
            self.problems.append(Problem(line, why))

    def _write(self) -> None:
        for id, labels in self.waiting.items():
            self.new[id] += ImportedLabels(self.store).add(id, labels)
        self.waiting.clear()

    def show(self) -> None:
        """Print what came in, what did not, and why."""
        for (_, source), (entry, why) in self.choose.chosen.items():
            target = entry.id if entry else f"left out ({self.left_out[source]:,} labels)"
            print(f"{source}: {target}, {why}")
        for id, n in self.read_.items():
            print(f"{id}: {n:,} labels read, {self.new[id]:,} new; {self.outside[id]:,} outside of its features")
        for problem in self.problems:
            print(f"line {problem.line}: {problem.why}")
        if self.n_problems > len(self.problems):
            print(f"... and {self.n_problems - len(self.problems):,} lines more that were left out")
        if not self.read_:
            print("no label was imported")
