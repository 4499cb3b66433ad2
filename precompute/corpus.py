"""Step `corpus`: a model and text -> the run's manifest, its token windows and the readable vocabulary."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from precompute.common import load_model
from precompute.text_sources import documents_of
from sae_core.corpus import SPLITS, load_windows, tokenise_to
from sae_core.documents import hub_commit
from sae_core.errors import CorpusError, ModelError, RunError, SpecError
from sae_core.language_model import LanguageModel
from sae_core.specs import CorpusSpec, ModelSpec, RunSpec
from sae_core.store import Manifest, RunStore, storage_errors

COUNT_AT_ONCE = 2**20
MODEL_FILES = ("*.json", "*.safetensors", "*.txt")


@dataclass(frozen=True)
class Args:
    """Cut a corpus into token windows for a model; starts the run if it does not exist."""

    model: str
    """pythia-70m-deduped and its sisters, a hub id such as EleutherAI/pythia-70m@step143000, or a folder"""
    corpus: str
    """text:FILES, hub:DATASET[@revision][:split[:column[:config]]] or miniature"""
    revision: str | None = None
    """branch, tag or commit of a hub model, as after the @"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the model's weights; auto: float32, or bfloat16 on a GPU too small for that; a run keeps what it began with"""
    tokens: int = 2_000_000
    """tokens for the tables"""
    train_tokens: int = 4_000_000
    """tokens to train dictionaries on; the split holds the larger of the two"""
    metric_tokens: int = 200_000
    """held-out tokens for the metrics"""
    context: int = 256
    """tokens a context"""
    window: int = 64
    """tokens a window"""
    end_of_text: Literal["after", "none"] = "after"
    """the end-of-text token after each document, or none"""
    skip_first: bool = False
    """position 0 of each context is read by the model and counted nowhere: its activations are often outliers"""
    seed: int = 0
    """of every draw, and of the miniature's text"""
    ship_model: bool = False
    """copy the model's folder into the run, so that the run works wherever it is moved"""
    description: str = ""
    """a sentence about the run, shown in the dashboard"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""


def run_spec(args: Args) -> RunSpec:
    """What decides the run's tables. A shipped model goes by its folder's name, so no path of this machine is kept."""
    model = ModelSpec.parse(args.model, args.revision, args.dtype)
    return RunSpec(
        replace(model, name=Path(args.model).resolve().name) if args.ship_model else model,
        CorpusSpec.parse(args.corpus),
        args.tokens,
        args.metric_tokens,
        args.context,
        args.window,
        args.seed,
        args.end_of_text,
        args.skip_first,
    )


def start(run: Path, args: Args) -> RunStore:
    """Open the run, or create it. Raises RunError if it exists with other settings."""
    spec = run_spec(args)
    if not (run / "manifest.json").exists():
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        miniature = spec.corpus.kind == "miniature"
        return RunStore.create(run, Manifest(run.name, spec, created, args.description, miniature))
    store = RunStore.open(run)
    if args.dtype == "auto":
        spec = replace(spec, model=replace(spec.model, dtype=store.manifest.spec.model.dtype))
    old, new = store.manifest.spec.to_dict(), spec.to_dict()
    if old != new:
        changed = ", ".join(f"{key} {new[key]!r} instead of {old[key]!r}" for key in old if old[key] != new[key])
        raise RunError(f"the settings that {run} was made with", changed, "Repeat them, or choose another --run folder")
    return store


def run(store: RunStore, args: Args) -> None:
    """Write what is missing: the copied model, the windows, the facts in the manifest, the vocabulary."""
    asked = {"train": max(args.tokens, args.train_tokens), "held_out": args.metric_tokens}
    if state(store) == "ready" and store.manifest.corpus["asked"] == asked:
        return
    if args.ship_model:
        _ship(Path(args.model), store.folder / "model")
    model = load_model(store, args.device)
    if args.context > model.n_ctx:
        raise SpecError(f"contexts of at most {model.n_ctx} tokens for {model.name}", str(args.context), "Shorten them")
    if state(store) == "missing" or store.manifest.corpus["asked"] != asked or not _same_model(store, model):
        commit = store.manifest.corpus.get("commit") or hub_commit(store.manifest.spec.corpus)
        facts = _write_windows(store, model, commit, asked)
        facts["factors"] = sorted(facts["factors"]["train"])  # their values stay in corpus/corpus.json
        facts |= {"asked": asked} | ({"commit": commit} if commit else {})
        store.update_manifest(model=model_facts(store, model), corpus=facts)
    store.write_table("vocabulary", vocabulary_frame(store, model))


def state(store: RunStore) -> str:
    """`missing`, `partial` (windows but no vocabulary), `stale` (vocabulary of other windows) or `ready`."""
    if "asked" not in store.manifest.corpus:
        return "missing"
    try:
        hashes = {load_windows(store.folder, split).hash for split in SPLITS}
    except CorpusError:
        return "missing"
    if hashes != {store.manifest.corpus["hash"]}:
        return "missing"
    return {"missing": "partial"}.get(table := store.table_state("vocabulary"), table)


def model_facts(store: RunStore, model: LanguageModel) -> dict[str, Any]:
    """The manifest's `model`: its form and sizes, the hash of the weights, and how it was loaded.

    `commit` is the one that the revision of a hub model named; later steps load exactly that.
    """
    shipped = (store.folder / "model" / "config.json").exists()
    sizes = {n: getattr(model, n) for n in ("d_model", "d_mlp", "n_layers", "n_heads", "n_ctx", "d_vocab", "n_tokens")}
    loaded = {"dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type}
    spec = store.manifest.spec.model
    origin = {"revision": spec.revision, "commit": model.commit}
    return {
        "name": Path(spec.name).name if shipped else spec.name,
        **{key: value for key, value in origin.items() if value},
        "architecture": model.config.model_type,
        **sizes,
        **loaded,
        "hash": model.hash,
        "shipped": shipped,
    }


def vocabulary_frame(store: RunStore, model: LanguageModel) -> pd.DataFrame:
    """Every token readable, with its count among the table tokens (the first `table_tokens` of the training split)."""
    counts = np.zeros(model.n_tokens, np.int64)
    for tokens in _table_tokens(store):
        counts += np.bincount(tokens.reshape(-1), minlength=model.n_tokens)
    return pd.DataFrame({"token_id": np.arange(model.n_tokens), "token": model.token_strings(), "count": counts})


def _table_tokens(store: RunStore) -> Iterator[np.ndarray]:
    spec = store.manifest.spec
    contexts = load_windows(store.folder, "train").tokens[: max(1, spec.table_tokens // spec.context)]
    for first in range(0, len(contexts), COUNT_AT_ONCE // spec.context):
        yield contexts[first : first + COUNT_AT_ONCE // spec.context, spec.first :]


def _same_model(store: RunStore, model: LanguageModel) -> bool:
    return store.manifest.model.get("hash") == model.hash


def _write_windows(store: RunStore, model: LanguageModel, commit: str, asked: dict[str, int]) -> dict[str, Any]:
    spec = store.manifest.spec
    corpus = replace(spec.corpus, revision=commit or spec.corpus.revision)
    return tokenise_to(
        store.folder / "corpus",
        documents_of(corpus, spec.seed),
        model.tokenizer,
        train_tokens=asked["train"],
        held_out_tokens=asked["held_out"],
        context=spec.context,
        window=spec.window,
        end_of_text=spec.end_of_text == "after",
    )


def _ship(source: Path, target: Path) -> None:
    """Copy a model folder's configuration, weights and tokenizer; done when config.json, copied last, is there."""
    if (target / "config.json").exists():
        return
    if not (source / "config.json").is_file():
        found = "no config.json there" if source.is_dir() else "no such folder"
        raise ModelError(f"a model folder to copy at {source}", found, "Give a folder with --model to use --ship-model")
    patterns = MODEL_FILES if any(source.glob("*.safetensors")) else (*MODEL_FILES, "pytorch_model*.bin")
    files = sorted({f for pattern in patterns for f in source.glob(pattern)}, key=lambda f: f.name == "config.json")
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, target / file.name)
