"""Inner products of queries with few thousand rows, beside threads that scan many."""

from __future__ import annotations

import numpy as np

from moee_index.types import FloatArray

# From so many queries on a BLAS gains more than its threads cost others.
_MANY = 8


def products(queries: FloatArray, rows: FloatArray) -> FloatArray:
    """float32 [q, n] of queries [q, d] and rows [n, d].

    A BLAS lets its threads spin for a while after a product, on the cores that a search then needs
    (LAB.md): few queries do without one.
    """
    if len(queries) >= _MANY:
        return queries @ rows.T
    found: FloatArray = np.einsum("qd,nd->qn", queries, rows)
    return found
