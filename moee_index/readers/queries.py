"""Queries: a file, or the texts of a command line, in; Query values out.

Unlike in a corpus, no line may be skipped: the first that cannot be used is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from moee_index.errors import MisuseError
from moee_index.readers.fields import id_of, text_of
from moee_index.readers.lines import BadLineError, Lines, open_bytes, parse_object, split_name
from moee_index.types import Query


def read_texts(texts: Sequence[str], queries: str | None) -> tuple[list[str], list[str]]:
    """(ids, texts) given on the command line (ids from 1), or read from a file of queries."""
    if queries is None:
        if not texts:
            raise MisuseError("no text; give TEXT, or a file with --queries (- is stdin)")
        return [str(number) for number in range(1, len(texts) + 1)], list(texts)
    read = list(read_queries(queries))
    if not read:
        raise MisuseError(f"{queries} holds no texts to embed")
    return [query.id for query in read], [query.text for query in read]


def read_queries(path: str | Path, *, stdin: IO[bytes] | None = None) -> Iterator[Query]:
    """Queries of a file, each as soon as its line is read, so that stdin answers as it comes.

    JSON lines with `text` and `id` or `_id` (BEIR's queries.jsonl, or the folder that holds it),
    `id<TAB>text` lines, or one query a line. Which of the three follows from the ending .jsonl
    or .tsv, else by the first line: a JSON object, a line with a tab, or neither.

    A query without text is an error, and so is a blank line (ignored in JSON lines): a
    query dropped in silence would spoil what is measured with the answers. An id that comes twice
    is an error, because their answers could not be told apart.

    Raises CorpusError naming file and line.
    """
    if str(path) != "-" and Path(path).is_dir():
        path = Path(path) / "queries.jsonl"
    with open_bytes(path, stdin) as source:
        lines = Lines(source.stream, "stdin" if str(path) == "-" else str(path))
        endings = {".jsonl": "json", ".ndjson": "json", ".tsv": "tab"}
        form = endings.get(split_name(Path(path))[1], "")
        seen: dict[str, int] = {}
        for line in lines:
            form = form or _query_form(line)
            if form == "json" and not line.strip():
                continue
            query = _query(line, form, lines)
            if query.id in seen:
                raise BadLineError(
                    lines.source,
                    line,
                    f"query id {query.id!r} again, first at line {seen[query.id]}",
                )
            seen[query.id] = lines.number
            yield query


def _query_form(line: str) -> str:
    try:
        if line.lstrip().startswith("{") and parse_object(line):
            return "json"
    except ValueError:
        pass
    return "tab" if "\t" in line else "plain"


def _query(line: str, form: str, lines: Lines) -> Query:
    try:
        return _checked(line, form, lines)
    except ValueError as error:
        raise BadLineError(lines.source, line, str(error)) from None


def _checked(line: str, form: str, lines: Lines) -> Query:
    key: Any = lines.number
    text: Any = line
    if form == "json":
        fields = parse_object(line)
        if "text" not in fields:
            raise ValueError('no field \'text\'; a query is {"_id": …, "text": …}')
        text = fields["text"]
        key = next((fields[k] for k in ("id", "_id") if fields.get(k) is not None), key)
    elif form == "tab":
        key, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(
                "no tab, but the lines before have one; write id<TAB>text in every line"
            )
    text = text_of(text, "text")
    key = id_of(key, "the query's id")
    if not text.strip():
        raise ValueError("the query is empty; every line needs one")
    return Query(key, text, lines.source)
