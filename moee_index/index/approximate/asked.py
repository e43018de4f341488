"""Queries as candidates are asked for them, and how far one has to look."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from moee_index.fusion import Method, UnitVectors
from moee_index.index.approximate.coarse import CoarseQuantizer
from moee_index.index.search.products import products
from moee_index.index.store.approximation import Reach
from moee_index.types import FloatArray

# The number of hits that recall is measured at.
MEASURED_AT = 10
# How lists and candidates grow with what is looked for; measured (LAB.md).
_LISTS_GROW = 0.5
_DEPTH_GROWS = 0.8


class Asked:
    """Some queries, rotated, each part by its weight. opened: gives the coarse quantizer, which is
    asked for when it is needed; vectors: float32 [q, width]; reach: how far each looks for ten hits
    among all rows. From one thread."""

    def __init__(
        self,
        opened: Callable[[], CoarseQuantizer],
        queries: UnitVectors,
        method: Method,
        alpha: float | None,
        reach: Reach,
    ) -> None:
        self._opened = opened
        self.reach = reach
        self._asking = queries, method, alpha
        self._found: tuple[FloatArray, FloatArray] | None = None
        self._whole: tuple[Asked, slice | list[int]] | None = None

    def _once(self) -> tuple[FloatArray, FloatArray]:
        """The rotated queries, and their similarities with each list's centroid. Not before they
        are needed: a filter may leave so little that it is scanned."""
        if self._found is None and self._whole is not None:
            whole, some = self._whole
            vectors, similarities = whole._once()
            self._found = np.ascontiguousarray(vectors[some]), similarities[some]
        if self._found is None:
            queries, method, alpha = self._asking
            vectors = self.coarse.rotated(queries.parts, weights_of(queries, method, alpha))
            self._found = vectors, products(vectors, self.coarse.centroids)
        return self._found

    @property
    def coarse(self) -> CoarseQuantizer:
        return self._opened()

    @property
    def vectors(self) -> FloatArray:
        return self._once()[0]

    def of(self, queries: slice | list[int]) -> Asked:
        """Of some queries."""
        some = copy.copy(self)
        some._found, some._whole = None, (self, queries)
        return some

    def nearest(self, lists: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Similarities and numbers, [q, m], of the lists that are nearest to each query, nearest
        first."""
        similarities = self._once()[1]
        count = min(lists, similarities.shape[1])
        chosen = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(similarities, chosen, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")
        ordered = np.take_along_axis(chosen, order, axis=1).astype(np.int64)
        return np.take_along_axis(near, order, axis=1), ordered

    def reach_for(self, k: int, share: float) -> Reach:
        """How far to look for k hits among a share of the rows: the k-th of them lies about as far
        away as the (k / share)-th of all."""
        farther = max(1.0, k / MEASURED_AT / share)
        deeper = max(1.0, k / MEASURED_AT)
        lists = math.ceil(self.reach.lists * farther**_LISTS_GROW)
        depth = math.ceil(self.reach.depth * deeper**_DEPTH_GROWS)
        return Reach(min(lists, self.coarse.lists), max(depth, 2 * k))


def weights_of(queries: UnitVectors, method: Method, alpha: float | None) -> FloatArray:
    """How much each part of a query counts, [q, 2], at length 1: of `concat` by the lengths that
    the parts had (its denominator, the document's own length, is left to the exact score)."""
    weights = np.ones((len(queries), 2))
    if method == "sum":
        weights[:, 1] = 1.0 if alpha is None else alpha
    elif method == "concat":
        weights = queries.norms.copy()
    else:
        weights[:, 1 if method == "hs" else 0] = 0.0
    lengths = np.sqrt(np.square(weights).sum(axis=1, keepdims=True))
    scaled: FloatArray = (weights / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return scaled
