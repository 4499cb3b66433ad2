"""What several steps share: the model of a run, its dictionaries, and the bar that shows how far a step is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from sae_core import running
from sae_core.dictionaries import Dictionary, load_dictionary
from sae_core.errors import SpecError
from sae_core.language_model import LanguageModel, load_language_model
from sae_core.store import DictionaryEntry, RunStore

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def load_model(store: RunStore, device: str = "auto") -> LanguageModel:
    """The language model of a run."""
    return load_language_model(store.model_spec, device)


def load_entry(store: RunStore, entry: DictionaryEntry, device: str | torch.device = "cpu") -> Dictionary:
    """The dictionary of a manifest entry."""
    return load_dictionary(store.dictionary_folder(entry.id), device)


def parse_layers(text: str, n_layers: int) -> list[int]:
    """`0-5`, `2` or `0,2,4` -> sorted layer numbers. Raises SpecError outside the model."""
    layers: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            layers |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        raise SpecError("layers such as 0-5 or 0,2,4", repr(text), "Write them so") from None
    if not layers or min(layers) < 0 or max(layers) >= n_layers:
        raise SpecError(f"layers from 0 to {n_layers - 1}", repr(text), "Choose layers that the model has")
    return sorted(layers)


def bar(items: Iterable[T], what: str, total: int | None = None, unit: str = "it", initial: int = 0) -> Iterator[T]:
    """A progress bar with an estimate of the time left; pages see how far it is (sae_core.running)."""
    shown = tqdm(items, desc=what, total=total, unit=unit, initial=initial, dynamic_ncols=True, smoothing=0.1)
    for done, item in enumerate(shown, initial):
        running.tell(what, done, shown.total)
        yield item
