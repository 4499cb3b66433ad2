"""A language model without hooks: the forward pass, one adapter an architecture, finding and loading."""

from sae_core.language_model.loading import choose_device, load_language_model
from sae_core.language_model.model import KeysValues, LanguageModel, in_space

__all__ = ["KeysValues", "LanguageModel", "choose_device", "in_space", "load_language_model"]
