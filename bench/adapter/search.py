"""mteb's SearchProtocol over the product itself: `Index.build`, its fused exact search, and
reranking over its rows, with the standardizer that the index froze.

Maths, search, words and vectors are the product's own.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from moee_index.bench.adapter.encoder import MoeeEncoder, MoeeModel
from moee_index.bench.adapter.task_inputs import search_texts
from moee_index.bench.adapter.vectors import WORDS, Setting
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import StoredPlan
from moee_index.errors import MisuseError
from moee_index.fusion import Standardizer
from moee_index.index import Index, build_index
from moee_index.readers.trec import RunLine
from moee_index.reranking import rerank_run
from moee_index.types import Document, Embeddings, Progress, TextEncoder

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

Results = dict[str, dict[str, float]]
# The indexes of each stored encoder's last corpus, shared by all settings.
_INDEXES: WeakKeyDictionary[StoredEncoder, _Indexes] = WeakKeyDictionary()
# Queries searched at a time: a thousand hits of each are held with their texts.
_QUERIES = 128


class MoeeSearch(MoeeModel):
    """A model under one setting, searching as the product does. Fulfils `SearchProtocol`.

    The index is built from stored vectors in a temporary directory and fits its own standardizer
    over the corpus; under fit `calibrated` it is given rows that are standardised already. Settings
    that differ in method, α and the weight of words alone share one index. An index cannot hold
    vectors that depend on their batch: under fit `batch` mteb's own search compares the vectors of
    `MoeeEncoder`.

    Documents without text are in no index, so they are never found and last of all candidates.
    """

    def __init__(self, stored: StoredEncoder, setting: Setting, **told: Any) -> None:
        super().__init__(stored, setting, **told)
        self._indexes = _INDEXES.setdefault(stored, _Indexes())
        self._built: _Built | None = None
        self._by_mteb: Any = None

    def index(self, corpus: Any, *, task_metadata: TaskMetadata, **named: Any) -> None:
        """Build the index of a corpus, unless it is the one that is there."""
        if self.setting.fit == "batch":
            from mteb.models import SearchEncoderWrapper

            self._by_mteb = SearchEncoderWrapper(MoeeEncoder(self.stored, self.setting))
            self._by_mteb.index(corpus, task_metadata=task_metadata, **named)
            return
        texts = search_texts(corpus, task_metadata, query=False)
        ids = list(map(str, corpus["id"]))
        self._built = self._indexes.of(self.setting, ids, texts, self._encoder())

    def search(
        self,
        queries: Any,
        *,
        task_metadata: TaskMetadata,
        top_k: int,
        top_ranked: dict[str, list[str]] | None = None,
        **named: Any,
    ) -> Results:
        """query id → document id → score: the top k of the corpus, or all of a query's candidates.

        One document more than asked for is given, because mteb leaves out a document that is the
        query itself. Raises MisuseError for a candidate that is not in the corpus.
        """
        if self._by_mteb is not None:
            named |= {"task_metadata": task_metadata, "top_k": top_k, "top_ranked": top_ranked}
            by_mteb: Results = self._by_mteb.search(queries, **named)
            return by_mteb
        if self._built is None:
            raise MisuseError("nothing is indexed; call index() before search()")
        texts = search_texts(queries, task_metadata, query=True)
        asked = dict(zip(map(str, queries["id"]), texts, strict=True))
        if self._built.index is None:
            return {identifier: {} for identifier in asked}
        if top_ranked is None:
            return self._search(self._built, self._built.index, asked, top_k + 1)
        return self._rerank(self._built, self._built.index, asked, top_ranked)

    def _search(self, built: _Built, index: Index, asked: dict[str, str], k: int) -> Results:
        results: Results = {}
        ids, texts, encoder = list(asked), list(asked.values()), self._encoder()
        for start in range(0, len(ids), _QUERIES):
            some = slice(start, start + _QUERIES)
            queries = encoder.encode(texts[some], query=True)
            answers = index.search_embeddings(queries, k, texts=texts[some], **self._how)
            for identifier, hits in zip(ids[some], answers, strict=True):
                results[identifier] = {built.ids[int(hit.id)]: hit.score for hit in hits}
        return results

    def _rerank(
        self, built: _Built, index: Index, asked: dict[str, str], top_ranked: dict[str, list[str]]
    ) -> Results:
        results: Results = {identifier: {} for identifier in asked}
        run = (
            (query, [RunLine(query, row, rank, 0.0) for rank, row in enumerate(candidates, 1)])
            for query, text in asked.items()
            if (candidates := built.rows(query, top_ranked.get(query, []))) and text.strip()
        )
        for ranked in rerank_run(run, asked, index, self._encoder(), **self._how):
            assert ranked.asked.query_id is not None
            results[ranked.asked.query_id] = {
                built.ids[int(hit.id)]: hit.score for hit in ranked.hits
            }
        return results

    @property
    def _how(self) -> dict[str, Any]:
        """The setting as a search and a reranking take it. By words alone any method serves."""
        setting = self.setting
        method = "hs" if setting.method == WORDS else setting.method
        return {"method": method, "alpha": setting.alpha, "lexical": setting.lexical}

    def _encoder(self) -> StoredEncoder:
        """What the index is built from and queries are embedded with."""
        if self.setting.fit == "calibrated" and self.setting.standardize != "none":
            return _Standardised(self.stored, self.setting.standardizer(self._fits.calibrated))
        return self.stored


@dataclass
class _Built:
    """An index whose document ids are row numbers of a corpus; None where no document has text.

    places: the row of each document, None where it has no text.
    """

    ids: Sequence[str]
    index: Index | None
    places: dict[str, str | None] = field(default_factory=dict)

    def rows(self, query: str, candidates: Sequence[str]) -> list[str]:
        """Document ids in the index of a query's candidates, those without text left out."""
        for candidate in candidates:
            if candidate not in self.places:
                raise MisuseError(
                    f"candidate {candidate!r} of query {query!r} is not in the corpus; is the data "
                    "set whole?"
                )
        return [row for candidate in candidates if (row := self.places[candidate]) is not None]


