"""Models of the hub, which is stood in for by a real HTTP server: found, pinned, cached, refused by a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_core.errors import ModelError
from sae_core.language_model import load_language_model
from sae_core.specs import ModelSpec
from tests.hub_server import Hub, hub_server, use
from tests.tiny_model import tiny_model_folder

NAME = "tiny/pythia"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as found:
        use(monkeypatch, found.endpoint, tmp_path / "cache")
        yield found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("hub")
    return {name: tiny_model_folder(place / name, seed=seed) for seed, name in enumerate(("main", "step3"))}


@pytest.fixture
def commits(hub: Hub, folders: dict[str, Path]) -> dict[str, str]:
    return {revision: hub.add(NAME, folder, revision) for revision, folder in folders.items()}


def refusal(spec: ModelSpec) -> str:
    with pytest.raises(ModelError) as caught:
        load_language_model(spec, "cpu")
    return str(caught.value)


def test_a_revision_is_downloaded_and_its_commit_noted(hub: Hub, commits: dict, folders: dict) -> None:
    for revision, asked in (("main", None), ("step3", "step3")):
        model = load_language_model(ModelSpec(NAME, asked), "cpu")
        assert model.commit == commits[revision]
        assert model.hash == load_language_model(ModelSpec(str(folders[revision])), "cpu").hash
    assert commits["main"] != commits["step3"]


def test_a_short_name_is_a_hub_id(hub: Hub, folders: dict) -> None:
    commit = hub.add("EleutherAI/pythia-70m-deduped", folders["main"])
    assert load_language_model(ModelSpec("pythia-70m-deduped"), "cpu").commit == commit


def test_only_what_is_needed_is_downloaded(hub: Hub, folders: dict, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["main"], tmp_path / "more")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "onnx").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "onnx" / "model.safetensors")
    (folder / "flax_model.msgpack").write_bytes(b"x")
    hub.add(NAME, folder)
    load_language_model(ModelSpec(NAME), "cpu")
    got = {Path(path).name for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path}
    assert "model.safetensors" in got and not got & {"pytorch_model.bin", "flax_model.msgpack"}
    assert not [path for _, path, _ in hub.requests if "onnx" in path]


def test_an_old_checkpoint_with_a_bin_file_only(hub: Hub, folders: dict, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["main"], tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    commit = hub.add(NAME, folder, "step143000")
    model = load_language_model(ModelSpec(NAME, "step143000"), "cpu")
    assert model.commit == commit
    assert model.hash == load_language_model(ModelSpec(str(folders["main"])), "cpu").hash


def test_a_cached_model_needs_no_network(hub: Hub, commits: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_language_model(ModelSpec(NAME, "step3"), "cpu")
    n = len(hub.requests)
    pinned = load_language_model(ModelSpec(NAME, first.commit), "cpu")
    assert pinned.hash == first.hash and len(hub.requests) == n  # not even asked
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)
    assert load_language_model(ModelSpec(NAME, "step3"), "cpu").commit == commits["step3"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_language_model(ModelSpec(NAME, "step3"), "cpu").commit == commits["step3"]
    assert "nothing in the cache" in refusal(ModelSpec(NAME, "main"))


def test_no_network_and_nothing_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, NOWHERE, tmp_path)
    found = refusal(ModelSpec(NAME))
    assert "no answer from the hub, and nothing in the cache" in found and "give a folder" in found


def test_a_broken_download_is_said_and_continued(hub: Hub, folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    hub.add(NAME, folders["main"])
    hub.cut["model.safetensors"] = size = 20_480
    try:
        load_language_model(ModelSpec(NAME), "cpu")
    except ModelError as error:
        assert "broke off" in str(error) and "continues where" in str(error)
        load_language_model(ModelSpec(NAME), "cpu")
    ranges = [ranged for method, ranged in hub.asked_for("model.safetensors") if method == "GET"]
    assert ranges[-1] == f"bytes={size}-"


def test_half_of_the_files_in_the_cache(hub: Hub, commits: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    load_language_model(ModelSpec(NAME), "cpu")
    weights = Path(constants.HF_HUB_CACHE).glob(f"*/snapshots/{commits['main']}/model.safetensors")
    next(weights).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "a part of its files in the cache" in refusal(ModelSpec(NAME))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert load_language_model(ModelSpec(NAME), "cpu").commit == commits["main"]


def test_gated_private_unknown_and_no_such_revision(hub: Hub, commits: dict) -> None:
    hub.gated.add("some/gated")
    hub.private.add("some/private")
    assert "gated" in (found := refusal(ModelSpec("some/gated"))) and "hf auth login" in found
    assert "no such model" in (found := refusal(ModelSpec("some/private"))) and "hf auth login" in found
    assert "no such model" in refusal(ModelSpec("some/unknown"))
    hub.expired.add("some/expired")
    assert "401" in (found := refusal(ModelSpec("some/expired"))) and "hf auth login" in found
    assert "without this revision" in (found := refusal(ModelSpec(NAME, "step4"))) and "step143000" in found


@pytest.mark.parametrize("name", ["pythia-71m", "./gone", "~/gone", "a/b/c", "a b/c", "-x/y", "/gone/away"])
def test_names_that_are_none(hub: Hub, name: str) -> None:
    found = refusal(ModelSpec(name))
    assert name in found and "Expected a" in found
    assert not hub.requests
