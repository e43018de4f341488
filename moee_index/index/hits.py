"""One search over an opened index: rankings of its segments joined, documents by their best
passages, rows looked up.

Which rows of a segment are best is search/pair's, by words alone lexical/scores's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from moee_index.errors import MisuseError
from moee_index.fusion import UnitVectors, known, unit_vectors
from moee_index.index.approximate.asked import Asked
from moee_index.index.search.pair import PairSearcher, Ranking, cut_below, joined
from moee_index.index.search.request import SearchRequest
from moee_index.index.segment import Mask, Match, find_live
from moee_index.index.snapshot import Snapshot
from moee_index.index.store.approximation import Rung
from moee_index.index.store.rows import RowNumbers
from moee_index.text import check_texts, shown
from moee_index.types import Embeddings, Hit, WordMatch, blocks

if TYPE_CHECKING:  # without words a search imports nothing of them
    from moee_index.index.lexical.conditions import DocumentConditions
    from moee_index.index.lexical.scores import WordScores
    from moee_index.index.lexical.statistics import Statistics

# Rows whose documents are looked at together.
_AT_A_TIME = 256


class Hits(list[Hit]):
    """The hits of one query, best first. exact: no document can have been missed; recall: else the
    share of the ten best that such a search was measured to find, where that was measured."""

    def __init__(self, hits: Sequence[Hit], exact: bool, recall: float | None = None) -> None:
        super().__init__(hits)
        self.exact = exact
        self.recall = None if exact else recall

    def how(self) -> dict[str, Any]:
        """What an answer in JSON says of them: exact, and recall where it was measured."""
        return {"exact": self.exact} | ({} if self.recall is None else {"recall": self.recall})


def merged_hits(answers: Iterable[Hits], k: int) -> Hits:
    """The k best hits of several answers to one query, by score, or by `rrf` where they have it.
    Equal ones stand in the order of the answers, then of their hits: where each answer is of some
    segments, in their order, this is the answer of all."""
    every = list(answers)
    # Sorting keeps equal ones in their order.
    order = chain.from_iterable(every)
    hits = sorted(order, key=lambda hit: -(hit.score if hit.rrf is None else hit.rrf))
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(hits[:k], 1)]
    return Hits(ranked, all(answer.exact for answer in every), least_recall(every))


class Search:
    """A request that is checked already, for some queries. embeddings: raw, may be None where words
    alone count; texts: of the queries, may be None where words do not count; without: a document
    that is no hit; words: the queries' scores by words, where more than this index decides them;
    conditions: which documents may be hits. Words count nothing in a request that leaves their
    weight open.

    Raises MisuseError where a text is missing.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        searchers: Sequence[PairSearcher],
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None,
        without: Match | None = None,
        words: WordScores | None = None,
        conditions: DocumentConditions | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._searchers = searchers
        self._request = request
        self._weight = request.words(0.0)
        self._masks = snapshot.masks(request.filter)
        if without is not None:
            self._masks = _masked(snapshot, self._masks, without)
        self._conditions = conditions
        if conditions is not None:
            self._masks = conditions.masks(self._masks)
        self._words = words or word_scores(snapshot, request, embeddings, texts)
        self._queries: UnitVectors | None = None
        self._count = len(texts or ())
        self._rung: Rung | None = None
        self._asked: Asked | None = None
        if embeddings is not None and self._weight < 1:
            self._queries = unit_vectors(embeddings, snapshot.standardizer)
            self._count = len(embeddings)
            self._ask_candidates(self._queries)

    def _ask_candidates(self, queries: UnitVectors) -> None:
        """How an approximate index is asked for candidates, unless every row is looked at."""
        approximation, coarse = self._snapshot.manifest.approximation, self._snapshot.coarse
        request = self._request
        if approximation is None or coarse is None or request.every_row:
            return
        self._rung = approximation.rung(request.recall)
        if self._rung is not None:
            alpha = request.weight(self._snapshot.manifest.alpha)
            reach = self._rung.reach_of(request.method)
            self._asked = Asked(coarse.opened, queries, request.method, alpha, reach)

    def rows(self, k: int) -> list[Ranking]:
        """The best k rows of each query, whatever documents they are of."""
        return self._rank(slice(0, self._count), k)

    def hits(self) -> list[Hits]:
        """The hits of each query."""
        k = self._request.k
        if self._request.passages:
            self._snapshot.check_names()
        by_text = self._conditions is not None and self._conditions.by_text
        if not self._joins_passages and not by_text:
            rankings = self._rank(slice(0, self._count), k)
            return [self._hits(ranking, query) for query, ranking in enumerate(rankings)]
        return [self._deeper(query, k) for query in range(self._count)]

    @property
    def _joins_passages(self) -> bool:
        """Whether a hit is a document, by its best passage."""
        return self._snapshot.manifest.chunk is not None and not self._request.passages

    def _rank(self, some: slice, k: int) -> list[Ranking]:
        """The best k rows for some of the queries."""
        parts = [self._rank_segment(number, some, k) for number in range(len(self._searchers))]
        begins = self._snapshot.begins[:-1].tolist()
        return [
            joined([rankings[query] for rankings in parts], begins, k)
            for query in range(some.stop - some.start)
        ]

    def _rank_segment(self, number: int, some: slice, k: int) -> list[Ranking]:
        """As `_rank`, in one segment."""
        request, mask = self._request, self._masks[number]
        words = None if self._words is None else self._words.segment(number)[some]
        if self._queries is not None:
            weight = request.weight(self._snapshot.manifest.alpha)
            asked = None if self._asked is None else self._asked.of(some)
            return self._searchers[number].search(
                self._queries[some], k, request.method, weight, request.min_score, mask, words,
                every_row=request.every_row, asked=asked,
            )  # fmt: skip
        assert words is not None
        ranked = (Ranking(*words.ranked(query, k, mask), True) for query in range(len(words)))
        return [cut_below(ranking, request.min_score) for ranking in ranked]

    def _deeper(self, query: int, k: int) -> Hits:
        """The k best hits where not every row is one: rows are ranked deeper and deeper until k
        hits are among them, or all rows are."""
        depth = 4 * k
        while True:
            ranking = self._rank(slice(query, query + 1), depth)[0]
            best = self._first_hits(ranking.rows, k)
            if len(best) == k or len(ranking.rows) < depth:
                chosen = Ranking(ranking.rows[best], ranking.scores[best], ranking.exact)
                return self._hits(chosen, query)
            depth *= 4

    def _first_hits(self, rows: RowNumbers, k: int) -> RowNumbers:
        """Positions of the first k hits among ranked rows: of each document its first row, where
        its passages are not hits, and none of a document whose text does not meet a condition."""
        positions: list[int] = []
        seen: set[tuple[int, int]] = set()
        for some in blocks(range(len(rows)), _AT_A_TIME):
            stored = self._stored(rows[some])
            for position in some:
                segment, document = stored[int(rows[position])]
                if self._joins_passages and (segment, document.number) in seen:
                    continue
                seen.add((segment, document.number))
                if self._conditions is None or self._conditions.hold(segment, document):
                    positions.append(position)
                    if len(positions) == k:
                        return np.array(positions, dtype=np.int64)
        return np.array(positions, dtype=np.int64)

    def _stored(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> dict[int, Match]:
        """Row of the index → (its segment, its document, whose rows are those of the segment)."""
        documents: dict[int, Match] = {}
        begins = self._snapshot.begins
        numbers = np.searchsorted(begins, rows, side="right") - 1
        for segment in np.unique(numbers):
            begin = int(begins[segment])
            wanted = [
                int(row) - begin
                for row, segment_of_row in zip(rows, numbers, strict=True)
                if segment_of_row == segment
            ]
            for row, document in self._snapshot.segments[segment].documents.at_rows(wanted).items():
                documents[begin + row] = int(segment), document
        return documents

    def _matches(self, ranking: Ranking, query: int) -> list[WordMatch | None]:
        """What each row of a ranking owes to words; None where these do not count."""
        if self._words is None:
            return [None] * len(ranking.rows)
        from moee_index.index.lexical.matches import match_rows

        words, begins = self._words, self._snapshot.begins[:-1]
        scores = words.queries[query]
        return [*match_rows(scores, words.statistics, begins, ranking.rows, words.first)]

    def _hits(self, ranking: Ranking, query: int) -> Hits:
        stored, scores = self._stored(ranking.rows), ranking.scores
        matches = self._matches(ranking, query)
        split, hits = self._snapshot.manifest.chunk is not None, []
        for position, (row, match) in enumerate(zip(ranking.rows, matches, strict=True)):
            segment, document = stored[int(row)]
            segment_row = int(row) - int(self._snapshot.begins[segment])
            passage = document.name_at(segment_row) if split else None
            hits.append(
                Hit(
                    rank=position + 1,
                    id=passage if self._request.passages and passage else document.id,
                    score=float(scores.score[position]),
                    hs=known(scores.hs[position]),
                    rw=known(scores.rw[position]),
                    text=document.passage(segment_row),
                    metadata=document.metadata,
                    passage=passage,
                    **({} if match is None else match.fields()),
                )
            )
        recall = None if self._rung is None else self._rung.recall
        return Hits(hits, ranking.exact, recall)


class HoldsWords(Protocol):
    """An opened index whose words can be counted, or several of them."""

    @property
    def statistics(self) -> Statistics: ...


def word_scores(
    index: HoldsWords,
    request: SearchRequest,
    embeddings: Embeddings | None,
    texts: Sequence[str] | None,
) -> WordScores | None:
    """The queries' scores by words, where these count. Raises MisuseError where a text is
    missing."""
    weight = request.words(0.0)
    if not weight:
        return None
    given = None if texts is None else check_texts(texts, "query")
    if given is None or (embeddings is not None and len(given) != len(embeddings)):
        raise MisuseError("a search by words needs the text of each query; give texts=")
    from moee_index.index.lexical.scores import WordScores

    return WordScores(given, index.statistics, weight, request.bm25)


def stored_rows(snapshot: Snapshot, identifier: str) -> tuple[Match, Embeddings]:
    """A document, and the raw rows of its passages. Raises MisuseError for an id that is not
    there."""
    match = find_live(snapshot.segments, [identifier]).get(identifier)
    if match is None:
        raise MisuseError(f"{snapshot.directory} has no document {shown(identifier)!r}")
    rows = slice(match[1].rows.start, match[1].rows.stop)
    return match, snapshot.segments[match[0]].raw.take(rows)


def more_like(
    snapshot: Snapshot,
    searchers: Sequence[PairSearcher],
    request: SearchRequest,
    embeddings: Embeddings,
    without: Match | None,
) -> Hits:
    """The documents that are most like a document, itself left out where it is one of them. Its
    stored rows are the queries; of a document that was split each passage is one, and the best
    counts."""
    answers = Search(snapshot, searchers, request, embeddings, None, without).hits()
    best: dict[str, Hit] = {}
    for hit in sorted(chain.from_iterable(answers), key=lambda hit: -hit.score):
        best.setdefault(hit.id, hit)
    places = _places(snapshot, best.keys())
    order = sorted(best.values(), key=lambda hit: (-hit.score, places[hit.id]))[: request.k]
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(order, 1)]
    return Hits(ranked, all(answer.exact for answer in answers), least_recall(answers))


