"""Candidate lists: a query and the texts to order for it, from files and from Python.

Says which file and line is wrong. Scoring is left to reranking; TREC runs, whose texts are in
an index, to trec.py.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from moee_index.errors import MisuseError
from moee_index.readers.fields import id_like, id_of, text_like, text_of, title_of
from moee_index.readers.lines import (
    BadLineError,
    ByteSource,
    Lines,
    json_kind,
    open_bytes,
    split_name,
)
from moee_index.readers.queries import QUERY_IDS
from moee_index.readers.tables import Form, form_of, records_of
from moee_index.text import check_text, escaped, text_fault
from moee_index.types import Document, Notify, ignore

Candidate = str | Mapping[str, Any] | Document
_IDS = ("id", "_id")
# Cohere's, Jina's and Voyage's requests have `documents`, text-embeddings-inference's `texts`.
_LISTS = ("candidates", "documents", "texts")
_LINE = '{"query": …, "candidates": [text or {"id", "text"}, …]}'


@dataclass(frozen=True)
class CandidateList:
    """A query and its candidates, in the order in which equal scores stay. source: `file:line`."""

    query: str
    candidates: Sequence[Document]
    query_id: str | None = None
    source: str = field(default="", compare=False)


def as_documents(candidates: Iterable[Candidate]) -> list[Document]:
    """Candidates as documents; one without an id gets its position from 0 as text.

    A candidate is a text, a Document, or a mapping with `text` and optionally `id` (or `_id`) and
    `title`; what else it holds becomes metadata.
    Raises MisuseError naming the candidate if one is something else or an id is repeated, and
    where one candidate is given instead of several.
    """
    if isinstance(candidates, str | bytes | Mapping | Document) or not isinstance(
        candidates, Iterable
    ):
        kind = "one text" if isinstance(candidates, str) else type(candidates).__name__
        raise MisuseError(f"candidates are given as a list, and this is {kind}; write [candidate]")
    try:
        return _Ids(ignore).documents(candidates)
    except ValueError as error:
        raise MisuseError(str(error)) from None


def read_candidates(
    path: str | Path,
    *,
    query: str | None = None,
    stdin: IO[bytes] | None = None,
    notify: Notify = ignore,
) -> Iterator[CandidateList]:
    """Candidate lists of a file, each as soon as its line is read. `-` is stdin.

    With a query the file holds its candidates: one text a line (blank lines are skipped, but count
    for the positions that replace ids); objects with `text` (and `id` or `_id`, `title`), one a
    line or in an array, where the ending is .jsonl or .json or the first line is one; CSV or TSV
    under a header, or `id<TAB>text` in a .tsv. Without one each line, or element of an array, is
    `{"query", "candidates": [str | {"id", "text"}]}`, with an optional `query_id`; an empty list of
    candidates is allowed.

    notify: told once where candidates have a field that looks like the id they lack.
    Raises CorpusError naming file and line; MisuseError for an empty query.
    """
    if query is not None and not check_text(query, "the query").strip():
        raise MisuseError("the query is empty")
    name = "stdin" if str(path) == "-" else escaped(str(path))
    ids = _Ids(notify)
    ending = split_name(Path(path))[1]
    with open_bytes(path, stdin, text=ending != ".parquet") as source:
        if query is not None:
            form = form_of(source, name, ending, _IDS, ("text",))
            documents = ids.of_list(_texts(source, name, form, ending))
            yield CandidateList(query, documents, None, name)
            return
        kind = form_of(source, name, ending, _IDS, ("text",)).kind
        form = Form(kind if kind in (".json", ".parquet") else ".jsonl")
        for record in records_of(source, name, form):
            try:
                yield _candidate_list(record.fields, record.source, ids)
            except ValueError as error:
                raise BadLineError(record.source, record.line, str(error)) from None


# A candidate, its position, where it is and the line it is.
_Placed = tuple[object, int, str, str]


def _texts(source: ByteSource, name: str, form: Form, ending: str) -> Iterator[_Placed]:
    """The candidates of one query, in a file of them."""
    if form.kind not in ("tab", "plain", "topics"):
        for record in records_of(source, name, form):
            yield record.fields, record.number - 1, record.source, record.line
        return
    lines = Lines(source.stream, name)
    if form.header:
        next(lines)
    for line in lines:
        if line.strip():
            candidate: object = line
            if form.kind == "tab" and (form.header or ending == ".tsv"):
                key, _, text = line.partition("\t")
                candidate = {"id": key, "text": text}
            yield candidate, lines.number - 1, lines.source, line


def _candidate_list(fields: Mapping[str, Any], source: str, ids: _Ids) -> CandidateList:
    listed = next((name for name in _LISTS if name in fields), None)
    if "query" not in fields or listed is None:
        missing = "query" if "query" not in fields else "candidates"
        there = ", ".join(map(repr, fields)) or "none"
        raise ValueError(
            f"no field {missing!r}, there are {there}; a line is {_LINE}{_other_form(fields)}"
        )
    query, candidates = text_of(fields["query"], "query"), fields[listed]
    key = next((n for n in ("query_id", *QUERY_IDS) if fields.get(n) is not None), None)
    if not query.strip():
        raise ValueError("the query is empty")
    if not isinstance(candidates, list):
        raise ValueError(f"field {listed!r} is {json_kind(candidates)}, not a list")
    query_id = None if key is None else id_of(fields[key], f"field {key!r}")
    return CandidateList(query, ids.documents(candidates), query_id, source)


def _has_query(fields: Mapping[str, Any]) -> bool:
    return "query" in fields and any(name in fields for name in _LISTS)


def _other_form(fields: Mapping[str, Any]) -> str:
    """What to do with a line of another project's form."""
    if "positive" in fields or "negative" in fields:
        return "; MTEB's positive and negative texts are to be joined to one list of candidates"
    if "text" in fields and "query" not in fields:
        return "; candidates of one query are given with the query in front: rerank QUERY"
    return ""


