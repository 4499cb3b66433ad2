"""The inverted index against a dense matrix of codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sae_core import code_index
from sae_core.code_index import CodeIndex


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
