"""Text -> fixed-length token windows on disk.

Documents are split by a stable hash into training and held-out ones, tokenised in blocks, each followed by the
end-of-text token (unless that is switched off), joined, and cut into contexts of equal length. Memory stays flat
however long the corpus.

    corpus/corpus.json                  facts: sizes, sources, factors, hash
    corpus/SPLIT.tokens.bin             token ids [n, context], uint16 or uint32
    corpus/SPLIT.documents.npy          document of each window's first token [n, context // window]
    corpus/SPLIT.sources.npy, .json     source of each document, as a number and as a name
    corpus/SPLIT.labels.npz             known factors as value numbers [n, context] each; only where there are any

Window w of a split is quarter w % 4 of context w // 4 (with 64 and 256 tokens).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from sae_core.documents import Labels, TextDocument, is_held_out
from sae_core.errors import CorpusError
from sae_core.store import storage_errors

SPLITS = ("train", "held_out")
BLOCK_DOCUMENTS = 64
BLOCK_CHARS = 1_000_000
LISTED_SOURCES = 50
COPIED_AT_ONCE = 2**20

# ---- writing windows


def tokenise_to(
    folder: Path,
    documents: Iterable[TextDocument],
    tokenizer: Any,
    *,
    train_tokens: int,
    held_out_tokens: int,
    context: int,
    window: int,
    end_of_text: bool = True,
) -> dict[str, Any]:
    """Write both splits, at most that many tokens each, and return the facts (also in corpus.json).

    The folder is replaced as a whole when all is written. Reads no further into `documents` than needed.
    `tokenizer` is a fast Hugging Face tokenizer with an end-of-text token, which ends each document if `end_of_text`.
    Raises CorpusError if a split does not fill one context, StorageError if the disk is full.
    """
    started = time.perf_counter()
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    wanted = {"train": train_tokens, "held_out": held_out_tokens}
    with storage_errors(folder), ExitStack() as stack:
        temporary.mkdir(parents=True)
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        end = [tokenizer.eos_token_id] if end_of_text else []
        dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        splits = {name: _SplitWriter(temporary, name, dtype, n, context, window, stack) for name, n in wanted.items()}
        with tqdm(desc="tokens", total=sum(s.limit for s in splits.values()), unit="tok", dynamic_ncols=True) as bar:
            for block in _blocks(_needed(documents, splits)):
                bar.update(sum(_write_block(block, tokenizer, splits, end)))
        facts = _facts(splits, context, window, dtype) | {"seconds": round(time.perf_counter() - started, 1)}
        (temporary / "corpus.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    return facts


def _needed(documents: Iterable[TextDocument], splits: dict[str, _SplitWriter]) -> Iterator[tuple[str, TextDocument]]:
    """Documents with their split, leaving out those of a full split, until both are full."""
    for document in documents:
        name = "held_out" if is_held_out(document.text) else "train"
        if not splits[name].full:
            yield name, document
        if all(split.full for split in splits.values()):
            return


def _blocks(documents: Iterable[tuple[str, TextDocument]]) -> Iterator[list[tuple[str, TextDocument]]]:
    block, chars = [], 0
    for item in documents:
        block.append(item)
        chars += len(item[1].text)
        if len(block) == BLOCK_DOCUMENTS or chars > BLOCK_CHARS:
            yield block
            block, chars = [], 0
    if block:
        yield block


def _write_block(block: list, tokenizer: Any, splits: dict[str, _SplitWriter], end: list[int]) -> Iterator[int]:
    texts = [document.text for _, document in block]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    for (name, document), encoding in zip(block, encodings, strict=True):
        labels = document.labels(encoding.offsets) if document.labels else {}
        yield splits[name].add([*encoding.ids, *end], document.source, labels)


class _SplitWriter:
    """One split on its way to disk, in raw files; in memory are the names of its sources and factors alone."""

    def __init__(
        self, folder: Path, name: str, dtype: type, limit: int, context: int, window: int, stack: ExitStack
    ) -> None:
        self.folder, self.name, self.dtype = folder, name, np.dtype(dtype)
        self.limit, self.context, self.window = limit // context * context, context, window
        self.stack = stack  # closes what is open, whatever happens
        self.files: dict[str, IO[bytes]] = {}
        self.n = self.n_documents = 0
        self.sources: dict[str, int] = {}
        self.documents_of: Counter[str] = Counter()
        self.values: dict[str, dict[str, int]] = {}
        self.digest = hashlib.sha256()

    @property
    def full(self) -> bool:
        return self.n >= self.limit

    def add(self, ids: list[int], source: str, labels: Labels) -> int:
        """Append one document as far as it fits; the number of tokens written."""
        ids = ids[: self.limit - self.n]
        if not ids:
            return 0
        if self.n and labels.keys() != self.values.keys():
            found = f"{sorted(labels.keys() ^ self.values.keys())} in some only"
            raise CorpusError("the same factors in every document", found, "Label all documents or none")
        self._add_document(source, len(ids))
        raw = np.asarray(ids, self.dtype).tobytes()
        self.digest.update(raw)
        self._append("tokens.bin", raw)
        for factor, tokens in labels.items():
            known = self.values.setdefault(factor, {"": 0})
            # The end-of-text token has no label; a document cut short keeps the labels of what is left.
            numbers = [known.setdefault(value, len(known)) for value in [*tokens, ""][: len(ids)]]
            self._append(f"{factor}.bin", _as_bytes(numbers, factor))
        self.n += len(ids)
        return len(ids)

    def _add_document(self, source: str, n_tokens: int) -> None:
        """Its source, and itself for each window whose first token it holds."""
        self.documents_of[source] += 1
        self._append("sources.bin", np.int32(self.sources.setdefault(source, len(self.sources))).tobytes())
        first, stop = (-(-n // self.window) for n in (self.n, self.n + n_tokens))
        self._append("documents.bin", np.full(stop - first, self.n_documents, np.int32).tobytes())
        self.n_documents += 1

    def _append(self, kind: str, raw: bytes) -> None:
        if kind not in self.files:
            self.files[kind] = self.stack.enter_context(self._path(kind).open("wb"))
        self.files[kind].write(raw)

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{kind}"

    def finish(self) -> int:
        """Cut to whole contexts and write what describes them; the number of tokens kept."""
        kept = self.n // self.context * self.context
        if kept == 0:
            found = f"{self.n} tokens in the {self.name.replace('_', '-')} split"
            fix = "Use a longer corpus"
            raise CorpusError(f"at least one context of {self.context} tokens in each split", found, fix)
        self.files["tokens.bin"].truncate(kept * self.dtype.itemsize)
        for file in self.files.values():
            file.close()
        with self._path("documents.npy").open("wb") as file:
            self._move("documents.bin", file, np.int32, (kept // self.context, self.context // self.window))
        with self._path("sources.npy").open("wb") as file:
            self._move("sources.bin", file, np.int32, (self.n_documents,))
        self._path("sources.json").write_text(json.dumps(list(self.sources), ensure_ascii=False), encoding="utf-8")
        if self.values:
            self._compress_labels((kept // self.context, self.context))
        return kept

    def _compress_labels(self, shape: tuple[int, int]) -> None:
        """One file as numpy's savez_compressed writes it, which would map each factor into memory as a whole."""
        with zipfile.ZipFile(self._path("labels.npz"), "w", zipfile.ZIP_DEFLATED) as members:
            for factor in self.values:
                with members.open(f"{factor}.npy", "w", force_zip64=True) as file:
                    self._move(f"{factor}.bin", file, np.uint8, shape)

    def _move(self, kind: str, target: IO[bytes], dtype: type, shape: tuple[int, ...]) -> None:
        """The first numbers of a raw file as an .npy file of that shape; the raw file goes."""
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(target, header)
        left = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._path(kind).open("rb") as file:
            while left and (part := file.read(min(left, COPIED_AT_ONCE))):
                target.write(part)
                left -= len(part)
        self._path(kind).unlink()


