"""A search of an index: what is asked is checked, queries are embedded, hits become JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from moee_index.errors import MisuseError
from moee_index.fusion import Method
from moee_index.index.hits import Hits
from moee_index.index.lexical.syntax import ParsedQuery, parse_query, plain_query
from moee_index.index.search.request import SearchRequest
from moee_index.index.snippets import WIDTH
from moee_index.serve.engine.engine import QUERY_TOKENS
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import RevisionError, UnknownNameError
from moee_index.serve.floats import decoded
from moee_index.serve.indexes import Version
from moee_index.serve.searchable import Searchable
from moee_index.serve.server import Server
from moee_index.text import check_texts, shown
from moee_index.types import Embeddings


@dataclass(frozen=True)
class Search:
    """What is asked of an index: by texts, by raw vectors of one query, or by a document's id.

    options: keyword arguments of `Index.search`. syntax: as of that; snippet_width: characters of a
    hit's snippet, None for no snippets; revision: the only one that may answer; partial: whether
    an answer of some segments will do where others are not there.
    """

    index: str | None = None
    texts: Sequence[str] | None = None
    vector: Embeddings | None = None
    like: str | None = None
    k: int = 10
    offset: int = 0
    method: Method = "sum"
    options: dict[str, Any] = field(default_factory=dict)
    facets: Sequence[str] = ()
    partial: bool = False
    revision: int | None = None
    syntax: bool = False
    snippet_width: int | None = WIDTH

    @cached_property
    def parsed(self) -> list[ParsedQuery]:
        """The queries with their conditions. Raises MisuseError for a phrase without end."""
        read = parse_query if self.syntax else plain_query
        return [read(text) for text in self.texts or ()]

    def check(self, most_hits: int, most_filter: int) -> SearchRequest:
        """Raises MisuseError for what does not go together or is beyond the limits."""
        asked = (self.texts is not None) + (self.vector is not None) + (self.like is not None)
        if asked != 1:
            raise MisuseError("ask by one of query, vector and like")
        if self.texts is not None:
            if not self.texts:
                raise MisuseError("there is no query; give at least one")
            for text in check_texts(self.texts, "query"):
                if not text.strip():
                    raise MisuseError("the query is empty; give some text")
        queries = 1 if self.texts is None else len(self.texts)
        if queries * (self.k + self.offset) > most_hits:
            raise MisuseError(
                f"{queries} x (k + offset) is {queries * (self.k + self.offset)}; a request may "
                f"ask for {most_hits} hits in all"
            )
        condition = self.options.get("filter")
        if condition is not None and len(condition.encode("utf-8", "replace")) > most_filter:
            raise MisuseError(f"the filter has more than {most_filter} bytes; take a shorter one")
        if self.facets and len({query.conditions for query in self.parsed}) > 1:
            raise MisuseError(
                "facets count the documents of one query, and these have different conditions"
            )
        request = SearchRequest.checked(self.k + self.offset, method=self.method, **self.options)
        if request.words(0.0) and self.texts is None:
            raise MisuseError("words count in a search by query alone: leave out lexical")
        return request

    def words(self, request: SearchRequest, index: Searchable) -> float:
        """The weight of words: as requested, else the index's; none where there is no text."""
        return 0.0 if self.texts is None else request.words(index.lexical)


@dataclass(frozen=True)
class Answered:
    """The hits of a query, as JSON has them. how: `Hits.how`."""

    how: dict[str, Any]
    hits: list[dict[str, Any]]