def least_recall(answers: Sequence[Hits]) -> float | None:
    """What can be said of the recall of several answers together: None where some are not exact and
    were not measured."""
    known = [answer.recall for answer in answers if not answer.exact]
    return None if None in known else min((each for each in known if each), default=None)


def _places(snapshot: Snapshot, names: Collection[str]) -> dict[str, tuple[int, int, int]]:
    """Where documents, and passages by their names, stand in the order of the index."""
    found = find_live(snapshot.segments, list(names))
    places = {name: (segment, document.number, 0) for name, (segment, document) in found.items()}
    owners = {name: name.rpartition("#") for name in names if name not in places}
    found = find_live(snapshot.segments, [owner for owner, _, _ in owners.values()])
    for name, (owner, _, passage) in owners.items():
        places[name] = found[owner][0], found[owner][1].number, int(passage)
    return places


def _masked(snapshot: Snapshot, masks: Sequence[Mask | None], without: Match) -> list[Mask | None]:
    """Masks that leave out a document besides."""
    number, document = without
    mask = masks[number]
    rows = snapshot.segments[number].entry.rows
    mask = np.ones(rows, dtype=bool) if mask is None else mask.copy()
    mask[document.rows.start : document.rows.stop] = False
    return [*masks[:number], mask, *masks[number + 1 :]]
