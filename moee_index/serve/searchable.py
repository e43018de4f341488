"""What answers ask of an index, wherever its segments are, and where one that is served comes from.

An index in a directory here is `local`'s, one whose segments other servers hold that of `shards`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from moee_index.fusion import Standardizer
    from moee_index.index.filters import Filter
    from moee_index.index.hits import Hits
    from moee_index.index.lexical.syntax import Condition, ParsedQuery
    from moee_index.index.listing import Facet
    from moee_index.index.routing import ExpertUse
    from moee_index.index.search.request import SearchRequest
    from moee_index.index.snapshot import Fields, Passage
    from moee_index.index.snippets import Snippets
    from moee_index.index.store.manifest import Manifest
    from moee_index.reranking.stored import WordWeights
    from moee_index.token_weights import TokenWeights
    from moee_index.types import Embeddings, EncoderSpec


class Text(Protocol):
    """A document."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def metadata(self) -> dict[str, Any]: ...


class Searchable(Protocol):
    """One version of an index, whole; used from any thread. What is said of `Index` holds for the
    methods of the same names.

    Of what is spread over machines a part may not be there: every method but those that only look
    at what describes the index then raises ShardError, unless `for_request` says otherwise.
    """

    @property
    def manifest(self) -> Manifest: ...
    @property
    def spec(self) -> EncoderSpec: ...
    @property
    def alpha(self) -> float: ...
    @property
    def lexical(self) -> float: ...
    @property
    def standardizer(self) -> Standardizer: ...
    @property
    def fields(self) -> Fields | None: ...
    @property
    def token_weights(self) -> TokenWeights | None: ...

    @property
    def missing(self) -> Sequence[int]:
        """Segments that gave no answer, where a request can do without."""

    def for_request(self, *, partial: bool) -> Searchable:
        """The same for one request. partial: whether answers of some segments will do, as long as
        any are there; `missing` then tells which are not."""

    def close(self) -> None: ...
    def located_spec(self) -> EncoderSpec: ...
    def documents(self, ids: Sequence[str]) -> Mapping[str, Text]: ...
    def passages(self, ids: Sequence[str]) -> Mapping[str, list[Passage]]: ...
    def vectors(self, ids: Sequence[str]) -> Embeddings: ...

    def first(self) -> Text | None:
        """The first document; None where there is none."""

    def check_filter(self, condition: str | Filter | None) -> None: ...
    def check_lexical(self, weight: float | None) -> None: ...
    def check_conditions(self, queries: Sequence[ParsedQuery]) -> None: ...
    def answer(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
    ) -> list[Hits]: ...
    def answer_parsed(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        queries: Sequence[ParsedQuery],
    ) -> list[Hits]: ...
    def answer_like(self, request: SearchRequest, identifier: str) -> Hits: ...
    def words(
        self, lexical: float | None = None, k1: float | None = None, b: float | None = None
    ) -> WordWeights | None: ...

    def snippets(self, query: str) -> Snippets:
        """What shows the best part of a hit's text."""

    def count_values(
        self,
        fields: Sequence[str],
        condition: str | Filter | None = None,
        conditions: Sequence[Condition] = (),
    ) -> list[Facet]:
        """As `listing.count_values`."""

    def count_documents(
        self, condition: str | Filter | None = None, conditions: Sequence[Condition] = ()
    ) -> int:
        """As `listing.count_documents`."""

    def expert_use(self, widths: Sequence[int], kind: str) -> ExpertUse:
        """As of `routing.ExpertUse`."""


@dataclass(frozen=True)
class Opened:
    """A version that was opened. digest: SHA-256 of its manifest, which no other version of any
    index has; spread: which server has which segments, None where they are here."""

    index: Searchable
    digest: str
    spread: Hashable = None


class Source(Protocol):
    """Where an index comes from."""

    def __str__(self) -> str:
        """How messages name it."""

    def looks(self) -> bool:
        """Whether a request itself is to look for a newer version."""

    def mark(self) -> Hashable:
        """What differs where there is another version than before. Looks."""

    def open(self) -> Opened:
        """The version that is there. Raises MoeeIndexError."""

    def without_paths(self, message: str, name: str) -> str:
        """A message in which the index is called by its name: clients learn no paths."""
