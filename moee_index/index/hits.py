"""One search over an opened index: rankings of its segments joined, documents by their best
passages, rows looked up.

Which rows of a segment are best is search/pair's, by words alone lexical/scores's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.errors import MisuseError
from moee_index.fusion import UnitVectors, unit_vectors
from moee_index.index.search.pair import PairSearcher, Ranking, cut_below, joined
from moee_index.index.search.request import SearchRequest
from moee_index.index.segment import Mask, Match, find_live
from moee_index.index.snapshot import Snapshot
from moee_index.text import check_texts, shown
from moee_index.types import Embeddings, Hit

if TYPE_CHECKING:  # without words a search imports nothing of them
    from moee_index.index.lexical.scores import WordMatch, WordScores


class Hits(list[Hit]):
    """The hits of one query, best first. exact: no document can have been missed."""

    def __init__(self, hits: Sequence[Hit], exact: bool) -> None:
        super().__init__(hits)
        self.exact = exact


class Search:
    """A request that is checked already, for some queries. embeddings: raw, may be None where words
    alone count; texts: of the queries, may be None where words do not count; without: a document
    that is no hit. Words count nothing in a request that leaves their weight open.

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
    ) -> None:
        self._snapshot = snapshot
        self._searchers = searchers
        self._request = request
        self._weight = request.words(0.0)
        self._masks = snapshot.masks(request.filter)
        if without is not None:
            self._masks = _masked(snapshot, self._masks, without)
        self._words = self._word_scores(embeddings, texts)
        self._queries: UnitVectors | None = None
        self._count = len(texts or ())
        if embeddings is not None and self._weight < 1:
            self._queries = unit_vectors(embeddings, snapshot.standardizer)
            self._count = len(embeddings)

    def _word_scores(
        self, embeddings: Embeddings | None, texts: Sequence[str] | None
    ) -> WordScores | None:
        """The queries' scores by words, where these count."""
        if not self._weight:
            return None
        given = None if texts is None else check_texts(texts, "query")
        if given is None or (embeddings is not None and len(given) != len(embeddings)):
            raise MisuseError("a search by words needs the text of each query; give texts=")
        from moee_index.index.lexical.scores import WordScores

        statistics = self._snapshot.statistics
        return WordScores(given, statistics, self._weight, self._request.bm25)

    def hits(self) -> list[Hits]:
        """The hits of each query."""
        k = self._request.k
        if self._request.passages:
            self._snapshot.check_names()
        if self._snapshot.manifest.chunk is None or self._request.passages:
            rankings = self._rank(slice(0, self._count), k)
            return [self._hits(ranking, query) for query, ranking in enumerate(rankings)]
        return [self._best_passages(query, k) for query in range(self._count)]

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
            return self._searchers[number].search(
                self._queries[some], k, request.method, weight, request.min_score, mask, words
            )
        assert words is not None
        ranked = (Ranking(*words.ranked(query, k, mask), True) for query in range(len(words)))
        return [cut_below(ranking, request.min_score) for ranking in ranked]

    def _best_passages(self, query: int, k: int) -> Hits:
        """The k best documents, each by its best passage: passages are ranked deeper and deeper
        until k documents are among them, or all passages are."""
        depth = 4 * k
        while True:
            ranking = self._rank(slice(query, query + 1), depth)[0]
            stored = self._stored(ranking.rows)
            positions: dict[tuple[int, int], int] = {}
            for position, row in enumerate(ranking.rows):
                segment, document = stored[int(row)]
                positions.setdefault((segment, document.number), position)
            if len(positions) >= k or len(ranking.rows) < depth:
                best = np.fromiter(positions.values(), dtype=np.int64)[:k]
                best_documents = Ranking(ranking.rows[best], ranking.scores[best], ranking.exact)
                return self._hits(best_documents, query)
            depth *= 4

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
        matches: list[WordMatch | None] = [None] * len(ranking.rows)
        if self._words is not None:
            begins = self._snapshot.begins
            segments = np.searchsorted(begins, ranking.rows, side="right") - 1
            for segment in np.unique(segments):
                places = np.flatnonzero(segments == segment)
                rows = ranking.rows[places] - begins[segment]
                found = self._words.matches(query, int(segment), rows)
                for place, match in zip(places, found, strict=True):
                    matches[place] = match
        return matches

    def _hits(self, ranking: Ranking, query: int) -> Hits:
        stored, scores = self._stored(ranking.rows), ranking.scores
        matches = self._matches(ranking, query)
        split, hits = self._snapshot.manifest.chunk is not None, []
        for position, row in enumerate(ranking.rows):
            segment, document = stored[int(row)]
            segment_row = int(row) - int(self._snapshot.begins[segment])
            passage = document.name_at(segment_row) if split else None
            hits.append(
                Hit(
                    rank=position + 1,
                    id=passage if self._request.passages and passage else document.id,
                    score=float(scores.score[position]),
                    hs=_known(scores.hs[position]),
                    rw=_known(scores.rw[position]),
                    text=document.passage(segment_row),
                    metadata=document.metadata,
                    passage=passage,
                    **_of_words(matches[position]),
                )
            )
        return Hits(hits, ranking.exact)


def more_like(
    snapshot: Snapshot,
    searchers: Sequence[PairSearcher],
    request: SearchRequest,
    identifier: str,
) -> Hits:
    """The documents that are most like one of them, itself left out. Its stored rows are the
    queries; of a document that was split each passage is one, and the best counts.

    Raises MisuseError for an id that is not there.
    """
    match = find_live(snapshot.segments, [identifier]).get(identifier)
    if match is None:
        raise MisuseError(f"{snapshot.directory} has no document {shown(identifier)!r}")
    rows = slice(match[1].rows.start, match[1].rows.stop)
    embeddings = snapshot.segments[match[0]].raw.take(rows)
    answers = Search(snapshot, searchers, request, embeddings, None, match).hits()
    best: dict[str, Hit] = {}
    for hit in sorted(chain.from_iterable(answers), key=lambda hit: -hit.score):
        best.setdefault(hit.id, hit)
    places = _places(snapshot, best.keys())
    order = sorted(best.values(), key=lambda hit: (-hit.score, places[hit.id]))[: request.k]
    ranked = [replace(hit, rank=rank) for rank, hit in enumerate(order, 1)]
    return Hits(ranked, all(answer.exact for answer in answers))


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


def _known(similarity: np.floating[Any]) -> float:
    """A similarity; one that nobody looked at is the one NaN that equals itself in a tuple."""
    return math.nan if np.isnan(similarity) else float(similarity)


def _of_words(match: WordMatch | None) -> dict[str, Any]:
    """The fields of a hit that words decide."""
    if match is None:
        return {}
    return {"lexical": match.share, "bm25": match.bm25, "words": match.words}
