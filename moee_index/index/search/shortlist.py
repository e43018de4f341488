"""Which rows of a flat pair can be among the best k, by a complete scan of its codes.

Scores codes, with bounds for every error of a scan. Scoring the candidates from raw rows is left to
pair.py. Inside, what differs by part is a plain list with an entry for each part that counts.

Each part's similarities are off by no more than the longest difference between a unit vector and
its float16 codes, which the manifest keeps, and by rounding. So a row whose score is more than
twice that below the k-th cannot be among the best k, and all others are left (at least those
within 1e-4·(1+α), DESIGN, maths 4). Where a processor is faster in bfloat16, many queries first
scan all rows roughly, under bounds that are as strict (bfloat16_scan.py), and then the candidates
exactly. Few queries leave most rows of a large segment unread (early_exit.py).

Words, where they count, are added to the similarities of each row, so that rows which only words
favour are found too; what a score by words can lack (lexical/scores.py) is a margin like others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError
from moee_index.index.search import bfloat16_scan
from moee_index.index.search.cut import NOT_FINITE, Block, TopKCut
from moee_index.index.search.early_exit import GATHER, EarlyExit
from moee_index.index.search.kernels import Scanner
from moee_index.index.search.native.library import library
from moee_index.index.search.scan_request import Bounds, ScanRequest
from moee_index.index.store.checksums import CheckedCodes
from moee_index.index.store.leading import LeadingPart
from moee_index.index.store.rows import RowNumbers
from moee_index.types import FloatArray, Pair, columns

# Scores held at a time over all queries of a call, and documents of one block.
_BLOCK_SCORES = 1 << 21
_BLOCK_ROWS = 1 << 16
# The first block is small: what it leaves spares the next ones most of the work.
_FIRST_ROWS = 4096
# Rounding of float32 products and sums, of norms, of the query.
_ARITHMETIC = 1e-5
# Up to so many queries each is scanned by itself, early exit and all (LAB.md).
_EARLY_QUERIES = 8
# Rows of one block then: the more, the better its best ones tell what counts.
_EARLY_ROWS = 1 << 17
# Rows that a rough look may leave for a query: this share of all, which cost about as much to
# look at again as all of them exactly, and no more than so many; and at least so many times k.
_PREFILTER_SHARE = 20
_PREFILTER_MOST = 1 << 14
_PREFILTER_PER_K = 8


class FlatScan:
    """Scans one opened flat pair.

    codes: float16 [n, d]; norms: float32 [n, 2]; codes_error: longest difference of a vector to
    its codes; leading: leading components of the codes, where there are some; block_rows: documents
    scanned at a time (for tests; None chooses).
    """

    def __init__(
        self,
        codes: Pair[CheckedCodes],
        norms: npt.NDArray[np.float32],
        codes_error: Pair[float],
        leading: Pair[LeadingPart] | None,
        block_rows: int | None,
    ) -> None:
        self._codes: Pair[CheckedCodes] | None = codes
        self._norms = norms
        self._codes_error = codes_error
        self._leading = leading
        self._block_rows = block_rows
        self._scanner = Scanner()

    def close(self) -> None:
        self._scanner.close()
        self._codes = self._leading = None

    def candidates(self, request: ScanRequest) -> Iterator[RowNumbers]:
        """For each query the rows that can be among its best k, ascending.

        Raises IndexDamagedError.
        """
        # A query without length in any part that counts scores 0 everywhere.
        norms = columns(request.queries.norms)
        nonzero = np.any([norms[part] != 0 for part in request.parts], axis=0)
        if request.words is not None:
            nonzero |= [request.words.anything(query) for query in range(len(request.queries))]
        nonzero_queries = [int(query) for query in np.flatnonzero(nonzero)]
        candidates: dict[int, RowNumbers] = {}
        rows = len(self._norms) if request.allowed is None else len(request.allowed)
        most = min(rows // _PREFILTER_SHARE, _PREFILTER_MOST)
        leading = self._leading_for(len(nonzero_queries))
        few_hits = request.k * _PREFILTER_PER_K <= most
        if leading is None and few_hits and self._scanner.rough_pays(len(nonzero_queries)):
            candidates = self._scan_in_bfloat16(request, nonzero_queries, most)
        remaining_queries = [query for query in nonzero_queries if query not in candidates]
        if remaining_queries:
            candidates |= self._scan_in_float32(request, remaining_queries, leading)
        first_rows = (
            np.arange(request.k) if request.allowed is None else request.allowed[: request.k]
        )
        for query in range(len(request.queries)):
            yield candidates.get(query, first_rows)

    def among(self, request: ScanRequest, query: int, rows: RowNumbers) -> RowNumbers:
        """Of some rows, ascending, those that can be among a query's best k of them."""
        bounds = self._fp32_bounds(request, 1)
        margin = request.margins(bounds, [query], exact=True)
        return self._rescanned(request, query, self._vectors(request, [query]), rows, margin)

    def _leading_for(self, queries: int) -> Pair[LeadingPart] | None:
        """By what components so many queries leave rows out; None where they read them all."""
        return self._leading if queries <= _EARLY_QUERIES and library() is not None else None

    def _scan_in_float32(
        self,
        request: ScanRequest,
        queries: Sequence[int],
        leading: Pair[LeadingPart] | None,
    ) -> dict[int, RowNumbers]:
        """As `candidates`."""
        vectors = self._vectors(request, queries)
        bounds = self._fp32_bounds(request, len(queries))
        margins = request.margins(bounds, queries)
        cuts = [TopKCut(request.k, request.min_score) for _ in queries]
        if leading is None:
            for block in self._blocks_of_similarities(request, vectors, roughly=False):
                self._cut(request, queries, cuts, margins, block)
        exact = request.margins(bounds, queries, exact=True)
        candidates = {}
        for i, (query, cut) in enumerate(zip(queries, cuts, strict=True)):
            own = slice(i, i + 1)
            vector = [values[own] for values in vectors]
            if leading is not None:
                self._scan_early(request, query, leading, vector, cut, margins[own])
            candidates[query] = cut.rows()
            if request.words is not None and request.words.slack(query):
                candidates[query] = self._rescanned(request, query, vector, cut.rows(), exact[own])
        return candidates

    def _scan_early(
        self,
        request: ScanRequest,
        query: int,
        leading: Pair[LeadingPart],
        vector: Sequence[FloatArray],
        cut: TopKCut,
        margin: Bounds,
    ) -> None:
        """Add to a query's cut what its scan cannot leave out."""
        step = self._block_rows or _EARLY_ROWS
        early = EarlyExit(
            self._scanner, leading, request, query, vector,
            lambda rows: self._similarities(request, vector, rows), min(step, len(self._norms)),
        )  # fmt: skip
        blocks = self._blocks(request.allowed, step, step)
        for block in early.blocks(blocks, self._norms, cut, float(margin[0])):
            self._cut(request, [query], [cut], margin, block)

    def _scan_in_bfloat16(
        self, request: ScanRequest, queries: Sequence[int], max_candidates: int
    ) -> dict[int, RowNumbers]:
        """As `candidates`, for the queries of which a rough pass leaves at most so many rows."""
        vectors = self._vectors(request, queries)
        fp32_bounds = self._fp32_bounds(request, len(queries))
        bf16_bounds = [
            bound + bfloat16_scan.bounds(values, 1.0 + self._codes_error[part])
            for part, bound, values in zip(request.parts, fp32_bounds, vectors, strict=True)
        ]
        largest = [np.zeros(len(queries)) for _ in vectors]
        cuts = [TopKCut(request.k, request.min_score, max_candidates) for _ in queries]
        for block in self._blocks_of_similarities(request, vectors, roughly=True):
            for part, values in enumerate(block.similarities):
                extent = np.maximum(values.max(axis=1), -values.min(axis=1))
                if not np.isfinite(extent).all():
                    raise IndexDamagedError(NOT_FINITE)
                largest[part] = np.maximum(largest[part], extent)
            error_bounds = [
                bound + bfloat16_scan.ROUNDING * most
                for bound, most in zip(bf16_bounds, largest, strict=True)
            ]
            self._cut(request, queries, cuts, request.margins(error_bounds, queries), block)
            if all(cut.overflowed for cut in cuts):
                break
        margins = request.margins(fp32_bounds, queries, exact=True)
        candidates = {}
        for i, (query, cut) in enumerate(zip(queries, cuts, strict=True)):
            if not cut.overflowed:
                vector = [values[i : i + 1] for values in vectors]
                candidates[query] = self._rescanned(
                    request, query, vector, cut.rows(), margins[i : i + 1]
                )
        return candidates

    def _rescanned(
        self,
        request: ScanRequest,
        query: int,
        vector: Sequence[FloatArray],
        rows: RowNumbers,
        margin: Bounds,
    ) -> RowNumbers:
        """A query's candidates that remain by their exact similarities and words."""
        if len(rows) <= request.k:
            return rows
        cut = TopKCut(request.k, request.min_score)
        block = Block(rows, None, self._similarities(request, vector, rows))
        self._cut(request, [query], [cut], margin, block, exact=True)
        return cut.rows()

    def _vectors(self, request: ScanRequest, queries: Sequence[int]) -> list[FloatArray]:
        return [
            np.ascontiguousarray(request.queries.parts[part][queries], dtype=np.float32)
            for part in request.parts
        ]

    def _fp32_bounds(self, request: ScanRequest, queries: int) -> list[Bounds]:
        """How far each part's similarities by float32 products can be off."""
        return [np.full(queries, self._codes_error[part] + _ARITHMETIC) for part in request.parts]

    def _blocks_of_similarities(
        self, request: ScanRequest, vectors: Sequence[FloatArray], *, roughly: bool
    ) -> Iterator[Block]:
        queries = len(vectors[0])
        step = self._block_rows or max(1024, min(_BLOCK_ROWS, _BLOCK_SCORES // queries))
        room = self._scanner.room(len(vectors), queries, min(step, len(self._norms)))
        for rows, selected in self._blocks(request.allowed, step):
            similarities = self._similarities(request, vectors, rows, roughly=roughly, room=room)
            yield Block(rows, selected, similarities)

    def _similarities(
        self,
        request: ScanRequest,
        vectors: Sequence[FloatArray],
        rows: range | RowNumbers,
        *,
        roughly: bool = False,
        room: Sequence[FloatArray] | None = None,
    ) -> list[FloatArray]:
        assert self._codes is not None
        codes = [self._codes[part] for part in request.parts]
        parts = list(zip(codes, vectors, strict=True))
        return self._scanner.similarities(parts, rows, roughly=roughly, room=room)

    def _blocks(
        self, allowed: RowNumbers | None, step: int, first: int = _FIRST_ROWS
    ) -> Iterator[tuple[range | RowNumbers, RowNumbers | None]]:
        """Blocks to scan, and which places of a block count (None: all).

        Where few rows of a block count they are gathered; else all of it is scanned, which costs
        no more than reading it.
        """
        count, stop = len(self._norms), 0
        while stop < count:
            start, stop = stop, min(stop + (step if stop else min(step, first)), count)
            if allowed is None:
                yield range(start, stop), None
                continue
            low, high = np.searchsorted(allowed, (start, stop))
            if low == high:
                continue
            if (high - low) * GATHER < stop - start:
                yield allowed[low:high], None
            else:
                yield range(start, stop), allowed[low:high] - start

    def _cut(
        self,
        request: ScanRequest,
        queries: Sequence[int],
        cuts: Sequence[TopKCut],
        margins: Bounds,
        block: Block,
        *,
        exact: bool = False,
    ) -> None:
        """Add a block to the cuts of some queries. exact: whether words lack nothing."""
        rows = block.rows
        norms = (
            self._norms[rows.start : rows.stop] if isinstance(rows, range) else self._norms[rows]
        )
        for position, (query, cut) in enumerate(zip(queries, cuts, strict=True)):
            if not cut.overflowed:
                similarities = [values[position] for values in block.similarities]
                scores = request.fused(query, similarities, norms)
                scores = request.blended(query, scores, rows, exact=exact)
                cut.add(scores, rows, block.selected, float(margins[position]))
