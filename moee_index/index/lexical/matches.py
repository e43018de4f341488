"""What rows of an index, and texts beside it, owe to the words of a query: BM25, its share of the
query's largest, and which words they hold.

For hits and for candidates of a reranking; which rows are best is told by `scores`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moee_index.index.lexical.bm25 import Bm25
from moee_index.index.lexical.scores import QueryScores, RowNumbers, places_of
from moee_index.index.lexical.statistics import Statistics
from moee_index.types import WordMatch


def match_rows(
    scores: QueryScores,
    statistics: Statistics,
    begins: npt.NDArray[np.int64],
    rows: RowNumbers,
    first: int = 0,
) -> list[WordMatch]:
    """Of rows of an index, in any order. begins: the row with which each segment begins; first:
    the number of its first segment among those of the statistics."""
    matches: dict[int, WordMatch] = {}
    numbers = np.searchsorted(begins, rows, side="right") - 1
    for segment in np.unique(numbers):
        there = np.unique(rows[numbers == segment])
        found = _in_segment(scores, statistics, first + int(segment), there - begins[segment])
        matches.update(zip(there.tolist(), found, strict=True))
    return [matches[row] for row in rows.tolist()]


def _in_segment(
    scores: QueryScores, statistics: Statistics, segment: int, rows: RowNumbers
) -> list[WordMatch]:
    """Of rows of a segment, ascending."""
    postings = statistics.segments[segment].postings
    values = scores.segments[segment].exact(rows)
    held: list[list[tuple[int, str]]] = [[] for _ in rows]
    for term in scores.terms:
        span = term.found[segment]
        if span is not None:
            for place in places_of(postings.rows(span), rows)[1]:
                held[place].extend(term.surfaces)
    shares = values / (scores.largest or 1.0)
    return [
        WordMatch(float(value), float(share), _in_order(words))
        for value, share, words in zip(values, shares, held, strict=True)
    ]


def _in_order(words: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """Words in the order of the query, each once."""
    return tuple(dict.fromkeys(word for _, word in sorted(words)))


@dataclass(frozen=True, eq=False)
class QueryWords:
    """A query whose words weigh candidates by the statistics of an opened index."""

    scores: QueryScores
    statistics: Statistics
    begins: npt.NDArray[np.int64]
    held: Callable[[], AbstractContextManager[None]]

    def of_rows(self, rows: Sequence[int]) -> list[WordMatch]:
        """Of rows of the index."""
        with self.held():
            numbers = np.asarray(rows, dtype=np.int64)
            return match_rows(self.scores, self.statistics, self.begins, numbers)

    def of_texts(self, texts: Sequence[str]) -> list[WordMatch]:
        """Of texts that need not be in the index; one that is has what its row has.

        A share is at most 1: a text beside the index may score more than any row, but dividing by
        that would make the scores of all others, and of documents of the index, depend on which
        texts they are compared with. A word that no row holds weighs nothing.
        """
        return [self._of_text(text) for text in texts]

    def _of_text(self, text: str) -> WordMatch:
        terms = self.statistics.words_of(text)
        counts, value = Counter(terms), 0.0
        held: list[tuple[int, str]] = []
        for term in self.scores.terms:
            if often := counts[term.term]:
                value += float(self.scores.contribution(term.weight, often, len(terms)))
                held.extend(term.surfaces)
        share = value / self.scores.largest if self.scores.largest else 0.0
        return WordMatch(value, min(share, 1.0), _in_order(held))


@dataclass(frozen=True, eq=False)
class IndexWords:
    """Weighs words by the statistics of an opened index. weight: of words in a score, above 0."""

    weight: float
    statistics: Statistics
    begins: npt.NDArray[np.int64]
    bm25: Bm25
    held: Callable[[], AbstractContextManager[None]]

    def query(self, text: str) -> QueryWords:
        with self.held():
            scores = QueryScores(text, self.statistics, self.bm25)
            return QueryWords(scores, self.statistics, self.begins, self.held)
