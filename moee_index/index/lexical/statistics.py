"""What BM25 needs to know of an opened index: how many rows count, how long they are on average,
and in how many of them a word is.

All of it is over the rows that count, of all segments together, so that scores are those of an
index built anew from the same documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moee_index.index.lexical.postings import Postings, Span
from moee_index.index.lexical.words import Words, chunks, surfaces

Mask = npt.NDArray[np.bool_]
# Terms whose postings are remembered; a version of an index never changes.
_REMEMBERED = 4096


@dataclass(frozen=True)
class Counts:
    """What BM25 needs to know of the rows that count, of some segments or of all: rows, how many
    there are; words, of all of them; frequencies: how many of them hold each term."""

    rows: int
    words: int
    frequencies: Mapping[str, int]

    @classmethod
    def summed(cls, each: Iterable[Counts]) -> Counts:
        """Of the segments of all, which know the same terms."""
        rows = words = 0
        frequencies: dict[str, int] = {}
        for counts in each:
            rows, words = rows + counts.rows, words + counts.words
            for term, frequency in counts.frequencies.items():
                frequencies[term] = frequencies.get(term, 0) + frequency
        return cls(rows, words, frequencies)


@dataclass(frozen=True)
class Term:
    """A word of a query. surfaces: how the query has it, each with its place there; weight: its
    idf times how often the query has it; found: its postings in each segment; frequency: rows that
    count and hold it."""

    term: str
    surfaces: tuple[tuple[int, str], ...]
    weight: float
    found: Sequence[Span | None]
    frequency: int


@dataclass(frozen=True, eq=False)
class OpenWords:
    """The postings of one segment. live: bool [rows], which rows count; None where all do."""

    postings: Postings
    live: Mask | None

    def frequency(self, span: Span | None) -> int:
        """In how many rows that count a term is."""
        if span is None:
            return 0
        if self.live is None:
            return span[1] - span[0]
        return int(np.count_nonzero(self.live[self.postings.rows(span)]))


class Statistics:
    """Of the postings of one opened index, and its words. Used from any thread. counts: of all
    segments of the index, where more than these decide what a word weighs."""

    def __init__(
        self, segments: Sequence[OpenWords], words: Words, counts: Counts | None = None
    ) -> None:
        self.segments = segments
        self._words = words
        self._counts = counts
        self._found: dict[str, tuple[Sequence[Span | None], int]] = {}

    def counted(self, counts: Counts) -> Statistics:
        """The same, where these rows are some of all that count."""
        statistics = Statistics(self.segments, self._words, counts)
        statistics._found = self._found
        return statistics

    def counts(self, terms: Iterable[str]) -> Counts:
        """Of these rows alone."""
        frequencies = {term: self._look_up(term)[1] for term in terms}
        return Counts(self.rows, self.words, frequencies)

    @cached_property
    def _totals(self) -> tuple[int, int]:
        if self._counts is not None:
            return self._counts.rows, self._counts.words
        rows = words = 0
        for segment in self.segments:
            lengths = segment.postings.lengths
            lengths = lengths if segment.live is None else lengths[segment.live]
            rows += len(lengths)
            words += int(lengths.sum(dtype=np.int64))
        return rows, words

    @property
    def rows(self) -> int:
        """Rows that count."""
        return self._totals[0]

    @property
    def words(self) -> int:
        """Words of all rows that count."""
        return self._totals[1]

    @property
    def average(self) -> float:
        """Words of a row on average; 1 where there are none."""
        rows, words = self._totals
        return words / rows if words else 1.0

    def words_of(self, text: str) -> list[str]:
        """The words of a text as they are compared."""
        return self._words.terms(text)

    def terms(self, text: str) -> list[Term]:
        """The words of a query that some row holds, the rarest first: the order in which they are
        added up, whatever the segments."""
        terms = []
        for term, places in query_terms(self._words, text).items():
            found, frequency = self._look_up(term)
            if self._counts is not None:
                frequency = self._counts.frequencies[term]
            if frequency:
                idf = math.log1p((self.rows - frequency + 0.5) / (frequency + 0.5))
                terms.append(Term(term, tuple(places), idf * len(places), found, frequency))
        return sorted(terms, key=lambda term: (term.frequency, term.term))

    def _look_up(self, term: str) -> tuple[Sequence[Span | None], int]:
        known = self._found.get(term)
        if known is None:
            found = [segment.postings.find(term) for segment in self.segments]
            pairs = zip(self.segments, found, strict=True)
            known = found, sum(segment.frequency(span) for segment, span in pairs)
            if len(self._found) >= _REMEMBERED:
                self._found = {}
            self._found[term] = known
        return known


def query_terms(words: Words, text: str) -> dict[str, list[tuple[int, str]]]:
    """The words of a query as they are compared → how the query has each, with its places there."""
    written: dict[str, list[tuple[int, str]]] = {}
    forms = (surface for chunk in chunks(text) for surface in surfaces(chunk))
    for place, surface in enumerate(forms):
        written.setdefault(words.stemmed(surface), []).append((place, surface))
    return written
