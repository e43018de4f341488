"""What a scan is asked: unit vectors, how documents are ranked, how far a scan can be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moee_index.fusion import Method, UnitVectors, blend, dense_share, fuse
from moee_index.index.store.rows import RowNumbers
from moee_index.types import Part

if TYPE_CHECKING:  # without words a search imports nothing of them
    from moee_index.index.lexical.scores import PartScores

_DESIGN_MARGIN = 1e-4
# Two blended scores that are nearer may be one in float32.
_ROUNDING = 1e-6
Bounds = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScanRequest:
    """Some queries and what is wanted for each. allowed: the rows to search among, ascending;
    None is all. k is at most their number. words: the queries' scores by words, where these
    count."""

    queries: UnitVectors
    k: int
    method: Method
    alpha: float | None
    min_score: float | None
    allowed: RowNumbers | None
    words: PartScores | None = None

    @property
    def parts(self) -> Sequence[Part]:
        return parts_that_count(self.method, self.alpha)

    def fused(
        self, query: int, similarities: Sequence[npt.NDArray[Any]], norms: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Scores of n rows for a query, from the parts that count."""
        weight = 0.0 if len(similarities) == 1 else self.alpha
        # `fuse` reads only the parts that count: any array serves for the other.
        hs, rw = similarities[0], similarities[-1]
        return fuse(self.method, hs, rw, weight, self.queries.norms[query], norms)

    def blended(
        self, query: int, scores: npt.NDArray[Any], rows: range | RowNumbers, *, exact: bool
    ) -> npt.NDArray[Any]:
        """Scores by similarity with those by words, which may lack their slack unless exact."""
        if self.words is None:
            return scores
        if exact:
            words = self.words.exact(query, np.asarray(rows))
        else:
            words = self.words.partly(query, rows)
        return blend(scores, words, self.words.weight, self.method, self.alpha)

    def margins(
        self, error_bounds: Sequence[Bounds], queries: Sequence[int], *, exact: bool = False
    ) -> Bounds:
        """For each of some queries how far below the k-th scanned score a document of the true top
        k can be, where each part's similarities are off by at most its error bound, and words lack
        their slack unless exact."""
        margins = self._dense_margins(error_bounds)
        if self.words is None:
            return margins
        share = dense_share(self.words.weight, self.method, self.alpha)
        slack = [0.0 if exact else self.words.slack(query) for query in queries]
        return share * margins + self.words.weight * np.array(slack) + _ROUNDING

    def _dense_margins(self, error_bounds: Sequence[Bounds]) -> Bounds:
        """As `margins`, of similarities alone."""
        weight = (1.0 if self.alpha is None else self.alpha) if self.method == "sum" else 0.0
        if len(error_bounds) == 1:
            combined_bound = error_bounds[0]
        elif self.method == "sum":
            combined_bound = error_bounds[0] + weight * error_bounds[1]
        else:
            # The shares of the parts in both cosines add up to at most 1 (Cauchy and Schwarz).
            combined_bound = np.maximum(error_bounds[0], error_bounds[1])
        return np.maximum(2.0 * combined_bound, _DESIGN_MARGIN * (1.0 + weight))


def parts_that_count(method: Method, alpha: float | None) -> Sequence[Part]:
    if method == "hs" or method == "rw":
        return (method,)
    return ("hs",) if method == "sum" and alpha == 0 else ("hs", "rw")
