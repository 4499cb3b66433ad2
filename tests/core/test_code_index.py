"""The inverted index against a dense matrix of codes."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from sae_core import code_index, code_shards
from sae_core.code_index import CodeIndex, FeatureCodes, signed
from sae_core.errors import StorageError


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(code_index, "SHARD_TOKENS", 40)
    rng = np.random.default_rng(0)
    dense = rng.exponential(size=(104, 12)).astype(np.float32) * (rng.random((104, 12)) < 0.2)
    dense[:, 3] = 0
    return dense


def write(index: CodeIndex, shard: int, dense: np.ndarray) -> None:
    part = dense[shard * index.shard_tokens : (shard + 1) * index.shard_tokens]
    tokens, features = part.nonzero()
    index.write(shard, tokens, features, part[tokens, features])


def filled(folder: Path, dense: np.ndarray) -> CodeIndex:
    folder.mkdir(exist_ok=True)
    index = CodeIndex(folder, dense.shape[1], len(dense), context=8)
    for shard in index.missing():
        write(index, shard, dense)
    return index


@pytest.mark.parametrize("entries", [1, 60, 10**6])
def test_every_feature_reads_back_in_order(
    tmp_path: Path, codes: np.ndarray, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_index, "BLOCK_ENTRIES", entries)
    index = filled(tmp_path, codes)
    assert index.shard_tokens == 40 and index.n_shards == 3
    found = list(index.features())
    assert [f.feature for f in found] == list(range(12))
    for f in found:
        assert f.positions.tolist() == codes[:, f.feature].nonzero()[0].tolist()
        assert f.codes.tolist() == codes[f.positions, f.feature].tolist()
    assert index.counts().tolist() == (codes > 0).sum(0).tolist()
    assert [f.feature for f in index.features(4, 6)] == [4, 5]


def test_a_shard_is_missing_until_its_offsets_are_there(tmp_path: Path, codes: np.ndarray) -> None:
    index = CodeIndex(tmp_path, 12, len(codes), context=8)
    assert index.missing() == [0, 1, 2]
    write(index, 1, codes)
    assert index.missing() == [0, 2]
    (tmp_path / "00001.offsets.npy").unlink()
    assert index.missing() == [0, 1, 2]


def test_active_tokens_of_the_first_shards(tmp_path: Path, codes: np.ndarray) -> None:
    found = filled(tmp_path, codes).active(50)
    assert (found.toarray() == (codes[:80] > 0)).all()


def random_feature(n: int, share: float, seed: int = 0) -> FeatureCodes:
    rng = np.random.default_rng(seed)
    positions = np.flatnonzero(rng.random(n) < share)
    return FeatureCodes(4, positions, rng.exponential(size=len(positions)).astype(np.float32))


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.9])
def test_parts_are_the_whole_and_cut_no_window(share: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_index, "PART_ENTRIES", size)
    found = random_feature(400, share)
    for window in (1, 16):
        parts = list(found.parts(window))
        assert np.concatenate([part.positions for part in parts]).tolist() == found.positions.tolist()
        assert np.concatenate([part.codes for part in parts]).tolist() == found.codes.tolist()
        seen = [set((part.positions // window).tolist()) for part in parts]
        assert sum(len(each) for each in seen) == len(set().union(*seen))
        assert all(len(part.positions) <= max(size, window) for part in parts)
        assert found.windows(window).tolist() == sorted(set().union(*seen))


@pytest.mark.parametrize("size", [5, 10**6])
def test_signed_sides_lie_in_order_of_the_text(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_index, "PART_ENTRIES", size)
    dense = np.random.default_rng(1).normal(size=300).astype(np.float32) * (np.random.default_rng(2).random(300) < 0.6)
    above, below = (np.flatnonzero(dense * sign > 0) for sign in (1, -1))
    sides = FeatureCodes(0, above, dense[above]), FeatureCodes(9, below, -dense[below])
    found = signed(*sides)
    assert found.feature == 0 and found.positions.tolist() == dense.nonzero()[0].tolist()
    assert found.codes.tolist() == dense[dense != 0].tolist()


def test_a_shard_written_in_batches_is_that_written_at_once(tmp_path: Path, codes: np.ndarray) -> None:
    whole = filled(tmp_path / "whole", codes)
    (tmp_path / "batched").mkdir()
    batched = CodeIndex(tmp_path / "batched", 12, len(codes), context=8)
    for shard in range(3):
        part = codes[shard * 40 : shard * 40 + 40]
        writer = batched.writer(shard)
        for start in (0, 16, 24):
            stop = {0: 16, 16: 24, 24: 40}[start]
            tokens, features = part[start:stop].nonzero()
            writer.add(tokens + start, features, part[start:stop][tokens, features])
        assert batched.missing() == list(range(shard, 3))
        writer.close()
    for name in sorted(path.name for path in whole.folder.iterdir()):
        assert np.array_equal(np.load(whole.folder / name), np.load(batched.folder / name)), name
    assert len(list(batched.folder.iterdir())) == 9


def test_a_disk_that_is_full_is_said_before_the_entries_are_written(
    tmp_path: Path, codes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(code_shards.os, "posix_fallocate", full, raising=False)
    with pytest.raises(StorageError, match="no space left"):
        filled(tmp_path, codes)
    assert list(tmp_path.iterdir()) == []
