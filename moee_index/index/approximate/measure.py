"""How many of the best rows an approximate index finds, measured on its own rows.

Rows of the index, and rows that are moved towards others and off their place, are asked both
ways, the rows of their own documents left out of both answers. How far to look is chosen by one
half of the rows; what is reported comes from the other. Queries of other texts miss up to 1.6 times
as many as moved rows (LAB.md), so these are to miss six tenths of what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moee_index.fusion import Method, unit_vectors
from moee_index.index.approximate.asked import MEASURED_AT, Asked
from moee_index.index.hits import Search, word_scores
from moee_index.index.search import pair
from moee_index.index.search.pair import PairSearcher
from moee_index.index.search.request import SearchRequest
from moee_index.index.snapshot import Snapshot
from moee_index.index.store.approximation import (
    PARTS_ALONE,
    Approximation,
    Measured,
    Reach,
    Rung,
)
from moee_index.index.store.rows import RowNumbers
from moee_index.types import Embeddings, Progress

# Rows that are asked for, each once as it is and once moved.
_ROWS = 400
_SEED = 20250415
# How far towards another row, and the deviation of the noise in deviations of the rows.
_TOWARDS = 0.75
_NOISE = 0.5
_STEPS = (0.8, 0.9, 0.95, 0.98)
# Lists that are tried: one in so many of all.
_SHARES = (256, 128, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
# The share of the misses that are allowed which the index's own queries may have.
_OWN_MISSES = 0.6
_DEPTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
# Standard errors on either side of a mean that hold 95 %.
_INTERVAL = 1.96
# What scoring a candidate again costs, in codes that are gone through for as much: its two rows of
# float16 are sixteen times its code, and lie apart.
_ROW_COST = 64
# No reach is chosen beyond the first that finds so much.
_ENOUGH = 0.995
_AT_A_TIME = 200

Found = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """A way of asking. lexical: weight of words."""

    method: Method
    alpha: float | None = None
    lexical: float = 0.0

    @property
    def name(self) -> str:
        words = f", lexical {self.lexical:g}" if self.lexical else ""
        return self.method + (f", alpha {self.alpha:g}" if self.method == "sum" else "") + words

    def request(self, k: int) -> SearchRequest:
        """For all rows."""
        return replace(
            SearchRequest(k, self.method, self.alpha, lexical=self.lexical), every_row=True
        )


@dataclass(frozen=True, eq=False)
class Queries:
    """What is asked. texts: of the rows, for words; owns: rows of the documents that each one is
    of, which are left out; half: bool [q], by which the reach is chosen; moved: bool [q], which are
    not rows as they are."""

    embeddings: Embeddings
    texts: Sequence[str]
    owns: Sequence[Sequence[range]]
    half: npt.NDArray[np.bool_]
    moved: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.texts)


def measured(
    snapshot: Snapshot,
    searchers: Sequence[PairSearcher],
    approximation: Approximation,
    report: Progress,
) -> Approximation:
    """The approximation with rungs and recall as they are measured now. Where every segment is
    small enough to be scanned there is nothing to measure. Raises IndexDamagedError."""
    rows = snapshot.manifest.rows
    approximation = replace(approximation, rungs=(), measured=(), queries=0, rows=rows)
    if all(segment.entry.rows <= pair.SCANNED_ROWS for segment in snapshot.segments):
        return approximation
    queries = own_queries(snapshot)
    ways = ways_of(snapshot)
    tables = []
    for number, way in enumerate(ways):
        report("measuring recall", number, len(ways))
        tables.append(_table(snapshot, searchers, way, queries, approximation.lists))
    report("measuring recall", len(ways), len(ways))
    measured_ways = dict(zip(ways, tables, strict=True))
    rungs = _rungs(measured_ways, queries, approximation)
    approximation = replace(approximation, rungs=tuple(rungs), queries=len(queries))
    own = approximation.rung()
    if own is None:  # what finds less can be asked for
        return approximation
    reported = [
        _reported(way, table.found(own.reach_of(way.method)), queries)
        for way, table in measured_ways.items()
    ]
    return replace(approximation, measured=tuple(reported), queries=int((~queries.half).sum()))


def ways_of(snapshot: Snapshot) -> list[Way]:
    """The ways of asking that recall is measured by."""
    ways = [Way("sum", alpha) for alpha in (0.25, 1.0, 4.0)]
    ways += [Way("hs"), Way("rw"), Way("concat")]
    manifest = snapshot.manifest
    if manifest.language is not None and manifest.lexical_weight:
        ways.append(Way("sum", manifest.alpha, manifest.lexical_weight))
    return ways


def own_queries(snapshot: Snapshot) -> Queries:
    """Rows of the index that count, as they are and moved."""
    generator = np.random.default_rng(_SEED)
    live = np.concatenate(
        [
            begin + (np.arange(segment.entry.rows) if segment.live is None else segment.live_rows)
            for begin, segment in zip(snapshot.begins[:-1], snapshot.segments, strict=True)
        ]
    )
    chosen = np.sort(generator.choice(live, min(_ROWS, len(live)), replace=False))
    rows = snapshot.vectors_at(chosen.tolist())

    others = generator.permutation(len(chosen))

    def both(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        noise = generator.standard_normal(values.shape) * values.std(axis=0) * _NOISE
        moved = values + _TOWARDS * (values[others] - values.mean(axis=0)) + noise
        return np.concatenate([values, moved.astype(np.float32)])

    found = [_document(snapshot, int(row)) for row in chosen]
    owns = [own for _, own in found]
    return Queries(
        Embeddings(both(rows.hs), both(rows.rw)),
        [text for text, _ in found] * 2,
        [(own,) for own in owns]
        + [(own, owns[other]) for own, other in zip(owns, others, strict=True)],
        np.tile(np.arange(len(chosen)) % 2 == 0, 2),
        np.repeat([False, True], len(chosen)),
    )


def _document(snapshot: Snapshot, row: int) -> tuple[str, range]:
    """The text of a row's passage, and the rows of its document."""
    number = int(np.searchsorted(snapshot.begins, row, side="right")) - 1
    begin = int(snapshot.begins[number])
    document = snapshot.segments[number].documents.at_rows([row - begin])[row - begin]
    rows = document.rows
    return document.passage(row - begin), range(begin + rows.start, begin + rows.stop)


