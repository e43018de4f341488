"""What opened indexes have in common, one or several, wherever their segments are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moee_index.types import Embeddings

if TYPE_CHECKING:
    from moee_index.index.hits import Hits
    from moee_index.index.lexical.syntax import Condition, ParsedQuery
    from moee_index.index.search.request import SearchRequest
    from moee_index.index.store.manifest import Manifest
    from moee_index.types import EncoderSpec


class Answering(ABC):
    """Answers queries that were read and checked already."""

    @abstractmethod
    def answer(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
    ) -> list[Hits]:
        """The hits of each query. conditions: of all queries."""

    def answer_parsed(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        queries: Sequence[ParsedQuery],
    ) -> list[Hits]:
        """As `answer`, for queries with conditions; those that have the same are answered
        together."""
        alike: dict[tuple[Condition, ...], list[int]] = {}
        for number, query in enumerate(queries):
            alike.setdefault(query.conditions, []).append(number)
        answers: dict[int, Hits] = {}
        for conditions, numbers in alike.items():
            texts = [queries[number].text for number in numbers]
            some = embeddings
            if embeddings is not None and len(alike) > 1:
                some = Embeddings(embeddings.hs[numbers], embeddings.rw[numbers])
            found = self.answer(request, some, texts, conditions)
            answers.update(zip(numbers, found, strict=True))
        return [answers[number] for number in range(len(queries))]


class OneIndex(Answering):
    """One index. manifest: of the version that is open."""

    manifest: Manifest

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that the index was built with."""
        return self.manifest.spec

    @property
    def alpha(self) -> float:
        """The index's default weight of RW in method `sum`."""
        return self.manifest.alpha

    @property
    def lexical(self) -> float:
        """The index's default weight of words in a search, 0 to 1; 0 where it has no postings."""
        return 0.0 if self.manifest.language is None else self.manifest.lexical_weight
