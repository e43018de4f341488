"""What the manifest of an approximate index says of it: how its rows are found, and how many of
the best ones that was measured to find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

# Methods by which one part alone counts.
PARTS_ALONE = ("hs", "rw")


@dataclass(frozen=True)
class Reach:
    """How far a query looks: lists of rows that are gone through, and candidates that are kept of
    each segment to be scored exactly."""

    lists: int
    depth: int


@dataclass(frozen=True)
class Rung:
    """Reaches that were chosen to find a share of the best rows, `wanted`: of both parts together,
    and of one part alone, which takes more. recall: so much, or what they found of the index's own
    queries that they were not chosen by, by the way of asking that they find least of, where that
    is less."""

    wanted: float
    reach: Reach
    alone: Reach
    recall: float

    def reach_of(self, method: str) -> Reach:
        return self.alone if method in PARTS_ALONE else self.reach


@dataclass(frozen=True)
class Measured:
    """Recall of the ten best by one way of asking ("sum, alpha 0.25"). interval: half the width of
    the 95 % confidence interval of the mean."""

    search: str
    recall: float
    interval: float


@dataclass(frozen=True)
class Approximation:
    """An index's candidates. coarse: the revision in the file name of its coarse quantizer; lists:
    how many that has; wanted: the recall that was asked for.

    rungs: reaches by ascending `wanted`; measured: recall of the default reach by several ways of
    asking, over `queries` queries of the index's own, which miss less than others (measure.py);
    rows: that counted when it was measured. judged: recall over queries of somebody's own, where
    `tune` was given some.
    """

    coarse: int
    lists: int
    wanted: float
    rungs: tuple[Rung, ...] = ()
    measured: tuple[Measured, ...] = ()
    queries: int = 0
    rows: int = 0
    judged: Measured | None = None

    @property
    def recall(self) -> float:
        """The share of the ten best that a search finds at least, on the mean over queries: what
        the index promises. 1 where every row is looked at."""
        rung = self.rung()
        return 1.0 if rung is None else rung.recall

    def rung(self, recall: float | None = None) -> Rung | None:
        """The cheapest rung that was chosen to find so much (None: what the index was asked for);
        none promises more than it was chosen for. None where none was, and every row has to be
        looked at."""
        wanted = self.wanted if recall is None else recall
        return next((rung for rung in self.rungs if rung.wanted >= wanted), None)

    def as_json(self) -> dict[str, Any]:
        """As `info --json` has it."""
        own = self.rung()
        return {
            "recall": self.recall,
            "wanted": self.wanted,
            "lists": self.lists,
            "queries": self.queries,
            "rows_measured": self.rows,
            "measured": [asdict(one) for one in self.measured],
            "reach": None if own is None else asdict(own.reach),
            "alone": None if own is None else asdict(own.alone),
            "rungs": [asdict(rung) for rung in self.rungs],
            "judged": None if self.judged is None else asdict(self.judged),
        }

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Approximation:
        """From JSON. Raises TypeError or KeyError where fields are missing or others."""
        rungs = tuple(
            Rung(**rung | {name: Reach(**rung[name]) for name in ("reach", "alone")})
            for rung in stored["rungs"]
        )
        judged = stored["judged"]
        return replace(
            cls(**{**stored, "rungs": (), "measured": (), "judged": None}),
            rungs=rungs,
            measured=tuple(Measured(**one) for one in stored["measured"]),
            judged=None if judged is None else Measured(**judged),
        )


def check_approximation(stored: Approximation) -> None:
    """Raises ValueError for what no manifest of ours says."""
    if min(stored.coarse, stored.queries, stored.rows) < 0 or stored.lists < 1:
        raise ValueError("a number of the approximation is below 0, or it has no lists")
    judged = () if stored.judged is None else (stored.judged,)
    shares = [stored.wanted, *(rung.wanted for rung in stored.rungs)]
    shares += [one.recall for one in (*stored.rungs, *stored.measured, *judged)]
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError("a recall is not from 0 to 1")
    for rung in stored.rungs:
        for reach in (rung.reach, rung.alone):
            if not 1 <= reach.lists <= stored.lists or reach.depth < 1:
                raise ValueError(f"a reach is {reach!r} of {stored.lists} lists")
