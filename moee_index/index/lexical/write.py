"""Write the postings of a segment: from its documents, or from those of segments that are joined.

Runs of sorted words (runs.py) are merged in bounded memory, 16 bytes a distinct term beside the
runs' own. The same documents give the same bytes, whichever way they came.
"""

from __future__ import annotations

import heapq
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from moee_index.atomic import replacing, storage_errors, write_file
from moee_index.index.lexical.postings import MOST, Layout, Numbers, Postings
from moee_index.index.lexical.runs import AT_A_TIME, RowMap, Run, Runs, SegmentRun
from moee_index.index.lexical.words import Words
from moee_index.index.store.checksums import piece_crcs
from moee_index.index.store.document_reader import DocumentReader
from moee_index.index.store.layout import LEXICAL, code_checks_name, postings_name
from moee_index.index.store.reading import reading
from moee_index.types import Progress

_REPORT_EVERY = 1024
_COMPARED = 1 << 20
_NO_ROOM = (
    "{path} cannot be compared with its documents ({why}); make room where temporary files go, or "
    "set TMPDIR to another folder"
)


def write_postings(
    folder: Path, documents: DocumentReader, words: Words, revision: int, report: Progress
) -> None:
    """Write a segment's postings from its documents, and their checksums.

    Raises StorageError, IndexDamagedError.
    """
    path = folder / postings_name(revision)
    with storage_errors(path), Runs(words, folder) as runs:
        _collect(runs, documents, report)
        lengths = np.frombuffer(runs.lengths, dtype=np.uint32)
        _write(path, revision, lengths, runs.finish())


def merge_postings(
    folder: Path, sources: Sequence[tuple[Postings, npt.NDArray[np.int64] | None]], revision: int
) -> None:
    """Write a segment's postings from those of segments: (postings, which rows; None is all).

    Raises StorageError; IndexDamagedError rather than copy what is altered.
    """
    runs: list[Run] = []
    lengths: list[Numbers] = []
    taken = 0
    for postings, rows in sources:
        postings.check()
        held = len(postings.lengths)
        kept = np.arange(held) if rows is None else rows
        numbers: RowMap = np.full(held, -1, dtype=np.int64)
        numbers[kept] = np.arange(taken, taken + len(kept))
        runs.append(SegmentRun(postings, numbers))
        lengths.append(postings.lengths[kept])
        taken += len(kept)
    _write(folder / postings_name(revision), revision, np.concatenate(lengths), runs)


def follows_from(path: Path, documents: DocumentReader, words: Words, report: Progress) -> bool:
    """Whether a file of postings is what these documents give.

    Raises StorageError where the folder for temporary files has no room for another.
    """
    with (
        storage_errors(path, _NO_ROOM),
        tempfile.TemporaryFile() as made,
        Runs(words, None) as runs,
    ):
        _collect(runs, documents, report)
        merge(made, np.frombuffer(runs.lengths, dtype=np.uint32), runs.finish())
        made.seek(0)
        with reading(path), path.open("rb") as file:
            while expected := made.read(_COMPARED):
                if file.read(_COMPARED) != expected:
                    return False
            return not file.read(1)


def _collect(runs: Runs, documents: DocumentReader, report: Progress) -> None:
    for row, text in enumerate(documents.contents()):
        if row % _REPORT_EVERY == 0:
            report("words", row, documents.rows)
        runs.add(text)
    report("words", documents.rows, documents.rows)


def _write(path: Path, revision: int, lengths: Numbers, runs: Sequence[Run]) -> None:
    with replacing(path) as temporary, storage_errors(path), temporary.open("wb") as file:
        merge(file, lengths, runs)
    write_file(path.with_name(code_checks_name(LEXICAL, revision)), piece_crcs(path).tobytes())


@dataclass(frozen=True, eq=False)
class _Vocabulary:
    """ends: where each term ends in the vocabulary. numbers: for each run the number that each of
    its terms has in all."""

    ends: array[int]
    numbers: list[npt.NDArray[np.int64]]


