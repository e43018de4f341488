"""How far a corpus has moved from what its frozen standardizer was fitted on.

For a part with kept dimensions j, frozen mean μ_j and deviation σ_j, and a sample of m of the N
rows that count, with mean x̄_j and deviation s_j:

    moved²  = mean over j of ((x̄_j − μ_j) / σ_j)²
    chance² = mean over j of (s_j / σ_j)² · (1 − m/N) / m
    drift   = √max(0, moved² − chance²)

`chance` is what a sample's mean is off by on its own: 1/√m of a large corpus that has kept its
deviations, nothing where all rows are looked at. The sample is spread evenly over the order of the
index, so that each segment has its share; its mean is then rather nearer than by chance, never
farther. A drift of 1 means: the typical dimension's mean lies one deviation off.

Reads opened segments and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import counted
from moee_index.fusion import MIN_ROWS, PartStandardizer
from moee_index.index.segment import OpenSegment, read_checked
from moee_index.index.store.layout import standardizer_name
from moee_index.index.store.standardizer import rows_fitted
from moee_index.types import Embeddings, Pair

if TYPE_CHECKING:
    from moee_index.index.snapshot import Snapshot

SAMPLE = 4096
# Where a refit makes one of the first ten hits another: over 68 mixtures of four corpora the first
# ten overlapped by 0.91 at a drift of 0.20 to 0.25 and by 0.90 at 0.25 to 0.30 (LAB.md). Documents
# of the same kind move it by 0.04, a fit on 64 rows alone by 0.13.
REFIT_ABOVE = 0.25
_BLOCK = 512


@dataclass(frozen=True)
class Drift:
    """hs, rw: see above; None for a part that is not standardised. rows: that were looked at.
    refit: whether `reindex` is due; reason: why, or why not."""

    hs: float | None
    rw: float | None
    rows: int
    refit: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_drift(index: Snapshot) -> Drift:
    """Drift of an opened index. Raises IndexDamagedError where a row of the sample is altered."""
    rows = index.manifest.rows
    if index.standardizer.which == "none":
        if why := index.standardizer.not_standardized(_fitted_on(index) or rows):
            return _constant(index, rows, why)
        return _unstandardized(rows, _fitted_on(index))
    sums = index.standardizer.map(
        lambda frozen: _Sums(frozen) if frozen is not None and frozen.varies else None
    )
    seen = 0
    for embeddings in _sample(index.segments, rows):
        seen += len(embeddings)
        for part, part_sums in sums:
            if part_sums is not None:
                part_sums.add(embeddings[part])
    drifts = sums.map(lambda part_sums: part_sums.drift(rows) if part_sums is not None else None)
    refit, reason = _judge(drifts, seen)
    return Drift(drifts.hs, drifts.rw, rows=seen, refit=refit, reason=reason)


def _constant(index: Snapshot, rows: int, why: str) -> Drift:
    """Nothing is standardised because nothing varied when the standardizer was to be fitted."""
    first, varies, seen = None, False, 0
    for embeddings in _sample(index.segments, rows):
        seen += len(embeddings)
        first = embeddings.map(lambda values: values[:1]) if first is None else first
        varies = varies or any(
            bool((values != first[part]).any())
            for part, values in embeddings
            if index.standardizer[part] is not None
        )
    reason = f"nothing is standardised: {why}"
    if varies:
        reason += ", but the index now holds rows that do: run moee-index reindex"
    return Drift(None, None, seen, varies, reason)


def _unstandardized(rows: int, fitted_on: int | None) -> Drift:
    few = fitted_on is not None and fitted_on < MIN_ROWS
    if few and rows >= MIN_ROWS:
        reason = (
            "nothing is standardised, because the index had only "
            f"{counted(fitted_on or 0, 'row')}; it has {rows} now, enough to fit on: run "
            "moee-index reindex (unless you want none)"
        )
        return Drift(None, None, 0, True, reason)
    if rows < MIN_ROWS:
        reason = f"nothing is standardised: too few rows to fit on ({rows})"
    else:
        reason = "nothing is standardised, as requested"
    return Drift(None, None, 0, False, reason)


def _judge(drifts: Pair[float | None], rows: int) -> tuple[bool, str]:
    if not rows:
        return False, "no rows count"
    # Equal ones: HS is named.
    part, moved = max(
        ((part, value) for part, value in drifts if value is not None), key=lambda each: each[1]
    )
    said = f"{part.upper()}'s mean has moved by {moved:.2f} deviations"
    if moved > REFIT_ABOVE:
        return True, (
            f"{said} since the standardizer was fitted, and over {REFIT_ABOVE} one hit in ten or "
            "more would change after a refit: run moee-index reindex, which needs no model"
        )
    return False, f"{said} since the standardizer was fitted; a refit is due over {REFIT_ABOVE}"


def _fitted_on(index: Snapshot) -> int | None:
    """Rows that the standardizer was fitted on; None where an earlier version did not record it."""
    name = standardizer_name(index.manifest.standardizer)
    return rows_fitted(read_checked(index.home, index.manifest, name))


class _Sums:
    """Sums over standardised rows, for their mean and variance in each kept dimension."""

    def __init__(self, frozen: PartStandardizer) -> None:
        self._frozen = frozen
        self._count = 0
        self._sum = np.zeros(len(frozen.mean))
        self._squares = np.zeros(len(frozen.mean))

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        standardized = self._frozen.apply(rows)
        self._count += len(rows)
        self._sum += standardized.sum(axis=0)
        self._squares += np.square(standardized).sum(axis=0)

    def drift(self, total: int) -> float:
        """total: rows that the sample stands for."""
        kept, count = self._frozen.kept, self._count
        if not count or not kept.any():
            return 0.0
        mean = self._sum[kept] / count
        variance = (self._squares[kept] - count * np.square(mean)) / max(count - 1, 1)
        chance = np.maximum(variance, 0.0).mean() * (1 - count / total) / count
        return math.sqrt(max(0.0, float(np.square(mean).mean() - chance)))


def _sample(segments: Sequence[OpenSegment], total: int) -> Iterator[Embeddings]:
    """Rows that count, evenly spread over all segments: at most SAMPLE, or all of them."""
    wanted = min(total, SAMPLE)
    chosen = (2 * np.arange(wanted, dtype=np.int64) + 1) * total // max(2 * wanted, 1)
    begin = 0
    for segment in segments:
        end = begin + segment.entry.live_rows
        positions = chosen[(chosen >= begin) & (chosen < end)] - begin
        live = segment.live_rows
        rows = positions if live is None else live[positions]
        for start in range(0, len(rows), _BLOCK):
            yield segment.raw.take(rows[start : start + _BLOCK])
        begin = end
