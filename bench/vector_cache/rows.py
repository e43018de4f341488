"""Stored vectors as others take them: rows where they lie, and plans over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moee_index.bench.vector_cache.table import Shelf
from moee_index.index.store.rows import RowNumbers
from moee_index.types import Embeddings

BLOCK = 2048


@dataclass(frozen=True)
class TextRows:
    """The vectors of texts where they lie; what is read is at most a block."""

    shelf: Shelf
    numbers: RowNumbers

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: slice) -> Embeddings:
        """Raw float32 rows, copied."""
        return self.shelf.take(self.numbers[rows])

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, Embeddings]]:
        """Consecutive blocks and where they stand."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self.take(rows)


class StoredPlan:
    """`EncodingPlan` over texts that are stored: batches in their order, nothing to compute.

    change: what becomes of the vectors of a batch.
    """

    def __init__(
        self, rows: TextRows, change: Callable[[Embeddings], Embeddings] = lambda raw: raw
    ) -> None:
        self._rows = rows
        self._change = change
        self.batches: Sequence[Sequence[int]] = [
            range(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)
        ]
        self.tokens = int(rows.shelf.tokens_of(np.unique(rows.numbers)).sum())
        self.truncated: Sequence[bool] = rows.shelf.truncated_of(rows.numbers)

    def encode(self, batch: int) -> Embeddings:
        """Read one batch; row i belongs to position `batches[batch][i]`."""
        positions = self.batches[batch]
        return self._change(self._rows.take(slice(positions[0], positions[-1] + 1)))
