"""Numbers with fewer digits, so that a table that only shows or ranks them takes less room. Needs numpy and Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_FORMS = {2: (np.uint16, 10), 4: (np.uint32, 23)}  # bytes of a float: integer of that size, bits of its mantissa


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """float16 or float32 values with `bits` bits of mantissa, the rest 0: a relative error of at most 2^-(bits + 1).

    Halves go to even. What would become infinite stays as it is, and so do numbers so small that their form has fewer
    bits for them (below 6e-5 in float16).
    """
    whole, mantissa = _FORMS[values.dtype.itemsize]
    drop = mantissa - bits
    if drop <= 0:
        return values
    pattern = np.ascontiguousarray(values).view(whole)
    half = whole((1 << (drop - 1)) - 1) + ((pattern >> whole(drop)) & whole(1))
    found = ((pattern + half) >> whole(drop) << whole(drop)).view(values.dtype)
    stays = ~np.isfinite(found) | (np.abs(values) < np.finfo(values.dtype).smallest_normal)
    return np.where(stays, values, found)


def round_column(column: pa.ChunkedArray, bits: int) -> pa.Array:
    """A column of floats, or of lists of them, rounded by `round_mantissa`; no nulls."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        values = array.flatten()
        offsets = array.offsets.to_numpy() - array.offsets[0].as_py()
        return pa.ListArray.from_arrays(offsets, _rounded(values, bits), type=array.type)
    return _rounded(array, bits)


def _rounded(array: pa.Array, bits: int) -> pa.Array:
    return pa.array(round_mantissa(array.to_numpy(), bits), type=array.type)
