"""Raw vectors on disk, by what was embedded and how, so that no text is ever embedded twice; and
how they are read: rows where they lie, plans over them.

DIRECTORY/<key>/    the vectors of one key (table.py)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from moee_index.bench.vector_cache.table import Shelf, disk_errors
from moee_index.errors import IndexDamagedError
from moee_index.index.store.rows import RowNumbers
from moee_index.types import Embeddings, EncoderOptions, Notify, ignore

BLOCK = 2048


@dataclass(frozen=True)
class StoreKey(EncoderOptions):
    """Everything that decides an embedding, the text aside.

    dequantised: the weights of a 4-bit checkpoint brought to 16 or 32 bits, which are not those of
    the checkpoint it was made from, though both have its fingerprint. template: the prompt's own
    words, so that vectors of a template that was reworded are not taken for the new one's.
    token_weights: see `EncoderSpec`. prompt: the one in use, of texts or of queries, so
    query_prompt is no part of the key.
    """

    query_prompt: str = field(default="", kw_only=True, compare=False)

    fingerprint: str
    dequantised: bool
    template: str
    token_weights: str | None = None

    def identity(self) -> str:
        """The key as one line of JSON."""
        fields = asdict(self)
        del fields["query_prompt"]
        if self.token_weights is None:  # as stores were named before there were any
            del fields["token_weights"]
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)

    @property
    def name(self) -> str:
        """The folder of the key's vectors."""
        digest = hashlib.sha256(self.identity().encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.fingerprint[:12].ljust(12, '0')}-{digest[:20]}"


class VectorStore:
    """Vectors of any number of keys in one directory. notify: is told when something is damaged
    and made anew."""

    def __init__(self, directory: Path, notify: Notify | None = None) -> None:
        self.directory = Path(directory)
        self.notify = notify or ignore
        self._shelves: dict[StoreKey, Shelf] = {}

    def shelf(self, key: StoreKey) -> Shelf:
        """The vectors of one key, opened once. What is damaged is removed and told.

        Raises StorageError.
        """
        if key not in self._shelves:
            path = self.directory / key.name
            try:
                self._shelves[key] = Shelf(path, key.identity())
            except IndexDamagedError as error:
                self.notify(f"damaged vectors are made anew: {error}")
                with disk_errors(path):
                    shutil.rmtree(path)
                self._shelves[key] = Shelf(path, key.identity())
        return self._shelves[key]

    def close(self) -> None:
        """Let go of all files."""
        for shelf in self._shelves.values():
            shelf.close()
        self._shelves.clear()


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


def default_directory() -> Path:
    """`vectors` in the program's cache directory (`MOEE_INDEX_CACHE`, else the platform's)."""
    from moee_index.model.load.cache import cache_directory

    return cache_directory() / "vectors"
