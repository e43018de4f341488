"""A first pass over codes: similarities in bfloat16, with a bound on their error.

Multiplies float16 codes with queries in bfloat16, which processors with such instructions (AVX-512
BF16, AMX, ARMv8.6) do at twice the rate of float32, and bounds what the rounding can cost. What
passes has to be scored again.

A unit vector's codes c become c' and a query q becomes q'; products are summed in float32 and
rounded once more, to bfloat16. So, by Cauchy and Schwarz,

    |⟨c', q'⟩ - ⟨c, q⟩| <= |c' - c| |q'| + |c| |q' - q|,    |c' - c| <= 2^-8 |c|

of which |q' - q| and |q'| are known for each query; the last rounding adds 2^-8 of the result. No
value of float16 is too small for a normal number in bfloat16, so the relative bound holds for all.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.index.store.checksums import Codes
from moee_index.types import FloatArray

# Half the distance of two neighbours in bfloat16, relative to them.
ROUNDING = 2.0**-8
# Sums of float32 products, and float64 queries rounded to float32.
_ARITHMETIC = 1e-5
# Rows converted at a time: both copies stay in a core's caches.
_ROWS = 256
_TRIED = (512, 2048, 64)
_buffers = threading.local()


def bounds(queries: FloatArray, longest: float) -> npt.NDArray[np.float64]:
    """For each query [q, d] how far its similarities can be off before the result is rounded;
    ROUNDING of the result comes on top. longest: the length of the longest codes."""
    import torch

    rounded = torch.from_numpy(queries).bfloat16().double().numpy()
    lost = np.sqrt(np.square(rounded - queries).sum(axis=1))
    lengths = np.sqrt(np.square(rounded).sum(axis=1))
    found: npt.NDArray[np.float64] = longest * (ROUNDING * lengths + lost) + _ARITHMETIC
    return found


def multiply(codes: Codes, queries: FloatArray, out: FloatArray) -> None:
    """Queries [q, d] over codes [m, d] into out [q, m], as close as `bounds` says."""
    import torch

    left: Any = torch.from_numpy(queries).bfloat16()
    target: Any = torch.from_numpy(out)
    halves: Any = torch.from_numpy(codes)
    single, short = _buffers_for(codes.shape[1])
    for start in range(0, len(codes), _ROWS):
        some = halves[start : start + _ROWS]
        rows = len(some)
        # By way of float32: torch's direct conversion is many times slower.
        single[:rows].copy_(some)
        short[:rows].copy_(single[:rows])
        target[:, start : start + rows] = left @ short[:rows].t()


def _buffers_for(dim: int) -> tuple[Any, Any]:
    """This thread's float32 and bfloat16 rows of a dimension."""
    import torch

    known: dict[int, tuple[Any, Any]] = _buffers.__dict__.setdefault("known", {})
    if dim not in known:
        shape = (_ROWS, dim)
        known[dim] = torch.empty(shape), torch.empty(shape, dtype=torch.bfloat16)
    return known[dim]


@functools.cache
def pays() -> bool:
    """Whether this machine multiplies faster in bfloat16, conversions included, and as precisely
    as `bounds` says. Tried once, in some milliseconds; it decides nothing but speed."""
    import torch

    rows, dim, count = _TRIED
    generator = np.random.default_rng(0)
    made = [generator.standard_normal((n, dim), dtype=np.float32) for n in (rows, count)]
    units, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in made)
    codes = units.astype(np.float16)
    rough = np.empty((count, rows), dtype=np.float32)
    halves, right = torch.from_numpy(codes), torch.from_numpy(np.ascontiguousarray(queries.T))
    exact = (halves.double() @ right.double()).t().numpy()
    try:
        multiply(codes, queries, rough)
    except RuntimeError:
        return False
    allowed = bounds(queries, 1.01)[:, None] + ROUNDING * np.abs(rough)
    if not (np.abs(rough - exact) <= allowed).all():
        return False
    return _least(lambda: multiply(codes, queries, rough)) < _least(lambda: halves.float() @ right)


def _least(way: Callable[[], object]) -> float:
    """Processor seconds of the cheapest of some calls: the two ways may use other numbers of
    threads, and a search keeps all of them busy with either."""
    taken = []
    for _ in range(4):
        before = time.process_time()
        way()
        taken.append(time.process_time() - before)
    return min(taken)
