"""Rounded mantissas: against numpy's own arithmetic, at the ends of the range, and inside a stored table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sae_core.rounding import round_column, round_mantissa
from sae_core.schemas import TABLES
from sae_core.specs import CorpusSpec, DictionarySpec, ModelSpec, RunSpec, Site
from sae_core.store import DictionaryEntry, Manifest, RunStore


@pytest.mark.parametrize(("dtype", "mantissa"), [(np.float16, 10), (np.float32, 23)])
@pytest.mark.parametrize("bits", [1, 5, 7, 30])
def test_it_is_the_nearest_number_with_so_many_bits(dtype: type, mantissa: int, bits: int) -> None:
    values = np.random.default_rng(0).normal(0, 3, 5000).astype(dtype)
    values = values[np.abs(values) >= np.finfo(dtype).smallest_normal]
    found = round_mantissa(values, bits)
    fractions, exponents = np.frexp(values.astype(np.float64))
    kept = 2.0 ** (min(bits, mantissa) + 1)
    assert found.dtype == values.dtype
    assert (found == np.ldexp(np.round(fractions * kept) / kept, exponents)).all()  # np.round takes halves to even


def test_the_ends_of_the_range_stay_what_they_are() -> None:
    top, least = np.finfo(np.float16).max, np.float16(1.67e-6)
    values = np.array([0.0, -0.0, top, -top, least, 1.0, -1.5, np.inf], np.float16)
    found = round_mantissa(values, 5)
    assert found.tolist() == values.tolist() and np.isfinite(found[:-1]).all()
    assert np.isnan(round_mantissa(np.array([np.nan], np.float16), 5)).all()


def test_lists_keep_their_shape_also_in_a_slice() -> None:
    column = pa.chunked_array([pa.array([[9.0], [1.03, 2.0], [], [3.99]], pa.list_(pa.float16()))])
    assert round_column(column.slice(1), 3).to_pylist() == [[1.0, 2.0], [], [4.0]]
    assert round_column(column.slice(1), 5).type == column.type


def test_a_stored_table_has_the_digits_its_schema_names(tmp_path: Path) -> None:
    spec = DictionarySpec(Site(0), "tied", 4.0, 1e-3)
    entry = DictionaryEntry(spec.id, spec, 8, "hash")
    manifest = Manifest("run", RunSpec(ModelSpec("m"), CorpusSpec("miniature")), dictionaries=(entry,))
    store = RunStore.create(tmp_path / "run", manifest)
    n, rng = 9000, np.random.default_rng(0)
    frame = pd.DataFrame(
        {"token_id": np.arange(n) // 30, "feature": np.arange(n) % 30, "count": rng.integers(99, size=n)}
    )
    for name in ("mean_activation", "share_of_token", "share_of_feature"):
        frame[name] = rng.random(n).astype(np.float16)
    store.write_table("token_features", frame, entry.id)
    found = store.read("token_features", entry.id)
    for column in TABLES["token_features"].columns:
        expected = frame[column.name].to_numpy()
        rounded = expected if column.bits is None else round_mantissa(expected, column.bits)
        assert (found[column.name].to_numpy() == rounded).all()
    assert (found["share_of_token"] != frame["share_of_token"]).any()
    assert store.read("token_features", entry.id, key=250)["feature"].tolist() == list(range(30))
    assert store._keys_per_group(TABLES["token_features"], entry.id) == 128
