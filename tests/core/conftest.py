"""One tiny random model for the tests of the maths: its folder, loaded by us, and loaded by the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformer_lens.model_bridge import TransformerBridge

from sae_core.language_model import LanguageModel, load_language_model
from sae_core.specs import ModelSpec
from tests.tiny_model import tiny_model_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def model(folder: Path) -> LanguageModel:
    return load_language_model(ModelSpec(str(folder)), device="cpu")


@pytest.fixture(scope="session")
def bridge(folder: Path) -> TransformerBridge:
    return TransformerBridge.boot_transformers(str(folder), device="cpu")
