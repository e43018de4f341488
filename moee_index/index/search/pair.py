"""Exact fused top k over a pair of indexes.

Unit vectors in, row numbers and scores out; texts and ids are looked up elsewhere.

Flat pairs are scanned completely (shortlist.py), and every document that the scan cannot rule out
is scored again from its raw row; those of an approximate index only where its candidates lead.
Approximate pairs give lists that are joined and scored again likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError, ModelError
from moee_index.fusion import (
    Method,
    RowNumbers,
    Scores,
    Standardizer,
    UnitVectors,
    dense_share,
    score,
    top_k,
    unit_vectors,
    unseen_bound,
)
from moee_index.index.approximate.asked import Asked
from moee_index.index.approximate.candidates import Candidates
from moee_index.index.search.cut import NOT_FINITE
from moee_index.index.search.scan_request import ScanRequest, parts_that_count
from moee_index.index.search.shortlist import FlatScan
from moee_index.index.store.checksums import CheckedCodes, CheckedFile
from moee_index.index.store.faiss_files import FLAT, codes_of, neighbors
from moee_index.index.store.leading import LeadingPart
from moee_index.index.store.rows import RowReader
from moee_index.types import Pair

if TYPE_CHECKING:  # without words a search imports nothing of them
    from moee_index.index.lexical.scores import PartScores

Mask = npt.NDArray[np.bool_]
_QUERIES = 256
_RESCORE_ROWS = 1024
_MIN_DEPTH = 200
_MAX_DEPTH = 16
# Up to so many rows a scan costs about as much as looking for candidates does.
SCANNED_ROWS = 1 << 14
# Nor does looking for this share of all.
SCANNED_SHARE = 16
# Of fewer rows than this share candidates take too long to find (LAB.md).
_FILTERED_SHARE = 4
# So few rows, over all queries, are scored from their raw vectors at once: some 10 ms.
_FEW_ROWS = 256


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best rows for one query, best first, and whether that is proven.

    rows: int64 [m]; scores: their scores and similarities.
    """

    rows: RowNumbers
    scores: Scores
    exact: bool


