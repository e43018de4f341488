"""Stored vectors as others take them: rows where they lie, plans over them, batches on
their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.bench.vector_cache.table import RowNumbers, Shelf
from moee_index.types import Embeddings

BLOCK = 2048


class Pending:
    """Batches that are computed and not on disk yet. done: texts computed so far."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._texts: list[str] = []
        self._embeddings: list[Embeddings] = []
        self._tokens: list[int] = []
        self._truncated: list[bool] = []
        self.done = 0

    def add(
        self,
        texts: Sequence[str],
        embeddings: Embeddings,
        tokens: Sequence[int],
        truncated: Sequence[bool],
    ) -> None:
        self._texts.extend(texts)
        self._embeddings.append(embeddings)
        self._tokens.extend(tokens)
        self._truncated.extend(truncated)
        self.done += len(texts)

    def commit(self) -> None:
        if not self._texts:
            return
        joined = Embeddings(
            np.concatenate([one.hs for one in self._embeddings]),
            np.concatenate([one.rw for one in self._embeddings]),
        )
        self._shelf.put(self._texts, joined, self._tokens, self._truncated)
        self._texts, self._embeddings, self._tokens, self._truncated = [], [], [], []


@dataclass(frozen=True)
class StoredRows:
    """Vectors of texts where they lie. hs and rw can be sliced like arrays [n, d], so that a
    standardizer is fitted on more rows than memory holds."""

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

    @property
    def lazy(self) -> Embeddings:
        """Embeddings whose arrays are read as they are sliced."""
        hs: Any = _Part(self, "hs")
        rw: Any = _Part(self, "rw")
        return Embeddings(hs, rw)


class _Part:
    """One part of stored rows, read slice by slice; what `PartStandardizer.fit` needs of rows."""

    def __init__(self, rows: StoredRows, part: str) -> None:
        dims = rows.shelf.dims or (0, 0)
        self._rows = rows
        self._part = part
        self.shape = (len(rows), dims[0] if part == "hs" else dims[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = getattr(self._rows.take(rows), self._part)
        return found


class StoredPlan:
    """`EncodingPlan` over texts that are stored: batches in their order, nothing to compute."""

    def __init__(self, rows: StoredRows) -> None:
        self._rows = rows
        self.batches: Sequence[Sequence[int]] = [
            range(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)
        ]
        self.tokens = int(rows.shelf.tokens_of(np.unique(rows.numbers)).sum())
        self.truncated: Sequence[bool] = rows.shelf.truncated_of(rows.numbers)

    def encode(self, batch: int) -> Embeddings:
        """Read one batch; row i belongs to position `batches[batch][i]`."""
        positions = self.batches[batch]
        return self._rows.take(slice(positions[0], positions[-1] + 1))
