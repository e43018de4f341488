"""Raw vectors on disk, by what was embedded and how, so that no text is ever embedded twice.

DIRECTORY/<key>/    the vectors of one key (table.py)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from moee_index.bench.vector_cache.table import Shelf, disk_errors
from moee_index.errors import IndexDamagedError
from moee_index.types import EncoderOptions, Notify, ignore


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
            except IndexDamagedError as error:
                self._notify(f"damaged vectors are made anew: {error}")
                with disk_errors(path):
                    shutil.rmtree(path)
                self._shelves[key] = Shelf(path, key.identity())
        return self._shelves[key]

    def close(self) -> None:
        """Let go of all files."""
        for shelf in self._shelves.values():
            shelf.close()
        self._shelves.clear()


def default_directory() -> Path:
    """`vectors` in the program's cache directory (`MOEE_INDEX_CACHE`, else the platform's)."""
    from moee_index.model.load.cache import cache_directory

    return cache_directory() / "vectors"
