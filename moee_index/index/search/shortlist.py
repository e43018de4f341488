"""Which rows of a flat pair can be among the best k: a complete scan of its codes.

Knows codes, and bounds for all that a scan can be wrong by. Refuses to know raw rows: what is left
has to be scored from these.

Each part's similarities are off by no more than the longest difference between a unit vector and
its float16 codes, which the manifest keeps, and by rounding. So a row whose score is more than
twice that below the k-th cannot be among the best k, and all others are left (at least those
within 1e-4·(1+α), DESIGN, maths 4). Where a processor is faster in bfloat16, many queries look
at all rows roughly first, under bounds that are as strict (rough.py), and then at those that are
left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError
from moee_index.fusion import Method, UnitVectors, fuse
from moee_index.index.search import prefilter as rough
from moee_index.index.search.kernels import Scanner
from moee_index.index.store.checksums import CheckedCodes
from moee_index.index.store.rows import RowNumbers
from moee_index.types import FloatArray

# Scores held at a time over all queries of a call, and documents of one block.
_BLOCK_SCORES = 1 << 21
_BLOCK_ROWS = 1 << 16
# The first block is small: what it leaves spares the next ones most of the work.
_FIRST_ROWS = 4096
_DESIGN_MARGIN = 1e-4
# Rounding of float32 products and sums, of norms, of the query.
_ARITHMETIC = 1e-5
# Gathering a row costs as much as scanning some four that stand in order.
_GATHER = 4
# Rows that a rough look may leave for a query: this share of all, which cost about as much to
# look at again as all of them exactly, and no more than so many; and at least so many times k.
_ROUGH_SHARE = 20
_ROUGH_MOST = 1 << 14
_ROUGH_PER_K = 8
NOT_FINITE = (
    "the index holds values that are not finite, so a file of it is damaged; moee-index verify "
    "--full names the file"
)
Bounds = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Asked:
    """Some queries and what is wanted for each. allowed: the rows to search among, ascending;
    None is all. k is at most their number."""

    queries: UnitVectors
    k: int
    method: Method
    alpha: float | None
    min_score: float | None
    allowed: RowNumbers | None

    @property
    def parts(self) -> Sequence[str]:
        return parts_that_count(self.method, self.alpha)

    def fused(
        self, query: int, similarities: Mapping[str, npt.NDArray[Any]], norms: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Scores of n rows for a query, from the parts that count."""
        one = next(iter(similarities.values()))
        weight = 0.0 if len(similarities) == 1 else self.alpha
        # `fuse` reads only the parts that count: any array serves for the other.
        hs, rw = similarities.get("hs", one), similarities.get("rw", one)
        return fuse(self.method, hs, rw, weight, self.queries.norms[query], norms)

    def margins(self, wrong: Mapping[str, Bounds]) -> Bounds:
        """For each query how far below the k-th scanned score a document of the true top k can
        stand, where each part's similarities are off by at most `wrong`."""
        weight = (1.0 if self.alpha is None else self.alpha) if self.method == "sum" else 0.0
        if len(wrong) == 1:
            off = next(iter(wrong.values()))
        elif self.method == "sum":
            off = wrong["hs"] + weight * wrong["rw"]
        else:
            # The shares of the parts in both cosines add up to at most 1 (Cauchy and Schwarz).
            off = np.maximum(wrong["hs"], wrong["rw"])
        return np.maximum(2.0 * off, _DESIGN_MARGIN * (1.0 + weight))


def parts_that_count(method: Method, alpha: float | None) -> Sequence[str]:
    if method in ("hs", "rw"):
        return (method,)
    return ("hs",) if method == "sum" and alpha == 0 else ("hs", "rw")


