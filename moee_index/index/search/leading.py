"""What a segment's leading components (store/leading.py) say of the similarities to queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moee_index.index.search.native.library import upper_bounds
from moee_index.index.search.products import products
from moee_index.index.store.checksums import Bytes
from moee_index.index.store.leading import ZERO, LeadingPart
from moee_index.types import FloatArray

# Of float32 sums, and of components' own products.
_ARITHMETIC = 5e-5
# How far directions in float32 are from orthonormal and such sums are off, in squared lengths.
_SQUARES = 2e-5
_LARGEST = 32767
# Sums of weights times 128 stay below 2^31.
_MOST = float(1 << 24)


@dataclass(frozen=True, eq=False)
class QueryBounds:
    """Of one part of some queries. weights: int16 [q, p], of codes, and scale, float64 [q], of
    their products; rest: float64 [q], the length of what the components do not say; added:
    float64 [q], for the errors of codes and weights.

    A row's similarity to a query is at most ⟨weights, c⟩ · scale + rest · its own rest + added,
    where c are its codes less ZERO; both rests are never too small.
    """

    weights: npt.NDArray[np.int16]
    scale: npt.NDArray[np.float64]
    rest: npt.NDArray[np.float64]
    added: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, directions: FloatArray, steps: FloatArray, error: float, queries: FloatArray
    ) -> QueryBounds:
        """queries: [q, d]."""
        single = np.ascontiguousarray(queries, dtype=np.float32)
        leading = products(single, directions).astype(np.float64)
        squares = np.square(leading).sum(axis=1)
        exact = np.square(single, dtype=np.float64).sum(axis=1)
        rest = np.sqrt(np.maximum(exact - squares, 0.0) + _SQUARES)
        wanted = leading * steps
        most, together = np.abs(wanted).max(axis=1), np.abs(wanted).sum(axis=1)
        tiny = np.finfo(np.float32).tiny
        scale = np.maximum(most / _LARGEST, together / (_MOST - wanted.shape[1])) + tiny
        weights = np.rint(wanted / scale[:, None]).astype(np.int16)
        lost = np.abs(weights * scale[:, None] - wanted).sum(axis=1) * ZERO
        added = np.sqrt(squares) * error + lost + _ARITHMETIC
        return cls(weights, scale, rest, added)

    @classmethod
    def by(cls, part: LeadingPart, queries: FloatArray) -> QueryBounds:
        """By an opened segment's components."""
        return cls.of(part.directions, part.steps, part.error, queries)

    def upper(self, codes: Bytes, rest: FloatArray) -> FloatArray:
        """Bounds for rows, float32 [q, m]; codes: [m, p], rest: [m]. For many queries, and without
        a compiler."""
        single = np.float32
        weights = (self.weights * self.scale[:, None]).astype(single)
        products = weights @ (codes.astype(single) - ZERO).T
        bounds = products + np.outer(self.rest, rest) + self.added[:, None]
        return bounds.astype(single)

    def upper_of_one(self, codes: Bytes, rest: FloatArray, out: FloatArray) -> None:
        """As `upper`, of a single query, into out [m]; compiled."""
        zero = ZERO * int(self.weights.sum(dtype=np.int64))
        scale, own, added = (float(each[0]) for each in (self.scale, self.rest, self.added))
        upper_bounds(codes, self.weights[0], zero, scale, rest, own, added, out)
