"""Runs: the words of some rows, sorted, as they wait to be merged into the postings of a segment.

A run holds as many rows as fit a bounded memory; it is made of texts, or of the postings of a
segment whose rows get other numbers. `write` merges runs.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from moee_index.index.lexical.postings import MOST, Numbers, Postings
from moee_index.index.lexical.words import Words, pieces, recurs

# Words of a run, which take up to 30 bytes each until it is sorted; and terms.
_WORDS = 1 << 22
_TERMS = 1 << 20
# Characters of a text that is counted by itself: sorting its words one by one takes longer than
# finding them.
_LONG = 1 << 24
# Postings that are looked at together.
AT_A_TIME = 1 << 21
RowMap = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """Postings of some consecutive terms of a run: how many each has, then the rows and counts of
    all of them; `frequent`: the counts behind each 255, in order."""

    sizes: npt.NDArray[np.int64]
    rows: Numbers
    counts: npt.NDArray[np.uint8]
    frequent: Numbers


class Run(Protocol):
    """sizes: int64 [terms], postings of each term; a term may have none. frequent: how many counts
    are 255 or more."""

    sizes: npt.NDArray[np.int64]
    frequent: int

    def terms(self) -> Iterator[bytes]:
        """All terms, sorted."""

    def part(self, first: int, last: int) -> Part:
        """The postings of terms first…last."""


class TextRun:
    """A run of texts. rows, counts and the vocabulary may be memory maps."""

    def __init__(
        self,
        vocabulary: npt.NDArray[np.uint8],
        ends: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        rows: Numbers,
        counts: npt.NDArray[np.uint8],
        frequent: npt.NDArray[np.int64],
    ) -> None:
        """frequent: int64 [n, 2], which postings, ascending, and how often."""
        self.sizes = sizes
        self.frequent = len(frequent)
        self._vocabulary, self._ends = vocabulary, ends
        self._rows, self._counts = rows, counts
        self._frequent = frequent
        self._stops = np.concatenate([[0], np.cumsum(sizes)])

    def terms(self) -> Iterator[bytes]:
        start = 0
        content = self._vocabulary.tobytes()
        for end in self._ends.tolist():
            yield content[start:end]
            start = end

    def part(self, first: int, last: int) -> Part:
        start, stop = self._stops[first], self._stops[last]
        low, high = np.searchsorted(self._frequent[:, 0], (start, stop))
        return Part(
            self.sizes[first:last],
            np.asarray(self._rows[start:stop], dtype=np.uint32),
            self._counts[start:stop],
            self._frequent[low:high, 1].astype(np.uint32),
        )


class SegmentRun:
    """A segment's postings as a run. rows: int64 [rows], the number that each row gets; -1 of
    those that are left out. Raises IndexDamagedError rather than take over what is altered."""

    def __init__(self, postings: Postings, rows: RowMap) -> None:
        self._postings = postings
        self._rows = rows
        self.sizes = np.zeros(postings.layout.terms, dtype=np.int64)
        self.frequent = 0
        for first, last in self._blocks():
            part = self.part(first, last)
            self.sizes[first:last] = part.sizes
            self.frequent += len(part.frequent)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        terms = self._postings.layout.terms
        stops = self._postings.ends(0, terms)
        first = 0
        while first < terms:
            begin = int(stops[first - 1]) if first else 0
            last = int(np.searchsorted(stops, begin + AT_A_TIME, side="right"))
            yield first, (last := max(last, first + 1))
            first = last

    def terms(self) -> Iterator[bytes]:
        return self._postings.terms()

    def part(self, first: int, last: int) -> Part:
        ends = self._postings.ends(max(first - 1, 0), last).astype(np.int64)
        begin = int(ends[0]) if first else 0
        stops = ends[1:] if first else ends
        span = begin, int(stops[-1]) if len(stops) else begin
        numbers = self._rows[self._postings.rows(span)]
        counts = self._postings.counts(span)
        kept = numbers >= 0
        before = np.concatenate([[0], np.cumsum(kept)])
        sizes = np.diff(before[np.concatenate([[begin], stops]) - begin])
        rows, counts = numbers[kept].astype(np.uint32), counts[kept]
        frequent = counts[counts >= MOST]
        return Part(sizes, rows, np.minimum(counts, MOST).astype(np.uint8), frequent)


class _Ids(dict[str, tuple[int, ...]]):
    """What stands between blanks → the numbers of its words; new words get the next ones. Texts
    repeat most of it, so that few of it is looked through for words."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self._words = words
        self.terms: dict[str, int] = {}

    def __missing__(self, token: str) -> tuple[int, ...]:
        terms = self.terms
        ids = tuple(terms.setdefault(term, len(terms)) for term in self._words.terms(token))
        if recurs(token):
            self[token] = ids
        return ids


