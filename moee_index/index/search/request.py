"""A search request, checked once; the index only adds its default α."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from moee_index.errors import MisuseError
from moee_index.fusion import Method, check_search
from moee_index.index.filters import Filter


class SearchOptions(TypedDict, total=False):
    """The keyword arguments of a search, for type checking; see `Index.search`."""

    method: Method
    alpha: float | None
    filter: str | Filter | None
    min_score: float | None
    passages: bool


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
    ) -> SearchRequest:
        """Raises MisuseError for k, method, alpha or min_score out of range; FilterError."""
        check_search(method, alpha, k)
        if min_score is not None and not math.isfinite(min_score):
            raise MisuseError(f"min_score is {min_score!r}; it must be a finite number")
        weight = None if alpha is None else float(alpha)
        return cls(int(k), method, weight, Filter.of(filter), min_score, passages)

    def weight(self, default_alpha: float) -> float | None:
        """The weight of RW to search with; None for methods other than `sum`."""
        return default_alpha if self.method == "sum" and self.alpha is None else self.alpha
