"""Similarities of STS pairs and what they correlate with: the arithmetic that analyses share.

Standardizing: mean and deviation of each dimension over the distinct texts of one task (what the
bench calls `corpus`), then cosine. Works on blocks of pairs, so that float64 copies of wide vectors
stay small.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from moee_index.bench.analyses.task_texts import Pairs
from moee_index.fusion import (
    Float64Array,
    PartStandardizer,
    Rows,
    Standardizer,
    one_vector,
    unit_rows,
    unit_vectors,
)
from moee_index.tune import correlation
from moee_index.types import Embeddings

Form = Literal["raw", "standardised"]
FORMS: tuple[Form, ...] = get_args(Form)
BLOCK = 1024


def cosines(own: Rows, pairs: Pairs, form: Form, part: str = "hs") -> Float64Array:
    """Cosine of each pair, float64 [pairs]; own: [m, d], the rows of the task's distinct texts."""
    frozen = PartStandardizer.fit(own, part) if form == "standardised" else None
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        block = slice(start, start + BLOCK)
        left, _ = unit_rows(own[pairs.left[block]], part, frozen)
        right, _ = unit_rows(own[pairs.right[block]], part, frozen)
        found[block] = (left * right).sum(axis=1)
    return found


def method_scores(own: Embeddings, pairs: Pairs, form: Form) -> dict[str, Float64Array]:
    """Scores of each pair by `hs`, `rw`, `concat` and `sum` (alpha 1), float64 [pairs] each."""
    frozen = Standardizer.fit(own, "both" if form == "standardised" else "none")
    found = {method: np.empty(len(pairs)) for method in ("hs", "rw", "concat", "sum")}
    for start in range(0, len(pairs), BLOCK):
        block = slice(start, start + BLOCK)
        left, right = (
            unit_vectors(Embeddings(own.hs[rows], own.rw[rows]), frozen)
            for rows in (pairs.left[block], pairs.right[block])
        )
        found["hs"][block] = (left.hs * right.hs).sum(axis=1)
        found["rw"][block] = (left.rw * right.rw).sum(axis=1)
        joined = one_vector(left, "concat").astype(np.float64) * one_vector(right, "concat")
        found["concat"][block] = joined.sum(axis=1)
    found["sum"] = found["hs"] + found["rw"]
    return found


def spearman(first: Rows, second: Rows) -> float:
    """Spearman's correlation × 100; NaN where one side is constant."""
    return 100 * correlation.spearman(first, second, constant=np.nan)
