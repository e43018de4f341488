"""Leaves rows out of one query's scan by their leading components (store/leading.py).

Where a row's bound is below what counts, its codes are not read. Which rows remain is thereby the
same as after a scan of all, and so is the answer; rows that are read are scored by who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.index.search.cut import Block, TopKCut
from moee_index.index.search.kernels import Scanner
from moee_index.index.search.leading import QueryBounds
from moee_index.index.search.scan_request import ScanRequest
from moee_index.index.store.leading import LeadingPart
from moee_index.index.store.rows import RowNumbers
from moee_index.types import FloatArray, Pair

# Rows of the first block that are read before others: they tell what counts.
_FIRST_LOOK = 64
_FIRST_LOOK_PER_K = 4
# Reading a row apart from others costs as much as reading about four in sequence.
GATHER = 4

Similarities = Callable[["range | RowNumbers"], list[FloatArray]]


class EarlyExit:
    """Of one query. vectors: float32 [1, d] of each part that counts; similarities: of rows that
    are read; most_rows: of a block at most."""

    def __init__(
        self,
        scanner: Scanner,
        leading: Pair[LeadingPart],
        request: ScanRequest,
        query: int,
        vectors: Sequence[FloatArray],
        similarities: Similarities,
        most_rows: int,
    ) -> None:
        self._scanner = scanner
        self._request = request
        self._query = query
        self._similarities = similarities
        each = [leading[part] for part in request.parts]
        self._parts = [
            (part, QueryBounds.by(part, values)) for part, values in zip(each, vectors, strict=True)
        ]
        self._room = scanner.room(len(each), 1, most_rows)
        self._seen = self._read = 0

    def blocks(
        self,
        of: Iterable[tuple[range | RowNumbers, RowNumbers | None]],
        norms: npt.NDArray[np.float32],
        cut: TopKCut,
        margin: float,
    ) -> Iterator[Block]:
        """What is left of blocks of rows, each with the places that count (None: all). Each has to
        be added to the cut before the next is asked for."""
        for rows, selected in of:
            if not isinstance(rows, range) or self._lost:
                yield Block(rows, selected, self._similarities(rows))
                continue
            upper = self._upper(rows, norms[rows.start : rows.stop])
            first = None if self._seen else self._best(upper, selected)
            if first is not None:
                yield self._only(rows, first)
            # What is no number is left in.
            left = ~(upper < cut.threshold - margin)
            if first is not None:
                left[first] = False
            places = np.flatnonzero(left) if selected is None else selected[left[selected]]
            self._seen += len(rows)
            self._read += min(GATHER * len(places), len(rows))
            if len(places):
                yield self._only(rows, places)

    def _best(self, upper: npt.NDArray[Any], selected: RowNumbers | None) -> RowNumbers:
        """The places of a block that promise most; a bound that is infinite promises nothing."""
        bounds = upper if selected is None else upper[selected]
        bounds = np.where(np.isfinite(bounds), bounds, -np.inf)
        count = min(len(bounds), max(_FIRST_LOOK, _FIRST_LOOK_PER_K * self._request.k))
        best = np.sort(np.argpartition(-bounds, count - 1)[:count])
        return best if selected is None else selected[best]

    @property
    def _lost(self) -> bool:
        """Whether more is read than is gained."""
        return self._read * 2 > self._seen

    def _only(self, rows: range, places: RowNumbers) -> Block:
        """Some places of a block: gathered, where they are few."""
        if len(places) * GATHER < len(rows):
            numbers = rows.start + places
            return Block(numbers, None, self._similarities(numbers))
        return Block(rows, places, self._similarities(rows))

    def _upper(self, rows: range, norms: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """What the scores of a block's rows are at most, words that were put off aside."""
        bounds = self._scanner.upper_bounds(self._parts, rows, self._room)
        with np.errstate(invalid="ignore"):
            scores = self._request.fused(self._query, bounds, norms)
            return self._request.blended(self._query, scores, rows, exact=False)
