"""Peak memory of reading features, of rules and of the rows of a feature, on a text and on one four times as long.

What lies in mapped files does not count: the system takes it back when it needs the memory.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sae_core import code_index, histograms, row_entries, rule_views, sampling
from sae_core.autointerp.fragments import fragment_pool
from sae_core.code_index import CodeIndex
from sae_core.context_rows import context_table
from sae_core.contexts import TokenText
from sae_core.edge_rows import sample_contexts
from sae_core.rule_scores import Halves
from sae_core.rule_views import views
from sae_core.rules import fitting_contexts
from sae_core.schemas import TREE_CONTEXTS

CONTEXT, WINDOW, SHARD = 64, 16, 8192
SHORT, LONG = 2**16, 2**18
NAMES = [f"␣w{i}" for i in range(50)]
BYTES_PER_TOKEN = 1.0


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large texts meet the real sizes of blocks, so do these texts."""
    for module in (code_index, histograms):
        monkeypatch.setattr(module, "PART_ENTRIES", 4096)
    monkeypatch.setattr(row_entries, "BLOCKS", 64)
    monkeypatch.setattr(row_entries, "ENTRIES_AT_ONCE", 8192)
    monkeypatch.setattr(sampling, "PERMUTED", 8192)
    monkeypatch.setattr(code_index, "BLOCK_ENTRIES", 8192)
    monkeypatch.setattr(code_index, "SHARD_TOKENS", SHARD)
    monkeypatch.setattr(rule_views, "BLOCK_TOKENS", 8192)
    monkeypatch.setattr(rule_views, "KEYS_AT_ONCE", 8192)
    monkeypatch.setattr("sae_core.autointerp.fragments.POOL", 1000)


def text(n: int) -> TokenText:
    return TokenText(np.random.default_rng(0).integers(0, len(NAMES), n).astype(np.uint16), CONTEXT, WINDOW)


def index(folder: Path, n: int) -> CodeIndex:
    """Feature 0 is active on nine tokens out of ten, feature 1 on one out of five, feature 2 never."""
    folder.mkdir()
    made = CodeIndex(folder, 3, n, CONTEXT)
    for shard in made.missing():
        rng = np.random.default_rng(shard)
        active = [np.flatnonzero(rng.random(SHARD) < share) for share in (0.9, 0.2)]
        features = np.repeat([0, 1], [len(each) for each in active])
        made.write(shard, np.concatenate(active), features, rng.random(len(features)) + 0.1)
    return made


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    _, found = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found


def grows(work: Callable[[CodeIndex, TokenText], object], folder: Path) -> float:
    """Bytes a token by which the peak of some work grows."""
    runs = [(index(folder / str(n), n), text(n)) for n in (SHORT, LONG)]
    short, long = (peak(lambda run=run: work(*run)) for run in runs)
    return (long - short) / (LONG - SHORT)


def read(index: CodeIndex, _: TokenText) -> float:
    return sum(float(part.codes.sum()) for found in index.features() for part in found.parts())


def rules(index: CodeIndex, text: TokenText) -> None:
    fitting = fitting_contexts(len(text.token_ids) // CONTEXT)
    pool = fragment_pool(np.arange(text.n_windows), 0)
    halves = Halves(text, views(text, NAMES, fitting, index.folder), fitting, pool, 0, "corrected")
    assert halves.explain(next(index.features())).rule is not None


def context_rows(index: CodeIndex, text: TokenText) -> None:
    assert context_table(next(index.features()), text, 0).num_rows > 100


def edge_contexts(index: CodeIndex, text: TokenText) -> None:
    assert len(sample_contexts([next(index.features())], text, 0).targets) == TREE_CONTEXTS


def test_reading_features_does_not_grow_with_the_text(tmp_path: Path) -> None:
    assert grows(read, tmp_path) < BYTES_PER_TOKEN / 2


def test_rules_do_not_grow_with_the_text(tmp_path: Path) -> None:
    """What grows are the windows (numbers of 8 bytes, a few for each 16 tokens here) and the common n-grams."""
    assert grows(rules, tmp_path) < BYTES_PER_TOKEN


def test_windows_of_a_dense_feature_grow_only_with_the_windows(tmp_path: Path) -> None:
    assert grows(lambda index, _: next(index.features()).windows(WINDOW), tmp_path) < 40 / WINDOW


@pytest.mark.parametrize("work", [context_rows, edge_contexts])
def test_the_rows_of_a_dense_feature_do_not_grow_with_the_text(work: Callable, tmp_path: Path) -> None:
    """More than half of the codes here are among the strong ones that edges draw from."""
    assert grows(work, tmp_path) < BYTES_PER_TOKEN / 3
