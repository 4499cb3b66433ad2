"""PyTorch files that others made, read as data and never as code; `sae_core.dictionaries.reading` reads the rest.

PyTorch files go through `torch.load(weights_only=True)`, which knows tensors and plain containers only: anything else a
pickle would import or call is refused before it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickletools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sae_core.dictionaries.reading import WHOLE
from sae_core.errors import DictionaryError

READ_AT_ONCE = 2**22
PARSED = 2**24
"""Bytes of a pickle that are looked at to say what it asks for: a zip may unpack to any size."""


def read_torch(path: Path, stand_ins: Sequence[type] = ()) -> Any:
    """What torch.save wrote: tensors, numbers, texts and containers of them; objects only of the classes `stand_ins`.

    A stand-in has the module and the name of the class that was saved, and no code of it. Raises DictionaryError if the
    file is missing, is not whole, or asks for anything else.
    """
    try:
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise DictionaryError(f"weights in {path.parent}", f"no readable {path.name}", WHOLE) from None
    except Exception as error:  # torch raises whatever a broken or hostile file leads it to
        raise _refused(path, error, stand_ins) from None


def _refused(path: Path, error: Exception, stand_ins: Sequence[type]) -> DictionaryError:
    known = {f"{c.__module__} {c.__qualname__}" for c in stand_ins}
    foreign = [name for name in sorted(imports_of(path)) if name not in known and not name.startswith(_HARMLESS)]
    if foreign:
        found = f"{', '.join(name.replace(' ', '.') for name in foreign[:3])} in its pickle, which was not run"
        return DictionaryError(f"tensors only in {path}", found, "Save the tensors alone, best as safetensors")
    return DictionaryError(
        f"a whole PyTorch file at {path}", f"one that cannot be read ({type(error).__name__})", WHOLE
    )


_HARMLESS = ("torch ", "torch._utils ", "collections ", "torch.nn.parameter ", "torch.storage ")


def imports_of(path: Path) -> set[str]:
    """`module name` of what the pickles of a file would import; found by parsing opcodes, nothing is run.

    It only words a refusal that stands already, so what a hostile file does to the parser may end the list early.
    """
    names: set[str] = set()
    with contextlib.suppress(Exception):
        for data in _pickles(path):
            names |= _globals(data)
    return names


def _pickles(path: Path) -> Iterator[bytes]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file.read(PARSED)
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".pkl"):
                with archive.open(name) as file:
                    yield file.read(PARSED)


def _globals(data: bytes) -> set[str]:
    names, texts, stream = set(), [], io.BytesIO(data)
    with contextlib.suppress(ValueError):  # the legacy form is several pickles, and then raw numbers
        while stream.tell() < len(data):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    names.add(str(argument))
                elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                    names.add(" ".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument)
    return names


def sha256(path: Path) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()
