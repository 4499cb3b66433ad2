"""Where imports come from: what `--from` may say, folders of folders, the hub, and files that must never run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from sae_core.errors import DictionaryError, SpecError
from sae_core.interop import dictionary_learning, files, learned_dicts
from sae_core.interop.files import imports_of, read_torch, sha256
from sae_core.interop.learned_dicts import STAND_INS
from sae_core.interop.sources import Source, fetch, plain
from tests.foreign_files import parts, write_saelens
from tests.hub_server import hub_server, use

# ---- what --from may say


def test_forms(tmp_path: Path) -> None:
    local = Source.parse(f"saelens:{tmp_path}")
    assert local.local and str(local) == f"saelens:{tmp_path}"
    hub = Source.parse("learned_dicts:Elriggs/pythia-70m-deduped@main//tied_residual_l2_r6/_63/learned_dicts.pt")
    assert (hub.place, hub.revision) == ("Elriggs/pythia-70m-deduped", "main")
    assert hub.inside == "tied_residual_l2_r6/_63/learned_dicts.pt" and not hub.local
    assert str(hub).startswith("learned_dicts:Elriggs/pythia-70m-deduped@main//tied_residual")
    assert Source.parse("saelens:a/b//c") == Source("saelens", "a/b", None, "c")


@pytest.mark.parametrize("text", ["a/b", "pickle:a/b", "saelens:", "saelens:no/such/folder", "saelens:a/b//../../etc"])
def test_what_cannot_be_is_a_sentence(text: str) -> None:
    with pytest.raises(SpecError, match="FORMAT"):
        Source.parse(text)


def test_a_folder_of_folders(tmp_path: Path) -> None:
    for layer in (1, 0):
        write_saelens(tmp_path / "my-saes" / f"blocks.{layer}.hook_resid_post", {"hook_point": "x"}, parts())
    found = fetch(Source.parse(f"saelens:{tmp_path / 'my-saes'}"))
    assert [file.parent.name for file in found.files] == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert {found.name_of(file) for file in found.files} == {"my_saes"}  # the hook is told by the id
    assert found.place_of(found.files[0]) == "blocks.0.hook_resid_post"
    one = fetch(Source.parse(f"saelens:{found.files[0].parent}"))
    assert one.name_of(one.files[0]) == "my_saes" and len(one.files) == 1
    with pytest.raises(DictionaryError, match="a sae.safetensors in sparsify"):
        _ = fetch(Source.parse(f"sparsify:{tmp_path}")).files


def test_names_are_plain_and_not_too_long() -> None:
    assert plain("pythia-70m-deduped__res-sm_processed") == "pythia_70m_deduped_res_sm_processed"
    assert plain("../é x") == "x" and len(plain("a" * 100)) == 60


# ---- the hub


def test_the_hub_is_asked_only_for_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(place: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(place=place, revision=revision, patterns=allow_patterns)
        write_saelens(tmp_path / "abc123" / "blocks.2.hook_mlp_out", {"hook_point": "blocks.2.hook_mlp_out"}, parts())
        return str(tmp_path / "abc123")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = fetch(Source.parse("saelens:who/mlp-sm@v1//blocks.2.hook_mlp_out"))
    assert (asked["place"], asked["revision"], found.commit) == ("who/mlp-sm", "v1", "abc123")
    assert "blocks.2.hook_mlp_out/sae_weights.safetensors" in asked["patterns"]
    assert all(pattern.startswith("blocks.2.hook_mlp_out/") for pattern in asked["patterns"])
    assert found.name_of(found.files[0]) == "mlp_sm"
    with pytest.raises(DictionaryError, match="other in who/mlp-sm"):
        fetch(Source.parse("saelens:who/mlp-sm//other"))
    fetch(Source.parse("learned_dicts:who/mlp-sm//blocks.2.hook_mlp_out/sae_weights.safetensors"))
    assert asked["patterns"] == ["blocks.2.hook_mlp_out/sae_weights.safetensors"]


def test_one_dictionary_from_a_real_hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub itself against a local server: of two folders only the one asked for is downloaded."""
    for layer in (1, 2):
        name = f"blocks.{layer}.hook_resid_post"
        write_saelens(tmp_path / "repository" / name, {"hook_point": name}, parts(layer))
    with hub_server() as hub:
        commit = hub.add("who/res-sm", tmp_path / "repository")
        use(monkeypatch, hub.endpoint, tmp_path / "cache")
        found = fetch(Source.parse("saelens:who/res-sm//blocks.2.hook_resid_post"))
        assert found.commit == commit and len(found.files) == 1
        assert torch.equal(found.load(found.files[0])[0].W_enc, parts(2)["W_enc"])
        assert not any("blocks.1" in path for method, path, _ in hub.requests if "/resolve/" in path)
        with pytest.raises(DictionaryError, match="the hub repository who/nothing"):
            fetch(Source.parse("saelens:who/nothing"))


def test_a_hub_that_does_not_answer_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, at an address where nobody listens."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DictionaryError, match="the hub repository nobody/nothing.*Check the id"):
        fetch(Source.parse("saelens:nobody/nothing"))


# ---- files that must never run


class Hostile:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [True, False])
def test_nothing_pickled_is_ever_run(tmp_path: Path, legacy: bool) -> None:
    target = tmp_path / "owned"
    file = tmp_path / "ae.pt"
    torch.save({"bias": torch.zeros(3), "evil": Hostile(target)}, file, _use_new_zipfile_serialization=not legacy)
    for load in (dictionary_learning.load, learned_dicts.load):
        with pytest.raises(DictionaryError, match="pathlib.*was not run"):
            load(file)
    assert not target.exists()
    torch.load(file, weights_only=False)  # the file this test wrote is hostile indeed: its one effect is `target`
    assert target.exists()


def test_a_bare_pickle_and_a_zip_of_something_else(tmp_path: Path) -> None:
    target, file = tmp_path / "owned", tmp_path / "bare.pt"
    file.write_bytes(pickle.dumps([Hostile(target)]))
    with pytest.raises(DictionaryError):
        read_torch(file, STAND_INS)
    assert not target.exists() and any("pathlib" in name or "posixpath" in name for name in imports_of(file))
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(DictionaryError, match="a whole PyTorch file"):
        read_torch(tmp_path / "other.pt")


def test_of_a_pickle_that_unpacks_to_any_size_only_a_part_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps([Hostile(tmp_path / "owned"), b"0" * 2**20]))
    monkeypatch.setattr(files, "PARSED", 4096)
    assert any("touch" in name for name in imports_of(file))
    assert [len(data) for data in files._pickles(file)] == [4096]


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    file = tmp_path / "ae.pt"
    torch.save({"bias": torch.zeros(300)}, file)
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(DictionaryError, match="a whole PyTorch file"):
        read_torch(file)
    with pytest.raises(DictionaryError, match="no readable"):
        read_torch(tmp_path / "none.pt")


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
