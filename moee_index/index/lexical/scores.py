"""BM25 of queries over the rows of an opened index, as Lucene has it:

    Σ idf · tf / (tf + k1 · (1 - b + b · length / average)),  idf = ln(1 + (N - df + ½) / (df + ½))

over the words of the query. A score is divided by the largest that any row that counts has for the
query. Words in many rows weigh little and are slow to look at, so that they are put off where they
cannot matter much: rows then have a part of their score, and the rest is within `slack` until it is
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.fusion import Scores, top_k
from moee_index.index.lexical.bm25 import Bm25
from moee_index.index.lexical.postings import Numbers, Span
from moee_index.index.lexical.statistics import Mask, OpenWords, Statistics, Term

Values = npt.NDArray[np.float64]
RowNumbers = npt.NDArray[np.int64]
# A word is put off if it is in more than one row of so many, and those put off weigh together no
# more than this share of all words.
_MANY = 16
_SHARE = 0.05
# From one posting for so many rows on, adding up in an array of all rows beats sorting postings.
_DENSE = 16
# What is looked at first for the largest score, and the most rows that may then be left.
_FIRST = 64
_MOST_LEFT = 1 << 14
# Two scores that are nearer, relative to the largest, may be one in float32.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class _Matches:
    """Rows that hold a word of a query that was not put off, ascending, and their BM25 so far."""

    rows: Numbers
    scores: Values


class SegmentScores:
    """BM25 of one query in one segment. terms: the query's, the rarest first; put_off: how many of
    the last ones are looked at only where `exact` asks."""

    def __init__(
        self,
        words: OpenWords,
        terms: Sequence[tuple[float, Span | None]],
        put_off: int,
        average: float,
        parameters: Bm25,
    ) -> None:
        self._words = words
        self._average = average
        self._parameters = parameters
        ready = len(terms) - put_off
        self._terms = terms
        self._put_off = [(weight, span) for weight, span in terms[ready:] if span is not None]
        self.matches = self._matches(terms[:ready])

    def _matches(self, terms: Sequence[tuple[float, Span | None]]) -> _Matches:
        postings, live = self._words.postings, self._words.live
        found = [(weight, span) for weight, span in terms if span is not None]
        if not found:
            return _Matches(np.empty(0, np.uint32), np.empty(0))
        looked_at = [postings.rows(span) for _, span in found]
        added = [
            self._contribution(weight, rows, postings.counts(span))
            for rows, (weight, span) in zip(looked_at, found, strict=True)
        ]
        held = len(postings.lengths)
        if sum(map(len, looked_at)) * _DENSE > held:
            every = np.zeros(held)
            for rows, values in zip(looked_at, added, strict=True):
                every[rows] += values
            # What is added is above 0; numpy finds true values many times sooner than numbers.
            rows = np.flatnonzero(every > 0).astype(np.uint32)
            scores = every[rows]
        else:
            rows, places = np.unique(np.concatenate(looked_at), return_inverse=True)
            # Adds in the order of the words, as above.
            scores = np.bincount(places, np.concatenate(added), len(rows)).astype(np.float64)
        if live is not None:
            kept = live[rows]
            rows, scores = rows[kept], scores[kept]
        return _Matches(rows, scores)

    def _contribution(self, weight: float, rows: Numbers, counts: Numbers) -> Values:
        """What a word adds to the score of rows that hold it."""
        lengths = self._words.postings.lengths[rows].astype(np.float64)
        often = counts.astype(np.float64)
        added: Values = _contribution(weight, often, lengths, self._average, self._parameters)
        return added

    def partly(self, rows: range | RowNumbers) -> Values:
        """Scores of consecutive or ascending rows without the words that were put off."""
        values = np.zeros(len(rows))
        matches = self.matches
        if isinstance(rows, range):
            low, high = np.searchsorted(matches.rows, (rows.start, rows.stop))
            values[matches.rows[low:high] - rows.start] = matches.scores[low:high]
        elif len(matches.rows):
            places, held = places_of(matches.rows, rows)
            values[held] = matches.scores[places]
        return values

    def exact(self, rows: RowNumbers) -> Values:
        """Scores of some rows, ascending."""
        values = self.partly(rows)
        postings = self._words.postings
        for weight, span in self._put_off:
            places, held = places_of(postings.rows(span), rows)
            if len(places):
                counts = _at(postings.counts, span, places)
                values[held] += self._contribution(weight, rows[held].astype(np.uint32), counts)
        return values

    def whole(self) -> _Matches:
        """All rows that hold any word of the query, and their scores."""
        return self._matches(self._terms) if self._put_off else self.matches


def _contribution(weight: float, often: Any, length: Any, average: float, parameters: Bm25) -> Any:
    """What a word adds to the score of a text that holds it so often; numbers or arrays."""
    k1, b = parameters.k1, parameters.b
    return weight * (often / (often + k1 * (1 - b + b * length / average)))


def places_of(held: Numbers, rows: RowNumbers) -> tuple[RowNumbers, RowNumbers]:
    """(places in `held`, places in `rows`) of rows that both have; both ascend."""
    wanted = rows.astype(np.uint32)
    places = np.searchsorted(held, wanted)
    places[places == len(held)] = 0
    there = np.flatnonzero(held[places] == wanted) if len(held) else np.empty(0, np.int64)
    return places[there], there


def _at(counts: Any, span: Span, places: RowNumbers) -> Numbers:
    """Some counts of a term, without reading all of a long one."""
    low, high = int(places[0]), int(places[-1]) + 1
    found: Numbers = counts((span[0] + low, span[0] + high))[places - low]
    return found


class QueryScores:
    """BM25 of one query in all segments. largest: of any row that counts, 0 where no row holds a
    word of it; given where rows elsewhere count too. slack: how much the words that were put off
    can add to a row at most."""

    def __init__(
        self,
        text: str,
        statistics: Statistics,
        parameters: Bm25,
        largest: float | None = None,
    ) -> None:
        self.terms = statistics.terms(text)
        self._statistics = statistics
        self._parameters = parameters
        self._score(_put_off(self.terms, statistics.rows))
        if largest is None:
            largest = self._largest()
        if largest is None:
            self._score(0)
            largest = self._largest()
        self.largest = largest or 0.0

    def _score(self, put_off: int) -> None:
        statistics = self._statistics
        self.slack = sum(term.weight for term in self.terms[len(self.terms) - put_off :])
        self.segments = [
            SegmentScores(
                words,
                [(term.weight, term.found[number]) for term in self.terms],
                put_off,
                statistics.average,
                self._parameters,
            )
            for number, words in enumerate(statistics.segments)
        ]

    def contribution(self, weight: float, often: int, length: int) -> float:
        """What a word adds to the score of a text of so many words that holds it so often."""
        added = _contribution(
            weight, float(often), float(length), self._statistics.average, self._parameters
        )
        return float(added)

    def _largest(self) -> float | None:
        """The largest score of any row; None where the words that were put off leave it open, or
        too many rows to look at."""
        matches = [segment.matches for segment in self.segments]
        largest = max((float(each.scores.max()) for each in matches if len(each.rows)), default=0.0)
        if not self.slack:
            return largest
        if largest < self.slack:
            return None
        for least in (_nth(matches, _FIRST), None):
            # First some good ones, which leave few others.
            bound = largest - self.slack if least is None else max(least, largest - self.slack)
            left = [each.rows[each.scores >= bound] for each in matches]
            if sum(map(len, left)) > _MOST_LEFT:
                return None
            for segment, rows in zip(self.segments, left, strict=True):
                if len(rows):
                    largest = max(largest, float(segment.exact(rows.astype(np.int64)).max()))
        return largest


def _put_off(terms: Sequence[Term], rows: int) -> int:
    """How many of the last words are put off."""
    whole = sum(term.weight for term in terms)
    put_off, weight = 0, 0.0
    for term in reversed(terms):
        weight += term.weight
        if term.frequency * _MANY <= rows or weight > _SHARE * whole:
            break
        put_off += 1
    return put_off


def _nth(matches: Sequence[_Matches], count: int) -> float:
    """The count-th best score of the segment that has the best."""
    best = max(matches, key=lambda each: float(each.scores.max()) if len(each.rows) else 0.0)
    if len(best.scores) <= count:
        return 0.0
    return float(np.partition(best.scores, len(best.scores) - count)[len(best.scores) - count])


class PartScores:
    """BM25 of some queries in one segment, each divided by the query's largest: what a search of
    that segment adds to its similarities. weight: of BM25 in a score, above 0."""

    def __init__(self, queries: Sequence[QueryScores], segment: int, weight: float) -> None:
        self.weight = weight
        self._queries = queries
        self._segment = segment

    def __getitem__(self, queries: slice) -> PartScores:
        return PartScores(self._queries[queries], self._segment, self.weight)

    def __len__(self) -> int:
        return len(self._queries)

    def slack(self, query: int) -> float:
        """What a score by `partly` can lack."""
        scores = self._queries[query]
        return scores.slack / scores.largest if scores.largest else 0.0

    def anything(self, query: int) -> bool:
        """Whether any row of the index holds a word of a query."""
        return self._queries[query].largest > 0

    def partly(self, query: int, rows: range | RowNumbers) -> Values:
        """Scores of consecutive or ascending rows without what `slack` bounds."""
        return self._share(query, self._of(query).partly(rows))

    def exact(self, query: int, rows: RowNumbers) -> Values:
        """Scores of some rows, ascending, in [0, 1]."""
        return self._share(query, self._of(query).exact(rows))

    def best(self, query: int, count: int, allowed: Mask | None) -> tuple[RowNumbers, float]:
        """Some rows, ascending, and what all others score at most: the `count` best are among them
        if there are so many."""
        found = self._of(query).whole()
        rows, scores = found.rows, self._share(query, found.scores)
        if allowed is not None:
            kept = allowed[rows]
            rows, scores = rows[kept], scores[kept]
        if len(rows) <= count:
            return rows.astype(np.int64), 0.0
        cut = float(np.partition(scores, len(rows) - count)[len(rows) - count])
        return rows[scores >= cut].astype(np.int64), cut

    def above(self, query: int, wanted: RowNumbers, allowed: Mask | None) -> npt.NDArray[np.int64]:
        """For some rows, how many of all score more: `best` of any larger count has them. As many
        as there are rows that hold a word, where one holds none."""
        found = self._of(query).whole()
        rows, scores = found.rows, found.scores
        if allowed is not None:
            kept = allowed[rows]
            rows, scores = rows[kept], scores[kept]
        own = np.zeros(len(wanted))
        places, there = places_of(rows, wanted)
        own[there] = scores[places]
        return len(scores) - np.searchsorted(np.sort(scores), own, side="right")

    def ranked(self, query: int, k: int, allowed: Mask | None) -> tuple[RowNumbers, Scores]:
        """The best k rows by words alone, best first, fewer where fewer hold any. The similarities
        are not known: NaN."""
        rows = self._candidates(query, k, allowed)
        score = self.exact(query, rows).astype(np.float32)
        best = top_k(score, min(k, len(rows))) if len(rows) else np.empty(0, np.int64)
        unknown = np.full(len(best), np.nan, dtype=np.float32)
        return rows[best], Scores(score[best], unknown, unknown)

    def _candidates(self, query: int, k: int, allowed: Mask | None) -> RowNumbers:
        """Rows among which the best k are, ascending; those that hold no word are not."""
        scores = self._queries[query]
        found = self._of(query).matches
        rows = found.rows
        partly = found.scores
        if allowed is not None:
            kept = allowed[rows]
            rows, partly = rows[kept], partly[kept]
        if len(rows) > k:
            cut = float(np.partition(partly, len(rows) - k)[len(rows) - k])
            if cut > scores.slack:
                bound = cut - scores.slack - _ROUNDING * scores.largest
                return rows[partly >= bound].astype(np.int64)
        whole = self._of(query).whole().rows.astype(np.int64)
        return whole if allowed is None else whole[allowed[whole]]

    def _of(self, query: int) -> SegmentScores:
        return self._queries[query].segments[self._segment]

    def _share(self, query: int, values: Values) -> Values:
        largest = self._queries[query].largest
        return values / largest if largest else values


class WordScores:
    """BM25 of some queries over one or several opened indexes. weight: of BM25 in a score, above 0;
    largest: of each query, where rows elsewhere count too; first: the number of the index's first
    segment among all."""

    def __init__(
        self,
        texts: Sequence[str],
        statistics: Statistics,
        weight: float,
        parameters: Bm25,
        largest: Sequence[float | None] | None = None,
    ) -> None:
        self.weight = weight
        self.statistics = statistics
        self.queries = [
            QueryScores(text, statistics, parameters, most)
            for text, most in zip(texts, largest or [None] * len(texts), strict=True)
        ]
        self.first = 0

    def beginning(self, segment: int) -> WordScores:
        """The same for an index whose first segment is this one of all."""
        scores = copy(self)
        scores.first = segment
        return scores

    def segment(self, number: int) -> PartScores:
        return PartScores(self.queries, self.first + number, self.weight)