class PairSearcher:
    """Searches one opened pair of indexes.

    pair: FAISS indexes; files: the files that they map, to be checked; codes_error: longest
    difference of a vector to its codes; block_rows: documents scanned at a time (for tests; None
    chooses); candidates: of an approximate index; leading: leading components, where there are
    some.
    """

    def __init__(
        self,
        pair: Pair[Any],
        files: Pair[CheckedFile],
        index_type: Pair[str],
        raw: RowReader,
        norms: npt.NDArray[np.float32],
        standardizer: Standardizer,
        codes_error: Pair[float] | None,
        block_rows: int | None = None,
        candidates: Candidates | None = None,
        leading: Pair[LeadingPart] | None = None,
    ) -> None:
        self._pair: Pair[Any] | None = pair
        self._scan: FlatScan | None = None
        if index_type == Pair(FLAT, FLAT):
            codes = pair.zip(files).map(lambda each: CheckedCodes(codes_of(each[0]), each[1]))
            errors = codes_error or Pair(0.0, 0.0)
            self._scan = FlatScan(codes, norms, errors, leading, block_rows)
        self._raw = raw
        self._standardizer = standardizer
        self._candidates = candidates

    def close(self) -> None:
        if self._scan is not None:
            self._scan.close()
        self._pair = None

    def search(
        self,
        queries: UnitVectors,
        k: int,
        method: Method,
        alpha: float | None,
        min_score: float | None = None,
        allowed: Mask | None = None,
        words: PartScores | None = None,
        *,
        every_row: bool = False,
        asked: Asked | None = None,
    ) -> list[Ranking]:
        """The best k rows for each query, fewer where there are fewer, scores below `min_score`
        left out. allowed: bool [n], the rows to search among; None is all. words: the queries'
        scores by words, where these count. every_row: whether an approximate index is passed over,
        and all rows are scored. asked: the queries as candidates are looked for; None looks at
        every row."""
        rows = None if allowed is None or allowed.all() else np.flatnonzero(allowed)
        k = min(k, len(self._raw) if rows is None else len(rows))
        rankings: list[Ranking] = []
        for start in range(0, len(queries), _QUERIES):
            some = queries[start : start + _QUERIES]
            matched = None if words is None else words[start : start + _QUERIES]
            few = rows is not None and len(rows) * len(some) <= _FEW_ROWS
            if few or (every_row and self._scan is None):
                scored = np.arange(len(self._raw)) if rows is None else rows
                rankings.extend(
                    self._rescored(
                        some[i : i + 1], scored, k, method, alpha, True, _only(matched, i)
                    )
                    for i in range(len(some))
                )
            elif self._scan is not None:
                request = ScanRequest(some, k, method, alpha, min_score, rows, matched)
                if asked is None or self._candidates is None or self._few(rows, k):
                    rankings.extend(self._exact(self._scan, request))
                else:
                    asked_here = asked.of(slice(start, start + _QUERIES))
                    rankings.extend(
                        self._by_candidates(self._scan, self._candidates, request, asked_here)
                    )
            else:
                rankings.extend(
                    self._approximate(some[i : i + 1], k, method, alpha, rows, _only(matched, i))
                    for i in range(len(some))
                )
        return [cut_below(ranking, min_score) for ranking in rankings]

    def _exact(self, scan: FlatScan, request: ScanRequest) -> Iterator[Ranking]:
        for number, rows in enumerate(scan.candidates(request)):
            query = request.queries[number : number + 1]
            words = _only(request.words, number)
            yield self._rescored(query, rows, request.k, request.method, request.alpha, True, words)

    def _few(self, rows: RowNumbers | None, k: int) -> bool:
        """Whether looking at all rows that count costs no more than looking for candidates."""
        count = len(self._raw) if rows is None else len(rows)
        filtered = count * _FILTERED_SHARE < len(self._raw)
        return filtered or count <= SCANNED_ROWS or k * SCANNED_SHARE > count

    def _by_candidates(
        self, scan: FlatScan, candidates: Candidates, request: ScanRequest, asked: Asked
    ) -> Iterator[Ranking]:
        """The best of the rows that candidates bring, and words, by their exact scores."""
        mask, count = None, len(self._raw)
        if request.allowed is not None:
            mask = np.zeros(count, dtype=bool)
            mask[request.allowed] = True
            count = len(request.allowed)
        reach = asked.reach_for(request.k, count / len(self._raw))
        for number, found in enumerate(candidates.ranked(asked, reach, mask)):
            rows = np.sort(found)
            if request.words is not None:
                rows = np.union1d(rows, request.words.best(number, reach.depth, mask)[0])
            if len(rows) < request.k:  # lists that were not read hold the others
                rows = np.arange(len(self._raw)) if request.allowed is None else request.allowed
            # All rows that count may have been brought.
            exact = len(rows) == count
            yield self._rescored(
                request.queries[number : number + 1],
                scan.among(request, number, rows),
                min(request.k, len(rows)),
                request.method,
                request.alpha,
                exact,
                _only(request.words, number),
            )

    def _rescored(
        self,
        query: UnitVectors,
        rows: RowNumbers,
        k: int,
        method: Method,
        alpha: float | None,
        exact: bool,
        words: PartScores | None,
    ) -> Ranking:
        """Score rows (ascending) from their raw vectors and keep the best k. words: of this query
        alone."""
        parts: list[Scores] = []
        for start in range(0, len(rows), _RESCORE_ROWS):
            some = rows[start : start + _RESCORE_ROWS]
            raw = self._raw.take(some)
            shares = None if words is None else (words.weight, words.exact(0, some))
            try:
                units = unit_vectors(raw, self._standardizer)
            except ModelError:
                raise IndexDamagedError(NOT_FINITE) from None
            parts.append(score(query, units, method, alpha, shares))
        scores = Scores.joined(parts)
        best = top_k(scores.score, k)
        return Ranking(rows[best], scores[best], exact)

    def _approximate(
        self,
        query: UnitVectors,
        k: int,
        method: Method,
        alpha: float | None,
        allowed: RowNumbers | None,
        words: PartScores | None,
    ) -> Ranking:
        """Join both parts' lists, score them from raw rows, and go deeper while a document on
        neither list could still be among the best (DESIGN, maths 3). Words bring the rows that
        they favour most, and count in the bound.

        The lists are approximate, so only scoring everything proves anything. `allowed` is applied
        to the lists; where they hold too few allowed rows in the end, all of these are scored.
        """
        assert self._pair is not None
        count = len(self._raw)
        everything = np.arange(count) if allowed is None else allowed
        mask = np.zeros(count, dtype=bool)
        mask[everything] = True
        parts = parts_that_count(method, alpha)
        depth = min(count, max(10 * k, _MIN_DEPTH))
        limit = min(count, _MAX_DEPTH * depth)
        while depth < count:
            lists = [
                neighbors(self._pair[part], query.parts[part][0].astype(np.float32), depth)
                for part in parts
            ]
            rows = np.unique(np.concatenate([neighbor_rows for neighbor_rows, _ in lists]))
            rows, others = rows[mask[rows]], 0.0
            if words is not None:
                favored, others = words.best(0, depth, mask)
                rows = np.union1d(rows, favored)
            whole = len(rows) == len(everything)
            ranking = self._rescored(query, rows, k, method, alpha, whole, words)
            if depth >= limit and len(rows) >= k:
                return ranking
            weight = 0.0 if len(parts) == 1 else alpha
            # Where one part counts its similarity serves for both: the other's is not looked at,
            # or weighs nothing.
            bound = unseen_bound(method, lists[0][1], lists[-1][1], weight, query.norms[0])
            if words is not None:
                bound *= dense_share(words.weight, method, alpha)
                bound += words.weight * others
            if len(ranking.rows) == k and ranking.scores.score[-1] >= bound:
                return ranking
            if depth >= limit:
                break
            depth = min(limit, 2 * depth)
        # A list of all documents has nothing over the raw rows themselves.
        return self._rescored(query, everything, k, method, alpha, True, words)


def joined(parts: Sequence[Ranking], begins: Sequence[int], k: int) -> Ranking:
    """One ranking of the best k over several segments, whose rows begin at `begins`.

    Equal scores are in the order of the segments and of their rows.
    """
    if len(parts) == 1 and begins[0] == 0:
        return parts[0]
    rows = [part.rows + begin for part, begin in zip(parts, begins, strict=True)]
    scores = Scores.joined([part.scores for part in parts])
    # Each part is sorted, with ties in order: a stable sort keeps them so.
    best = np.argsort(-scores.score, kind="stable")[:k]
    numbers = np.concatenate(rows)[best] if rows else np.empty(0, dtype=np.int64)
    return Ranking(numbers, scores[best], all(part.exact for part in parts))


def _only(words: PartScores | None, query: int) -> PartScores | None:
    """Of one query alone."""
    return None if words is None else words[query : query + 1]


def cut_below(ranking: Ranking, min_score: float | None) -> Ranking:
    """Without what scores below `min_score`."""
    if min_score is None:
        return ranking
    kept = np.flatnonzero(ranking.scores.score >= min_score)
    return Ranking(ranking.rows[kept], ranking.scores[kept], ranking.exact)