async def search(server: Server, asked: Search, trace: Trace) -> list[dict[str, Any]]:
    """An answer a query, as `query --json` prints it, with the revision that gave it."""
    engine, limits = server.engine, server.settings.limits
    request = asked.check(limits.hits, limits.filter)
    served = server.indexes.get(asked.index)
    started = time.perf_counter()
    with ExitStack() as stack:
        async with engine.in_time():
            await engine.in_thread(served.refresh)
            version = stack.enter_context(served.holding())
            index = version.index.for_request(partial=asked.partial)
            await engine.in_thread(_check, version, index, asked, request)
            trace.about |= {"index": served.name, "revision": version.revision}
            texts = asked.texts
            weight = asked.words(request, index)
            trace.note(texts or ())
            embeddings = asked.vector
            found, tokens, cost = None, None, QUERY_TOKENS * len(texts or (1,))
            if texts is not None and weight < 1:
                encoder = await engine.encoder(served.model)
                plain = [query.text for query in asked.parsed]
                found = server.queries.look_up(served.model, plain)
                tokens = await engine.tokenize(encoder, found.missing, trace, query=True)
                cost += tokens.count
            with engine.admitted(cost):
                if found is not None and tokens is not None:
                    if found.missing:
                        rows = await engine.embed(tokens, trace)
                        server.queries.keep(served.model, found, rows)
                    embeddings = found.rows()
                with trace.stage("scan"):
                    answers, facets = await engine.in_thread(
                        _answers, version, index, asked, request, embeddings
                    )
    seconds = (time.perf_counter() - started) / max(1, len(answers))
    return [
        _fields(version, index, asked, request, position, answered, facets, seconds)
        for position, answered in enumerate(answers)
    ]


def _check(version: Version, index: Searchable, asked: Search, request: SearchRequest) -> None:
    """Raises what is wrong with a request, before a text is embedded."""
    if asked.revision is not None and asked.revision != version.revision:
        raise RevisionError(
            f"{version.name} is at revision {version.revision}, not {asked.revision}; ask again "
            "without one, or for that"
        )
    if asked.like is not None and not index.documents([asked.like]):
        raise UnknownNameError(f"{version.name} has no document {shown(asked.like)!r}")
    index.check_filter(request.filter)
    index.check_lexical(request.lexical)
    index.check_conditions(asked.parsed)


def _answers(
    version: Version,
    index: Searchable,
    asked: Search,
    request: SearchRequest,
    embeddings: Embeddings | None,
) -> tuple[list[Answered], list[dict[str, Any]]]:
    """The hits of each query as JSON has them, and the facets."""
    # Its client may leave meanwhile, and give up the version.
    with version.held():
        facets = []
        if asked.facets:
            conditions = asked.parsed[0].conditions if asked.parsed else ()
            counts = index.count_values(asked.facets, request.filter, conditions)
            facets = [facet.as_json() for facet in counts]
        if asked.like is not None:
            hits = [index.answer_like(replace(request, lexical=0.0), asked.like)]
        elif asked.texts is None:
            hits = index.answer(request, embeddings)
        else:
            hits = index.answer_parsed(request, embeddings, asked.parsed)
        texts = [query.text for query in asked.parsed] or [""]
        shown = zip(hits, texts, strict=True)
        return [_hits(index, asked, each, text) for each, text in shown], facets


def _hits(index: Searchable, asked: Search, hits: Hits, text: str) -> Answered:
    """The hits of a query, each with the best part of its text."""
    shown, width = hits[asked.offset :], asked.snippet_width
    if width is None:
        return Answered(hits.how(), [hit.as_json() for hit in shown])
    snippets = index.snippets(text)
    fields = [hit.as_json() | snippets.snippet(hit.text, width).as_json() for hit in shown]
    return Answered(hits.how(), fields)


def _fields(
    version: Version,
    index: Searchable,
    asked: Search,
    request: SearchRequest,
    position: int,
    answered: Answered,
    facets: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """An answer as `query --json` prints it."""
    details: dict[str, Any] = {
        "index": version.name,
        "revision": version.revision,
        "method": request.method,
        "alpha": request.weight(index.alpha),
    }
    if weight := asked.words(request, index):
        details["lexical"] = weight
    if asked.like is not None:
        details["like"] = asked.like
    return {
        "query": None if asked.texts is None else asked.texts[position],
        "query_id": None,
        **details,
        **answered.how,
        **({"partial": True, "missing_segments": list(index.missing)} if index.missing else {}),
        "took_ms": seconds * 1000,
        **({"facets": facets} if asked.facets else {}),
        "hits": answered.hits,
    }


def raw_vector(hs: str, rw: str) -> Embeddings:
    """Raw vectors of one query from base64 of little-endian float32. Raises MisuseError."""
    return Embeddings(decoded("vector.hs", hs)[None, :], decoded("vector.rw", rw)[None, :])