class _Ids:
    """Makes documents of candidates; tells once of a field that looks like the id they lack."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._told = False

    def documents(self, candidates: Iterable[object]) -> list[Document]:
        """Raises ValueError naming the candidate by its position."""
        documents: list[Document] = []
        seen: set[str] = set()
        for position, candidate in enumerate(candidates):
            try:
                document = self._document(candidate, position)
            except ValueError as error:
                raise ValueError(f"candidate {position}: {error}") from None
            if document.id in seen:
                raise ValueError(f"candidate {position}: id {document.id!r} again")
            seen.add(document.id)
            documents.append(document)
        return documents

    def of_list(self, placed: Iterable[_Placed]) -> list[Document]:
        """Raises BadLineError naming file and line."""
        documents: list[Document] = []
        seen: set[str] = set()
        for candidate, position, source, line in placed:
            try:
                if isinstance(candidate, dict) and _has_query(candidate):
                    raise ValueError("this list has its own query, but a query was also given")
                document = self._document(candidate, position)
                if document.id in seen:
                    raise ValueError(f"candidate id {document.id!r} again")
            except ValueError as error:
                raise BadLineError(source, line, str(error)) from None
            seen.add(document.id)
            documents.append(document)
        return documents

    def _document(self, candidate: object, position: int) -> Document:
        if isinstance(candidate, Document):
            return _checked(candidate)
        if isinstance(candidate, str):
            if fault := text_fault(candidate):
                raise ValueError(f"it {fault}")
            return Document(str(position), str(candidate))
        if not isinstance(candidate, Mapping):
            kind = type(candidate).__name__
            if candidate is None or isinstance(candidate, bool | int | float | list):
                kind = json_kind(candidate)
            raise ValueError(f"{kind} where a text or an object with 'text' belongs")
        fields = dict(candidate)
        if "text" not in fields:
            alike = text_like(name for name in fields if isinstance(name, str))
            raise ValueError(f"no field 'text'{f'; rename {alike[0]!r} to it' if alike else ''}")
        text, title = text_of(fields.pop("text"), "text"), title_of(fields.pop("title", None))
        name = next((name for name in _IDS if fields.get(name) is not None), None)
        if name is None:
            fields.pop("id", None)
            self._tell(fields)
            return _checked(Document(str(position), text, fields, title))
        key = fields.pop(name)
        if not isinstance(key, bool) and isinstance(key, numbers.Integral):
            key = int(key)  # numpy's too
        return _checked(Document(id_of(key, f"field {name!r}"), text, fields, title))

    def _tell(self, fields: Mapping[str, Any]) -> None:
        alike = [] if self._told else id_like(name for name in fields if isinstance(name, str))
        if alike:
            self._told = True
            self._notify(
                "ids: candidates have no field id or _id, so their positions from 0 stand for "
                f"them; there is {' and '.join(alike[:3])}, rename it to id to have it instead"
            )


def _checked(document: Document) -> Document:
    """A document whose id, text and title are text. Raises ValueError."""
    for name, value in (("id", document.id), ("text", document.text), ("title", document.title)):
        if fault := text_fault(value):
            raise ValueError(f"its {name} {fault}")
    return document
