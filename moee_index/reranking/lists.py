"""Candidate lists and TREC runs reranked: texts embedded block by block, each list scored.

How a list is scored is in `scoring`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moee_index.errors import CorpusError, MisuseError
from moee_index.fusion import Method, Standardize, Standardizer
from moee_index.readers.candidates import Candidate, CandidateList, as_documents
from moee_index.readers.trec import PassedOver, RunIds, RunLine, check_run_id
from moee_index.reranking.scoring import ListRows, Scoring
from moee_index.reranking.stored import StoredTexts, WordWeights
from moee_index.text import check_text
from moee_index.types import Document, Embeddings, Hit, Notify, TextEncoder

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
    scoring = Scoring.of(method, alpha, k, standardize, standardizer, tell, default_alpha, words)

    def rows_of(gathered: Sequence[ListRows], encoder: TextEncoder) -> RowsOf:
        texts = [document.content for each in gathered for document in each.asked.candidates]
        vectors = _Vectors.of(texts, encoder, query=False)
        return lambda each: vectors.take([document.content for document in each.asked.candidates])

    return _reranked((ListRows(each) for each in lists), rows_of, scoring, encoder, block)


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
    scoring = Scoring.of(method, alpha, k, None, index.standardizer, None, index.alpha, words)

    lists = (_run_list(query_id, lines, queries, index, passed_over) for query_id, lines in run)

    def rows_of(_: Sequence[ListRows], __: TextEncoder) -> RowsOf:
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
) -> ListRows:
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
    return ListRows(request, [stored.row for _, stored in rows])


RowsOf = Callable[[ListRows], Embeddings]


def _reranked(
    lists: Iterable[ListRows],
    rows_of: Callable[[Sequence[ListRows], TextEncoder], RowsOf],
    scoring: Scoring,
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


def _blocks(lists: Iterable[ListRows], block: int) -> Iterator[list[ListRows]]:
    gathered: list[ListRows] = []
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
