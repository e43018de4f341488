"""An index as its users see it: opened, searched, closed.

How a search joins the segments is left to hits.py, writing to build.py, add.py and change.py.
Everything is opened at once, so that a reader keeps its version while newer ones appear and take
its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack, overload

from moee_index.errors import MisuseError
from moee_index.fusion import Method, Standardizer
from moee_index.index.answering import OneIndex
from moee_index.index.held import Segments
from moee_index.index.hits import Hits, Search, more_like, stored_rows
from moee_index.index.in_use import InUse
from moee_index.index.lexical.bm25 import LUCENE
from moee_index.index.lexical.syntax import Condition, ParsedQuery, parse_query, plain_query
from moee_index.index.model_path import located
from moee_index.index.search.request import (
    SearchOptions,
    SearchRequest,
    check_flag,
    check_queries,
    query_texts,
)
from moee_index.index.snapshot import Passage, Snapshot
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.layout import index_directory
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.revisions import newest
from moee_index.index.store.token_weights import token_weights_of, with_weights_of
from moee_index.index.write.resume import check_encoder, check_spec
from moee_index.text import check_text, check_texts
from moee_index.token_weights import TokenWeights
from moee_index.types import Embeddings, EncoderSpec, TextEncoder

if TYPE_CHECKING:
    from moee_index.index.filters import Filter
    from moee_index.index.lexical.matches import IndexWords
    from moee_index.index.lexical.scores import WordScores
    from moee_index.index.verify import VerifyReport
    from moee_index.index.write.windows import Documents

LoadEncoder = Callable[[EncoderSpec], TextEncoder]


class Index(OneIndex):
    """A finished index, opened for reading. A context manager, used from any number of threads:
    calls in flight do not mix, and each answers as it would alone.

    Make one with `Index.build` or `Index.open`. After `close` every call but those for what the
    manifest says (`len`, `spec`, `alpha`, `lexical`) raises MisuseError. It cannot be pickled:
    another process opens the directory itself. snapshot: what it holds, segment by segment.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        block_rows: int | None,
        held: Segments | None = None,
    ) -> None:
        numbers = None if held is None else held.of(directory, len(manifest.segments))
        self.snapshot = Snapshot(directory, manifest, numbers)
        self.directory = directory
        self.manifest = manifest
        self._load: LoadEncoder | None = None
        self._encoder: TextEncoder | None = None
        self._loading = threading.Lock()
        self._in_use = InUse(self._close, self._is_closed)
        segments = self.snapshot.segments
        try:
            self._searchers = [
                segment.searcher(self.standardizer, block_rows) for segment in segments
            ]
        except BaseException:
            self.snapshot.close()
            raise

    @classmethod
    def build(
        cls,
        directory: str | Path,
        documents: Documents,
        encoder: TextEncoder,
        **options: Any,
    ) -> Index:
        """Build an index (`build_index` takes the same options), then open it with the encoder."""
        from moee_index.index.build import build_index

        build_index(directory, documents, encoder, **options)
        return cls.open(directory, encoder)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        encoder: TextEncoder | LoadEncoder | None = None,
        *,
        block_rows: int | None = None,
        segments: Segments | None = None,
    ) -> Self:
        """Open a finished index.

        encoder: what embeds queries, or a function from the index's `EncoderSpec` to one, called
        at the first query; None for `search_embeddings` alone. block_rows: documents scanned at a
        time; None chooses. segments: the ones to open, where other machines have the others: no
        file of these is needed here. Documents, rows and hits are then those of the segments alone,
        numbered as in the whole index; spec, default weights and manifest are the whole index's.

        Raises NotAnIndexError, IndexDamagedError, FingerprintMismatchError, StorageError where a
        file may not or cannot be read.
        """
        directory = index_directory(directory)
        if block_rows is not None and block_rows < 1:
            raise MisuseError(f"block_rows is {block_rows!r}; it is 1 or more, or None")
        index = newest(directory, lambda manifest: cls(directory, manifest, block_rows, segments))
        if encoder is not None:
            try:
                index.use_encoder(encoder)
            except BaseException:
                index.close()
                raise
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise MisuseError(
            f"the index {self.directory} cannot be pickled or copied, for it holds open files; "
            "open it where it is needed with Index.open"
        )

    def close(self) -> None:
        """Close files and threads; the index can no longer be searched.

        Calls that other threads have in flight end with their answers, and the last of them then
        closes the files. Closing again does nothing.
        """
        self._in_use.close()

    def held(self) -> AbstractContextManager[None]:
        """Keeps files open until a block ends, whoever calls `close` meanwhile. Raises MisuseError
        where the index is closed."""
        return self._in_use.held()

    def _close(self) -> None:
        for searcher in self._searchers:
            searcher.close()
        self.snapshot.close()

    def _is_closed(self) -> MisuseError:
        return MisuseError(f"the index {self.directory} is closed; open it again with Index.open")

    # What it holds

    def __len__(self) -> int:
        held = (segment.entry for segment in self.snapshot.segments)
        return sum(entry.documents - entry.deleted_documents for entry in held)

    def located_spec(self) -> EncoderSpec:
        """As `spec`, with its model looked for beside the index where it is not at its place."""
        return located(self.spec, self.directory)

    @property
    def standardizer(self) -> Standardizer:
        """Mean and deviation of each dimension, frozen when the index was built."""
        return self.snapshot.standardizer

    @property
    def fields(self) -> dict[str, set[str]] | None:
        """As `Snapshot.fields`: metadata fields and the kinds of their values."""
        with self.held():
            return self.snapshot.fields

    @property
    def token_weights(self) -> TokenWeights | None:
        """What tokens weigh where texts are pooled by pooling `idf`, else None."""
        return token_weights_of(self.directory, self.manifest)

    def ids(self) -> Iterator[str]:
        """As `Snapshot.ids`: all ids that `vectors` takes, in the order of the index."""
        with self.held():
            names = self.snapshot.ids()
        return self._in_use.each(names)

    def named_rows(self) -> Iterator[tuple[str, int]]:
        """As `Snapshot.named_rows`: name and row of each passage, in the order of the index."""
        return self._in_use.each(self.snapshot.named_rows())

    def documents(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """As `Snapshot.documents`: text and metadata by id; unknown ids are left out."""
        with self.held():
            return self.snapshot.documents(check_texts(ids, "id"))

    def passages(self, ids: Sequence[str]) -> dict[str, list[Passage]]:
        """As `Snapshot.passages`: the passages of documents; unknown ids are left out."""
        with self.held():
            return self.snapshot.passages(check_texts(ids, "id"))

    def vectors(self, ids: Sequence[str]) -> Embeddings:
        """As `Snapshot.vectors`: raw embeddings by id. Raises MisuseError for an unknown id."""
        with self.held():
            return self.snapshot.vectors(check_texts(ids, "id"))

    def vectors_at(self, rows: Sequence[int]) -> Embeddings:
        """As `Snapshot.vectors_at`: raw embeddings of rows of the index."""
        with self.held():
            return self.snapshot.vectors_at(rows)

    def in_order(self) -> Iterator[tuple[StoredDocument, Embeddings]]:
        """As `Snapshot.in_order`: all documents, each with the raw rows of its passages."""
        return self._in_use.each(self.snapshot.in_order())

    def check_filter(self, condition: str | Filter | None) -> None:
        """Raises FilterError for a filter that does not fit this index's documents."""
        with self.held():
            self.snapshot.masks(condition)

    # Encoders

    def check_encoder(self, spec: EncoderSpec) -> None:
        """Raises FingerprintMismatchError naming each field that differs, and both values."""
        check_spec(self.spec, spec, self.directory)

    def _weighted(self, encoder: TextEncoder, *, always: bool = False) -> TextEncoder:
        """An encoder with the index's token weights where it needs some."""
        return with_weights_of(self.directory, self.manifest, encoder, always=always)

    def use_encoder(self, encoder: TextEncoder | LoadEncoder) -> None:
        """Embed queries with this encoder, or with what this function returns at the first query.

        Raises FingerprintMismatchError.
        """
        if callable(encoder) and not isinstance(getattr(encoder, "spec", None), EncoderSpec):
            self._load = encoder
            return
        usable = self._weighted(check_encoder(encoder))
        self.check_encoder(usable.spec)
        self._encoder = usable

    def encoder(self) -> TextEncoder:
        """The encoder in use, loaded on first use and once, whichever threads ask for it.

        Raises MisuseError if there is none.
        """
        with self._loading:
            if self._encoder is None:
                if self._load is None:
                    raise MisuseError(
                        f"{self.directory} was opened without an encoder; give Index.open one, or "
                        "call search_embeddings"
                    )
                loaded = self._weighted(check_encoder(self._load(self.located_spec())), always=True)
                self.check_encoder(loaded.spec)
                self._encoder = loaded
            return self._encoder

    # Search

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        query: str,
        k: int = ...,
        *,
        encoder: TextEncoder | None = ...,
        **options: Unpack[SearchOptions],
    ) -> Hits: ...

    @overload
    def search(
        self,
        query: Sequence[str],
        k: int = ...,
        *,
        encoder: TextEncoder | None = ...,
        **options: Unpack[SearchOptions],
    ) -> list[Hits]: ...

    def search(
        self,
        query: str | Sequence[str],
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
        syntax: bool = False,
        encoder: TextEncoder | None = None,
    ) -> Hits | list[Hits]:
        """The k best documents for a query, or for each of several in one pass.

        alpha: weight of RW in method `sum`; None is the index's default. k above the number of
        documents gives all. Documents that score below `min_score` are left out. Equal scores
        are in document order. filter: a condition on the metadata (index/filters); the answer
        is the exact top k of the documents that match. passages: each passage of a document is
        a hit of its own; otherwise a document is one hit, by its best passage. lexical: weight of
        words in the score, from 0 (vectors alone) to 1 (words alone: no vector is looked at, and
        documents without a word of the query are no hits); None is the index's default. k1, b:
        BM25's parameters. Of an approximate index (type `approx`) exact looks at every row, and
        recall is the share of the ten best that is to be found; None is the index's. syntax: a
        query may hold `"a phrase"`, `+required` and `-without` (lexical/syntax), which decide what
        documents are hits and change no score; otherwise it is plain text. encoder: embeds this
        search's queries instead of the index's encoder.

        Raises MisuseError for an empty query, for k, alpha, method, lexical, k1, b or recall out of
        range, for a phrase without end, and for words or conditions in an index without postings;
        FilterError; FingerprintMismatchError for an encoder other than the one the index was built
        with.
        """
        with self.held():
            pass  # told before a text is embedded
        request = SearchRequest.checked(
            k, method=method, alpha=alpha, filter=filter, min_score=min_score, passages=passages,
            lexical=lexical, k1=k1, b=b, exact=exact, recall=recall,
        )  # fmt: skip
        check_flag("syntax", syntax)
        texts, several = query_texts(query)
        parsed = [parse_query(text) if syntax else plain_query(text) for text in texts]
        if encoder is not None:
            encoder = self._weighted(check_encoder(encoder))
            self.check_encoder(encoder.spec)
        if not texts:
            return []
        self.check_lexical(request.lexical)
        self.check_conditions(parsed)
        embeddings = None
        if request.words(self.lexical) < 1:
            chosen = self.encoder() if encoder is None else encoder
            embeddings = chosen.encode([query.text for query in parsed], query=True)
        answers = self.answer_parsed(request, embeddings, parsed)
        return answers if several else answers[0]

    def search_embeddings(
        self,
        embeddings: Embeddings,
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
        texts: Sequence[str] | None = None,
    ) -> list[Hits]:
        """As `search`, for raw query embeddings: hs [q, d], rw [q, layers * experts]. texts: the
        queries' texts, which a search by words needs: without them words weigh nothing unless
        `lexical` says so.

        Raises MisuseError for other dimensions, ModelError for values that are not finite.
        """
        request = SearchRequest.checked(
            k, method=method, alpha=alpha, filter=filter, min_score=min_score, passages=passages,
            lexical=lexical, k1=k1, b=b, exact=exact, recall=recall,
        )  # fmt: skip
        return self.answer(request, embeddings, texts)

    def like(
        self,
        identifier: str,
        k: int = 10,
        *,
        method: Method = "sum",
        alpha: float | None = None,
        filter: str | Filter | None = None,
        min_score: float | None = None,
        passages: bool = False,
        exact: bool = False,
        recall: float | None = None,
    ) -> Hits:
        """The k documents most like one of the index, itself left out, from its stored vectors: no
        text is embedded. Of a document that was split each passage is a query, and the best counts.

        Raises MisuseError for an id that is not there; what `search` raises for the rest.
        """
        request = SearchRequest.checked(
            k, method=method, alpha=alpha, filter=filter, min_score=min_score, passages=passages,
            exact=exact, recall=recall,
        )  # fmt: skip
        return self.answer_like(request, identifier)

    def answer_like(self, request: SearchRequest, identifier: str) -> Hits:
        """As `like`, for a request that is checked already."""
        with self.held():
            match, rows = stored_rows(self.snapshot, check_text(identifier, "the id"))
            return more_like(self.snapshot, self._searchers, request, rows, match)

    def answer_like_rows(self, request: SearchRequest, rows: Embeddings) -> Hits:
        """As `answer_like`, for the raw rows of a document of another index of the model."""
        with self.held():
            return more_like(self.snapshot, self._searchers, request, rows, None)

    def check_lexical(self, weight: float | None) -> None:
        """Raises MisuseError where words are to count and the index has no postings."""
        if weight:
            with self.held():
                _ = self.snapshot.statistics

    def words(
        self, lexical: float | None = None, k1: float | None = None, b: float | None = None
    ) -> IndexWords | None:
        """What weighs the words of a reranking's candidates by the statistics of this index, so
        that a document's score is the one that a search gives it; None where words weigh nothing.
        Arguments as in `search`. Raises MisuseError.
        """
        request = SearchRequest.checked(
            lexical=lexical, k1=LUCENE.k1 if k1 is None else k1, b=LUCENE.b if b is None else b
        )
        weight = request.words(self.lexical)
        if not weight:
            return None
        from moee_index.index.lexical.matches import IndexWords

        with self.held():
            statistics, begins = self.snapshot.statistics, self.snapshot.begins[:-1]
        return IndexWords(weight, statistics, begins, request.bm25, self.held)

    def answer(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
        words: WordScores | None = None,
    ) -> list[Hits]:
        """As `search_embeddings`, for a request that is checked already. embeddings: may be None
        where words alone count; conditions: of all queries; words: the texts' scores, where more
        indexes decide them."""
        with self.held():
            weight = request.words(0.0 if texts is None else self.lexical)
            if embeddings is not None or weight < 1:
                embeddings = check_queries(embeddings, self.spec.dims)
            search = Search(
                self.snapshot, self._searchers, replace(request, lexical=weight), embeddings, texts,
                words=words, conditions=self.snapshot.conditions(conditions),
            )  # fmt: skip
            return search.hits()

    def check_conditions(self, queries: Iterable[ParsedQuery]) -> None:
        """Raises MisuseError where queries have conditions and the index has no postings."""
        if any(query.conditions for query in queries):
            with self.held():
                self.snapshot.check_conditions()

    # What it is, and whether it is sound

    def info(self) -> dict[str, Any]:
        """What `info INDEX --json` prints (describe.py). Reads a sample of the raw rows for the
        drift. Raises IndexDamagedError."""
        from moee_index.index.describe import describe

        with self.held():
            return describe(self.snapshot)

    def verify(self, full: bool = False) -> VerifyReport:
        """As `verify_index`, for this index's directory."""
        from moee_index.index.verify import verify_index

        return verify_index(self.snapshot.home, full=full)
