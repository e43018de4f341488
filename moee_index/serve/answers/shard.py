"""What a server that holds some segments of an index tells a head, which knows the others.

Rows are numbered as in the whole index. Words weigh as all segments together have it: that is told
by whoever asks.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors.numpy import save

from moee_index.errors import MisuseError
from moee_index.index.lexical.bm25 import Bm25
from moee_index.index.lexical.scores import QueryScores, WordScores
from moee_index.index.lexical.statistics import Counts, Statistics, query_terms
from moee_index.index.lexical.syntax import Condition
from moee_index.index.search.request import SearchRequest
from moee_index.index.segment import find_live
from moee_index.serve.errors import RevisionError
from moee_index.serve.indexes import ServedIndex, Version
from moee_index.serve.local import LocalIndex
from moee_index.serve.shards import wire
from moee_index.text import check_texts
from moee_index.types import Embeddings


def local(version: Version) -> LocalIndex:
    """The index of a version, whose segments are on this machine."""
    assert isinstance(version.index, LocalIndex)
    return version.index


def check_version(version: Version, digest: str, revision: int) -> None:
    """Raises RevisionError where another version is meant."""
    if digest == version.digest:
        return
    if revision == version.revision:
        raise RevisionError(f"{version.name} is another index, or was built anew")
    raise RevisionError(f"{version.name} is at revision {version.revision}, not {revision}")


def holdings(served: ServedIndex) -> dict[str, Any]:
    """Which version is served here, and which of its segments: what a head looks at again and
    again."""
    with served.held() as version:
        index = local(version)
        held, manifest = index.snapshot.held, index.manifest
        return {
            "format": wire.FORMAT,
            "index": served.name,
            "revision": version.revision,
            "digest": version.digest,
            "created": manifest.created,
            "encoder": index.spec.stored(),
            "first": held.start,
            "last": held.stop - 1,
            "segments": len(manifest.segments),
            "documents": len(index),
        }


def description(index: LocalIndex, whole: bool) -> dict[str, Any]:
    """The fields of the documents here; with `whole` also what describes all of the index: the
    manifest, the standardizer and the token weights."""
    known = index.fields
    fields = None if known is None else {name: sorted(kinds) for name, kinds in known.items()}
    if not whole:
        return {"fields": fields}
    weights = index.token_weights
    return {
        "fields": fields,
        "manifest": _base64(index.written),
        "standardizer": _base64(save(index.standardizer.to_arrays())),
        "token_weights": None if weights is None else _base64(weights.to_bytes()),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def words(index: LocalIndex, terms: Sequence[str]) -> dict[str, Any]:
    """How many rows there are, how many words they have, how many rows hold each term: of those
    that count; holding: of all, which snippets go by."""
    counts = index.snapshot.statistics.counts(check_texts(terms, "term"))
    return {**wire.counts_json(counts), "holding": index.snapshot.rows_with(terms)}


def _counted(index: LocalIndex, texts: Sequence[str], counts: Counts) -> Statistics:
    """The words of the rows here, weighed as all rows have it. Raises MisuseError where a word is
    not told of."""
    snapshot = index.snapshot
    needed = {
        term for text in check_texts(texts, "query") for term in query_terms(snapshot.words, text)
    }
    if not needed <= counts.frequencies.keys():
        raise MisuseError(
            "the queries have words that were not counted: head and shard split texts "
            "differently; run the same version of moee-index on both"
        )
    return snapshot.statistics.counted(counts)


def largest(index: LocalIndex, texts: Sequence[str], counts: Counts, bm25: Bm25) -> dict[str, Any]:
    """Each query's largest BM25 of any row here that counts."""
    statistics = _counted(index, texts, counts)
    return {"largest": [QueryScores(text, statistics, bm25).largest for text in texts]}


def answers(
    index: LocalIndex,
    request: SearchRequest,
    embeddings: Embeddings | None,
    texts: Sequence[str] | None,
    conditions: Sequence[Condition],
    counts: Counts | None,
    most: Sequence[float] | None,
) -> dict[str, Any]:
    """The best hits of each query among the rows here. most: each query's largest BM25 of any row
    of the index."""
    if embeddings is not None and texts is not None and len(texts) != len(embeddings):
        raise MisuseError(f"there are {len(embeddings)} vectors and {len(texts)} texts of queries")
    scores = None
    if request.words(0.0):
        if texts is None or counts is None or most is None or len(most) != len(texts):
            raise MisuseError("a search by words needs texts, counts and largest, one of each")
        statistics = _counted(index, texts, counts)
        scores = WordScores(texts, statistics, request.words(0.0), request.bm25, most)
    found = index.answer(request, embeddings, texts, conditions, scores)
    return {"answers": [wire.hits_json(hits) for hits in found]}


def like(
    index: LocalIndex, request: SearchRequest, identifier: str, rows: Embeddings
) -> dict[str, Any]:
    """The documents here most like one whose raw rows are told, itself left out."""
    if index.documents([identifier]):
        return wire.hits_json(index.answer_like(request, identifier))
    return wire.hits_json(index.answer_like_rows(request, rows))


def documents(index: LocalIndex, ids: Sequence[str]) -> dict[str, Any]:
    """Those that are here."""
    found = index.documents(ids)
    return {"documents": {name: wire.document_json(each) for name, each in found.items()}}


def passages(index: LocalIndex, ids: Sequence[str]) -> dict[str, Any]:
    """Those that are here, by names; documents: the names that are a document's id."""
    found = index.passages(ids)
    named = {name: [wire.passage_json(each) for each in some] for name, some in found.items()}
    return {"passages": named, "documents": list(index.documents(list(found)))}


def rows_of(index: LocalIndex, identifier: str) -> dict[str, Any]:
    """The raw rows of a document; null where it is not here."""
    match = find_live(index.snapshot.segments, check_texts([identifier], "id")).get(identifier)
    if match is None:
        return {"vectors": None}
    rows = slice(match[1].rows.start, match[1].rows.stop)
    raw = index.snapshot.segments[match[0]].raw.take(rows)
    return {"vectors": wire.vectors_json(raw)}


def vectors_at(index: LocalIndex, rows: Sequence[int]) -> dict[str, Any]:
    """Raw rows by their numbers. Raises MisuseError for one that is not here."""
    first, stop = int(index.snapshot.begins[0]), int(index.snapshot.begins[-1])
    if not all(first <= row < stop for row in rows):
        raise MisuseError(f"a row is not among those from {first} to {stop - 1}")
    return {"vectors": wire.vectors_json(index.vectors_at(rows))}


def values(
    index: LocalIndex,
    fields: Sequence[str],
    condition: str | None,
    conditions: Sequence[Condition],
) -> dict[str, Any]:
    """How many documents here match, and how many of them have each value of some fields."""
    checked = wire.checked_filter(condition)
    facets = index.count_values(fields, checked, conditions, checked=True)
    return {
        "matching": index.count_documents(checked, conditions),
        "facets": [wire.facet_json(facet) for facet in facets],
    }


def first(index: LocalIndex) -> Mapping[str, Any]:
    """The first document here; null where there is none."""
    found = index.first()
    return {"document": None if found is None else wire.document_json(found)}
