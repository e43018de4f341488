"""Raw rows on disk: plain little-endian matrices, written at their places, read as memory maps.

Each row has a CRC-32. Where rows come from and what becomes of them is left to others.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.atomic import open_for_update, read_at, storage_errors, sync_file, write_at
from moee_index.errors import IndexDamagedError, ModelError, StorageError, counted
from moee_index.index.store.checksums import check_rows
from moee_index.index.store.layout import ROW_CHECKS, STORES, raw_name
from moee_index.index.store.reading import HINT, reading
from moee_index.types import PARTS, Embeddings, Pair, Part, columns

RawArray = npt.NDArray[np.floating[Any]]
RowNumbers = npt.NDArray[np.int64]
_CRC_BYTES = 4 * 2


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows as they are stored, [m, d] each, and their checksums, [m, 2]."""

    parts: Pair[RawArray]
    crc: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class _File:
    """A file of rows that is open for writing."""

    path: Path
    handle: int
    row_bytes: int

    def write_at(self, row: int, content: bytes | memoryview) -> None:
        write_at(self.handle, memoryview(content), row * self.row_bytes)


class RowWriter:
    """Writes both parts' raw rows at their places, and their checksums. A context manager.

    After a crash some rows may be half written; only rows that the table of whoever writes them
    lists as done, after `sync`, are valid. message: as of `storage_errors`. Raises StorageError.
    """

    def __init__(
        self, folder: Path, store: str, dims: Pair[int], message: str | None = None
    ) -> None:
        self._dtype = np.dtype(STORES[store][0])
        self._store = store
        self._errors = partial(storage_errors, message=message)
        widths = [(raw_name(part, store), dims[part] * self._dtype.itemsize) for _, part in PARTS]
        self._files = [
            self._opened(folder / name, width)
            for name, width in (*widths, (ROW_CHECKS, _CRC_BYTES))
        ]

    def _opened(self, path: Path, row_bytes: int) -> _File:
        with self._errors(path):
            handle = open_for_update(path)
        return _File(path, handle, row_bytes)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            os.close(file.handle)

    def write(self, rows: Sequence[int], embeddings: Embeddings) -> None:
        """Row i of `embeddings` to place rows[i]. Raises ModelError where float16 overflows."""
        stored = PARTS.map(lambda part: self._as_stored(part, embeddings[part]))
        for i, row in enumerate(rows):
            hs, rw = stored.hs[i].tobytes(), stored.rw[i].tobytes()
            crcs = np.array([zlib.crc32(hs), zlib.crc32(rw)], dtype="<u4").tobytes()
            for file, content in zip(self._files, (hs, rw, crcs), strict=True):
                with self._errors(file.path):
                    file.write_at(row, content)

    def _as_stored(self, part: Part, values: RawArray) -> RawArray:
        with np.errstate(over="ignore"):
            stored: RawArray = np.ascontiguousarray(values, dtype=self._dtype)
        if self._store == "float16" and not np.isfinite(stored).all():
            raise ModelError(
                f"a value of {part.upper()} is too large for float16; build with --store float32"
            )
        return stored

    def append(self, first: int, rows: StoredRows) -> None:
        """Consecutive rows and their checksums, from place `first` on, as they are."""
        for file, values in zip(self._files, (rows.parts.hs, rows.parts.rw, rows.crc), strict=True):
            with self._errors(file.path):
                file.write_at(first, np.ascontiguousarray(values).data.cast("B"))

    def copy(self, source: int, target: int) -> None:
        """Row `source` to place `target`, in both parts."""
        for file in self._files:
            size = file.row_bytes
            with self._errors(file.path):
                content = read_at(file.handle, size, source * size)
                if len(content) != size:
                    raise StorageError(
                        f"{file.path} ends before row {source}; build with --overwrite"
                    )
                file.write_at(target, content)

    def sync(self) -> None:
        """Return when everything written is on disk."""
        for file in self._files:
            with self._errors(file.path):
                sync_file(file.handle)

    def holds(self, rows: int) -> bool:
        """Whether all files are long enough for so many rows."""
        return all(os.fstat(file.handle).st_size >= rows * file.row_bytes for file in self._files)

    def finish(self, rows: int) -> None:
        """Cut all files to exactly so many rows and sync them."""
        for file in self._files:
            with self._errors(file.path):
                os.ftruncate(file.handle, rows * file.row_bytes)
        self.sync()