def _as_bytes(numbers: list[int], factor: str) -> bytes:
    try:
        return bytes(numbers)
    except ValueError:
        raise CorpusError("at most 256 values a factor", f"more in {factor!r}", "Give it fewer values") from None


def _facts(splits: dict[str, _SplitWriter], context: int, window: int, dtype: type) -> dict[str, Any]:
    kept = {name: split.finish() for name, split in splits.items()}
    digest = hashlib.sha256(f"{context}/{window}".encode())
    sources: Counter[str] = Counter()
    for split in splits.values():
        digest.update(split.digest.digest())
        sources.update(split.documents_of)
    return {
        "n_train_tokens": kept["train"],
        "n_held_out_tokens": kept["held_out"],
        "n_documents": sources.total(),
        "sources": dict(sources.most_common(LISTED_SOURCES)),
        "n_sources": len(sources),
        "factors": {name: {f: list(values) for f, values in split.values.items()} for name, split in splits.items()},
        "context": context,
        "window": window,
        "dtype": np.dtype(dtype).name,
        "hash": digest.hexdigest(),
    }


# ---- reading windows


@dataclass(frozen=True)
class Windows:
    """One split, mapped into memory: `tokens` [n, context]; `documents` [n, context // window].

    `hash` is that of the whole corpus; `labels` gives the known factors.
    """

    tokens: np.ndarray
    documents: np.ndarray
    source_names: np.ndarray
    source_numbers: np.ndarray  # [documents]
    window: int
    hash: str
    factors: dict[str, list[str]] = field(default_factory=dict)
    labels_path: Path | None = None

    def sources(self, documents: np.ndarray | slice) -> np.ndarray:
        """The source of each of these documents, text [n]."""
        return self.source_names[self.source_numbers[documents]]

    def labels(self, rows: Sequence[int] | np.ndarray | slice) -> dict[str, np.ndarray] | None:
        """Factor -> value of every token of these contexts, text [rows, context]; None where nothing is known.

        Raises CorpusError for a damaged file.
        """
        if self.labels_path is None:
            return None
        wanted = np.arange(len(self.tokens))[rows]
        try:
            with zipfile.ZipFile(self.labels_path) as members:
                return {f: np.asarray(v)[_label_numbers(members, f, wanted)] for f, v in self.factors.items()}
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise CorpusError(f"whole labels in {self.labels_path}", str(error), "Make the corpus again") from None


