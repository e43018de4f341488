"""Raw rows on disk: plain little-endian matrices, written at their places, read as memory maps.

Knows bytes and shapes, and a CRC-32 of each row. Refuses to know where rows come from and what
becomes of them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.atomic import storage_errors
from moee_index.errors import IndexDamagedError, ModelError, StorageError
from moee_index.index.store.checksums import check_rows
from moee_index.index.store.manifest import PARTS, ROW_CHECKS, STORES, raw_name
from moee_index.types import Embeddings

RawArray = npt.NDArray[np.floating[Any]]
RowNumbers = npt.NDArray[np.int64]
_CRC_BYTES = 4 * len(PARTS)


class RowWriter:
    """Writes both parts' raw rows at their places, and their checksums. A context manager.

    Rows of a kill's victim may be there half written: what counts as written is for the documents
    store to say, after `sync`. Raises StorageError.
    """

    def __init__(self, folder: Path, store: str, dims: dict[str, int]) -> None:
        self._dtype = np.dtype(STORES[store][0])
        self._paths = {part: folder / raw_name(part, store) for part in PARTS}
        self._paths["crc"] = folder / ROW_CHECKS
        self._row_bytes = {part: dims[part] * self._dtype.itemsize for part in PARTS}
        self._row_bytes["crc"] = _CRC_BYTES
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
        stored = {
            "hs": self._as_stored("hs", embeddings.hs),
            "rw": self._as_stored("rw", embeddings.rw),
        }
        for place, row in enumerate(rows):
            content = {part: values[place].tobytes() for part, values in stored.items()}
            crcs = np.array([zlib.crc32(content[part]) for part in PARTS], dtype="<u4")
            for part, taken in (*content.items(), ("crc", crcs.tobytes())):
                with storage_errors(self._paths[part]):
                    self._write_at(part, row, taken)

    def _as_stored(self, part: str, values: RawArray) -> RawArray:
        with np.errstate(over="ignore"):
            stored: RawArray = np.ascontiguousarray(values, dtype=self._dtype)
        if self._store == "float16" and not np.isfinite(stored).all():
            raise ModelError(
                f"a value of {part.upper()} is too large for float16; build with --store float32"
            )
        return stored

    def append(self, first: int, rows: dict[str, RawArray]) -> None:
        """Consecutive stored rows and their checksums (part → [m, d], "crc" → [m, 2]), from place
        `first` on, as they are."""
        for part, values in rows.items():
            with storage_errors(self._paths[part]):
                content = np.ascontiguousarray(values).data.cast("B")
                self._write_at(part, first, content)

    def copy(self, source: int, target: int) -> None:
        """Row `source` to place `target`, in both parts."""
        for part, path in self._paths.items():
            size = self._row_bytes[part]
            with storage_errors(path):
                content = os.pread(self._handles[part], size, source * size)
                if len(content) != size:
                    raise StorageError(f"{path} ends before row {source}; build with --overwrite")
                self._write_at(part, target, content)

    def _write_at(self, part: str, row: int, content: bytes | memoryview) -> None:
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
        """Whether all files are long enough for so many rows."""
        return all(
            os.fstat(handle).st_size >= rows * self._row_bytes[part]
            for part, handle in self._handles.items()
        )

    def finish(self, rows: int) -> None:
        """Cut all files to exactly so many rows and sync them."""
        for part, path in self._paths.items():
            with storage_errors(path):
                os.ftruncate(self._handles[part], rows * self._row_bytes[part])
        self.sync()


class RowReader:
    """Both parts' raw rows as read-only memory maps: hs [n, d], rw [n, layers * experts], and
    crc [n, 2], the checksums of both.

    They keep their stored type; `take` gives float32.
    """

    def __init__(self, folder: Path, store: str, rows: int, dims: dict[str, int]) -> None:
        dtype = np.dtype(STORES[store][0])
        self.paths = {part: folder / raw_name(part, store) for part in PARTS}
        self.hs = map_rows(self.paths["hs"], dtype, rows, dims["hs"])
        self.rw = map_rows(self.paths["rw"], dtype, rows, dims["rw"])
        self.crc = map_rows(folder / ROW_CHECKS, np.dtype("<u4"), rows, len(PARTS))

    def __len__(self) -> int:
        return len(self.hs)

    def take(self, rows: slice | RowNumbers) -> Embeddings:
        """Raw float32 rows, copied. Raises IndexDamagedError where a row is altered."""
        stored = self.stored(rows)
        return Embeddings(stored["hs"].astype(np.float32), stored["rw"].astype(np.float32))

    def stored(self, rows: slice | RowNumbers) -> dict[str, RawArray]:
        """Rows as they are stored, with "crc" [m, 2]: what `RowWriter.append` takes.

        Raises IndexDamagedError where a row is altered.
        """
        taken = {"hs": self.hs[rows], "rw": self.rw[rows], "crc": self.crc[rows]}
        for column, part in enumerate(PARTS):
            check_rows(self.paths[part], taken[part], taken["crc"][:, column])
        return taken


class LiveRows:
    """The rows that count of one part over several segments, as one matrix [n, d] that is read in
    slices; it need not fit in memory. Raises IndexDamagedError where a row is altered."""

    def __init__(
        self, part: str, segments: Sequence[tuple[RowReader, RowNumbers | None]], dim: int
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
        found: list[RawArray] = []
        for end, (raw, live) in zip(self._ends, self._segments, strict=True):
            begin = end - (len(raw) if live is None else len(live))
            low, high = max(start, begin) - begin, min(stop, end) - begin
            if low >= high:
                continue
            within = slice(low, high) if live is None else live[low:high]
            taken = getattr(raw, self._part)[within]
            check_rows(raw.paths[self._part], taken, raw.crc[within, PARTS.index(self._part)])
            found.append(taken)
        return np.concatenate(found) if found else np.empty((0, self.shape[1]), dtype=np.float32)


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
