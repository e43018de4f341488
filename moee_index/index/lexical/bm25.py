"""BM25's parameters; the formula is in `scores`. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bm25:
    """k1: how much repetition counts, 0 or more; b: how much length counts, 0 to 1."""

    k1: float = 1.2
    b: float = 0.75


LUCENE = Bm25()
