"""What a reranking needs of an index: stored texts and vectors, and what weighs words.

Protocols; `Index` implements them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from moee_index.fusion import Standardizer
from moee_index.types import Embeddings, WordMatch


class QueryWords(Protocol):
    """A query whose words weigh candidates."""

    def of_rows(self, rows: Sequence[int]) -> Sequence[WordMatch]:
        """Of rows of the index."""

    def of_texts(self, texts: Sequence[str]) -> Sequence[WordMatch]:
        """Of any texts."""


class WordWeights(Protocol):
    """Weighs words by the statistics of an index; `Index.words` makes one."""

    @property
    def weight(self) -> float:
        """Of words in a score, above 0; at 1 words alone count."""

    def query(self, text: str) -> QueryWords: ...


class StoredText(Protocol):
    """A passage as an index returns it. row: of the index, which tells it from all others."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def row(self) -> int: ...


class StoredTexts(Protocol):
    """Where a run's documents come from; `Index` implements it."""

    @property
    def standardizer(self) -> Standardizer:
        """The frozen one."""

    @property
    def alpha(self) -> float:
        """The default weight of RW."""

    def passages(self, ids: Sequence[str]) -> Mapping[str, Sequence[StoredText]]:
        """The passages of these documents, of one that is not split the document itself; ids that
        are not there are left out."""

    def vectors_at(self, rows: Sequence[int]) -> Embeddings:
        """Raw embeddings of these rows of the index, in their order."""

    def words(
        self, lexical: float | None = None, k1: float | None = None, b: float | None = None
    ) -> WordWeights | None:
        """What weighs words; None where they weigh nothing. lexical: None is the index's."""
