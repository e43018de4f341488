"""One version of an index whose segments other servers hold: asked as one that is here.

A query is embedded once, by whoever asks; each shard tells its best hits, with scores as one index
of all segments has them, and their lists are merged. What describes the index is told once, and
nothing here grows with the number of documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.errors import MisuseError
from moee_index.fusion import Standardizer
from moee_index.index.answering import OneIndex
from moee_index.index.hits import Hits, merged_hits
from moee_index.index.lacking import (
    which_passage,
    without_conditions,
    without_document,
    without_postings,
)
from moee_index.index.lexical.bm25 import LUCENE
from moee_index.index.listing import known_field, summed_facets
from moee_index.index.search.request import SearchRequest, check_queries
from moee_index.index.snapshot import Fields, Passage
from moee_index.index.snippets import Snippets
from moee_index.serve.shards import wire
from moee_index.serve.shards.asking import Asked, Asking
from moee_index.serve.shards.words import SpreadTexts, SpreadWeights, SpreadWords
from moee_index.text import check_text, check_texts, shown
from moee_index.types import Document, Embeddings, blocks

if TYPE_CHECKING:
    from moee_index.index.filters import Filter
    from moee_index.index.lexical.syntax import Condition, ParsedQuery
    from moee_index.index.listing import Facet
    from moee_index.index.routing import ExpertUse
    from moee_index.index.store.manifest import Manifest
    from moee_index.token_weights import TokenWeights
    from moee_index.types import EncoderSpec

# Queries that shards are asked together: of the largest models some megabyte.
_TOGETHER = 64


@dataclass(frozen=True)
class Described:
    """What is the same on every shard of a version, and the fields of the documents of all. name:
    the index's."""

    name: str
    manifest: Manifest
    standardizer: Standardizer
    token_weights: TokenWeights | None
    fields: Fields | None
    words: SpreadWords