class RowReader:
    """Both parts' raw rows as read-only memory maps: parts, [n, d] and [n, layers * experts], and
    crc [n, 2], the checksums of both.

    They keep their stored type; `take` gives float32. growing: the files may be longer, with rows
    that do not count yet.
    """

    def __init__(
        self, folder: Path, store: str, rows: int, dims: Pair[int], *, growing: bool = False
    ) -> None:
        dtype = np.dtype(STORES[store][0])
        self.paths = PARTS.map(lambda part: folder / raw_name(part, store))
        self.parts: Pair[RawArray] = self.paths.zip(dims).map(
            lambda each: map_rows(each[0], dtype, rows, each[1], growing=growing)
        )
        self.crc = map_rows(folder / ROW_CHECKS, np.dtype("<u4"), rows, 2, growing=growing)

    def __len__(self) -> int:
        return len(self.crc)

    def take(self, rows: slice | RowNumbers) -> Embeddings:
        """Raw float32 rows, copied. Raises IndexDamagedError where a row is altered."""
        parts = self.stored(rows).parts
        return Embeddings(parts.hs.astype(np.float32), parts.rw.astype(np.float32))

    def stored(self, rows: slice | RowNumbers) -> StoredRows:
        """Rows as they are stored: what `RowWriter.append` takes.

        Raises IndexDamagedError where a row is altered.
        """
        taken = StoredRows(self.parts.map(lambda values: values[rows]), self.crc[rows])
        for part, crcs in columns(taken.crc):
            check_rows(self.paths[part], taken.parts[part], crcs)
        return taken

    def altered(self, row: int) -> Path | None:
        """The file in which a row is altered, if it is."""
        for (part, values), crc in zip(self.parts, self.crc[row], strict=True):
            if zlib.crc32(values[row]) != crc:
                return self.paths[part]
        return None


class LiveRows:
    """The rows that count of one part over several segments, as one matrix [n, d] that is read in
    slices; it need not fit in memory. Raises IndexDamagedError where a row is altered."""

    def __init__(
        self, part: Part, segments: Sequence[tuple[RowReader, RowNumbers | None]], dim: int
    ) -> None:
        self._part = part
        self._segments = segments
        counts = [len(raw) if live is None else len(live) for raw, live in segments]
        self._ends = np.cumsum(counts) if counts else np.zeros(0, dtype=np.int64)
        self.shape = (int(self._ends[-1]) if counts else 0, dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> RawArray:
        start, stop, _ = rows.indices(len(self))
        parts: list[RawArray] = []
        for end, (raw, live) in zip(self._ends, self._segments, strict=True):
            begin = end - (len(raw) if live is None else len(live))
            low, high = max(start, begin) - begin, min(stop, end) - begin
            if low >= high:
                continue
            within = slice(low, high) if live is None else live[low:high]
            taken = raw.parts[self._part][within]
            check_rows(raw.paths[self._part], taken, columns(raw.crc)[self._part][within])
            parts.append(taken)
        return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), dtype=np.float32)


def map_rows(
    path: Path,
    dtype: np.dtype[Any],
    rows: int,
    columns: int,
    offset: int = 0,
    *,
    growing: bool = False,
) -> npt.NDArray[Any]:
    """A read-only memory map [rows, columns] of the end of a file, from `offset` on.

    growing: the file may be longer. Raises IndexDamagedError if the file has another size, and what
    `reading` raises.
    """
    expected = offset + rows * columns * dtype.itemsize
    with reading(path):
        size = path.stat().st_size
        if size < expected or (size > expected and not growing):
            raise IndexDamagedError(
                f"{path} has {counted(size, 'byte')}, but {counted(rows, 'row')} of {columns} "
                f"take {expected}; {HINT}"
            )
        mapped = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(rows, columns))
        return mapped.view(np.ndarray)  # whose slices cost a tenth
