"""What a head and its shards send each other, as JSON has it: each kind of value both ways.

Numbers of a score are written so that they are read as the very same; vectors are base64 of
little-endian float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from moee_index.errors import MisuseError
from moee_index.index.filters import Filter
from moee_index.index.hits import Hits
from moee_index.index.lexical.bm25 import Bm25
from moee_index.index.lexical.statistics import Counts
from moee_index.index.lexical.syntax import Condition
from moee_index.index.listing import Facet
from moee_index.index.search.request import SearchRequest
from moee_index.index.snapshot import Passage
from moee_index.serve.floats import decoded, encoded
from moee_index.types import Document, Embeddings, Hit, Pair

# Of all that is here; a head asks no shard that has another.
FORMAT = 1
# Where a head finds it.
ROOT = "/v1/shard"

_PLAIN = ("k", "method", "alpha", "min_score", "passages", "lexical", "every_row", "recall")


def request_json(request: SearchRequest) -> dict[str, Any]:
    """A request whose filter was checked."""
    condition = None if request.filter is None else request.filter.text
    plain = {name: getattr(request, name) for name in _PLAIN}
    return {**plain, "filter": condition, "k1": request.bm25.k1, "b": request.bm25.b}


def request_from(stored: Mapping[str, Any]) -> SearchRequest:
    """Raises MisuseError, FilterError."""
    options = {name: value for name, value in stored.items() if name != "every_row"}
    request = SearchRequest.checked(**options)
    return replace(
        request, filter=checked_filter(stored["filter"]), every_row=bool(stored["every_row"])
    )


def checked_filter(text: str | None) -> Filter | None:
    """A filter that was checked against the documents of all shards. Raises FilterError."""
    return None if text is None else replace(Filter.parse(text), checked=True)


def vectors_json(embeddings: Embeddings | None) -> dict[str, Any] | None:
    """Raw rows."""
    if embeddings is None:
        return None
    return {part: encoded(values) for part, values in embeddings}


def vectors_from(stored: Mapping[str, str] | None, dims: Pair[int]) -> Embeddings | None:
    """As `rows_from`, of what may be left out."""
    return None if stored is None else rows_from(stored, dims)


def rows_from(stored: Mapping[str, str], dims: Pair[int]) -> Embeddings:
    """Raises MisuseError for what are no rows of so many dimensions."""
    parts = {}
    for part, dim in dims:
        values = decoded(f"vectors.{part}", stored[part])
        if len(values) % dim:
            raise MisuseError(f"vectors.{part} has {len(values)} numbers, not rows of {dim}")
        parts[part] = values.reshape(-1, dim)
    if len(parts["hs"]) != len(parts["rw"]):
        raise MisuseError(
            f"vectors.hs has {len(parts['hs'])} rows and vectors.rw {len(parts['rw'])}"
        )
    return Embeddings(parts["hs"], parts["rw"])


def conditions_json(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Of a query."""
    return [asdict(condition) for condition in conditions]


def conditions_from(stored: Sequence[Mapping[str, Any]]) -> list[Condition]:
    return [Condition(**each) for each in stored]


def counts_json(counts: Counts) -> dict[str, Any]:
    """What the words of queries weigh by."""
    return asdict(counts)


def counts_from(stored: Mapping[str, Any]) -> Counts:
    """Raises MisuseError for a term in more rows than there are."""
    rows, frequencies = stored["rows"], stored["frequencies"]
    if any(not 0 <= frequency <= rows for frequency in frequencies.values()):
        raise MisuseError(f"a term is in more than the {rows} rows that there are")
    return Counts(rows, stored["words"], frequencies)


def bm25_json(parameters: Bm25) -> dict[str, float]:
    return {"k1": parameters.k1, "b": parameters.b}


def hits_json(hits: Hits) -> dict[str, Any]:
    """The answer to one query."""
    return {**hits.how(), "hits": [hit.as_json() for hit in hits]}


def hits_from(stored: Mapping[str, Any]) -> Hits:
    return Hits(
        [Hit.from_json(each) for each in stored["hits"]], stored["exact"], stored.get("recall")
    )


def facet_json(facet: Facet) -> dict[str, Any]:
    return facet.as_json()


def facet_from(stored: Mapping[str, Any]) -> Facet:
    counts = tuple((each["value"], each["count"]) for each in stored["values"])
    return Facet(stored["field"], counts, stored["missing"])


def document_json(document: Any) -> dict[str, Any]:
    """A stored document, without what only its segment needs."""
    return {"id": document.id, "text": document.text, "metadata": document.metadata}


def document_from(stored: Mapping[str, Any]) -> Document:
    return Document(stored["id"], stored["text"], stored["metadata"])


def passage_json(passage: Passage) -> dict[str, Any]:
    """row: of the whole index."""
    return asdict(passage)


def passage_from(stored: Mapping[str, Any]) -> Passage:
    return Passage(stored["id"], stored["text"], stored["metadata"], stored["row"])
