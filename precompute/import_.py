"""Dictionaries trained elsewhere, in files of five formats, from a folder or the hub; checked on real activations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from precompute import corpus
from precompute.common import load_model
from precompute.steps import STEPS
from precompute.train import add, made_from
from sae_core.corpus import load_windows
from sae_core.dictionaries import Dictionary, read_metadata, save_dictionary
from sae_core.errors import DictionaryError, SaeError, SpecError
from sae_core.interop import health
from sae_core.interop.files import sha256
from sae_core.interop.foreign import Foreign, input_scaled, site_of, with_threshold
from sae_core.interop.health import Health
from sae_core.interop.sources import Found, Source, fetch, plain
from sae_core.language_model import LanguageModel
from sae_core.metrics import held_out_batches
from sae_core.specs import DictionarySpec
from sae_core.store import DictionaryEntry, RunStore

CONTEXTS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Args(corpus.Args):
    """Import dictionaries into a run, say whether they fit its activations, and make all their tables.

    A run that does not exist yet is started with --model and --corpus, as `corpus` does.
    """

    run: Path
    """folder of the run"""
    sources: Annotated[tuple[str, ...], tyro.conf.arg(name="from")]
    """FORMAT:FOLDER, FORMAT:FILE or FORMAT:HUB_ID[@REVISION][//FOLDER]; FORMAT is saelens, dictionary_learning,
    sparsify, learned_dicts or mlsae"""
    hook: str = ""
    """where they read, such as blocks.3.hook_mlp_out, in place of what their files say"""
    space: Literal["", "raw", "centred"] = ""
    """raw or centred, in place of what their files say"""
    scale: float = 1.0
    """multiply activations by this before they are encoded; folded into the weights"""
    threshold: float = 0.0
    """set codes up to this to 0; for a dictionary whose threshold was lost"""
    use_threshold: bool = False
    """read TopK dictionaries that keep a threshold with it, not with their k"""
    name: str = ""
    """what they are called in their ids, in place of the folder's or the hub's name"""
    only_import: bool = False
    """stop after the health check: no metrics, no tables"""
    health_tokens: int = 4096
    """held-out tokens of the health check"""
    features: str = "all"
    """which get contexts, effects and edges: all; 3,17,40; 0-99; or a filter such as `alive and density<0.01`"""
    model: str = ""
    """to start the run: pythia-70m-deduped and its sisters, a hub id such as EleutherAI/pythia-70m@step143000, or a
    folder"""
    corpus: str = ""
    """to start the run: text:FILES, hub:DATASET[@revision][:split[:column[:config]]] or miniature"""
    train_tokens: int = 0
    """tokens kept beyond those of the tables, to train other dictionaries on later"""


def run(args: Args) -> None:
    """Start the run if need be, import, check, and make the tables. What is there already is left alone."""
    sources = [Source.parse(text) for text in args.sources]
    if not sources:
        raise SpecError("at least one --from FORMAT:PLACE", "none", "For example --from saelens:data/saes")
    store = _prepared(args)
    entries = list(_imports(store, sources, args))
    if not entries:
        raise DictionaryError("a dictionary that can be imported", "none of those named", "See the sentences above")
    if not args.only_import:
        _make_tables(store, args)
    print(_closing(store, entries, args.only_import))


def _closing(store: RunStore, entries: Sequence[DictionaryEntry], only_import: bool) -> str:
    """How many there are, which of them may not fit, and what to do next."""
    n, bad = len(entries), [entry.id for entry in entries if not entry.imported["fits"]]
    warning = f"; {len(bad)} may not fit, as said above: {', '.join(bad)}" if bad else ""
    done = f"done: {n} {'dictionary' if n == 1 else 'dictionaries'} in {store.folder}{warning}"
    if only_import:
        return f"{done}\nmake the tables with the same command without --only-import"
    link = f"http://localhost:8501/browse?run={store.folder.name}&dictionary={entries[0].id}"
    return f"{done}\nopen with  SAE_RUNS={store.folder.parent} make app  at {link}"


# ---- the run


def _prepared(args: Args) -> RunStore:
    """The run, its windows cut. Raises SpecError for a new run without a model and a corpus."""
    exists = (args.run / "manifest.json").exists()
    if not args.model and not args.corpus and exists:
        store = RunStore.open(args.run)
        if STEPS["corpus"].state(store) == "ready":
            return store
    if not args.model or not args.corpus:
        found = f"a run at {args.run} that is not prepared" if exists else f"no run at {args.run}"
        fix = "Name both, for example --model pythia-70m-deduped --corpus text:data/text.jsonl"
        raise SpecError("a run, or --model and --corpus to start one", found, fix)
    settings = corpus.Args(**{f.name: getattr(args, f.name) for f in dataclasses.fields(corpus.Args)})
    store = corpus.start(args.run, settings)
    STEPS["corpus"].run(store, settings)
    return RunStore.open(args.run)


def _make_tables(store: RunStore, args: Args) -> None:
    """All steps after training, with the settings that they share with this command."""
    given = {"device": args.device, "features": args.features, "metric_tokens": store.manifest.spec.metric_tokens}
    for step in list(STEPS.values())[list(STEPS).index("train") + 1 :]:
        names = {f.name for f in dataclasses.fields(step.module.Args)}
        print(f"== {step.name}: {step.makes}", flush=True)
        step.run(store, step.module.Args(**{name: value for name, value in given.items() if name in names}))
        store.reload()


# ---- importing


def _imports(store: RunStore, sources: Sequence[Source], args: Args) -> Iterator[DictionaryEntry]:
    """Import everything; what cannot be had is named and left out, unless nothing else was asked for."""
    model = load_model(store, args.device)
    for source in sources:
        found = fetch(source)
        files = found.files
        for file in files:
            try:
                yield from _import_file(store, model, found, file, args)
            except SaeError as error:
                if len(files) == 1 and len(sources) == 1:
                    raise
                print(f"left out: {error}", flush=True)


def _import_file(
    store: RunStore, model: LanguageModel, found: Found, file: Path, args: Args
) -> Iterator[DictionaryEntry]:
    digest = sha256(file)
    for number, foreign in enumerate(found.load(file)):
        foreign = _as_asked(foreign, args)
        dictionary, notes = _placed(foreign, model, args)
        origin = {
            "from": str(found.source), "file": f"{found.place_of(file)}/{file.name}".removeprefix("./"),
            "entry": number, "sha256": digest, "revision": found.commit,
        }  # fmt: skip
        spec = _spec(store, dictionary, foreign, plain(args.name) or found.name_of(file), found.source.format, origin)
        dictionary = replace(dictionary, spec=spec)
        old = next((entry for entry in store.dictionaries if entry.id == spec.id), None)
        if old is not None and old.hash == dictionary.hash and _complete(store, old):
            print(f"{old.id}: already there; {old.imported['verdict']}", flush=True)
            yield old
        else:
            yield _taken_in(store, model, dictionary, foreign, origin, notes, args.health_tokens)


def _as_asked(found: Foreign, args: Args) -> Foreign:
    if args.use_threshold and found.stored_threshold is not None:
        found = with_threshold(found, found.stored_threshold, "read with its threshold, not with its k")
    if args.threshold:
        found = with_threshold(found, args.threshold, f"threshold {args.threshold:g} given at import")
    return input_scaled(found, args.scale, f"scale {args.scale:g} given at import") if args.scale != 1 else found


def _placed(found: Foreign, model: LanguageModel, args: Args) -> tuple[Dictionary, list[str]]:
    """The dictionary at its site. Raises a typed error where the model has no such place or another width."""
    hook = args.hook or found.hook
    if not hook:
        wanted = f"a hook in the files or the name of {found.file}"
        raise DictionaryError(wanted, "none", "Name it: --hook blocks.3.hook_resid_post")
    site, note = site_of(hook, args.space or found.space, model.parts.positions is not None)
    model.check_edit(site)
    dictionary = found.dictionary(site)
    if dictionary.width != model.width(site):
        wanted = f"a dictionary of width {model.width(site)} for {site.hook} of {model.name}"
        raise DictionaryError(wanted, f"width {dictionary.width} in {found.file}", "Use one trained on this model")
    return dictionary.to(model.device), [note] if note else []


def _spec(
    store: RunStore, dictionary: Dictionary, found: Foreign, name: str, kind: str, origin: dict[str, Any]
) -> DictionarySpec:
    """Named after its source; numbered where another dictionary of the run has the name."""
    ratio = dictionary.n_features / dictionary.width
    first = DictionarySpec(dictionary.site, kind, ratio, found.alpha, found.k, name)
    taken = {e.id: e for e in store.dictionaries}
    for number in range(1, len(taken) + 2):
        spec = first if number == 1 else replace(first, variant=f"{name}_{number}")
        if spec.id not in taken or _same(taken[spec.id], origin):
            return spec
    raise AssertionError("more names than dictionaries")


def _same(entry: DictionaryEntry, origin: dict[str, Any]) -> bool:
    """Whether an entry came from the same place; its weights may be others by now."""
    return all(entry.imported.get(key) == origin[key] for key in ("from", "file", "entry"))


def _taken_in(
    store: RunStore,
    model: LanguageModel,
    dictionary: Dictionary,
    found: Foreign,
    origin: dict[str, Any],
    notes: list[str],
    health_tokens: int,
) -> DictionaryEntry:
    """Check, save and list a dictionary."""
    facts = found.facts()
    notes = [*facts["notes"], *notes, *_other_model(store, found.model_name)]
    checked = health.check(model, dictionary, _held_out(store, model, health_tokens), found.expected_k)
    print(table(dictionary, checked, notes), flush=True)
    metadata = {"imported": {**origin, **facts, "notes": notes}, "health": checked.to_dict()}
    _save(store, dictionary, metadata, found.settings)
    short = {**origin, "fits": checked.fits, "verdict": checked.verdict}
    entry = DictionaryEntry(dictionary.spec.id, dictionary.spec, dictionary.n_features, dictionary.hash, imported=short)
    add(store, [entry])
    return entry


def _complete(store: RunStore, entry: DictionaryEntry) -> bool:
    try:
        return read_metadata(store.dictionary_folder(entry.id)).get("hash") == entry.hash
    except DictionaryError:
        return False


def _save(store: RunStore, dictionary: Dictionary, metadata: dict[str, Any], settings: dict[str, Any]) -> None:
    general = {
        "model_name": store.manifest.model.get("name", store.manifest.spec.model.name),
        "dataset_path": settings.get("dataset_path"),
        "context_size": settings.get("context_size"),
    }
    metadata = json.loads(json.dumps({**metadata, **made_from(store), **general}, default=str))
    save_dictionary(dictionary, store.dictionary_folder(dictionary.spec.id), metadata)


def _other_model(store: RunStore, named: str) -> list[str]:
    """A sentence if the files name another model than the run's."""
    own = str(store.manifest.model.get("name", ""))
    same = named.rsplit("/", 1)[-1].lower() == own.rsplit("/", 1)[-1].lower()
    return [] if same or not named else [f"its files name the model {named}; this run's is {own}"]


def _held_out(store: RunStore, model: LanguageModel, n: int) -> list[torch.Tensor]:
    tokens = load_windows(store.folder, "held_out").tokens
    return list(held_out_batches(tokens, n, model.d_vocab, CONTEXTS_AT_ONCE, model.device))


# ---- what is printed


def table(dictionary: Dictionary, found: Health, notes: Iterable[str]) -> str:
    """The health check of one dictionary as lines of text."""
    lines = [f"{dictionary.spec.id}: {dictionary.n_features:,} features, {dictionary.architecture}"]
    lines += [f"  {'':2}{'hook':28} {'space':8} {'FVU':>8} {'L0':>9} {'CE recovered':>13}"]
    for r in found.readings:
        mark = "> " if r.named else "  "
        lines.append(f"  {mark}{r.hook:28} {r.space:8} {r.fvu:8.3f} {r.l0:9.1f} {r.ce_recovered:13.1%}")
    lines += [f"  note: {note}" for note in notes]
    return "\n".join([*lines, f"  {'verdict' if found.fits else 'WARNING'}: {found.verdict}"])