def true_rows(
    snapshot: Snapshot, searchers: Sequence[PairSearcher], way: Way, queries: Queries
) -> list[RowNumbers]:
    """For each query the best ten rows of all that are not its own document's, by a scan."""
    request = way.request(MEASURED_AT + _most_left_out(queries))
    best: list[RowNumbers] = []
    for start in range(0, len(queries), _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        embeddings = Embeddings(queries.embeddings.hs[some], queries.embeddings.rw[some])
        texts = queries.texts[some] if way.lexical else None
        rankings = Search(snapshot, searchers, request, embeddings, texts).rows(request.k)
        for ranking, owns in zip(rankings, queries.owns[some], strict=True):
            best.append(_without(ranking.rows, owns)[:MEASURED_AT])
    return best


def _most_left_out(queries: Queries) -> int:
    return max(sum(len(own) for own in owns) for owns in queries.owns)


def _without(rows: RowNumbers, owns: Sequence[range]) -> RowNumbers:
    """Rows that are not of some documents."""
    for own in owns:
        rows = rows[(rows < own.start) | (rows >= own.stop)]
    return rows


@dataclass(frozen=True, eq=False)
class Table:
    """At which depth the best rows of each query are found, by how many lists are read. depths: by
    lists, int64 [q, 10]: the least depth that brings a row, a large number where none does, -1
    where there is no such row; by_words: as those, by words, which read no lists; None where these
    do not count."""

    depths: dict[int, npt.NDArray[np.int64]]
    by_words: npt.NDArray[np.int64] | None

    def found(self, reach: Reach) -> Found:
        """The share of the best rows that each query finds, [q]."""
        depths = self.depths[reach.lists]
        there = depths >= 0
        hit = there & (depths <= reach.depth)
        if self.by_words is not None:
            hit |= there & (self.by_words <= reach.depth)
        found: Found = hit.sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return found


_NEVER = np.iinfo(np.int64).max


def _table(
    snapshot: Snapshot,
    searchers: Sequence[PairSearcher],
    way: Way,
    queries: Queries,
    lists: int,
) -> Table:
    best = true_rows(snapshot, searchers, way, queries)
    wanted = np.full((len(queries), MEASURED_AT), -1, dtype=np.int64)
    for number, rows in enumerate(best):
        wanted[number, : len(rows)] = rows
    by_words = _by_words(snapshot, way, queries, wanted) if way.lexical else None
    table = Table({}, by_words)
    for step in _steps(lists):
        table.depths[step] = _depths(snapshot, way, queries, wanted, step)
        if table.found(Reach(step, _DEPTHS[-1])).mean() >= _ENOUGH:
            break
    for step in _steps(lists):  # what is not worth looking at finds as much
        table.depths.setdefault(step, table.depths[max(table.depths)])
    return table


def _steps(lists: int) -> list[int]:
    """Numbers of lists that are tried, ascending, up to half of them: beyond, a scan of every row
    is as cheap."""
    return sorted({max(1, lists // share) for share in _SHARES})


def _depths(
    snapshot: Snapshot, way: Way, queries: Queries, wanted: npt.NDArray[np.int64], lists: int
) -> npt.NDArray[np.int64]:
    """As `Table.depths` of so many lists."""
    coarse = snapshot.coarse
    assert coarse is not None
    units = unit_vectors(queries.embeddings, snapshot.standardizer)
    reach = Reach(lists, _DEPTHS[-1] + _most_left_out(queries))
    asked = Asked(coarse.opened, units, way.method, way.alpha, reach)
    depths = np.where(wanted < 0, -1, _NEVER)
    for segment, begin in zip(snapshot.segments, snapshot.begins[:-1], strict=True):
        inside = (wanted >= begin) & (wanted < begin + segment.entry.rows)
        if segment.candidates is None or segment.entry.rows <= pair.SCANNED_ROWS:
            depths[inside] = 0
            continue
        ranked = segment.candidates.ranked(asked, reach, segment.live)
        # Of each row of the segment, by one query after another: its depth, _NEVER without one.
        depth_of = np.full(segment.entry.rows, _NEVER)
        for query, (owns, brought) in enumerate(zip(queries.owns, ranked, strict=True)):
            rows = _without(begin + brought, owns) - begin
            depth_of[rows] = np.arange(1, len(rows) + 1)
            depths[query, inside[query]] = depth_of[wanted[query, inside[query]] - begin]
            depth_of[rows] = _NEVER
    return depths


def _by_words(
    snapshot: Snapshot, way: Way, queries: Queries, wanted: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The least depth at which words bring each wanted row."""
    words = word_scores(snapshot, way.request(MEASURED_AT), queries.embeddings, queries.texts)
    assert words is not None
    depths = np.full(wanted.shape, _NEVER)
    for number, (segment, begin) in enumerate(
        zip(snapshot.segments, snapshot.begins[:-1], strict=True)
    ):
        scores = words.segment(number)
        inside = (wanted >= begin) & (wanted < begin + segment.entry.rows)
        for query in np.flatnonzero(inside.any(axis=1)):
            places = np.flatnonzero(inside[query])
            above = scores.above(int(query), wanted[query, places] - begin, segment.live)
            depths[query, places] = above + 1
    return depths


def _rungs(
    tables: Mapping[Way, Table], queries: Queries, approximation: Approximation
) -> list[Rung]:
    """For each share of the best rows the cheapest reaches that find it, surely."""
    together = [table for way, table in tables.items() if way.method not in PARTS_ALONE]
    alone = [table for way, table in tables.items() if way.method in PARTS_ALONE]
    rungs: list[Rung] = []
    for wanted in sorted({*_STEPS, approximation.wanted}):
        reach = _cheapest(together, queries, approximation, wanted)
        reach_alone = _cheapest(alone, queries, approximation, wanted)
        if reach is None or reach_alone is None:
            break
        found = [table.found(reach) for table in together]
        found += [table.found(reach_alone) for table in alone]
        least = min(_least(each, ~queries.half, queries.moved) for each in found)
        rungs.append(Rung(wanted, reach, reach_alone, min(wanted, least)))
    return rungs


def _cheapest(
    tables: Sequence[Table],
    queries: Queries,
    approximation: Approximation,
    wanted: float,
) -> Reach | None:
    """The cheapest reach with which all of some ways find so much for queries of other texts; None
    if none is."""
    own = 1 - _OWN_MISSES * (1 - wanted)
    kinds = [queries.half & kind for kind in (queries.moved, ~queries.moved)]
    rows_a_list = approximation.rows / approximation.lists
    reaches = [Reach(lists, depth) for lists in _steps(approximation.lists) for depth in _DEPTHS]
    reaches.sort(key=lambda reach: reach.lists * rows_a_list + reach.depth * _ROW_COST)
    for reach in reaches:
        if all(_surely(table.found(reach)[kind]) >= own for table in tables for kind in kinds):
            return reach
    return None


def _interval(found: Found) -> float:
    return float(_INTERVAL * found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else 1.0


def _surely(found: Found) -> float:
    """The lower end of the interval of a mean."""
    return float(found.mean()) - _interval(found)


def _least(found: Found, half: npt.NDArray[np.bool_], moved: npt.NDArray[np.bool_]) -> float:
    """The mean over rows as they are or moved, whichever is less."""
    return min(float(found[half & kind].mean()) for kind in (moved, ~moved))


def _reported(way: Way, found: Found, queries: Queries) -> Measured:
    """Of the half that nothing was chosen by, and the kind of queries that less is found of."""
    kinds = [found[~queries.half & kind] for kind in (queries.moved, ~queries.moved)]
    least = min(kinds, key=lambda each: float(each.mean()))
    return Measured(way.name, float(least.mean()), min(1.0, _interval(least)))
