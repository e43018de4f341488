"""Raw vectors on disk, by what was embedded and how, so that no text is ever embedded twice.

    DIRECTORY/<key>/    the vectors of one key (shelf.py)

Knows keys, folders and sizes. Refuses to know what is in a folder (shelf.py), models and tasks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moee_index.bench.vector_cache.table import (
    BUSY_SECONDS,
    TABLE,
    DamagedError,
    Shelf,
    disk_errors,
)
from moee_index.types import Embeddings, EncoderOptions, Notify, ignore

_NAME = re.compile(r"[0-9a-f]{12}-[0-9a-f]{20}")


@dataclass(frozen=True)
class StoreKey(EncoderOptions):
    """Everything that decides an embedding, the text aside.

    dequantised: the weights of a 4-bit checkpoint brought to 16 or 32 bits, which are not those of
    the checkpoint it was made from, though both have its fingerprint. template: the prompt's own
    words, so that vectors of a template that was reworded are not taken for the new one's. prompt:
    the one in use, of texts or of queries, so query_prompt is no part of the key.
    """

    query_prompt: str = field(default="", kw_only=True, compare=False)

    fingerprint: str
    dequantised: bool
    template: str

    def identity(self) -> str:
        """The key as one line of JSON."""
        fields = asdict(self)
        del fields["query_prompt"]
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)

    @property
    def name(self) -> str:
        """The folder of the key's vectors."""
        digest = hashlib.sha256(self.identity().encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.fingerprint[:12].ljust(12, '0')}-{digest[:20]}"


@dataclass(frozen=True)
class Entry:
    """One key's vectors: how many texts, and bytes on disk. key: {} where it cannot be read."""

    name: str
    key: dict[str, Any]
    texts: int
    bytes: int


class VectorStore:
    """Vectors of any number of keys in one directory. notify: is told when something is damaged
    and made anew."""

    def __init__(self, directory: Path, notify: Notify | None = None) -> None:
        self.directory = Path(directory)
        self._notify = notify or ignore
        self._shelves: dict[StoreKey, Shelf] = {}

    def shelf(self, key: StoreKey) -> Shelf:
        """The vectors of one key, opened once. What is damaged is removed and told.

        Raises StorageError.
        """
        if key not in self._shelves:
            path = self.directory / key.name
            try:
                self._shelves[key] = Shelf(path, key.identity())
            except DamagedError as error:
                self._notify(f"damaged vectors are made anew: {error}")
                with disk_errors(path):
                    shutil.rmtree(path)
                self._shelves[key] = Shelf(path, key.identity())
        return self._shelves[key]

    def get(self, key: StoreKey, texts: Sequence[str]) -> tuple[Embeddings | None, list[int]]:
        """(embeddings of all texts in their order, []), or (None, positions that are missing)."""
        shelf = self.shelf(key)
        rows = shelf.rows_of(texts)
        missing = [int(position) for position in np.flatnonzero(rows < 0)]
        return (None, missing) if missing else (shelf.take(rows), [])

    def put(self, key: StoreKey, texts: Sequence[str], embeddings: Embeddings) -> None:
        """Keep a batch; on return it is on disk. Raises StorageError, ModelError."""
        self.shelf(key).put(texts, embeddings)

    def entries(self) -> list[Entry]:
        """What there is, with sizes."""
        found = []
        for path in self._folders():
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            key, texts = _described(path)
            found.append(Entry(path.name, key, texts, size))
        return found

    def prune(self) -> int:
        """Remove all vectors. Returns the bytes freed. Raises StorageError."""
        self.close()
        freed = 0
        for entry in self.entries():
            with disk_errors(self.directory / entry.name):
                shutil.rmtree(self.directory / entry.name)
            freed += entry.bytes
        return freed

    def close(self) -> None:
        """Let go of all files."""
        for shelf in self._shelves.values():
            shelf.close()
        self._shelves.clear()

    def _folders(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return [
            path
            for path in sorted(self.directory.iterdir())
            if path.is_dir() and _NAME.fullmatch(path.name)
        ]


def default_directory() -> Path:
    """`vectors` in the program's cache directory (`MOEE_INDEX_CACHE`, else the platform's)."""
    from moee_index.model.load.cache import cache_directory

    return cache_directory() / "vectors"


def _described(path: Path) -> tuple[dict[str, Any], int]:
    table = path / TABLE
    if not table.is_file():
        return {}, 0
    try:
        with contextlib.closing(sqlite3.connect(table, timeout=BUSY_SECONDS)) as connection:
            (said,) = connection.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()
            (count,) = connection.execute("SELECT COUNT(*) FROM texts").fetchone()
            return dict(json.loads(said)), int(count)
    except (sqlite3.Error, TypeError, ValueError):
        # What cannot be read is listed all the same, so that it can be pruned.
        return {}, 0
