"""The postings of a segment, opened for reading: which rows hold a word, how often, and how many
words each row has.

All numbers are little-endian; sections follow one another, each at a multiple of eight bytes:

    header      magic, version, then how many rows, terms, postings, frequent ones, bytes of terms
    lengths     uint32 [rows]: words of each row
    rows        uint32 [postings]: of each term in order the rows that hold it, ascending
    counts      uint8 [postings]: how often; 255 stands for as often or more, then it is
    frequent    uint64 [frequent, 2]: which posting, and how often
    vocabulary  the terms in UTF-8, sorted by their bytes, with nothing between
    postings    uint64 [terms]: where each term's postings end
    ends        uint64 [terms]: where each term ends in the vocabulary

Rows that were deleted are still in it. A file is mapped, and checked in pieces as it is read;
nothing is read before the first question. Writing is `write`'s.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError
from moee_index.index.store.checksums import CheckedFile, Crcs

_MAGIC = b"moeewrds"
_VERSION = 1
_HEADER = struct.Struct("<8s6Q")
# A count that stands for itself or more.
MOST = 255
Numbers = npt.NDArray[np.uint32]
Ends = npt.NDArray[np.uint64]
Span = tuple[int, int]
"""Postings [start, stop) of one term."""


@dataclass(frozen=True)
class Layout:
    """How much a file of postings holds, and so where its sections are."""

    rows: int
    terms: int
    postings: int
    frequent: int
    vocabulary_bytes: int

    def header(self) -> bytes:
        return _HEADER.pack(_MAGIC, _VERSION, *astuple(self))

    @classmethod
    def of_header(cls, content: bytes) -> Layout:
        """Raises ValueError where it is none."""
        if len(content) < _HEADER.size:
            raise ValueError("it is too short")
        magic, version, *counts = _HEADER.unpack_from(content)
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError("it holds no postings that this version reads")
        return cls(*counts)

    @cached_property
    def sections(self) -> dict[str, Span]:
        """Section → its bytes [start, stop) in the file."""
        sizes = {
            "lengths": 4 * self.rows,
            "rows": 4 * self.postings,
            "counts": self.postings,
            "frequent": 16 * self.frequent,
            "vocabulary": self.vocabulary_bytes,
            "postings": 8 * self.terms,
            "ends": 8 * self.terms,
        }
        found: dict[str, Span] = {}
        start = _HEADER.size
        for name, size in sizes.items():
            start += -start % 8
            found[name] = start, start + size
            start += size
        return found

    @property
    def size(self) -> int:
        return self.sections["ends"][1]


class Postings:
    """One opened file. rows: of the segment, which it must have. Used from any thread.

    Raises IndexDamagedError where the file cannot be mapped, and by every question where it is
    altered.
    """

    def __init__(self, path: Path, crcs: Crcs, rows: int) -> None:
        self._path = path
        self._file = CheckedFile(path, crcs)
        self._rows = rows

    @cached_property
    def layout(self) -> Layout:
        size = self._file.size
        try:
            layout = Layout.of_header(self._file.read(0, min(size, _HEADER.size)).tobytes())
            if layout.rows != self._rows or layout.size != size:
                raise ValueError(f"it is not of {self._rows} rows")
        except ValueError as error:
            raise IndexDamagedError(
                f"{self._path} is damaged ({error}); moee-index reindex --lexical writes it anew"
            ) from error
        return layout

    @cached_property
    def lengths(self) -> Numbers:
        """How many words each row has, uint32 [rows]."""
        return self._array("lengths", "<u4", 0, self._rows)

    def find(self, term: str) -> Span | None:
        """The postings of a term; None where no row holds it."""
        wanted = term.encode()
        low, high = 0, self.layout.terms
        while low < high:
            middle = (low + high) // 2
            if self._term(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == self.layout.terms or self._term(low) != wanted:
            return None
        ends = self.ends(max(low - 1, 0), low + 1)
        return (int(ends[-2]) if low else 0), int(ends[-1])

    def rows(self, span: Span) -> Numbers:
        """The rows of some postings, of one term ascending; not copied."""
        return self._array("rows", "<u4", *span)

    def counts(self, span: Span) -> Numbers:
        """How often the term is in each of these rows."""
        counts = self._array("counts", "u1", *span).astype(np.uint32)
        if counts.size and counts.max() == MOST:
            places, frequent = self._frequent
            low, high = np.searchsorted(places, span)
            counts[(places[low:high] - np.uint64(span[0])).astype(np.int64)] = frequent[low:high]
        return counts

    @cached_property
    def _frequent(self) -> tuple[Ends, Numbers]:
        """(which postings, how often) of counts that are kept apart."""
        pairs = self._array("frequent", "<u8", 0, 2 * self.layout.frequent).reshape(-1, 2)
        return pairs[:, 0].copy(), pairs[:, 1].astype(np.uint32)

    def _term(self, number: int) -> bytes:
        ends = self._array("ends", "<u8", max(number - 1, 0), number + 1)
        start = int(ends[-2]) if number else 0
        return self._bytes("vocabulary", start, int(ends[-1])).tobytes()

    def ends(self, first: int, last: int) -> Ends:
        """Where the postings of terms first…last end."""
        return self._array("postings", "<u8", first, last)

    def terms(self) -> Iterator[bytes]:
        """All terms, sorted."""
        start = 0
        for first in range(0, self.layout.terms, _TERMS_AT_A_TIME):
            last = min(first + _TERMS_AT_A_TIME, self.layout.terms)
            ends = self._array("ends", "<u8", first, last).tolist()
            block, begin = self._bytes("vocabulary", start, ends[-1]).tobytes(), start
            for end in ends:
                yield block[start - begin : end - begin]
                start = end

    def check(self, *, full: bool = True) -> None:
        """Every byte is what was written, or the header alone; else IndexDamagedError."""
        self._file.check(0, self._file.size if full else self.layout.sections["lengths"][0])

    def _bytes(self, section: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        begin, end = self.layout.sections[section]
        if not 0 <= start <= stop <= end - begin:
            raise IndexDamagedError(
                f"{self._path} is damaged (its {section} end elsewhere); moee-index reindex "
                "--lexical writes it anew"
            )
        return self._file.read(begin + start, begin + stop)

    def _array(self, section: str, kind: str, start: int, stop: int) -> npt.NDArray[Any]:
        dtype = np.dtype(kind)
        content = self._bytes(section, start * dtype.itemsize, stop * dtype.itemsize)
        return content.view(dtype)


_TERMS_AT_A_TIME = 1 << 14