class FlatScan:
    """Scans one opened flat pair.

    codes: part → float16 [n, d]; norms: float32 [n, 2]; codes_error: part → longest difference of
    a vector to its codes; block_rows: documents scanned at a time (for tests; None chooses).
    """

    def __init__(
        self,
        codes: Mapping[str, CheckedCodes],
        norms: npt.NDArray[np.float32],
        codes_error: Mapping[str, float],
        block_rows: int | None,
    ) -> None:
        self._codes = dict(codes)
        self._norms = norms
        self._codes_error = codes_error
        self._block_rows = block_rows
        self._scanner = Scanner()

    def close(self) -> None:
        self._scanner.close()
        self._codes = {}

    def left(self, asked: Asked) -> Iterator[RowNumbers]:
        """For each query the rows that can be among its best k, ascending.

        Raises IndexDamagedError.
        """
        # A query without length in any part that counts scores 0 everywhere.
        lengths = asked.queries.norms[:, [("hs", "rw").index(part) for part in asked.parts]]
        alive = [int(query) for query in np.flatnonzero(lengths.any(axis=1))]
        found: dict[int, RowNumbers] = {}
        rows = len(self._norms) if asked.allowed is None else len(asked.allowed)
        room = min(rows // _ROUGH_SHARE, _ROUGH_MOST)
        if asked.k * _ROUGH_PER_K <= room and self._scanner.rough_pays(len(alive)):
            found = self._after_a_rough_look(asked, alive, room)
        rest = [query for query in alive if query not in found]
        if rest:
            vectors, wrong = self._vectors(asked, rest), self._wrong(asked, len(rest))
            cuts = [_Cut(asked.k, asked.min_score) for _ in rest]
            for rows_of, kept, similarities in self._scanned(asked, vectors, roughly=False):
                self._cut(asked, rest, cuts, asked.margins(wrong), rows_of, kept, similarities)
            found |= {query: cut.rows() for query, cut in zip(rest, cuts, strict=True)}
        none = np.arange(asked.k) if asked.allowed is None else asked.allowed[: asked.k]
        for query in range(len(asked.queries)):
            yield found.get(query, none)

    def _after_a_rough_look(
        self, asked: Asked, alive: Sequence[int], room: int
    ) -> dict[int, RowNumbers]:
        """As `left`, for those queries that a rough look leaves no more than `room` rows."""
        vectors, exactly = self._vectors(asked, alive), self._wrong(asked, len(alive))
        roughly = {
            part: wrong + rough.bounds(vectors[part], 1.0 + self._codes_error.get(part, 0.0))
            for part, wrong in exactly.items()
        }
        largest = {part: np.zeros(len(alive)) for part in vectors}
        cuts = [_Cut(asked.k, asked.min_score, room) for _ in alive]
        for rows, kept, similarities in self._scanned(asked, vectors, roughly=True):
            for part, values in similarities.items():
                extent = np.maximum(values.max(axis=1), -values.min(axis=1))
                if not np.isfinite(extent).all():
                    raise IndexDamagedError(NOT_FINITE)
                largest[part] = np.maximum(largest[part], extent)
            wrong = {part: roughly[part] + rough.ROUNDING * largest[part] for part in roughly}
            self._cut(asked, alive, cuts, asked.margins(wrong), rows, kept, similarities)
            if all(cut.full for cut in cuts):
                break
        found = {}
        margins = asked.margins(exactly)
        for place, (query, cut) in enumerate(zip(alive, cuts, strict=True)):
            if cut.full:
                continue
            rows = cut.rows()
            if len(rows) > asked.k:
                again = self._similarities(
                    {part: values[place : place + 1] for part, values in vectors.items()}, rows
                )
                closer = _Cut(asked.k, asked.min_score)
                closer_margin = margins[place : place + 1]
                self._cut(asked, [query], [closer], closer_margin, rows, None, again)
                rows = closer.rows()
            found[query] = rows
        return found

    def _vectors(self, asked: Asked, which: Sequence[int]) -> dict[str, FloatArray]:
        return {
            part: np.ascontiguousarray(getattr(asked.queries, part)[which], dtype=np.float32)
            for part in asked.parts
        }

    def _wrong(self, asked: Asked, queries: int) -> dict[str, Bounds]:
        """How far each part's similarities by float32 products can be off."""
        return {
            part: np.full(queries, self._codes_error.get(part, 0.0) + _ARITHMETIC)
            for part in asked.parts
        }

    def _scanned(
        self, asked: Asked, vectors: Mapping[str, FloatArray], *, roughly: bool
    ) -> Iterator[tuple[range | RowNumbers, RowNumbers | None, dict[str, FloatArray]]]:
        """Block by block: its rows, the places of those that count (None: all), and similarities,
        which the next block overwrites."""
        queries = len(next(iter(vectors.values())))
        step = self._block_rows or max(1024, min(_BLOCK_ROWS, _BLOCK_SCORES // queries))
        room = self._scanner.room(len(vectors), queries, min(step, len(self._norms)))
        for rows, kept in self._blocks(asked.allowed, step):
            yield rows, kept, self._similarities(vectors, rows, roughly=roughly, room=room)

    def _similarities(
        self,
        vectors: Mapping[str, FloatArray],
        rows: range | RowNumbers,
        *,
        roughly: bool = False,
        room: Sequence[FloatArray] | None = None,
    ) -> dict[str, FloatArray]:
        pairs = [(self._codes[part], values) for part, values in vectors.items()]
        found = self._scanner.similarities(pairs, rows, roughly=roughly, room=room)
        return dict(zip(vectors, found, strict=True))

    def _blocks(
        self, allowed: RowNumbers | None, step: int
    ) -> Iterator[tuple[range | RowNumbers, RowNumbers | None]]:
        """Blocks to scan, and which places of a block count (None: all).

        Where few rows of a block count they are gathered; else all of it is scanned, which costs
        no more than reading it.
        """
        count, stop = len(self._norms), 0
        while stop < count:
            start, stop = stop, min(stop + (step if stop else min(step, _FIRST_ROWS)), count)
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

    def _cut(
        self,
        asked: Asked,
        which: Sequence[int],
        cuts: Sequence[_Cut],
        margins: Bounds,
        rows: range | RowNumbers,
        kept: RowNumbers | None,
        similarities: Mapping[str, FloatArray],
    ) -> None:
        """Show a block to the cuts of the queries `which`."""
        norms = (
            self._norms[rows.start : rows.stop] if isinstance(rows, range) else self._norms[rows]
        )
        for place, (query, cut) in enumerate(zip(which, cuts, strict=True)):
            if not cut.full:
                own = {part: values[place] for part, values in similarities.items()}
                cut.add(asked.fused(query, own, norms), rows, kept, float(margins[place]))


class _Cut:
    """The rows that can still be among the best k for one query, as blocks of scores go by.

    room: how many rows may be left before it gives up and is `full`; None is any number.
    """

    def __init__(self, k: int, min_score: float | None, room: int | None = None) -> None:
        self._k = k
        self._room = room
        self._least = -np.inf if min_score is None else min_score
        self._scores: list[npt.NDArray[Any]] = []
        self._rows: list[RowNumbers] = []
        self._held = 0
        self.full = False

    def add(
        self,
        scores: npt.NDArray[Any],
        rows: range | RowNumbers,
        kept: RowNumbers | None,
        margin: float,
    ) -> None:
        """Scores of a block's rows; kept: the places that count, None where all do; margin: how
        far below the k-th of these scores and those before a row of the true top k can stand.

        A margin may be larger than those before it, as errors are that grow with the scores.
        """
        if kept is not None:
            scores = scores[kept]
        highest = float(scores.max())
        # What is not a number is the maximum wherever it is.
        if not np.isfinite(highest):
            raise IndexDamagedError(NOT_FINITE)
        if highest < self._least - margin:
            return
        found = np.flatnonzero(scores >= self._least - margin)
        self._scores.append(scores[found])
        places = found if kept is None else kept[found]
        self._rows.append(places + rows.start if isinstance(rows, range) else rows[places])
        self._held += len(found)
        if self._held > self._k:
            self._prune(margin)

    def _prune(self, margin: float) -> None:
        scores, rows = np.concatenate(self._scores), np.concatenate(self._rows)
        place = len(scores) - self._k
        self._least = max(self._least, float(np.partition(scores, place)[place]))
        kept = scores >= self._least - margin
        self._scores, self._rows = [scores[kept]], [rows[kept]]
        self._held = len(self._scores[0])
        if self._room is not None and self._held > self._room:
            self.full = True
            self._scores, self._rows = [], []

    def rows(self) -> RowNumbers:
        """The rows left, ascending."""
        return np.concatenate(self._rows) if self._rows else np.empty(0, dtype=np.int64)
