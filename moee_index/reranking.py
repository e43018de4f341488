"""Reranking: order given texts for a query, with or without an index, which words need.

Vectors are standardized by the frozen standardizer where there is an index, else by one fitted over
the candidates of the current query (DESIGN, maths 5). Files are read by `readers`.

Scores are those of fusion.score: float64 arithmetic, rounded once, whatever the number of
candidates; equal scores stay in candidate order. Where words alone count nothing is embedded, and
a candidate without a word of the query scores 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moee_index.errors import CorpusError, MisuseError
from moee_index.fusion import (
    Method,
    Scores,
    Standardize,
    Standardizer,
    check_search,
    choose_standardize,
    known,
    score,
    top_k,
    unit_vectors,
)
from moee_index.readers.candidates import Candidate, CandidateList, as_documents
from moee_index.readers.trec import PassedOver, RunIds, RunLine, check_run_id
from moee_index.text import check_text
from moee_index.types import Document, Embeddings, Hit, Notify, TextEncoder, WordMatch

# Lists are gathered up to so many candidates, so that short ones share full batches.
BLOCK = 2048


@dataclass(frozen=True)
class Reranked:
    """A candidate list and its hits, best first.

    alpha: the weight of RW they were scored with; None unless the method is `sum`.
    seconds: what embedding (its share of the block that was embedded together) and scoring took.
    """

    asked: CandidateList
    hits: list[Hit]
    alpha: float | None
    seconds: float


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


def rerank(
    query: str,
    candidates: Iterable[Candidate],
    encoder: TextEncoder | None,
    k: int | None = None,
    *,
    method: Method = "sum",
    alpha: float | None = None,
    standardize: Standardize | None = None,
    standardizer: Standardizer | None = None,
    words: WordWeights | None = None,
) -> list[Hit]:
    """The k best candidates (all without k) for a query, best first.

    candidates: texts, Documents, or mappings with `text` and optionally `id`, `title` and
    metadata; a hit's id is the candidate's, else its position from 0 as text.
    alpha: weight of RW in `sum`, 1.0 unless given; it acts on no other method.
    standardize: which parts to standardise over the candidates; unless given, both from 64
    candidates on and none below (DESIGN, maths 5). standardizer: a frozen one to use instead.
    words: `index.words(0.4)` lets words count by the statistics of an opened index. encoder: may be
    None where words alone count.

    Raises MisuseError for an empty query, invalid candidates, options out of range.
    """
    request = CandidateList(check_text(query, "the query"), as_documents(candidates))
    (ranked,) = rerank_lists(
        [request],
        encoder,
        method=method,
        alpha=alpha,
        k=k,
        standardize=standardize,
        standardizer=standardizer,
        words=words,
    )
    return ranked.hits


def rerank_lists(
    lists: Iterable[CandidateList],
    encoder: TextEncoder | None,
    *,
    method: Method = "sum",
    alpha: float | None = None,
    k: int | None = None,
    standardize: Standardize | None = None,
    standardizer: Standardizer | None = None,
    words: WordWeights | None = None,
    default_alpha: float = 1.0,
    tell: Notify | None = None,
    block: int = BLOCK,
) -> Iterator[Reranked]:
    """Rerank many lists, in their order. Options as in `rerank`; default_alpha: the weight of RW
    in `sum` where alpha is None.

    Lists are gathered until they hold `block` candidates; the block's texts are embedded together,
    equal ones once. Use block=1 to have each answer as soon as its list is there.

    tell: called once with the reason when nothing is standardised because a list is too short.
    """
    _check_encoder(encoder, words)
    scoring = _Scoring.of(method, alpha, k, standardize, standardizer, tell, default_alpha, words)

    def rows_of(gathered: Sequence[_Rows], encoder: TextEncoder) -> RowsOf:
        texts = [document.content for each in gathered for document in each.asked.candidates]
        vectors = _Vectors.of(texts, encoder, query=False)
        return lambda each: vectors.take([document.content for document in each.asked.candidates])

    return _reranked((_Rows(each) for each in lists), rows_of, scoring, encoder, block)


def rerank_run(
    run: Iterable[tuple[str, Sequence[RunLine]]],
    queries: Mapping[str, str],
    index: StoredTexts,
    encoder: TextEncoder | None,
    *,
    method: Method = "sum",
    alpha: float | None = None,
    k: int | None = None,
    lexical: float | None = None,
    k1: float | None = None,
    b: float | None = None,
    block: int = BLOCK,
    passed_over: PassedOver | None = None,
) -> Iterator[Reranked]:
    """Rerank a TREC run over the raw rows of an index: only the queries are embedded.

    run: (query id, its lines) as `trec.read_run_lists` gives them; the scores in it are not used,
    its order is that of equal scores. The index's frozen standardizer is used, and its alpha
    and weight of words (`lexical`; k1, b: BM25's parameters) unless these are given, so that a
    document has the score that a search of the index gives it. encoder: may be None where words
    alone count. passed_over: counts the lines whose document is not in the index, instead
    of an error.

    Raises CorpusError naming line and id where a query is not among the queries, or a document is
    not in the index; MisuseError for a run or queries that are something else.
    """
    if isinstance(run, str | bytes | Path) or not isinstance(run, Iterable):
        raise MisuseError(
            f"the run is of type {type(run).__name__}; give (query id, lines) pairs, as "
            "read_run_lists gives them"
        )
    if not isinstance(queries, Mapping):
        raise MisuseError(f"the queries are of type {type(queries).__name__}, not {{id: text}}")
    if not hasattr(index, "passages"):
        raise MisuseError(f"the index is of type {type(index).__name__}; open it with Index.open")
    words = index.words(lexical, k1, b)
    _check_encoder(encoder, words)
    scoring = _Scoring.of(method, alpha, k, None, index.standardizer, None, index.alpha, words)

    lists = (_run_list(query_id, lines, queries, index, passed_over) for query_id, lines in run)

    def rows_of(_: Sequence[_Rows], __: TextEncoder) -> RowsOf:
        return lambda each: index.vectors_at(each.rows)

    return _reranked(lists, rows_of, scoring, encoder, block)


def check_for_run(lists: Iterable[CandidateList]) -> None:
    """Raises CorpusError for the first id of a query or candidate that a TREC run of the answers
    could not hold."""
    ids = RunIds()
    for number, each in enumerate(lists, 1):
        ids.take(each.query_id, number, each.source)
        for document in each.candidates:
            check_run_id("document", document.id, each.source)


def _check_encoder(encoder: object, words: WordWeights | None) -> None:
    if encoder is None and words is not None and words.weight == 1:
        return
    # A text has a method of that name too.
    if isinstance(encoder, str) or not callable(getattr(encoder, "encode", None)):
        kind = type(encoder).__name__
        raise MisuseError(f"the encoder is of type {kind}; make one with Encoder.load")


def _run_list(
    query_id: str,
    lines: Sequence[RunLine],
    queries: Mapping[str, str],
    index: StoredTexts,
    passed_over: PassedOver | None,
) -> _Rows:
    """The candidate list of a query of a run, with the documents' texts."""
    if query_id not in queries:
        raise CorpusError(
            f"{lines[0].source}: query {query_id!r} is not among the queries; is it the run of "
            "another query file?"
        )
    known = index.passages([line.document_id for line in lines])
    unknown = [line for line in lines if line.document_id not in known]
    if unknown and passed_over is None:
        raise CorpusError(
            f"{unknown[0].source}: document {unknown[0].document_id!r} is not in the index; is it "
            "the run of another corpus? --missing-ok passes over such lines"
        )
    if passed_over is not None:
        passed_over.unknown += len(unknown)
        lines = [line for line in lines if line.document_id in known]
    # A document that was split is there with all its passages, each under the document's id.
    rows = [(line, stored) for line in lines for stored in known[line.document_id]]
    documents = [
        Document(line.document_id, stored.text, stored.metadata, source=line.source)
        for line, stored in rows
    ]
    source = lines[0].source if lines else ""
    request = CandidateList(queries[query_id], documents, query_id, source)
    return _Rows(request, [stored.row for _, stored in rows])


@dataclass(frozen=True)
class _Rows:
    """A candidate list; rows: of a run, the row in the index of each candidate's passage."""

    asked: CandidateList
    rows: Sequence[int] = ()


RowsOf = Callable[[_Rows], Embeddings]


def _reranked(
    lists: Iterable[_Rows],
    rows_of: Callable[[Sequence[_Rows], TextEncoder], RowsOf],
    scoring: _Scoring,
    encoder: TextEncoder | None,
    block: int,
) -> Iterator[Reranked]:
    """Rerank lists block by block. rows_of: from a block to what gives a list's raw rows."""
    for gathered in _blocks(lists, block):
        started = time.perf_counter()
        vectors = None
        if encoder is not None and not scoring.words_alone:
            rows = rows_of(gathered, encoder)
            queries = _Vectors.of([each.asked.query for each in gathered], encoder, query=True)
            vectors = queries, rows
        shared = (time.perf_counter() - started) / len(gathered)
        for each in gathered:
            started = time.perf_counter()
            request = each.asked
            hits = []
            if request.candidates:
                both = None
                if vectors is not None:
                    both = vectors[0].take([request.query]), vectors[1](each)
                hits = scoring.hits(each, both)
            yield Reranked(request, hits, scoring.alpha, shared + time.perf_counter() - started)


@dataclass
class _Scoring:
    """Checked options of one reranking, and whether a note on standardising was shown."""

    method: Method
    alpha: float | None
    k: int | None
    standardize: Standardize | None
    standardizer: Standardizer | None
    tell: Notify | None
    words: WordWeights | None

    @classmethod
    def of(
        cls,
        method: Method,
        alpha: float | None,
        k: int | None,
        standardize: Standardize | None,
        standardizer: Standardizer | None,
        tell: Notify | None,
        default_alpha: float,
        words: WordWeights | None,
    ) -> _Scoring:
        weight = check_search(method, alpha, 1 if k is None else k, default_alpha=default_alpha)
        frozen: object = standardizer
        if frozen is not None and not isinstance(frozen, Standardizer):
            kind = type(frozen).__name__
            raise MisuseError(
                f"the standardizer is of type {kind}; give an index's, or leave it out"
            )
        if standardize is not None:
            choose_standardize(0, standardize)
            if standardizer is not None:
                raise MisuseError(
                    f"standardize is {standardize!r}, but a frozen standardizer is given; "
                    "leave one of them out"
                )
        return cls(method, weight, k, standardize, standardizer, tell, words)

    @property
    def words_alone(self) -> bool:
        """Whether no vector is looked at."""
        return self.words is not None and self.words.weight == 1

    def hits(self, each: _Rows, vectors: tuple[Embeddings, Embeddings] | None) -> list[Hit]:
        """The hits of a list that is not empty. vectors: raw, of its query and its candidates; None
        where words alone count."""
        documents = each.asked.candidates
        matches = self._matches(each)
        scores = self._scores(vectors, matches)
        order = top_k(scores.score, len(documents))
        # Of a document's passages the best one counts.
        first: dict[str, int] = {}
        for row in order:
            first.setdefault(documents[row].id, int(row))
        best = list(first.values())[: self.k]
        return [
            Hit(
                rank=rank,
                id=documents[row].id,
                score=float(scores.score[row]),
                hs=known(scores.hs[row]),
                rw=known(scores.rw[row]),
                text=documents[row].text,
                metadata=documents[row].metadata,
                **({} if matches is None else matches[row].fields()),
            )
            for rank, row in enumerate(best, 1)
        ]

    def _matches(self, each: _Rows) -> Sequence[WordMatch] | None:
        """What each candidate owes to words; None where these do not count."""
        if self.words is None:
            return None
        query = self.words.query(each.asked.query)
        if each.rows:
            return query.of_rows(each.rows)
        return query.of_texts([document.content for document in each.asked.candidates])

    def _scores(
        self,
        vectors: tuple[Embeddings, Embeddings] | None,
        matches: Sequence[WordMatch] | None,
    ) -> Scores:
        shares = np.array([match.share for match in matches or ()])
        if vectors is None:
            unknown = np.full(len(shares), math.nan, dtype=np.float32)
            return Scores(shares.astype(np.float32), unknown, unknown)
        query, rows = vectors
        frozen = self.standardizer or self._fitted(rows)
        words = None if self.words is None else (self.words.weight, shares)
        return score(
            unit_vectors(query, frozen), unit_vectors(rows, frozen), self.method, self.alpha, words
        )

    def _fitted(self, rows: Embeddings) -> Standardizer:
        which, reason = choose_standardize(len(rows), self.standardize)
        if self.tell is not None and self.standardize is None and which == "none":
            self.tell(
                f"nothing is standardised: {reason}; --standardize both standardises regardless"
            )
            self.tell = None
        fitted = Standardizer.fit(rows, which)
        if self.tell is not None and (why := fitted.not_standardized(len(rows))):
            self.tell(f"standardize {fitted.which}: {why}")
            self.tell = None
        return fitted


@dataclass(frozen=True)
class _Vectors:
    """Embeddings of the different texts of one block."""

    rows: dict[str, int]
    embeddings: Embeddings | None

    @classmethod
    def of(cls, texts: Iterable[str], encoder: TextEncoder, *, query: bool) -> _Vectors:
        rows: dict[str, int] = {}
        for text in texts:
            rows.setdefault(text, len(rows))
        return cls(rows, encoder.encode(list(rows), query=query) if rows else None)

    def take(self, texts: Sequence[str]) -> Embeddings:
        assert self.embeddings is not None
        taken = np.array([self.rows[text] for text in texts], dtype=np.int64)
        return Embeddings(self.embeddings.hs[taken], self.embeddings.rw[taken])


def _blocks(lists: Iterable[_Rows], block: int) -> Iterator[list[_Rows]]:
    gathered: list[_Rows] = []
    size = 0
    for each in lists:
        request = each.asked
        if not check_text(request.query, "the query").strip():
            raise MisuseError(f"{request.source or 'rerank'}: the query is empty")
        gathered.append(each)
        size += max(len(request.candidates), 1)
        if size >= block:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered
