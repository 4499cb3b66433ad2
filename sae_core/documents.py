"""Where text comes from: files and hub data sets -> documents, and which of them are held out."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sae_core.errors import CorpusError
from sae_core.specs import CorpusSpec

HELD_OUT_SHARE = 0.1
TXT_DOCUMENT_CHARS = 4_000
TXT_LONGEST_CHARS = 16_000
LONGEST_REASON = 400
SUFFIXES = (".txt", ".jsonl", ".parquet", ".txt.gz", ".jsonl.gz")

Offsets = list[tuple[int, int]]
Labels = dict[str, list[str]]


@dataclass(frozen=True)
class TextDocument:
    """One document. `labels(offsets)` gives one value per token and factor, where the source knows factors."""

    text: str
    source: str = ""
    labels: Callable[[Offsets], Labels] | None = None


def is_held_out(text: str) -> bool:
    """True for the tenth of all documents whose hash says so; the same on every machine and in every run."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


# ---- reading


def read_documents(spec: CorpusSpec) -> Iterator[TextDocument]:
    """Documents of a `text:` or `hub:` corpus, streamed in their order; blank ones are left out.

    Raises CorpusError for a missing, binary or empty source, or one without the text column.
    """
    readers = {"text": _files, "hub": _hub}
    if spec.kind not in readers:
        raise CorpusError("a corpus written text:FILES or hub:DATASET", repr(spec.kind), "Name one of these")
    n = 0
    for document in readers[spec.kind](spec):
        if document.text.strip():
            n += 1
            yield TextDocument(_encodable(document.text), document.source)
    if n == 0:
        raise CorpusError("a corpus with at least one document of text", f"none in {spec}", "Choose another corpus")


def _encodable(text: str) -> str:
    """Lone surrogates, which JSON can write and UTF-8 cannot, become `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _files(spec: CorpusSpec) -> Iterator[TextDocument]:
    readers = {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet}
    for name in spec.source:
        path = Path(name)
        suffix = Path(path.name.removesuffix(".gz")).suffix
        if not path.name.endswith(SUFFIXES):
            raise CorpusError(f"files ending in {', '.join(SUFFIXES)}", path.name, "Convert it, or rename it")
        if not path.is_file():
            raise CorpusError("a corpus file", f"no file {path}", "Check the path")
        yield from readers[suffix](path, spec.column)


def _lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file or of a .gz of one, with their ends. Raises CorpusError if it is not text, or not whole."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8", newline="") as lines:
            for line in lines:
                if "\0" in line:
                    raise CorpusError("a text file in UTF-8", f"binary data in {path.name}", "Choose a text file")
                yield line
    except UnicodeDecodeError as error:
        reason = f"bytes in {path.name} that are not UTF-8 ({error.reason})"
        raise CorpusError("a text file in UTF-8", reason, "Choose a text file, or convert it to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError("a readable corpus file", f"{path}: {reason}", "Check the file") from None


def _txt(path: Path, column: str) -> Iterator[TextDocument]:
    """Whole paragraphs gathered into documents of about 4,000 characters, so both splits get some of a long file."""
    part: list[str] = []
    size = 0
    for line in _lines(path):
        part.append(line)
        size += len(line)
        if size >= TXT_LONGEST_CHARS or (size >= TXT_DOCUMENT_CHARS and not line.strip()):
            yield TextDocument("".join(part), path.name)
            part, size = [], 0
    yield TextDocument("".join(part), path.name)


def _jsonl(path: Path, column: str) -> Iterator[TextDocument]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            found = f"line {number} of {path.name}: {error.msg}"
            raise CorpusError("one JSON object on each line", found, "Mend that line") from None
        yield _row(row if isinstance(row, dict) else {}, column, f"line {number} of {path.name}", path.name)


def _parquet(path: Path, column: str) -> Iterator[TextDocument]:
    import pyarrow as pa
    import pyarrow.dataset as ds  # streams row groups; the store stays the only reader of our own tables

    try:
        data = ds.dataset(path, format="parquet")
        columns = [c for c in (column, "source") if c in data.schema.names]
        for batch in data.to_batches(columns=columns):
            for row in batch.to_pylist():
                yield _row(row, column, path.name, path.name)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CorpusError("a readable Parquet file", f"{path.name}: {reason}", "Choose another file") from None


# ---- the hub


def hub_commit(spec: CorpusSpec) -> str:
    """The commit that the revision of a `hub:` corpus names now; "" for any other corpus and for a local folder.

    Raises CorpusError for a data set or revision that does not exist, a gated one, or no network.
    """
    if spec.kind != "hub" or Path(spec.source[0]).is_dir():
        return ""
    from huggingface_hub import HfApi

    with _hub_errors(spec):
        return HfApi().dataset_info(spec.source[0], revision=spec.revision).sha


def _hub(spec: CorpusSpec) -> Iterator[TextDocument]:
    """Rows of a hub data set at the spec's revision, streamed: what is not needed is not downloaded."""
    name = spec.source[0]
    with _hub_errors(spec):
        import datasets

        rows = datasets.load_dataset(name, spec.config, split=spec.split, streaming=True, revision=spec.revision)
        for row in rows:
            yield _row(row, spec.column, name, name)


@contextmanager
def _hub_errors(spec: CorpusSpec) -> Iterator[None]:
    """Turn what a hub data set can fail with into CorpusError."""
    import httpx2

    try:
        yield
    except (ImportError, OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:
        # The second line of what was said lists the configurations there are.
        said = " ".join([line for line in str(error).splitlines() if line.strip()][:2])
        reason = f"{type(error).__name__}: {said[:LONGEST_REASON]}"
        fix = (
            "Check the name, revision, split, configuration and network (a gated data set: hf auth login; no datasets: "
            "pip install datasets), or give local files with text:FILES"
        )
        raise CorpusError(f"the hub data set {spec}", reason, fix) from None


def _row(row: dict, column: str, where: str, source: str) -> TextDocument:
    if not isinstance(row.get(column), str):
        found = f"{where} with {sorted(row) or 'no fields'}"
        raise CorpusError(f"text in the field {column!r}", found, f"Give every row a text field {column!r}")
    own = row.get("source")
    return TextDocument(row[column], own if isinstance(own, str) else source)
