"""Finding and loading a model: a short name, a hub id with a revision, or a folder -> LanguageModel.

Loaded files are data: weights come from safetensors, or from pytorch_model.bin read with weights_only=True, which
executes nothing. No code of a model's repository is run.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from sae_core.errors import ModelError
from sae_core.language_model.architectures import adapter_of
from sae_core.language_model.hub import fetch, first_line
from sae_core.language_model.model import LanguageModel
from sae_core.specs import PYTHIA_SIZES, SHORT_NAMES, ModelSpec

FORMATS = ("model.safetensors", "pytorch_model.bin")
ROOM = 2  # a GPU needs this times the float32 weights: activations and dictionaries live beside them
T = TypeVar("T")


def load_language_model(spec: ModelSpec, device: str = "auto") -> LanguageModel:
    """Load a model of a known architecture in the dtype of the spec, on the device asked for.

    Raises ModelError for another architecture, an unknown name or revision, a gated model, no network, missing or
    truncated weights, a missing tokenizer, a device this machine lacks.
    """
    place = choose_device(device)
    folder, commit = find(spec)
    config = _read_config(folder, spec.name)
    adapter = adapter_of(config.model_type, spec.name)
    adapter.check(config, spec.name)
    weights = weight_files(folder, spec.name)
    dtype = choose_dtype(spec.dtype, weights, place)
    settings = {"config": config, "dtype": dtype, "use_safetensors": weights.safe, "local_files_only": True}
    hf_model = _read("weights", spec.name, lambda: _whole(adapter.model_class, folder, settings))
    tokenizer = _read_tokenizer(folder, spec.name, config.eos_token_id)
    return LanguageModel(hf_model.to(place), tokenizer, spec.name, commit)


# ---- where it is


def find(spec: ModelSpec) -> tuple[Path, str]:
    """The folder of a model and, for one of the hub, its commit. Raises ModelError if there is none."""
    name = SHORT_NAMES.get(spec.name, spec.name)
    if Path(spec.name).is_dir():
        return Path(spec.name), ""
    if name.count("/") != 1 or name.startswith((".", "~")):
        sizes = ", ".join(PYTHIA_SIZES)
        expected = f"a folder, a hub id such as EleutherAI/pythia-70m, or pythia-SIZE[-deduped], SIZE out of {sizes}"
        raise ModelError(expected, f"{spec.name!r}, and no such folder", "Check the name or the path")
    folder = fetch(name, spec.revision)
    return folder, folder.name


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, then MPS, then the CPU. Raises ModelError for a device this machine lacks."""
    if device == "auto":
        gpus = ("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())
        return torch.device(next((name for name, there in gpus if there), "cpu"))
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        found = f"{device!r} ({first_line(error)})"
        raise ModelError("a device of this machine", found, "Use the device auto") from None


def choose_dtype(dtype: str, weights: WeightFiles, device: torch.device) -> torch.dtype:
    """`auto` is float32, and bfloat16 only on a GPU with less free memory than twice the float32 weights take."""
    if dtype != "auto":
        return getattr(torch, dtype)
    tight = device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < ROOM * weights.float32_bytes()
    return torch.bfloat16 if tight else torch.float32


# ---- what it consists of


@dataclass(frozen=True)
class WeightFiles:
    """The files of a model's weights, all of them there."""

    files: tuple[Path, ...]
    safe: bool

    def float32_bytes(self) -> int:
        """Bytes of the weights in float32; of a .bin file estimated as float16, as Pythia's are stored."""
        if not self.safe:
            return 2 * sum(file.stat().st_size for file in self.files)
        return sum(map(_float32_bytes, self.files))


def _float32_bytes(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        return sum(4 * torch.Size(tensors.get_slice(name).get_shape()).numel() for name in tensors.keys())  # noqa: SIM118


def weight_files(folder: Path, name: str) -> WeightFiles:
    """The weights in a folder. Raises ModelError for none, for a shard that is missing and for a truncated file."""
    for known in FORMATS:
        index, safe = folder / f"{known}.index.json", known.endswith("safetensors")
        if (folder / known).is_file():
            return WeightFiles(_checked([folder / known], safe, name), safe)
        if index.is_file():
            return WeightFiles(_checked(_shards(index, name), safe, name), safe)
    _refuse("weights", name, f"neither {' nor '.join(FORMATS)} in {folder}")


def _shards(index: Path, name: str) -> list[Path]:
    listed = _read("weights", name, lambda: sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())))
    shards = [index.parent / Path(shard).name for shard in listed]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        _refuse("weights", name, f"no {missing[0]} ({len(missing)} of {len(shards)} files missing)")
    return shards


def _checked(files: list[Path], safe: bool, name: str) -> tuple[Path, ...]:
    for file in files:
        _read("weights", name, lambda file=file: _open(file, safe))
    return tuple(files)


def _open(file: Path, safe: bool) -> None:
    """Read a file's list of tensors. Raises ValueError if it is cut short or holds anything but tensors."""
    try:
        if safe:
            with safe_open(file, "pt"):
                return
        torch.load(file, map_location="meta", mmap=zipfile.is_zipfile(file), weights_only=True)
    except Exception as error:  # torch refuses a foreign pickle by an error of the pickle module's own
        found = f"{file.name}, which is not whole or holds more than tensors ({first_line(error)})"
        raise ValueError(found) from None


def _read_config(folder: Path, name: str) -> Any:
    if not (folder / "config.json").is_file():
        _refuse("config.json", name, f"no config.json in {folder}")
    model_type = _read("config.json", name, lambda: json.loads((folder / "config.json").read_text("utf-8")))
    adapter_of(str(dict(model_type).get("model_type")), name)
    return _read("config.json", name, lambda: AutoConfig.from_pretrained(folder, local_files_only=True))


def _read_tokenizer(folder: Path, name: str, eos_id: int | list[int] | None) -> PreTrainedTokenizerFast:
    # Without a tokenizer.json, transformers makes an empty tokenizer and goes on.
    if not (folder / "tokenizer.json").is_file():
        fix = "Put it there; AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers writes one"
        raise ModelError(f"the tokenizer of {name}", f"no tokenizer.json in {folder}", fix)
    tokenizer = _read("tokenizer", name, lambda: PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))
    if tokenizer.eos_token_id is None and isinstance(eos_id, int):  # GPT-2's is named in config.json only
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos_id)
    return tokenizer


def _whole(model_class: type[PreTrainedModel], folder: Path, settings: dict[str, Any]) -> PreTrainedModel:
    """Transformers draws missing tensors at random and goes on; that must not pass for a loaded model."""
    model, info = model_class.from_pretrained(folder, output_loading_info=True, **settings)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"weights without {missing[0]} ({len(missing)} tensors missing)")
    return model


def _read(part: str, name: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, SafetensorError) as error:
        _refuse(part, name, first_line(error))


def _refuse(part: str, name: str, found: str) -> NoReturn:
    raise ModelError(
        f"the {part} of {name}, as save_pretrained writes it (config.json, model.safetensors, tokenizer.json)",
        found,
        "Check the name; download or copy the model again if a file is missing or not whole",
    )
