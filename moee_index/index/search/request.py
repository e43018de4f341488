"""A search request, checked once; the index only adds its default α."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, TypedDict

from moee_index.errors import MisuseError
from moee_index.fusion import Method, check_search
from moee_index.index.filters import Filter
from moee_index.index.lexical.bm25 import LUCENE, Bm25


class SearchOptions(TypedDict, total=False):
    """The keyword arguments of a search, for type checking; see `Index.search`."""

    method: Method
    alpha: float | None
    filter: str | Filter | None
    min_score: float | None
    passages: bool
    lexical: float
    k1: float
    b: float


@dataclass(frozen=True)
class SearchRequest:
    """How to rank and what to leave out; the arguments are those of `Index.search`.

    alpha: None is the index's. filter: parsed, if it was given as text.
    """

    k: int = 10
    method: Method = "sum"
    alpha: float | None = None
    filter: Filter | None = None
    min_score: float | None = None
    passages: bool = False
    lexical: float = 0.0
    bm25: Bm25 = LUCENE

    @classmethod
    def checked(
        cls,
        k: int = 10,
        *,
        method: Method = "sum",
        alpha: float | None = None,
        filter: str | Filter | None = None,
        min_score: float | None = None,
        passages: bool = False,
        lexical: float = 0.0,
        k1: float = LUCENE.k1,
        b: float = LUCENE.b,
    ) -> SearchRequest:
        """Raises MisuseError for k, method, alpha, min_score, lexical, k1 or b out of range;
        FilterError."""
        check_search(method, alpha, k)
        if min_score is not None and not math.isfinite(min_score):
            raise MisuseError(f"min_score is {min_score!r}; it must be a finite number")
        parsed = Filter.parse(filter) if isinstance(filter, str) else filter
        weight = None if alpha is None else float(alpha)
        words = _within("lexical", lexical, 1.0)
        bm25 = Bm25(_within("k1", k1), _within("b", b, 1.0))
        return cls(int(k), method, weight, parsed, min_score, passages, words, bm25)

    def weight(self, default_alpha: float) -> float | None:
        """The weight of RW to search with; None for methods other than `sum`."""
        return default_alpha if self.method == "sum" and self.alpha is None else self.alpha


def _within(name: str, value: float, most: float = math.inf) -> float:
    """A number from 0 to `most` as a float. Raises MisuseError for anything else."""
    number: Any = value
    usable = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not usable or not math.isfinite(value) or not 0 <= value <= most:
        until = "0 or more" if most == math.inf else f"0 to {most:g}"
        raise MisuseError(f"{name} is {value!r}; it must be a finite number, {until}")
    return float(value)
