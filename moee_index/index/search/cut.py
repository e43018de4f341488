"""The rows that can still be among the best k for a query, as blocks of scores go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError
from moee_index.index.store.rows import RowNumbers
from moee_index.types import FloatArray

NOT_FINITE = (
    "the index holds values that are not finite, so one of its files is damaged; moee-index "
    "verify --full names it"
)


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows that were scanned. selected: the places in the block that count; None where all
    do. similarities: float32 [q, m] of each part that counts; the next block overwrites them."""

    rows: range | RowNumbers
    selected: RowNumbers | None
    similarities: Sequence[FloatArray]


class TopKCut:
    """The rows that can still be among the best k for one query, as blocks of scores go by.

    max_candidates: how many rows may be left before it gives up and has `overflowed`; None is any
    number.
    """

    def __init__(self, k: int, min_score: float | None, max_candidates: int | None = None) -> None:
        self._k = k
        self._max_candidates = max_candidates
        self.threshold = -np.inf if min_score is None else min_score
        self._scores: list[npt.NDArray[Any]] = []
        self._rows: list[RowNumbers] = []
        self._held = 0
        self.overflowed = False

    def add(
        self,
        scores: npt.NDArray[Any],
        rows: range | RowNumbers,
        selected: RowNumbers | None,
        margin: float,
    ) -> None:
        """Scores of a block's rows; selected: the places that count, None where all do; margin: how
        far below the k-th of these scores and those before a row of the true top k can be.

        A margin may be larger than those before it, as errors are that grow with the scores.
        """
        if selected is not None:
            scores = scores[selected]
        highest = float(scores.max())
        # What is not a number is the maximum wherever it is.
        if not np.isfinite(highest):
            raise IndexDamagedError(NOT_FINITE)
        if highest < self.threshold - margin:
            return
        above = np.flatnonzero(scores >= self.threshold - margin)
        self._scores.append(scores[above])
        positions = above if selected is None else selected[above]
        self._rows.append(positions + rows.start if isinstance(rows, range) else rows[positions])
        self._held += len(above)
        if self._held > self._k:
            self._prune(margin)

    def _prune(self, margin: float) -> None:
        scores, rows = np.concatenate(self._scores), np.concatenate(self._rows)
        position = len(scores) - self._k
        self.threshold = max(self.threshold, float(np.partition(scores, position)[position]))
        kept = scores >= self.threshold - margin
        self._scores, self._rows = [scores[kept]], [rows[kept]]
        self._held = len(self._scores[0])
        if self._max_candidates is not None and self._held > self._max_candidates:
            self.overflowed = True
            self._scores, self._rows = [], []

    def rows(self) -> RowNumbers:
        """The rows left, ascending."""
        return np.sort(np.concatenate(self._rows)) if self._rows else np.empty(0, dtype=np.int64)
