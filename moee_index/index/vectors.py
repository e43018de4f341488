"""Raw rows on disk: plain little-endian matrices, written at their places, read as memory maps.

Knows bytes and shapes. Refuses to know where rows come from and what becomes of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.embeddings import Embeddings
from moee_index.errors import IndexDamagedError, ModelError, StorageError
from moee_index.index.manifest import PARTS, STORES, raw_name
from moee_index.index.storage import storage_errors

RawArray = npt.NDArray[np.floating[Any]]


class RowWriter:
    """Writes both parts' raw rows at their places. A context manager; raises StorageError.

    Rows of a kill's victim may be there half written: what counts as written is for the documents
    store to say, after `sync`.
    """

    def __init__(self, generation: Path, store: str, dims: dict[str, int]) -> None:
        self._dtype = np.dtype(STORES[store][0])
        self._paths = {part: generation / raw_name(part, store) for part in PARTS}
        self._row_bytes = {part: dims[part] * self._dtype.itemsize for part in PARTS}
        self._store = store
        self._handles: dict[str, int] = {}
        for part, path in self._paths.items():
            with storage_errors(path):
                self._handles[part] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def write(self, rows: Sequence[int], embeddings: Embeddings) -> None:
        """Row i of `embeddings` to place rows[i]. Raises ModelError where float16 overflows."""
        for part, values in (("hs", embeddings.hs), ("rw", embeddings.rw)):
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(values, dtype=self._dtype)
            if self._store == "float16" and not np.isfinite(stored).all():
                raise ModelError(
                    f"a value of {part.upper()} is too large for float16; build with "
                    "--store float32"
                )
            with storage_errors(self._paths[part]):
                for row, content in zip(rows, stored, strict=True):
                    self._write_at(part, row, content.tobytes())

    def copy(self, source: int, target: int) -> None:
        """Row `source` to place `target`, in both parts."""
        for part, path in self._paths.items():
            size = self._row_bytes[part]
            with storage_errors(path):
                content = os.pread(self._handles[part], size, source * size)
                if len(content) != size:
                    raise StorageError(f"{path} ends before row {source}; build with --overwrite")
                self._write_at(part, target, content)

    def _write_at(self, part: str, row: int, content: bytes) -> None:
        view, place = memoryview(content), row * self._row_bytes[part]
        while view:
            written = os.pwrite(self._handles[part], view, place)
            view, place = view[written:], place + written

    def sync(self) -> None:
        """Return when everything written is on disk."""
        for part, path in self._paths.items():
            with storage_errors(path):
                os.fsync(self._handles[part])

    def holds(self, rows: int) -> bool:
        """Whether both files are long enough for so many rows."""
        return all(
            os.fstat(self._handles[part]).st_size >= rows * self._row_bytes[part] for part in PARTS
        )

    def finish(self, rows: int) -> None:
        """Cut both files to exactly so many rows and sync them."""
        for part, path in self._paths.items():
            with storage_errors(path):
                os.ftruncate(self._handles[part], rows * self._row_bytes[part])
        self.sync()


class RowReader:
    """Both parts' raw rows as read-only memory maps: hs [n, d], rw [n, layers * experts].

    They keep their stored type; `take` gives float32.
    """

    def __init__(self, paths: dict[str, Path], store: str, rows: int, dims: dict[str, int]) -> None:
        dtype = np.dtype(STORES[store][0])
        self.hs = map_rows(paths["hs"], dtype, rows, dims["hs"])
        self.rw = map_rows(paths["rw"], dtype, rows, dims["rw"])

    def __len__(self) -> int:
        return len(self.hs)

    def take(self, rows: slice | npt.NDArray[np.int64]) -> Embeddings:
        """Raw float32 rows, copied."""
        return Embeddings(self.hs[rows].astype(np.float32), self.rw[rows].astype(np.float32))


def map_rows(
    path: Path, dtype: np.dtype[Any], rows: int, columns: int, offset: int = 0
) -> npt.NDArray[Any]:
    """A read-only memory map [rows, columns] of the end of a file, from `offset` on.

    Raises IndexDamagedError if the file has another size or cannot be read.
    """
    expected = offset + rows * columns * dtype.itemsize
    try:
        size = path.stat().st_size
        if size != expected:
            raise IndexDamagedError(
                f"{path} has {size} bytes, {rows} rows of {columns} take {expected}; restore it "
                "or build again with --overwrite"
            )
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(rows, columns))
    except OSError as error:
        raise IndexDamagedError(f"{path} cannot be read ({error.strerror or error})") from error
