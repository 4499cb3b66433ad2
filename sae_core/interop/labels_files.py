"""Labels of other projects, read line by line: Neuronpedia explanations and feature-circuits annotations. Light.

    neuronpedia        {"layer": "3-res-sm", "index": "12", "description": "plural nouns", ...}
    feature-circuits   {"Component": "resid", "Layer": "5", "Feature": "3036", "Name": "resid_5/3036",
                        "Annotation": "promotes singular verb forms", "Notes": ""}

A line that cannot be used becomes a `Problem` with its number, and the rest is read. Indices may be text or numbers.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sae_core.errors import InputError
from sae_core.specs import EMBED, EMBEDDING, Site

_NUMBER = re.compile(r"[0-9]{1,9}")
_NAME = re.compile(r"(?:(resid|mlp|attn)_([0-9]{1,4})|embed)/([0-9]{1,9})")
_SOURCE = re.compile(r"([0-9]{1,4})-(res|mlp|att)(?=-|__|$)")
_NEURONPEDIA_SITES = {"res": "resid_post", "mlp": "mlp_out", "att": "attn_out"}
_CIRCUIT_SITES = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}


@dataclass(frozen=True)
class FileLabel:
    """A label of a file. source: the dictionary's name there, such as `3-res-sm` or `resid_5`; model: "" if unknown."""

    line: int
    source: str
    feature: int
    text: str
    note: str = ""
    model: str = ""


@dataclass(frozen=True)
class Problem:
    """Why a line was left out, in a sentence without its number."""

    line: int
    why: str


class _Unusable(Exception):
    """The sentence of a Problem."""


def read_labels(format: str, path: Path) -> Iterator[FileLabel | Problem]:
    """The labels and problems of a .jsonl or .jsonl.gz file, in its order.

    Repeats (same source, feature and text) are problems. Raises InputError for an unknown format or no such file.
    """
    if format not in FORMATS:
        raise InputError(f"labels in a format out of {', '.join(FORMATS)}", repr(format), "Write FORMAT:FILE")
    seen: dict[tuple[str, int, str], int] = {}
    for number, raw in _lines(path):
        try:
            if isinstance(raw, _Unusable):
                raise raw
            if not raw.strip():
                continue
            label = FORMATS[format](number, _parsed(raw.strip()))
            first = seen.setdefault((label.source, label.feature, label.text), number)
            if first != number:
                raise _Unusable(f"feature {label.feature} of {label.source} with the text of line {first} once more")
            yield label
        except _Unusable as problem:
            yield Problem(number, str(problem))


def _lines(path: Path) -> Iterator[tuple[int, bytes | _Unusable]]:
    number = 0
    try:
        with _opened(path) as file:
            for number, raw in enumerate(file, 1):  # noqa: B007 (needed after the loop)
                yield number, raw
    except FileNotFoundError:
        raise InputError("a file of labels", f"no {path}", "Check the name") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield number + 1, _Unusable(f"the file is damaged or cut off here ({error})")
    except OSError as error:
        raise InputError(f"a readable file {path}", str(error), "Check the name and its permissions") from None


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        values = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise _Unusable("not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        reason = str(getattr(error, "msg", "nested too deeply")).removesuffix(" at")
        raise _Unusable(f"not a whole line of JSON ({reason})") from None
    if not isinstance(values, dict):
        raise _Unusable(f"a JSON object expected, found {type(values).__name__}")
    return values


# ---- the two formats


def _neuronpedia(line: int, values: dict[str, Any]) -> FileLabel:
    _need(values, "layer", "index", "description")
    by = ", ".join(str(values[key]) for key in ("explanationModelName", "typeName") if values.get(key))
    note = f"explained by {by}" if by else ""
    source, model = _text(values, "layer"), str(values.get("modelId") or "")
    return FileLabel(line, source, _index(values["index"], "index"), _text(values, "description"), note, model)


def _feature_circuits(line: int, values: dict[str, Any]) -> FileLabel:
    _need(values, "Annotation")
    if values.get("Component") == "Component":
        raise _Unusable("a header, no label")
    if not {"Component", "Layer", "Feature"} <= set(values):
        source, feature = _from_name(values.get("Name"))
    else:
        source, feature = _source(values), _index(values["Feature"], "Feature")
        if values.get("Name") and values["Name"] != f"{source}/{feature}":
            raise _Unusable(f"Name {values['Name']!r} contradicts {source}/{feature}")
    return FileLabel(line, source, feature, _text(values, "Annotation"), str(values.get("Notes") or "").strip())


def _source(values: dict[str, Any]) -> str:
    component, layer = values["Component"], values["Layer"]
    if component == "embed":
        return "embed"
    if component not in _CIRCUIT_SITES:
        raise _Unusable(f"Component {component!r}, expected resid, mlp, attn or embed")
    return f"{component}_{_index(layer, 'Layer')}"


def _from_name(name: Any) -> tuple[str, int]:
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise _Unusable("no Component, Layer and Feature, and no Name such as resid_5/3036")
    return name.split("/")[0], int(match[3])


def _need(values: dict[str, Any], *keys: str) -> None:
    missing = [key for key in keys if values.get(key) is None]
    if missing:
        raise _Unusable(f"no {' and no '.join(missing)}")


def _text(values: dict[str, Any], key: str) -> str:
    text = values[key]
    if not isinstance(text, str) or not text.strip():
        raise _Unusable(f"{key} is empty or no text")
    return text.strip()


def _index(value: Any, key: str) -> int:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _NUMBER.fullmatch(text.strip()):
        raise _Unusable(f"{key} {value!r} is no number of 0 or more")
    return int(text)


FORMATS: dict[str, Callable[[int, dict[str, Any]], FileLabel]] = {
    "neuronpedia": _neuronpedia,
    "feature-circuits": _feature_circuits,
}


# ---- which place in the model a source is


def place_of(format: str, source: str) -> tuple[int, str] | None:
    """Layer and site name of a source, such as `3-res-sm`, `e-res-sm` or `resid_5`; None where its name has none."""
    if format == "neuronpedia":
        match, sites = _SOURCE.match(source), _NEURONPEDIA_SITES
        if source.startswith("e-"):
            return EMBEDDING, EMBED
        return (int(match[1]), sites[match[2]]) if match else None
    if source == "embed":
        return EMBEDDING, EMBED
    component, _, layer = source.partition("_")
    return int(layer), _CIRCUIT_SITES[component]


def at(site: Site) -> tuple[int, str]:
    """The place of a dictionary, as `place_of` gives it."""
    return site.layer, site.name
