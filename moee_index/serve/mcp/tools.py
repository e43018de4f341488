"""The five tools: what each is called, takes and gives. They only read.

`search` and `fetch` have the shapes that deep-research clients demand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Generic

from moee_index.errors import MisuseError
from moee_index.serve.answers.holdings import document
from moee_index.serve.answers.rerank import rerank
from moee_index.serve.answers.search import Search, search
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import UnknownNameError
from moee_index.serve.indexes import ServedIndex
from moee_index.serve.mcp.arguments import (
    A,
    FetchArguments,
    NoArguments,
    RerankArguments,
    SearchArguments,
    SimilarArguments,
)
from moee_index.serve.mcp.instructions import describe
from moee_index.serve.mcp.results import SNIPPET, hit_result, named, snippet, whole_metadata
from moee_index.serve.server import Server
from moee_index.text import shown

Result = dict[str, Any]


@dataclass(frozen=True)
class Tool(Generic[A]):
    """A tool. about: what an assistant is told; call: what it does with checked arguments."""

    name: str
    title: str
    about: str
    arguments: type[A]
    call: Callable[[Server, A, Trace], Awaitable[Result]]


def _check_index(server: Server, name: str | None) -> None:
    """Raises UnknownNameError that names those there are."""
    if name is not None and name not in server.indexes:
        known = ", ".join(served.name for served in server.indexes)
        raise UnknownNameError(f"there is no index {shown(name)!r}; there are: {known}")


async def _search(server: Server, asked: SearchArguments, trace: Trace) -> Result:
    """Of several indexes the hits are taken in turn, for scores of different models do not
    compare."""
    options = asked.model_dump(include={"alpha", "lexical", "filter"}, exclude_none=True)
    _check_index(server, asked.index)
    alone = asked.index is not None or len(server.indexes) < 2
    if not alone and asked.filter is not None:
        raise MisuseError("a filter is for one index: name it with the argument index")
    names = [asked.index] if alone else [served.name for served in server.indexes]
    # What stands before the offset is known only once the lists are joined.
    k, offset = (asked.k, asked.offset) if alone else (asked.k + asked.offset, 0)
    found: list[list[Result]] = []
    for name in names:
        request = Search(
            index=name, texts=[asked.query], k=k, offset=offset, method=asked.method,
            options=options, syntax=asked.syntax, snippet_width=SNIPPET,
        )  # fmt: skip
        (answer,) = await search(server, request, trace)
        found.append(_results(server, answer))
    if alone:
        return {"results": found[0]}
    turns = chain.from_iterable(zip_longest(*found))
    joined = [result for result in turns if result is not None]
    return {"results": joined[asked.offset :][: asked.k]}


async def _similar(server: Server, asked: SimilarArguments, trace: Trace) -> Result:
    options = asked.model_dump(include={"alpha", "filter"}, exclude_none=True)
    served, identifier = await server.engine.in_thread(_find, server, asked.index, asked.id)
    request = Search(
        index=served.name, like=identifier, k=asked.k, offset=asked.offset, method=asked.method,
        options=options, snippet_width=SNIPPET,
    )  # fmt: skip
    (answer,) = await search(server, request, trace)
    return {"results": _results(server, answer)}


async def _fetch(server: Server, asked: FetchArguments, trace: Trace) -> Result:
    def fetched() -> Result:
        served, identifier = _find(server, asked.index, asked.id)
        found = document(served, identifier)
        trace.about |= {"index": found["index"], "revision": found["revision"]}
        text, start = found["text"], asked.offset
        if start and start >= len(text):
            raise MisuseError(f"offset is {start}, and the text has {len(text)} characters")
        part = text[start : start + asked.max_chars]
        end = start + len(part)
        return {
            **named(_public_id(server, served.name, identifier), found["metadata"]),
            "text": part,
            "metadata": whole_metadata(found["metadata"]),
            "index": served.name,
            "characters": len(text),
            **({"next_offset": end} if end < len(text) else {}),
        }

    return await server.engine.in_thread(fetched)


async def _rerank(server: Server, asked: RerankArguments, trace: Trace) -> Result:
    _check_index(server, asked.index)
    ranked = await rerank(
        server, asked.index, asked.query, asked.documents, trace,
        k=asked.top_n, method=asked.method, alpha=asked.alpha,
    )  # fmt: skip
    results = [
        {
            "index": int(hit.id),
            "relevance_score": round(ranked.relevance(hit), 4),
            "text": snippet(asked.documents[int(hit.id)]),
        }
        for hit in ranked.hits
    ]
    return {"results": results}


async def _list_indexes(server: Server, _: NoArguments, __: Trace) -> Result:
    def listed() -> Result:
        return {"indexes": [describe(served) for served in server.indexes]}

    return await server.engine.in_thread(listed)


def _results(server: Server, answer: Result) -> list[Result]:
    index = answer["index"]
    return [hit_result(hit, _public_id(server, index, hit["id"]), index) for hit in answer["hits"]]


def _public_id(server: Server, index: str, identifier: str) -> str:
    """A document's id that says by itself where the document is."""
    return identifier if len(server.indexes) == 1 else f"{index}/{identifier}"


def _find(server: Server, index: str | None, identifier: str) -> tuple[ServedIndex, str]:
    """The index that a document is in, and its id there. Raises UnknownNameError, MisuseError."""
    _check_index(server, index)
    prefix, slash, rest = identifier.partition("/")
    if index is None and len(server.indexes) > 1 and slash and prefix in server.indexes:
        return server.indexes.get(prefix), rest
    if index is None and len(server.indexes) != 1:
        raise UnknownNameError(f"{shown(identifier)!r} names no index; write it as INDEX/ID")
    served = server.indexes.get(index)
    if slash and prefix == served.name:
        try:
            document(served, identifier)
        except UnknownNameError:
            return served, rest
    return served, identifier


TOOLS: Sequence[Tool[Any]] = (
    Tool(
        "search",
        "Search documents",
        "Find documents by meaning. Gives the best first, each with its id, title and a part of "
        "its text; fetch gives the whole text.",
        SearchArguments,
        _search,
    ),
    Tool(
        "fetch",
        "Read a document",
        "The text of one document with its metadata, from character `offset` on; where "
        "next_offset is given, there is more.",
        FetchArguments,
        _fetch,
    ),
    Tool(
        "similar",
        "Documents like one",
        "Find documents that are like a document of the index, itself left out.",
        SimilarArguments,
        _similar,
    ),
    Tool(
        "rerank",
        "Order texts",
        "Order texts of your own by how well they answer a query. Gives their positions from 0, "
        "best first, with a relevance from 0 to 1.",
        RerankArguments,
        _rerank,
    ),
    Tool(
        "list_indexes",
        "List indexes",
        "What can be searched: indexes with their sizes, metadata fields, and an example filter.",
        NoArguments,
        _list_indexes,
    ),
)
