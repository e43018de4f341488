"""CRC-32 of what a search reads, so that an altered byte is an error and never a wrong answer.

FAISS files and postings are checked in pieces, each when it is read for the first time; raw rows
are checked one by one when they are scored. SHA-256 of whole files, in the manifest, is for
`verify --full`.

No change of up to four bytes in a row escapes a CRC-32.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError
from moee_index.index.store.reading import reading

PIECE = 1 << 20
Crcs = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.float16]


def piece_crcs(path: Path) -> Crcs:
    """CRC-32 of each piece of 1 MiB of a file, in order."""
    with reading(path), path.open("rb") as file:
        return np.array(
            [zlib.crc32(piece) for piece in iter(lambda: file.read(PIECE), b"")], dtype="<u4"
        )


def row_crcs(rows: npt.NDArray[Any]) -> Crcs:
    """CRC-32 of each row of a matrix as it is stored."""
    return np.array([zlib.crc32(row.data) for row in np.ascontiguousarray(rows)], dtype="<u4")


class CheckedFile:
    """A file whose pieces are checked as they are asked for, each once in the life of this object.

    Reading it again through a separate memory map costs no memory: the pages are those that
    FAISS maps. Threads may call `check` at the same time.
    """

    def __init__(self, path: Path, crcs: Crcs) -> None:
        self._path = path
        with reading(path):
            # As a plain array, whose slices cost a tenth of a memmap's.
            self._bytes: Bytes = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        self._crcs = crcs
        self._done = np.zeros(len(crcs), dtype=bool)
        if len(crcs) != -(-len(self._bytes) // PIECE):
            raise _wrong_crc(path)

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes start…stop, checked and not copied. Raises IndexDamagedError."""
        self.check(start, stop)
        return self._bytes[start:stop]

    def check(self, start: int, stop: int) -> None:
        """Bytes start…stop are what they were when the file was written, or IndexDamagedError."""
        for piece in self._missing(start, stop):
            self._check(piece)

    def check_at(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        """As `check`, for several runs of bytes, each shorter than a piece."""
        if self._done.all():
            return
        pieces = np.unique(np.concatenate([starts // PIECE, (stops - 1) // PIECE]))
        for piece in pieces[~self._done[pieces]]:
            self._check(int(piece))

    def _missing(self, start: int, stop: int) -> list[int]:
        first, last = start // PIECE, -(-stop // PIECE)
        if self._done[first] if last == first + 1 else self._done[first:last].all():
            return []
        return [first + int(piece) for piece in np.flatnonzero(~self._done[first:last])]

    @property
    def size(self) -> int:
        return len(self._bytes)

    def _check(self, piece: int) -> None:
        # zlib releases the GIL.
        if zlib.crc32(self._bytes[piece * PIECE : (piece + 1) * PIECE].data) != self._crcs[piece]:
            raise _wrong_crc(self._path)
        self._done[piece] = True


class CheckedCodes:
    """The codes of a flat FAISS file, float16 [n, d], checked where they are read.

    codes: what FAISS maps; they are the end of the file.
    """

    def __init__(self, codes: Codes, file: CheckedFile) -> None:
        self._codes = codes
        self._file = file
        self._begin = file.size - codes.nbytes
        self._row_bytes: int = codes.shape[1] * codes.itemsize
        file.check(0, self._begin)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def row_bytes(self) -> int:
        """Of one row's codes."""
        return self._row_bytes

    def block(self, start: int, stop: int) -> Codes:
        """Rows start…stop, not copied. Raises IndexDamagedError."""
        self._file.check(
            self._begin + start * self._row_bytes, self._begin + stop * self._row_bytes
        )
        return self._codes[start:stop]

    def rows(self, rows: npt.NDArray[np.int64], room: Bytes) -> Codes:
        """Some rows, copied to the beginning of room, uint8 [m or more, 2 d]. Raises
        IndexDamagedError."""
        first = self._begin + rows * self._row_bytes
        self._file.check_at(first, first + self._row_bytes)
        # As bytes: they begin wherever FAISS's header ends, and numpy copies numbers at such places
        # one by one. New memory each time would cost as much again.
        taken = room[: len(rows)]
        np.take(self._codes.view(np.uint8), rows, axis=0, out=taken, mode="clip")
        return taken.view(np.float16)


def check_rows(path: Path, rows: npt.NDArray[Any], crcs: Crcs) -> None:
    """Stored rows [m, d] against their checksums [m]. Raises IndexDamagedError."""
    if not np.array_equal(row_crcs(rows), crcs):
        raise _wrong_crc(path)


def _wrong_crc(path: Path) -> IndexDamagedError:
    return IndexDamagedError(
        f"{path} is altered (a checksum does not match); restore it, or build again with "
        "--overwrite; moee-index verify --full checks everything"
    )