def merge(file: IO[bytes], lengths: Numbers, runs: Sequence[Run]) -> None:
    """Write runs, whose rows are in order, as one file of postings."""
    postings = sum(int(run.sizes.sum()) for run in runs)
    frequent = sum(run.frequent for run in runs)
    # What comes before the vocabulary does not depend on it.
    start = Layout(len(lengths), 0, postings, frequent, 0).sections["vocabulary"][0]
    file.seek(start)
    vocabulary = _merge_terms(file, runs)
    terms = len(vocabulary.ends)
    size = vocabulary.ends[-1] if terms else 0
    layout = Layout(len(lengths), terms, postings, frequent, size)
    sizes = np.zeros(terms, dtype=np.int64)
    for run, numbers in zip(runs, vocabulary.numbers, strict=True):
        held = numbers >= 0
        sizes[numbers[held]] += run.sizes[held]

    def put(section: str, content: npt.NDArray[np.generic], done: int = 0) -> None:
        file.seek(layout.sections[section][0] + done)
        file.write(np.ascontiguousarray(content).tobytes())

    put("postings", np.cumsum(sizes).astype("<u8"))
    put("ends", np.frombuffer(vocabulary.ends, dtype=np.uint64).astype("<u8"))
    file.seek(0)
    file.write(layout.header())
    put("lengths", lengths.astype("<u4"))
    done = above = 0
    for rows, counts, frequent_counts in _merged(runs, vocabulary, sizes):
        put("rows", rows.astype("<u4"), 4 * done)
        put("counts", counts, done)
        pairs = np.stack([np.flatnonzero(counts == MOST) + done, frequent_counts], axis=1)
        put("frequent", pairs.astype("<u8"), 16 * above)
        done, above = done + len(rows), above + len(pairs)
    # As the gaps between sections, which are zeros.
    file.write(bytes(layout.size - file.seek(0, 2)))


def _merge_terms(file: IO[bytes], runs: Sequence[Run]) -> _Vocabulary:
    """Write the vocabulary of all runs: each term that has a posting once, sorted."""
    numbers = [np.full(len(run.sizes), -1, dtype=np.int64) for run in runs]
    ends, last, end = array("Q"), None, 0
    places = [0] * len(runs)
    terms = [zip(run.terms(), repeat(number)) for number, run in enumerate(runs)]
    for term, run in heapq.merge(*terms):
        place = places[run]
        places[run] += 1
        if not runs[run].sizes[place]:
            continue
        if term != last:
            file.write(term)
            end += len(term)
            ends.append(end)
            last = term
        numbers[run][place] = len(ends) - 1
    return _Vocabulary(ends, numbers)


def _merged(
    runs: Sequence[Run], vocabulary: _Vocabulary, sizes: npt.NDArray[np.int64]
) -> Iterator[tuple[Numbers, npt.NDArray[np.uint8], Numbers]]:
    """Rows, counts and large counts of all terms, some terms at a time."""
    stops = np.cumsum(sizes)
    # The first term of each run whose number is not below a given one; terms without postings
    # have no number, and belong to what follows.
    floors = [np.maximum.accumulate(numbers) for numbers in vocabulary.numbers]
    first = 0
    while first < len(sizes):
        begin = int(stops[first - 1]) if first else 0
        last = int(np.searchsorted(stops, begin + AT_A_TIME, side="right"))
        last = min(max(last, first + 1), first + (1 << 24), len(sizes))
        yield _block(runs, vocabulary, floors, first, last)
        first = last


def _block(
    runs: Sequence[Run],
    vocabulary: _Vocabulary,
    floors: Sequence[npt.NDArray[np.int64]],
    first: int,
    last: int,
) -> tuple[Numbers, npt.NDArray[np.uint8], Numbers]:
    """As `_merged`, of terms first…last."""
    keys: list[npt.NDArray[np.uint64]] = []
    frequent: list[tuple[npt.NDArray[np.uint64], Numbers]] = []
    for run, numbers, floor in zip(runs, vocabulary.numbers, floors, strict=True):
        low, high = np.searchsorted(floor, (first, last))
        part = run.part(int(low), int(high))
        of_term = (numbers[low:high] - first).clip(0).astype(np.uint64)
        key = np.repeat(of_term, part.sizes) << np.uint64(40)
        key |= part.rows.astype(np.uint64) << np.uint64(8)
        key |= part.counts
        keys.append(key)
        frequent.append((key[part.counts == MOST], part.frequent))
    key = np.concatenate(keys)
    key.sort()
    large = np.concatenate([counts for _, counts in frequent])
    order = np.argsort(np.concatenate([key_of for key_of, _ in frequent]), kind="stable")
    rows = ((key >> np.uint64(8)) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return rows, (key & np.uint64(MOST)).astype(np.uint8), large[order]
