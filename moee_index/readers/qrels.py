"""Relevance judgements (qrels) in the forms of TREC, BEIR and MTEB, and as pandas writes them.

Errors name file and line. The measures are in `tune.metrics`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from moee_index.errors import counted
from moee_index.readers.columns import ColumnKind, kind_of_column, split_columns, split_commas
from moee_index.readers.fields import id_of
from moee_index.readers.lines import (
    BadLineError,
    Lines,
    is_object,
    open_bytes,
    parse_object,
    split_name,
)
from moee_index.text import escaped

Qrels = dict[str, dict[str, int]]
_KINDS: tuple[ColumnKind, ...] = ("query", "document", "relevance")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LARGEST = 2**31
_COUNTS = (3, 4)
_COLUMNS = (
    "qrels have 3 (query-id, corpus-id, score) or 4 (query, 0, document, relevance), others under "
    "a header"
)


def read_qrels(path: str | Path, *, stdin: IO[bytes] | None = None) -> Qrels:
    """Relevance judgements: {query id: {document id: relevance}}.

    By the first line: JSON objects with `query-id`, `corpus-id` and `score` (MTEB's on the hub);
    BEIR's `query-id<TAB>corpus-id<TAB>score`, or TREC's four columns `query 0 document relevance`,
    between tabs, blanks or commas; under a header columns are taken by their names.

    Raises CorpusError naming file and line; also when a pair is judged twice, differently.
    """
    qrels: Qrels = {}
    with open_bytes(path, stdin) as source:
        lines = Lines(source.stream, "stdin" if str(path) == "-" else escaped(str(path)))
        form: _Form | None = None
        for line in lines:
            if not line.strip():
                continue
            try:
                if form is None:
                    form = _Form(line, split_name(Path(path))[1])
                    if form.is_header:
                        continue
                query_id, document_id, relevance = form.judgement(line)
            except ValueError as error:
                raise BadLineError(lines.source, line, str(error)) from None
            known = qrels.setdefault(query_id, {}).setdefault(document_id, relevance)
            if known != relevance:
                raise BadLineError(
                    lines.source,
                    line,
                    f"document {document_id!r} of query {query_id!r} is judged {relevance}, and "
                    f"{known} before",
                )
    return qrels


class _Form:
    """How the lines of a file are read, by its first one."""

    def __init__(self, first: str, ending: str) -> None:
        self._json = ending in (".jsonl", ".ndjson") or is_object(first)
        self._split: Callable[[str], list[str]] = lambda line: split_columns(line, _COUNTS)
        if not self._json and _is_csv(first):
            self._split = split_commas
        self._places: dict[ColumnKind, int] | None = None
        self._names = 0
        if not self._json and "\t" in first:
            self._read_header(first.split("\t"))
        if not self._json and self._places is None:
            self._read_header(self._split(first))
        self.is_header = self._places is not None

    def _read_header(self, names: list[str]) -> None:
        kinds = [kind_of_column(name.strip()) for name in names]
        if all(kinds.count(kind) == 1 for kind in _KINDS):
            self._places = {kind: kinds.index(kind) for kind in _KINDS}
            self._names = len(names)

    def judgement(self, line: str) -> tuple[str, str, int]:
        """(query id, document id, relevance). Raises ValueError."""
        if self._json:
            return _of_object(parse_object(line))
        if self._places is None:
            return _of_columns(self._split(line))
        columns = self._split(line)
        if len(columns) != self._names and "\t" in line:
            columns = [column.strip() for column in line.split("\t")]
        if len(columns) != self._names:
            raise ValueError(f"{counted(len(columns), 'column')}, but the header has {self._names}")
        return _checked(*(columns[self._places[kind]] for kind in _KINDS))


def _is_csv(first: str) -> bool:
    """Whether commas divide a line, in which other columns may hold some."""
    words = first.split()
    return "," in first and "\t" not in first and (len(words) < 3 or words[0].endswith(","))


def _of_columns(columns: list[str]) -> tuple[str, str, int]:
    if len(columns) == 4:
        del columns[1]
    if len(columns) != 3:
        raise ValueError(f"{counted(len(columns), 'column')} where {_COLUMNS}")
    return _checked(*columns)


def _of_object(fields: Mapping[str, object]) -> tuple[str, str, int]:
    values = []
    for kind, name in zip(_KINDS, ("query-id", "corpus-id", "score"), strict=True):
        found = name if name in fields else None
        found = found or next((other for other in fields if kind_of_column(other) == kind), None)
        if found is None:
            raise ValueError(f"no field {name!r}")
        values.append(fields[found])
    return _checked(*values)


def _checked(query: object, document: object, relevance: object) -> tuple[str, str, int]:
    return (
        id_of(query, "the query's id"),
        id_of(document, "the document's id"),
        _relevance(relevance),
    )


def _relevance(value: object) -> int:
    text = str(value)
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not number.is_integer() or abs(number) > _LARGEST:
        raise ValueError(f"relevance {value!r} is not a whole number")
    return int(number)
