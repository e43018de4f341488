"""Rank correlations by scipy, for tuning and for the bench's analyses.

scipy is imported where it is first needed: `--help` and `query` do without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moee_index.fusion import Float64Array, Rows


def average_ranks(values: Rows) -> Float64Array:
    """Ranks from 1 along the last axis, equal values sharing the mean of theirs: float64."""
    from scipy.stats import rankdata

    ranks: Float64Array = rankdata(values, axis=-1)
    return ranks


def row_correlations(x: Rows, y: Rows) -> Float64Array:
    """Spearman's correlation of each row of x [m, n] with that of y: [m]; NaN where one is
    constant."""
    first, second = _centered_ranks(x), _centered_ranks(y)
    above = (first * second).sum(axis=-1)
    below = np.sqrt(np.square(first).sum(axis=-1) * np.square(second).sum(axis=-1))
    correlations: Float64Array = np.divide(
        above, below, out=np.full_like(above, np.nan), where=below > 0
    )
    return correlations


def spearman(x: Rows, y: Rows, *, constant: float = 0.0) -> float:
    """Spearman's rank correlation of x and y, [n] each, ties averaged.

    constant: the value where one of them is constant, for it orders nothing.
    """
    correlation = float(row_correlations(x[None], y[None])[0])
    return constant if np.isnan(correlation) else correlation


def rank_correlations(lists: Sequence[Rows]) -> Float64Array:
    """Spearman's correlations between lists of n values each, [lists, lists]; NaN where one is
    constant. Equal values share their average rank."""
    ranks = _centered_ranks(np.stack(lists))
    lengths = np.sqrt(np.square(ranks).sum(axis=1))
    ranks /= np.where(lengths > 0, lengths, np.nan)[:, None]
    correlations: Float64Array = np.clip(ranks @ ranks.T, -1.0, 1.0)
    return correlations


def _centered_ranks(values: Rows) -> Float64Array:
    ranks = average_ranks(values)
    centered: Float64Array = ranks - ranks.mean(axis=-1, keepdims=True)
    return centered
