"""Exact fused top k over a pair of indexes.

Knows codes, raw rows and the maths. Refuses to know texts and ids: unit vectors in, row numbers
and scores out.

Flat pairs are scanned completely. What the scan can be wrong by is bounded by the longest
difference between a unit vector and its float16 codes, which the manifest keeps; every document
within twice that bound of the k-th score (and at least 1e-4·(1+α), DESIGN, maths 4) is scored
again from its raw row. Approximate pairs give lists that are joined and scored again likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.embeddings import FloatArray
from moee_index.errors import IndexDamagedError, ModelError
from moee_index.fusion import (
    Method,
    RowNumbers,
    Scores,
    Standardizer,
    UnitVectors,
    fuse,
    score,
    top_k,
    unit_vectors,
    unseen_bound,
)
from moee_index.index.checks import CheckedCodes, CheckedFile
from moee_index.index.pair import FLAT, codes_of, neighbours
from moee_index.index.scan import Scanner
from moee_index.index.vectors import RowReader

Mask = npt.NDArray[np.bool_]
# Scores held at a time over all queries of a call, and documents of one block.
_BLOCK_SCORES = 1 << 21
_BLOCK_ROWS = 1 << 16
_QUERIES = 256
_RESCORE_ROWS = 1024
_DESIGN_MARGIN = 1e-4
# Rounding of float32 products and sums, of norms, of the query.
_ARITHMETIC = 1e-5
_NOT_FINITE = (
    "the index holds values that are not finite, so a file of it is damaged; moee-index verify "
    "--full names the file"
)
_MIN_DEPTH = 200
_MAX_DEPTH = 16
# So few rows are scored from their raw vectors at once: some 10 ms.
_FEW_ROWS = 256
# Gathering a row costs as much as scanning some four that stand in order.
_GATHER = 4


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

    pair: part → FAISS index; files: the files that they map, to be checked; codes_error: part →
    longest difference of a vector to its codes; block_rows: documents scanned at a time (for
    tests; None chooses).
    """

    def __init__(
        self,
        pair: dict[str, Any],
        files: dict[str, CheckedFile],
        index_type: dict[str, str],
        raw: RowReader,
        norms: npt.NDArray[np.float32],
        standardizer: Standardizer,
        codes_error: dict[str, float],
        block_rows: int | None = None,
    ) -> None:
        self._pair = pair
        self._flat = all(kind == FLAT for kind in index_type.values())
        self._codes: dict[str, CheckedCodes] = {}
        for part, index in pair.items():
            if self._flat:
                self._codes[part] = CheckedCodes(codes_of(index), files[part])
            else:
                # Which parts of such a file an answer depends on is FAISS's to know.
                files[part].check(0, files[part].size)
        self._raw = raw
        self._norms = norms
        self._standardizer = standardizer
        self._codes_error = codes_error
        self._block_rows = block_rows
        self._scanner = Scanner()

    def close(self) -> None:
        self._scanner.close()
        self._codes = {}
        self._pair = {}

    def search(
        self,
        queries: UnitVectors,
        k: int,
        method: Method,
        alpha: float | None,
        min_score: float | None = None,
        allowed: Mask | None = None,
    ) -> list[Ranking]:
        """The best k rows for each query, fewer where there are fewer, scores below `min_score`
        left out. allowed: bool [n], the rows to search among; None is all."""
        rows = None if allowed is None or allowed.all() else np.flatnonzero(allowed)
        k = min(k, len(self._raw) if rows is None else len(rows))
        found: list[Ranking] = []
        for start in range(0, len(queries), _QUERIES):
            some = queries[start : start + _QUERIES]
            if rows is not None and len(rows) <= _FEW_ROWS:
                found.extend(
                    self._rescored(some[i : i + 1], rows, k, method, alpha, True)
                    for i in range(len(some))
                )
            elif self._flat:
                found.extend(self._exact(some, k, method, alpha, min_score, rows))
            else:
                found.extend(
                    self._approximate(some[i : i + 1], k, method, alpha, rows)
                    for i in range(len(some))
                )
        return [_cut(ranking, min_score) for ranking in found]

    def _exact(
        self,
        queries: UnitVectors,
        k: int,
        method: Method,
        alpha: float | None,
        min_score: float | None,
        allowed: RowNumbers | None,
    ) -> Iterator[Ranking]:
        parts = _parts_that_count(method, alpha)
        # A query without length in any part that counts scores 0 everywhere.
        lengths = queries.norms[:, [("hs", "rw").index(part) for part in parts]]
        alive = [int(query) for query in np.flatnonzero(lengths.any(axis=1))]
        margin = self._margin(method, alpha)
        cuts = {query: _Cut(k, margin, min_score) for query in alive}
        if alive:
            vectors = {
                part: np.ascontiguousarray(getattr(queries, part)[alive], dtype=np.float32)
                for part in parts
            }
            step = self._block_rows or max(1024, min(_BLOCK_ROWS, _BLOCK_SCORES // len(alive)))
            for rows, kept in self._blocks(allowed, step):
                scanned = self._scanner.similarities(
                    [(self._codes[part], vectors[part]) for part in parts], rows
                )
                sims = dict(zip(parts, scanned, strict=True))
                norms = (
                    self._norms[rows.start : rows.stop]
                    if isinstance(rows, range)
                    else (self._norms[rows])
                )
                for place, query in enumerate(alive):
                    # `fuse` reads only the parts that count: any array serves for the other.
                    hs = sims.get("hs", scanned[0])[place]
                    rw = sims.get("rw", scanned[0])[place]
                    weight = 0.0 if len(parts) == 1 else alpha
                    fused = fuse(method, hs, rw, weight, queries.norms[query], norms)
                    if not np.isfinite(fused.sum(dtype=np.float64)):
                        raise IndexDamagedError(_NOT_FINITE)
                    cuts[query].add(fused, rows, kept)
        for query in range(len(queries)):
            if query in cuts:
                left = cuts[query].rows()
            else:
                left = np.arange(k) if allowed is None else allowed[:k]
            yield self._rescored(queries[query : query + 1], left, k, method, alpha, True)

    def _blocks(
        self, allowed: RowNumbers | None, step: int
    ) -> Iterator[tuple[range | RowNumbers, RowNumbers | None]]:
        """Blocks to scan, and which places of a block count (None: all).

        Where few rows of a block count they are gathered; else all of it is scanned, which costs
        no more than reading it.
        """
        count = len(self._raw)
        for start in range(0, count, step):
            stop = min(start + step, count)
            if allowed is None:
                yield range(start, stop), None
                continue
            low, high = np.searchsorted(allowed, (start, stop))
            if low == high:
                continue
            if (high - low) * _GATHER < stop - start:
                yield allowed[low:high], None
            else:
                yield range(start, stop), allowed[low:high] - start

    def _margin(self, method: Method, alpha: float | None) -> float:
        """How far below the k-th scanned score a document of the true top k can stand."""
        hs = self._codes_error.get("hs", 0.0) + _ARITHMETIC
        rw = self._codes_error.get("rw", 0.0) + _ARITHMETIC
        weight = (1.0 if alpha is None else alpha) if method == "sum" else 0.0
        wrong = {
            "hs": hs,
            "rw": rw,
            "sum": hs + weight * rw,
            # The shares of the parts in both cosines add up to at most 1 (Cauchy and Schwarz).
            "concat": max(hs, rw),
        }[method]
        return max(2.0 * wrong, _DESIGN_MARGIN * (1.0 + weight))

    def _rescored(
        self,
        query: UnitVectors,
        rows: RowNumbers,
        k: int,
        method: Method,
        alpha: float | None,
        exact: bool,
    ) -> Ranking:
        """Score rows (ascending) from their raw vectors and keep the best k."""
        parts: list[Scores] = []
        for start in range(0, len(rows), _RESCORE_ROWS):
            raw = self._raw.take(rows[start : start + _RESCORE_ROWS])
            try:
                units = unit_vectors(raw, self._standardizer)
            except ModelError:
                raise IndexDamagedError(_NOT_FINITE) from None
            parts.append(score(query, units, method, alpha))
        scores = Scores(
            *(
                np.concatenate([getattr(part, name) for part in parts] or [np.empty(0, np.float32)])
                for name in ("score", "hs", "rw")
            )
        )
        best = top_k(scores.score, k)
        return Ranking(rows[best], scores[best], exact)

    def _approximate(
        self,
        query: UnitVectors,
        k: int,
        method: Method,
        alpha: float | None,
        allowed: RowNumbers | None,
    ) -> Ranking:
        """Join both parts' lists, score them from raw rows, and go deeper while a document on
        neither list could still be among the best (DESIGN, maths 3).

        The lists are approximate, so only scoring everything proves anything. `allowed` is applied
        to the lists; where they hold too few allowed rows in the end, all of these are scored.
        """
        count = len(self._raw)
        everything = np.arange(count) if allowed is None else allowed
        mask = np.zeros(count, dtype=bool)
        mask[everything] = True
        parts = _parts_that_count(method, alpha)
        depth = min(count, max(10 * k, _MIN_DEPTH))
        limit = min(count, _MAX_DEPTH * depth)
        while depth < count:
            last = {"hs": 0.0, "rw": 0.0}
            lists: list[RowNumbers] = []
            for part in parts:
                vector: FloatArray = getattr(query, part)[0].astype(np.float32)
                found, last[part] = neighbours(self._pair[part], vector, depth)
                lists.append(found)
            rows = np.unique(np.concatenate(lists))
            rows = rows[mask[rows]]
            whole = len(rows) == len(everything)
            ranking = self._rescored(query, rows, k, method, alpha, whole)
            if depth >= limit and len(rows) >= k:
                return ranking
            weight = 0.0 if len(parts) == 1 else alpha
            bound = unseen_bound(method, last["hs"], last["rw"], weight, query.norms[0])
            if len(ranking.rows) == k and ranking.scores.score[-1] >= bound:
                return ranking
            if depth >= limit:
                break
            depth = min(limit, 2 * depth)
        # A list of all documents has nothing over the raw rows themselves.
        return self._rescored(query, everything, k, method, alpha, True)


class _Cut:
    """The rows that can still be among the best k for one query, as blocks of scores go by."""

    def __init__(self, k: int, margin: float, min_score: float | None) -> None:
        self._k = k
        self._margin = margin
        self._threshold = -np.inf if min_score is None else min_score - margin
        self._scores: list[npt.NDArray[Any]] = []
        self._rows: list[RowNumbers] = []
        self._held = 0

    def add(
        self,
        scores: npt.NDArray[Any],
        rows: range | RowNumbers,
        kept: RowNumbers | None,
    ) -> None:
        """Scores of a block's rows; kept: the places that count, None where all do."""
        if kept is not None:
            scores = scores[kept]
        found = np.flatnonzero(scores >= self._threshold)
        if not len(found):
            return
        self._scores.append(scores[found])
        places = found if kept is None else kept[found]
        self._rows.append(places + rows.start if isinstance(rows, range) else rows[places])
        self._held += len(found)
        if self._held > self._k:
            self._prune()

    def _prune(self) -> None:
        scores, rows = np.concatenate(self._scores), np.concatenate(self._rows)
        place = len(scores) - self._k
        kth = float(np.partition(scores, place)[place])
        self._threshold = max(self._threshold, kth - self._margin)
        kept = scores >= self._threshold
        self._scores, self._rows = [scores[kept]], [rows[kept]]
        self._held = len(self._scores[0])

    def rows(self) -> RowNumbers:
        """The rows left, ascending."""
        return np.concatenate(self._rows) if self._rows else np.empty(0, dtype=np.int64)


def joined(parts: Sequence[Ranking], begins: Sequence[int], k: int) -> Ranking:
    """One ranking of the best k over several segments, whose rows begin at `begins`.

    Equal scores stand in the order of the segments and of their rows.
    """
    if len(parts) == 1 and begins[0] == 0:
        return parts[0]
    rows = [part.rows + begin for part, begin in zip(parts, begins, strict=True)]
    scores = Scores(
        *(
            np.concatenate([getattr(part.scores, name) for part in parts])
            if parts
            else np.empty(0, np.float32)
            for name in ("score", "hs", "rw")
        )
    )
    # Each part is sorted, and ties within it stand in order: a stable sort keeps them so.
    best = np.argsort(-scores.score, kind="stable")[:k]
    numbers = np.concatenate(rows)[best] if rows else np.empty(0, dtype=np.int64)
    return Ranking(numbers, scores[best], all(part.exact for part in parts))


def _parts_that_count(method: Method, alpha: float | None) -> Sequence[str]:
    if method in ("hs", "rw"):
        return (method,)
    return ("hs",) if method == "sum" and alpha == 0 else ("hs", "rw")


def _cut(ranking: Ranking, min_score: float | None) -> Ranking:
    if min_score is None:
        return ranking
    kept = np.flatnonzero(ranking.scores.score >= min_score)
    return Ranking(ranking.rows[kept], ranking.scores[kept], ranking.exact)
