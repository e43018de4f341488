"""Choose α, the weight of RW in `sum`, for one index without labels.

Works on an opened `Index` by its public methods. The α it gives balances HS and RW; it cannot tell
which of them is better.

Source: the camera-ready of Li & Zhou, ICLR 2025, where α is to maximise the Spearman correlation
of the fused similarity with its components; the authors' code does not have it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moee_index.errors import MisuseError, counted
from moee_index.fusion import Float64Array, UnitVectors, unit_vectors
from moee_index.tune.correlation import spearman
from moee_index.tune.labelled import (
    ALPHAS,
    EQUAL,
    FEW,
    Point,
    Tuning,
    best,
    check_size,
    digest,
)
from moee_index.types import Notify, ignore

if TYPE_CHECKING:
    from moee_index.index import Index

# Documents, and pairs of them.
SAMPLE = 2000
PAIRS = 20_000
# How often the grid's end is doubled while the correlation still grows there. Similarities of raw
# softmax RW can spread a hundred times less than those of HS.
_DOUBLINGS = 12
_GOLDEN = (math.sqrt(5) - 1) / 2


def tune_without_labels(index: Index, *, notify: Notify | None = None) -> Tuning:
    """The α that maximises J(α) = ½·[ρ(h + α·r, h) + ρ(h + α·r, r)], with no label seen.

    h, r: sim_HS and sim_RW over pairs of the index's own documents (`sample_pairs`); ρ: Spearman's
    correlation. The paper speaks of gradients; J has one variable and is made of ranks, so a grid
    and a golden-section search do.

    What J rewards is agreement, not relevance. With Pearson's correlation c of h and r, their
    deviations σ_h and σ_r, and t = α·σ_r/σ_h, it is ½·(1 + c)·(1 + t)/√(1 + 2ct + t²): highest at
    t = 1 for every c < 1, whichever part is the better one. So J balances the two spreads,
    α = σ_h/σ_r up to what ranks change, and gives pure noise the same say as a perfect part.

    The grid is `ALPHAS`, its end doubled while J grows there; where the curve rises to its best
    and falls after it, the search goes on between the best's neighbours, to three digits. Equal
    values: as `tune_with_labels`.

    Raises MisuseError for an index of under 3 documents, or whose documents are all alike in a
    part.
    """
    check_size(index)
    tell = notify or ignore
    documents, hs, rw = sample_pairs(index)
    _check_sample(index, documents, hs, rw, tell)

    def objective(alpha: float) -> Point:
        fused = hs + alpha * rw
        return Point(alpha, (spearman(fused, hs) + spearman(fused, rw)) / 2)

    curve = _curve(objective)
    if _rises_then_falls([point.value for point in curve]):
        _refine_best(curve, objective)
    else:
        tell("the curve is not smooth enough to search between its points; the best point is used")
    tell("without labels: this α balances HS and RW, whichever is better")
    return Tuning(
        alpha=best(curve).alpha,
        previous=index.alpha,
        objective="spearman",
        curve=tuple(curve),
        held_out=None,
        queries=0,
        documents=documents,
        pairs=len(hs),
        previous_lexical=index.lexical,
    )


def _check_sample(
    index: Index, documents: int, hs: Float64Array, rw: Float64Array, tell: Notify
) -> None:
    """Raises MisuseError where a part's similarities are all equal; warns of a small sample."""
    for part, values in (("HS", hs), ("RW", rw)):
        if np.ptp(values) <= EQUAL:
            raise MisuseError(
                f"the {part} similarities of {counted(len(values), 'pair')} of documents of "
                f"{index.directory} are all equal: they say nothing about α; give --qrels and "
                "--queries, or set --alpha by hand"
            )
    if documents < FEW:
        tell(f"warning: {documents} documents make only {len(hs)} pairs; α may be chance")


def _curve(objective: Callable[[float], Point]) -> list[Point]:
    """The objective over `ALPHAS`, and beyond while it grows there."""
    curve = [objective(alpha) for alpha in ALPHAS]
    for _ in range(_DOUBLINGS):
        if curve[-1].value <= max(point.value for point in curve[:-1]) + EQUAL:
            break
        curve.append(objective(2 * curve[-1].alpha))
    return curve


def _refine_best(curve: list[Point], objective: Callable[[float], Point]) -> None:
    """Add to a curve the best point between the best one's neighbours."""
    at = curve.index(best(curve))
    low, high = curve[max(at - 1, 0)].alpha, curve[min(at + 1, len(curve) - 1)].alpha
    refined = _refine(lambda alpha: objective(alpha).value, low, high)
    if all(point.alpha != refined for point in curve):
        curve.append(objective(refined))
        curve.sort(key=lambda point: point.alpha)


def sample_pairs(index: Index) -> tuple[int, Float64Array, Float64Array]:
    """(documents, sim_HS, sim_RW): similarities of up to 20,000 pairs of up to 2,000 documents.

    The documents whose ids have the smallest sha256, in that order: a sample that the documents
    alone decide, wherever they stand in the index. That order is as good as a shuffled one, so on
    a circle each is paired with the next ones: every document stands in as many pairs as every
    other, no pair comes twice, and all pairs are there as long as they are not too many.
    """
    named = index.named_rows()
    rows = [row for _, row in heapq.nsmallest(SAMPLE, ((digest(name), row) for name, row in named))]
    units = unit_vectors(index.vectors_at(rows), index.standardizer)
    similarities: list[tuple[Float64Array, Float64Array]] = []
    held = 0
    for step in range(1, len(rows) // 2 + 1):
        # Half the circle away, pairs meet from both sides.
        count = len(rows) // 2 if 2 * step == len(rows) else len(rows)
        if held + count > PAIRS:
            break
        similarities.append(_along(units, step, count))
        held += count
    hs, rw = (np.clip(np.concatenate(part), -1.0, 1.0) for part in zip(*similarities, strict=True))
    return len(rows), hs, rw


def _along(units: UnitVectors, step: int, count: int) -> tuple[Float64Array, Float64Array]:
    """Similarities of documents 0…count to those `step` further along the circle."""
    hs, rw = (
        np.einsum("nd,nd->n", part, np.roll(part, -step, axis=0))[:count]
        for part in (units.hs, units.rw)
    )
    return hs, rw


def _rises_then_falls(values: Sequence[float]) -> bool:
    steps: Float64Array = np.diff(values)
    top = int(np.argmax(values))
    return bool((steps[:top] >= 0).all() and (steps[top:] <= 0).all())


def _refine(value: Callable[[float], float], low: float, high: float) -> float:
    """Where `value` is highest between low and high, by golden section, to three digits."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(60):
        if high - low < 1e-3 * high:
            break
        if at_left >= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = value(right)
    return float(f"{(low + high) / 2:.3g}")
