"""A search request, checked once; the index only adds its default α."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from moee_index.errors import MisuseError
from moee_index.fusion import Method, check_search, finite_number, shown_value
from moee_index.index.filters import Filter
from moee_index.index.lexical.bm25 import LUCENE, Bm25
from moee_index.text import check_text, check_texts
from moee_index.types import PARTS, Embeddings, Pair, Part


class RequestOptions(TypedDict, total=False):
    """The keyword arguments of a request, for type checking; see `Index.search`."""

    method: Method
    alpha: float | None
    filter: str | Filter | None
    min_score: float | None
    passages: bool
    lexical: float | None
    k1: float
    b: float
    exact: bool
    recall: float | None


class SearchOptions(RequestOptions, total=False):
    """The keyword arguments of a search, for type checking; see `Index.search`."""

    syntax: bool


@dataclass(frozen=True)
class SearchRequest:
    """How to rank and what to leave out; the arguments are those of `Index.search`.

    alpha, lexical: None is the index's. filter: parsed, if it was given as text. every_row: whether
    an approximate index too looks at every row; recall: the share of the best that it finds
    otherwise, None the index's.
    """

    k: int = 10
    method: Method = "sum"
    alpha: float | None = None
    filter: Filter | None = None
    min_score: float | None = None
    passages: bool = False
    lexical: float | None = None
    bm25: Bm25 = LUCENE
    every_row: bool = False
    recall: float | None = None

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
        lexical: float | None = None,
        k1: float = LUCENE.k1,
        b: float = LUCENE.b,
        exact: bool = False,
        recall: float | None = None,
    ) -> SearchRequest:
        """Raises MisuseError for k, method, alpha, min_score, lexical, k1, b or recall out of
        range; FilterError."""
        check_search(method, alpha, k)
        least = None if min_score is None else finite_number(min_score)
        if min_score is not None and least is None:
            raise MisuseError(f"min_score is {shown_value(min_score)}; it must be a finite number")
        check_flag("passages", passages)
        check_flag("exact", exact)
        wanted = None if recall is None else recall_share(recall)
        if exact and wanted is not None:
            raise MisuseError("exact looks at every row, whatever recall is; give one of them")
        parsed = as_filter(filter)
        weight = None if alpha is None else float(alpha)
        words = None if lexical is None else lexical_weight(lexical)
        bm25 = Bm25(_within("k1", k1), _within("b", b, 1.0))
        return cls(
            int(k), method, weight, parsed, least, bool(passages), words, bm25, bool(exact), wanted
        )

    def weight(self, default_alpha: float) -> float | None:
        """The weight of RW to search with; None for methods other than `sum`."""
        return default_alpha if self.method == "sum" and self.alpha is None else self.alpha

    def words(self, default: float) -> float:
        """The weight of words to search with."""
        return default if self.lexical is None else self.lexical


def check_flag(name: str, value: object) -> None:
    """Raises MisuseError for what is not true or false."""
    if not isinstance(value, bool | np.bool_):
        raise MisuseError(f"{name} is {shown_value(value)}; it is True or False")


def as_filter(condition: str | Filter | None) -> Filter | None:
    """A filter, parsed if it was given as text. Raises FilterError; MisuseError for other types."""
    if condition is None or isinstance(condition, Filter):
        return condition
    if not isinstance(condition, str):
        raise MisuseError(
            f"filter is {shown_value(condition)}; it is text, as in 'year >= 2020', or a Filter"
        )
    return Filter.parse(condition)


def query_texts(query: str | Iterable[str]) -> tuple[list[str], bool]:
    """The texts of one query or of several, and whether it is several. Raises MisuseError."""
    # Several may come from anything that is gone through once; one is one text, of any type.
    several = isinstance(query, Iterable) and not isinstance(query, str | bytes)
    texts = check_texts(query, "query") if several else [check_text(query, "the query")]
    for text in texts:
        if not text.strip():
            raise MisuseError("the query is empty; give some text")
    return texts, several


def check_queries(embeddings: Embeddings | None, dims: Pair[int]) -> Embeddings:
    """Raw embeddings of queries as float32 [q, d] and [q, layers * experts].

    Raises MisuseError for what are no embeddings, or are of other dimensions.
    """
    if not isinstance(embeddings, Pair):
        raise MisuseError(
            f"embeddings are of type {type(embeddings).__name__}, not Embeddings(hs, rw)"
        )

    def checked(part: Part) -> np.ndarray:
        values = embeddings[part]
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            kind = getattr(values, "dtype", type(values).__name__)
            raise MisuseError(
                f"{part.upper()} of the queries is of type {kind}, not an array of numbers"
            )
        if values.ndim != 2 or values.shape[1] != dims[part]:
            raise MisuseError(
                f"{part.upper()} of the queries has shape {values.shape}, not [q, {dims[part]}]"
            )
        with np.errstate(over="ignore"):
            return np.asarray(values, dtype=np.float32)

    parts = PARTS.map(checked)
    if len(parts.hs) != len(parts.rw):
        raise MisuseError(
            f"HS of the queries has {len(parts.hs)} rows and RW {len(parts.rw)}; a query has one "
            "in each"
        )
    return Embeddings(parts.hs, parts.rw)


def lexical_weight(value: object) -> float:
    """A weight of words as a float. Raises MisuseError unless it is a number from 0 to 1."""
    return _within("lexical", value, 1.0)


def recall_share(value: object) -> float:
    """A share of the best rows as a float. Raises MisuseError unless it is above 0, and at most
    1."""
    number = finite_number(value)
    if number is None or not 0 < number <= 1:
        raise MisuseError(f"recall is {shown_value(value)}; it must be above 0, and at most 1")
    return number


def _within(name: str, value: object, most: float = math.inf) -> float:
    """A number from 0 to `most` as a float. Raises MisuseError for anything else."""
    number = finite_number(value)
    if number is None or not 0 <= number <= most:
        until = "0 or more" if most == math.inf else f"0 to {most:g}"
        raise MisuseError(f"{name} is {shown_value(value)}; it must be a finite number, {until}")
    return number