class SpreadIndex(OneIndex):
    """See the module. partial: whether answers of some shards will do."""

    def __init__(self, asked: Asked, described: Described, partial: bool = False) -> None:
        self._asked = asked
        self._described = described
        self._asking = Asking(asked, partial)
        self.manifest = described.manifest
        self.standardizer = described.standardizer
        self.token_weights = described.token_weights
        self.fields = described.fields
        # In messages, where one that is here has its directory.
        self._named = Path(described.name)

    def for_request(self, *, partial: bool) -> SpreadIndex:
        """As `Searchable.for_request`."""
        return SpreadIndex(self._asked, self._described, partial)

    def close(self) -> None:
        """Nothing of a version is open here."""

    @property
    def missing(self) -> Sequence[int]:
        """As `Searchable.missing`."""
        return self._asking.missing

    def located_spec(self) -> EncoderSpec:
        """The same: there is no directory beside which its model could be."""
        return self.spec

    # What a request must fit

    def check_filter(self, condition: str | Filter | None) -> None:
        """Raises FilterError for a filter that does not fit the documents of all shards."""
        self._checked(condition)

    def _checked(self, condition: str | Filter | None) -> Filter | None:
        parsed = SearchRequest.checked(filter=condition).filter
        # An index that has become empty knows no fields, and every filter finds nothing.
        if parsed is None or parsed.checked or self.fields is None or not self.manifest.segments:
            return parsed
        parsed.check(self.fields)
        return replace(parsed, checked=True)

    def check_lexical(self, weight: float | None) -> None:
        """As `Index.check_lexical`."""
        if weight and self.manifest.language is None:
            raise MisuseError(without_postings(self._named))

    def check_conditions(self, queries: Sequence[ParsedQuery]) -> None:
        """As `Index.check_conditions`."""
        if any(query.conditions for query in queries) and self.manifest.language is None:
            raise MisuseError(without_conditions(self._named))

    # Search

    def answer(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
    ) -> list[Hits]:
        """As `Index.answer`."""
        weight = request.words(0.0 if texts is None else self.lexical)
        self.check_lexical(weight)
        request = replace(request, lexical=weight, filter=self._checked(request.filter))
        if embeddings is not None or weight < 1:
            embeddings = check_queries(embeddings, self.spec.dims)
        if weight and texts is None:
            raise MisuseError("a search by words needs the text of each query; give texts=")
        count = len(texts or ()) if embeddings is None else len(embeddings)
        answers: list[Hits] = []
        for some in blocks(range(count), _TOGETHER):
            rows, part = slice(some[0], some[-1] + 1), embeddings
            if embeddings is not None:
                part = Embeddings(embeddings.hs[rows], embeddings.rw[rows])
            told = None if texts is None else texts[rows]
            answers += self._answers(request, part, told, conditions, len(some))
        return answers

    def _answers(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None,
        conditions: Sequence[Condition],
        count: int,
    ) -> list[Hits]:
        body = {
            "request": wire.request_json(request),
            "vectors": wire.vectors_json(embeddings),
            "conditions": wire.conditions_json(conditions),
            **self._words_of(request, texts),
        }
        told = self._asking.all("/search", body)
        each = [[wire.hits_from(hits) for hits in answer["answers"]] for answer in told]
        return [self._merged([hits[query] for hits in each], request.k) for query in range(count)]

    def _words_of(self, request: SearchRequest, texts: Sequence[str] | None) -> dict[str, object]:
        """What a search by words needs to know; nothing where words do not count."""
        if not request.words(0.0) or texts is None:
            return {"texts": None, "counts": None, "largest": None}
        words = self._described.words
        counts = words.counts(self._asking, texts)
        largest = words.largest(self._asking, texts, counts, request.bm25)
        return {"texts": list(texts), "counts": wire.counts_json(counts), "largest": largest}

    def _merged(self, answers: Sequence[Hits], k: int) -> Hits:
        hits = merged_hits(answers, k)
        # What was measured is true of all segments alone.
        return Hits(hits, False) if self.missing else hits

    def answer_like(self, request: SearchRequest, identifier: str) -> Hits:
        """As `Index.answer_like`."""
        check_text(identifier, "the id")
        asking = self._asking.lenient()
        told = asking.all("/rows", {"id": identifier})
        rows = next((each["vectors"] for each in told if each["vectors"] is not None), None)
        if rows is None:
            asking.insist()
            raise MisuseError(f"{self._named} has no document {shown(identifier)!r}")
        request = replace(request, lexical=request.words(0.0), filter=self._checked(request.filter))
        body = {"request": wire.request_json(request), "id": identifier, "vectors": rows}
        return self._merged(
            [wire.hits_from(hits) for hits in self._asking.all("/like", body)], request.k
        )

    # Words

    def words(
        self, lexical: float | None = None, k1: float | None = None, b: float | None = None
    ) -> SpreadWeights | None:
        """As `Index.words`."""
        request = SearchRequest.checked(
            lexical=lexical, k1=LUCENE.k1 if k1 is None else k1, b=LUCENE.b if b is None else b
        )
        weight = request.words(self.lexical)
        if not weight:
            return None
        self.check_lexical(weight)
        return SpreadWeights(weight, self._described.words, self._asking, request.bm25)

    def snippets(self, query: str) -> Snippets:
        """As `Searchable.snippets`."""
        return Snippets.of(SpreadTexts(self.manifest, self._described.words, self._asking), query)

    # Documents

    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        """As `Index.documents`."""
        asking = self._asking.lenient()
        found: dict[str, Document] = {}
        for answer in asking.all("/documents", {"ids": check_texts(ids, "id")}):
            for name, stored in answer["documents"].items():
                found[name] = wire.document_from(stored)
        if len(found) < len(set(ids)):
            asking.insist()
        return found

    def passages(self, ids: Sequence[str]) -> dict[str, list[Passage]]:
        """As `Index.passages`."""
        asking = self._asking.lenient()
        found: dict[str, list[Passage]] = {}
        documents: set[str] = set()
        for answer in asking.all("/passages", {"ids": check_texts(ids, "id")}):
            for name, stored in answer["passages"].items():
                # A document is looked for first, wherever it is.
                if name not in found or name in answer["documents"]:
                    found[name] = [wire.passage_from(each) for each in stored]
            documents.update(answer["documents"])
        if not documents.issuperset(ids):
            # What was found by a passage's name may be a document's elsewhere.
            asking.insist()
        return found

    def vectors(self, ids: Sequence[str]) -> Embeddings:
        """As `Index.vectors`."""
        found = self.passages(ids)
        rows = []
        for name in ids:
            some = found.get(name)
            if some is None:
                raise MisuseError(without_document(name, self._named))
            if len(some) > 1:
                raise MisuseError(which_passage(name, self._named, len(some), some[0].id))
            rows.append(some[0].row)
        return self._vectors_at(rows)

    def _vectors_at(self, rows: Sequence[int]) -> Embeddings:
        """Raw rows, each from the shard that holds it."""
        begins = np.cumsum([0, *(segment.rows for segment in self.manifest.segments)])
        dims = self.spec.dims
        vectors = dims.map(lambda dim: np.empty((len(rows), dim), dtype=np.float32))
        for placed in self._asked.placed:
            first, stop = begins[placed.segments.start], begins[placed.segments.stop]
            places = [place for place, row in enumerate(rows) if first <= row < stop]
            if places:
                body = {"rows": [rows[place] for place in places]}
                told = self._asking.one(placed, "/vectors", body)
                for part, values in wire.rows_from(told["vectors"], dims):
                    vectors[part][places] = values
        return Embeddings(vectors.hs, vectors.rw)

    def first(self) -> Document | None:
        """As `Searchable.first`."""
        told = self._asking.lenient().all("/first", {})
        found = (each["document"] for each in told if each["document"] is not None)
        return next((wire.document_from(each) for each in found), None)

    def count_values(
        self,
        fields: Sequence[str],
        condition: str | Filter | None = None,
        conditions: Sequence[Condition] = (),
    ) -> list[Facet]:
        """As `listing.count_values`."""
        for field in fields:
            known_field(self.fields, field)
        told = self._values(fields, condition, conditions)
        each = [[wire.facet_from(facet) for facet in answer["facets"]] for answer in told]
        return [summed_facets(facets) for facets in zip(*each, strict=True)]

    def count_documents(
        self, condition: str | Filter | None = None, conditions: Sequence[Condition] = ()
    ) -> int:
        """As `listing.count_documents`."""
        return sum(answer["matching"] for answer in self._values([], condition, conditions))

    def _values(
        self,
        fields: Sequence[str],
        condition: str | Filter | None,
        conditions: Sequence[Condition],
    ) -> list[dict[str, Any]]:
        checked = self._checked(condition)
        if conditions and self.manifest.language is None:
            raise MisuseError(without_conditions(self._named))
        return self._asking.all(
            "/values",
            {
                "fields": list(fields),
                "filter": None if checked is None else checked.text,
                "conditions": wire.conditions_json(conditions),
            },
        )

    def expert_use(self, widths: Sequence[int], kind: str) -> ExpertUse:
        """Raises MisuseError: the rows that are looked at are drawn from those of all segments."""
        raise MisuseError(
            "a server of --shards does not know which documents use an expert most; ask a server "
            f"that has all of {self._named}: moee-index serve INDEX"
        )
