"""Dictionaries: the inference form (`dictionary`) and the SAELens folder it is kept in (`folder`)."""

from __future__ import annotations

from sae_core.dictionaries.dictionary import Dictionary, signed_codes, weights_hash
from sae_core.dictionaries.folder import load_dictionary, read_metadata, save_dictionary

__all__ = ["Dictionary", "load_dictionary", "read_metadata", "save_dictionary", "signed_codes", "weights_hash"]