class _Indexes:
    """The indexes of one corpus, one for each way of standardising; another corpus drops them."""

    def __init__(self) -> None:
        self._corpus = b""
        self._built: dict[tuple[str, str], _Built] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def of(
        self, setting: Setting, ids: list[str], texts: list[str], encoder: TextEncoder
    ) -> _Built:
        digest = hashlib.sha256()
        for identifier, text in zip(ids, texts, strict=True):
            digest.update(f"{len(identifier)} {len(text)} {identifier}{text}".encode())
        if digest.digest() != self._corpus:
            self.close()
            self._corpus = digest.digest()
        key = (setting.standardize, setting.fit)
        if key not in self._built:
            self._built[key] = self._build(setting, ids, texts, encoder)
        return self._built[key]

    def close(self) -> None:
        for built in self._built.values():
            if built.index is not None:
                built.index.close()
        self._built.clear()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def _build(
        self, setting: Setting, ids: list[str], texts: list[str], encoder: TextEncoder
    ) -> _Built:
        built = _Built(ids, None)
        for row, (identifier, text) in enumerate(zip(ids, texts, strict=True)):
            if built.places.get(identifier) is None:
                built.places[identifier] = str(row) if text.strip() else None
        if not any(built.places.values()):
            return built
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="moee-index-bench-")
        directory = Path(self._directory.name) / f"{setting.standardize}-{setting.fit}"
        build_index(
            directory,
            (Document(str(row), text) for row, text in enumerate(texts)),
            encoder,
            # Rows of a fit of their own are standardised before they come here.
            standardize=setting.standardize if setting.fit == "corpus" else "none",
            index_type="flat",
        )
        # Without the encoder: an index that holds it would keep itself alive through _INDEXES.
        built.index = Index.open(directory)
        return built


class _Standardised(StoredEncoder):
    """Its vectors are standardised already, float32."""

    def __init__(self, stored: StoredEncoder, standardizer: Standardizer) -> None:
        super().__init__(stored.store, stored._loader, stored.identity, stored.checkpoint)
        self._standardizer = standardizer

    def plan(self, texts: Sequence[str], *, query: bool = False) -> StoredPlan:
        return StoredPlan(self.rows(texts, query=query), self._standardizer.apply)

    def encode(
        self, texts: Sequence[str], *, query: bool = False, progress: Progress | None = None
    ) -> Embeddings:
        return self._standardizer.apply(super().encode(texts, query=query, progress=progress))