def _label_numbers(members: zipfile.ZipFile, factor: str, wanted: np.ndarray) -> np.ndarray:
    """The numbers of some contexts, uint8 [wanted, context], read through to the last of them part by part."""
    with members.open(f"{factor}.npy") as file:
        np.lib.format.read_magic(file)
        (_, context), _, _ = np.lib.format.read_array_header_1_0(file)
        found = np.empty((len(wanted), context), np.uint8)
        first, stop = 0, int(wanted.max(initial=-1)) + 1
        while first < stop:
            raw = file.read(min(stop - first, max(1, COPIED_AT_ONCE // context)) * context)
            part = np.frombuffer(raw, np.uint8).reshape(-1, context)
            if not len(part):
                raise EOFError(f"{first} contexts of {factor} in place of at least {stop}")
            here = (wanted >= first) & (wanted < first + len(part))
            found[here] = part[wanted[here] - first]
            first += len(part)
    return found


def load_windows(run_folder: Path, split: str) -> Windows:
    """The windows of `train` or `held_out`. Raises CorpusError if they are missing or incomplete."""
    folder = Path(run_folder) / "corpus"
    fix = f"Make them: python -m precompute corpus --run {run_folder} --model NAME --corpus SPEC"
    try:
        facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        shape = (facts[f"n_{split}_tokens"] // facts["context"], facts["context"])
        tokens = np.memmap(folder / f"{split}.tokens.bin", facts["dtype"], "r", shape=shape)
        documents, numbers = (
            np.load(folder / f"{split}.{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("documents", "sources")
        )
        names = np.asarray(json.loads((folder / f"{split}.sources.json").read_text(encoding="utf-8")), object)
        factors, window, digest = facts["factors"][split], facts["window"], facts["hash"]
    except FileNotFoundError as error:
        raise CorpusError(f"{split} windows in {folder}", f"no {Path(error.filename).name}", fix) from None
    except (OSError, ValueError, KeyError, EOFError, IndexError) as error:
        raise CorpusError(f"whole {split} windows in {folder}", str(error), fix) from None
    labels = folder / f"{split}.labels.npz" if factors else None
    return Windows(tokens, documents, names, numbers, window, digest, factors, labels)