class Runs:
    """Collects the runs of texts, one text a row, in their order. All but the last lie in a file
    without a name in `folder`. A context manager. lengths: words of each row so far."""

    def __init__(self, words: Words, folder: Path | None) -> None:
        self._words = words
        self._folder = folder
        self._file: IO[bytes] | None = None
        self.lengths = array("I")
        self._first = 0
        self._begin()
        self._runs: list[Run] = []

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_: object) -> None:
        self._runs = []
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._ids = _Ids(self._words)
        self._found = array("I")
        self._first = len(self.lengths)

    def add(self, text: str) -> None:
        """The next row."""
        if len(text) >= _LONG:
            self._add_long(text)
            return
        before = len(self._found)
        for piece in pieces(text):
            ids = map(self._ids.__getitem__, piece.split())
            self._found.extend(chain.from_iterable(ids))
        self.lengths.append(len(self._found) - before)
        if len(self._found) >= _WORDS or len(self._ids.terms) >= _TERMS:
            self._end_run()

    def _add_long(self, text: str) -> None:
        """The next row, in a run of its own."""
        self._end_run()
        found: Counter[str] = Counter()
        for piece in pieces(text):
            found.update(piece.split())
        times: Counter[str] = Counter()
        for token, count in found.items():
            for term in self._words.terms(token):
                times[term] += count
        row = len(self.lengths)
        self.lengths.append(times.total())
        if times:
            terms = sorted(times)
            counts = np.fromiter(map(times.__getitem__, terms), np.int64, len(terms))
            rows = np.full(len(terms), row, dtype=np.uint32)
            sizes = np.ones(len(terms), dtype=np.int64)
            self._runs.append(self._spilled(_arrays(terms, sizes, rows, counts)))
        self._begin()

    def _end_run(self) -> None:
        if self._found:
            self._runs.append(self._spilled(self._sorted()))
        self._begin()

    def finish(self) -> list[Run]:
        """All runs, until this object is closed."""
        if self._found:
            self._runs.append(TextRun(*self._sorted()))
            self._begin()
        return self._runs

    def _sorted(self) -> tuple[npt.NDArray[Any], ...]:
        """The arguments of a TextRun of what was found since the last one."""
        terms = sorted(self._ids.terms)
        numbers = np.fromiter(map(self._ids.terms.__getitem__, terms), np.int64, len(terms))
        order = np.empty(len(terms), dtype=np.uint64)
        order[numbers] = np.arange(len(terms))
        lengths = np.frombuffer(self.lengths, dtype=np.uint32)[self._first :].copy()
        rows = np.repeat(np.arange(self._first, self._first + len(lengths)), lengths)
        keys = order[np.frombuffer(self._found, dtype=np.uint32)] << np.uint64(32)
        keys |= rows.astype(np.uint64)
        keys.sort()
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        counts = np.diff(np.concatenate([starts, [len(keys)]]))
        keys = keys[starts]
        sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(terms))
        return _arrays(terms, sizes, (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32), counts)

    def _spilled(self, arrays: tuple[npt.NDArray[Any], ...]) -> TextRun:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        mapped = []
        for values in arrays:
            start = self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(values).data.cast("B") if values.size else b"")
            self._file.flush()
            mapped.append(
                np.memmap(self._file, values.dtype, "r", start, values.shape)
                if values.size
                else values
            )
        return TextRun(*mapped)


def _arrays(
    terms: list[str], sizes: npt.NDArray[np.int64], rows: Numbers, counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[Any], ...]:
    """The arguments of a TextRun: sorted terms, how many postings each has, and these."""
    places = np.flatnonzero(counts >= MOST)
    encoded = [term.encode() for term in terms]
    return (
        np.frombuffer(b"".join(encoded), dtype=np.uint8),
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded))),
        sizes,
        rows,
        np.minimum(counts, MOST).astype(np.uint8),
        np.stack([places, counts[places]], axis=1),
    )
