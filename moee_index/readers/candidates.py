"""Candidate lists: a query and the texts to order for it, from files.

Says which file and line is wrong. Scoring is left to reranking.py; TREC runs, whose texts are in
an index, to trec.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from moee_index.errors import MisuseError
from moee_index.readers.fields import id_of, text_of, title_of
from moee_index.readers.lines import (
    BadLineError,
    Lines,
    json_kind,
    open_bytes,
    parse_object,
    split_name,
)
from moee_index.types import Document

Candidate = str | dict[str, Any] | Document


@dataclass(frozen=True)
class CandidateList:
    """A query and its candidates, in the order in which equal scores stay. source: `file:line`."""

    query: str
    candidates: Sequence[Document]
    query_id: str | None = None
    source: str = field(default="", compare=False)


def as_documents(candidates: Sequence[Candidate]) -> list[Document]:
    """Candidates as documents; one without an id gets its position from 0 as text.

    A candidate is a text, a Document, or a mapping with `text` and optionally `id` and `title`;
    what else it holds becomes metadata.
    Raises ValueError naming the candidate if one is something else or an id is repeated.
    """
    documents: list[Document] = []
    seen: set[str] = set()
    for position, candidate in enumerate(candidates):
        try:
            document = _document(candidate, position)
        except ValueError as error:
            raise ValueError(f"candidate {position}: {error}") from None
        if document.id in seen:
            raise ValueError(f"candidate {position}: id {document.id!r} again")
        seen.add(document.id)
        documents.append(document)
    return documents


def read_candidates(
    path: str | Path, *, query: str | None = None, stdin: IO[bytes] | None = None
) -> Iterator[CandidateList]:
    """Candidate lists of a file, each as soon as its line is read. `-` is stdin.

    With a query the file holds its candidates, one text a line, or in a .jsonl file one object
    with `text` (and `id`, `title`) a line; blank lines are skipped, but count for the positions
    that replace ids. Without one each line is `{"query", "candidates": [str | {"id", "text"}]}`,
    with an optional `query_id`; an empty list of candidates is allowed.

    Raises CorpusError naming file and line; MisuseError for an empty query.
    """
    if query is not None and not query.strip():
        raise MisuseError("the query is empty")
    with open_bytes(path, stdin) as source:
        lines = Lines(source.stream, "stdin" if str(path) == "-" else str(path))
        if query is not None:
            objects = split_name(Path(path))[1] in (".jsonl", ".ndjson")
            yield CandidateList(query, _read_one_list(lines, objects), None, lines.name)
            return
        for line in lines:
            if not line.strip():
                continue
            try:
                yield _candidate_list(parse_object(line), lines.source)
            except ValueError as error:
                raise BadLineError(lines.source, line, str(error)) from None


def _read_one_list(lines: Lines, objects: bool) -> list[Document]:
    documents: list[Document] = []
    seen: set[str] = set()
    for line in lines:
        if not line.strip():
            continue
        try:
            candidate = parse_object(line) if objects else line
            if isinstance(candidate, dict) and "candidates" in candidate:
                raise ValueError("this list has its own query, but a query was also given")
            document = _document(candidate, lines.number - 1)
            if document.id in seen:
                raise ValueError(f"candidate id {document.id!r} again")
        except ValueError as error:
            raise BadLineError(lines.source, line, str(error)) from None
        seen.add(document.id)
        documents.append(document)
    return documents


def _candidate_list(fields: dict[str, Any], source: str) -> CandidateList:
    for name in ("query", "candidates"):
        if name not in fields:
            there = ", ".join(map(repr, fields)) or "none"
            raise ValueError(
                f"no field {name!r}, there are {there}; a line is "
                '{"query": …, "candidates": [text or {"id", "text"}, …]}'
            )
    query, candidates = text_of(fields["query"], "query"), fields["candidates"]
    query_id = fields.get("query_id")
    if not query.strip():
        raise ValueError("the query is empty")
    if not isinstance(candidates, list):
        raise ValueError(f"field 'candidates' is {json_kind(candidates)}, not a list")
    if query_id is not None:
        query_id = id_of(query_id, "field 'query_id'")
    return CandidateList(query, as_documents(candidates), query_id, source)


def _document(candidate: object, position: int) -> Document:
    if isinstance(candidate, Document):
        return candidate
    if isinstance(candidate, str):
        return Document(str(position), candidate)
    if not isinstance(candidate, dict):
        raise ValueError(f"{json_kind(candidate)} where a text or an object with 'text' belongs")
    fields = dict(candidate)
    if "text" not in fields:
        raise ValueError("no field 'text'")
    text, title = text_of(fields.pop("text"), "text"), title_of(fields.pop("title", None))
    key = fields.pop("id", None)
    return Document(str(position) if key is None else id_of(key, "field 'id'"), text, fields, title)
