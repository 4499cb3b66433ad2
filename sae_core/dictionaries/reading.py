"""Files that hold a dictionary, read as data: JSON objects and safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_core.errors import DictionaryError

WHOLE = "Download it again, or name the folder or file that holds the dictionary"


def read_json(path: Path, fix: str = WHOLE) -> dict[str, Any]:
    """A JSON object. Raises DictionaryError if the file is missing, is not JSON, or holds something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DictionaryError(f"a dictionary in {path.parent}", f"no readable {path.name}", fix) from None
    except ValueError as error:
        raise DictionaryError(f"JSON in {path}", str(error), fix) from None
    if not isinstance(values, dict):
        raise DictionaryError(f"a JSON object in {path}", type(values).__name__, fix)
    return values


def read_safetensors(path: Path, fix: str = WHOLE) -> dict[str, Tensor]:
    """All tensors of a file. Raises DictionaryError if it is missing or not whole."""
    try:
        return load_file(path)
    except OSError:
        raise DictionaryError(f"weights in {path.parent}", f"no readable {path.name}", fix) from None
    except SafetensorError as error:
        raise DictionaryError(f"whole safetensors in {path}", str(error), fix) from None
