"""Our folders in the real sae-lens package, and its folders here: equal activations both ways.

The package wants other versions than ours, so it lives in an environment apart: set SAE_LENS_PYTHON to its Python.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from precompute.export_dictionaries import saelens
from sae_core.baselines import Moments, ica, linear_spec, pca
from sae_core.dictionaries import Dictionary, load_dictionary, save_dictionary
from sae_core.interop.saelens import load as import_saelens
from sae_core.intervention import FeatureEdit, edited_delta
from sae_core.specs import CorpusSpec, DictionarySpec, ModelSpec, RunSpec, Site
from sae_core.store import DictionaryEntry, Manifest, RunStore
from tests.tiny_model import random_dictionary

PYTHON = os.environ.get("SAE_LENS_PYTHON")
SCRIPT = Path(__file__).with_name("with_saelens.py")
SITE = Site(1)
CLOSE = 1e-5
ABLATED = 3  # as in the script
FORMS = ("", "-jumprelu", "-topk")
STANDARDISED = tuple(setting + form for setting in ("layer_norm", "constant_norm_rescale") for form in FORMS)
WHITENED = tuple("covariance_whitening" + form for form in (*FORMS, "-gated", "-rescaled"))
pytestmark = [
    pytest.mark.timeout(600),  # importing the package takes a minute on a busy machine
    pytest.mark.skipif(not PYTHON, reason="SAE_LENS_PYTHON does not name a Python with sae-lens"),
]


def dictionaries(x: torch.Tensor) -> dict[str, Dictionary]:
    """One of every form that this project makes."""
    tied, untied = random_dictionary(SITE), random_dictionary(SITE, seed=1, tied=False)
    moments = Moments(x.shape[1])
    moments.add(x)
    return {
        "tied": tied,
        "untied": untied,
        "centred": replace(tied, site=Site(1, space="centred")),
        "mlp_out": replace(untied, site=Site(1, "mlp_out")),
        "jumprelu": replace(untied, threshold=torch.rand(48)),
        "topk": replace(untied, k=5),
        "pca": pca(moments).dictionary(linear_spec(SITE, "pca")),
        "ica": ica(x, 0).dictionary(linear_spec(SITE, "ica")),
        "pca_topk": pca(moments).dictionary(linear_spec(SITE, "pca_topk", 7)),
        **{name: standardising(name, untied) for name in STANDARDISED},
    }


def standardising(name: str, untied: Dictionary) -> Dictionary:
    """By a name of STANDARDISED."""
    setting, _, architecture = name.partition("-")
    form = {"": {}, "jumprelu": {"threshold": torch.rand(48)}, "topk": {"k": 5}}[architecture]
    return replace(untied, **form, normalize_activations=setting)


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Dictionary], torch.Tensor]:
    """A folder in which sae-lens has answered; our dictionaries; the activations."""
    folder = tmp_path_factory.mktemp("saelens")
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.5, 2, 32)
    np.save(folder / "x.npy", x.numpy())
    ours = dictionaries(x)
    store = run_with(folder / "run", ours)
    for name, entry in zip(ours, store.dictionaries, strict=True):
        saelens(store, entry, folder / "ours" / name)
    done = subprocess.run([PYTHON, SCRIPT, folder], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, ours, x


def run_with(folder: Path, found: dict[str, Dictionary]) -> RunStore:
    spec = RunSpec(ModelSpec("EleutherAI/pythia-70m-deduped"), CorpusSpec("hub", ("NeelNanda/pile-10k",)))
    store = RunStore.create(folder, Manifest("run", spec))
    entries = []
    for i, (name, dictionary) in enumerate(found.items()):
        own = DictionarySpec(dictionary.site, "tied", 1.5, 1e-3, variant=f"v{i}")
        save_dictionary(dictionary, store.dictionary_folder(own.id), {"note": name})
        entries.append(DictionaryEntry(own.id, own, dictionary.n_features, dictionary.hash))
    store.update_manifest(dictionaries=tuple(entries))
    return store


def compare(folder: Path, name: str, ours: Dictionary, x: torch.Tensor) -> None:
    """Codes in sae-lens' units, reconstructions, and what removing a feature changes, are those of sae-lens."""
    kinds = ("codes", "decoded", "ablated")
    codes, decoded, ablated = (torch.from_numpy(np.load(folder / kind / f"{name}.npy")) for kind in kinds)
    own = ours.encode(x)
    same_units = ours.in_own_units(x, own)
    print(f"{name}: codes differ by {(same_units - codes).abs().max():.2g}")
    assert (own != 0).any() and ((own != 0) == (codes != 0)).float().mean() > 0.9999
    assert (same_units - codes).abs().max() < CLOSE
    assert (ours.reconstruct(x, own) - decoded).abs().max() < CLOSE
    delta = edited_delta(ours, own, [FeatureEdit(ABLATED, "remove")])
    assert delta.abs().max() > 0.1 and (delta - (ablated - decoded)).abs().max() < CLOSE


NAMES = ("tied", "untied", "centred", "mlp_out", "jumprelu", "topk", "pca", "ica", "pca_topk")


@pytest.mark.parametrize("name", [*NAMES, *STANDARDISED])
def test_ours_load_there_with_equal_activations(exchanged: tuple, name: str) -> None:
    folder, ours, x = exchanged
    compare(folder, name, ours[name], x)


@pytest.mark.parametrize("name", ["standard", "jumprelu", "topk", *STANDARDISED])
def test_theirs_load_and_import_here_with_equal_activations(exchanged: tuple, name: str) -> None:
    folder, _, x = exchanged
    found = load_dictionary(folder / "theirs" / name)
    assert found.site == SITE and found.standardises == (name in STANDARDISED)
    compare(folder, f"theirs-{name}", found, x)
    imported = import_saelens(folder / "theirs" / name / "sae_weights.safetensors")[0]
    compare(folder, f"theirs-{name}", imported.dictionary(SITE), x)


@pytest.mark.parametrize("name", WHITENED)
def test_theirs_that_whiten_import_here_with_equal_activations(exchanged: tuple, name: str) -> None:
    """As the training that whitens them has them, and as its end folds the whitening in."""
    folder, _, x = exchanged
    found = import_saelens(folder / "theirs" / name / "sae_weights.safetensors")[0].dictionary(SITE)
    for kind in ("theirs", "folded"):
        compare(folder, f"{kind}-{name}", found, x)
