"""The compiled bounds as a Python function. The library is loaded by its path and serves every
Python; where an installation had no compiler there is none, and every row is scanned."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moee_index.backends import compiled
from moee_index.index.store.checksums import Bytes
from moee_index.types import FloatArray


@cache
def library() -> ctypes.CDLL | None:
    """None where it was not built or does not load here."""
    loaded = compiled(Path(__file__).parent, "_bounds")
    if loaded is not None:
        size, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
        loaded.upper_bounds.argtypes = [
            pointer, size, size, pointer, ctypes.c_uint32, number, pointer, number, number, pointer
        ]  # fmt: skip
        loaded.upper_bounds.restype = None
    return loaded


def upper_bounds(
    codes: Bytes,
    weights: npt.NDArray[np.int16],
    zero: int,
    scale: float,
    rest: FloatArray,
    query_rest: float,
    added: float,
    out: FloatArray,
) -> None:
    """Into out float32 [m]: (codes [m, p] @ weights [p] - zero) * scale + rest [m] * query_rest +
    added. Releases the GIL."""
    loaded = library()
    assert loaded is not None
    for array in (codes, weights, rest, out):
        assert array.flags.c_contiguous
    loaded.upper_bounds(
        codes.ctypes.data, *codes.shape, weights.ctypes.data, zero % (1 << 32), scale,
        rest.ctypes.data, query_rest, added, out.ctypes.data,
    )  # fmt: skip
