"""A model of the hub as a local folder: downloaded once, at the commit that its revision names.

What is in the cache is not fetched again, a download that broke off continues where it stopped, and a commit that is
cached needs no network at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sae_core.errors import ModelError

SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
TORCH_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")


def fetch(name: str, revision: str | None) -> Path:
    """The folder of a hub model at a revision (default main); its name is the commit.

    Weights are taken from safetensors files, from pytorch_model.bin where there are none (old Pythia checkpoints).
    Raises ModelError for a name or revision that does not exist, a gated model, no network, a broken download.
    """
    with hub_errors(name, revision):
        folder = _snapshot(name, revision, SAFETENSORS)
        weights = [path for pattern in SAFETENSORS for path in folder.glob(pattern)]
        return folder if weights else _snapshot(name, folder.name, TORCH_FILES)


def _snapshot(name: str, revision: str | None, weights: Sequence[str]) -> Path:
    return Path(snapshot_download(name, revision=revision, allow_patterns=[*SETTINGS, *weights]))


@contextmanager
def hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's errors into ModelError."""
    asked = f"the model {name} at revision {revision or 'main'} on the hub"
    try:
        yield
    except GatedRepoError:
        page = f"https://huggingface.co/{name}"
        fix = f"Accept its conditions on {page}, then log in: hf auth login"
        raise ModelError(asked, "a gated model, whose conditions have to be accepted", fix) from None
    except RepositoryNotFoundError:
        fix = "Check the name; for a private model log in: hf auth login"
        raise ModelError(asked, "no such model, or one that only its owner may read", fix) from None
    except RevisionNotFoundError:
        fix = "Name a branch, tag or commit of the model; Pythia's checkpoints are step0, step1, ... step143000"
        raise ModelError(asked, "the model without this revision", fix) from None
    except IncompleteSnapshotError:
        found = "a part of its files in the cache, and no network for the others"
        raise ModelError(asked, found, "Run the same command with a network; it continues the download") from None
    except LocalEntryNotFoundError:
        fix = "Run the command once with a network, or give a folder that holds the model"
        raise ModelError(asked, "no answer from the hub, and nothing in the cache", fix) from None
    except HFValidationError:
        raise ModelError("a hub id such as EleutherAI/pythia-70m", repr(name), "Check the name") from None
    except HfHubHTTPError as error:
        fix = "Log in again with hf auth login if it is about credentials; else run the same command later"
        raise ModelError(asked, f"the hub's answer {first_line(error)}", fix) from None
    except (httpx2.HTTPError, OSError) as error:
        fix = "Run the same command again; it continues where the download stopped"
        raise ModelError(asked, f"a download that broke off: {first_line(error)}", fix) from None


def first_line(error: Exception) -> str:
    """The first line of an error's message, its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
