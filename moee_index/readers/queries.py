"""Queries: a file, or the texts of a command line, in; Query values out.

Unlike in a corpus, no line may be skipped: the first that cannot be used is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from moee_index.errors import MisuseError
from moee_index.readers.fields import id_of, text_of
from moee_index.readers.lines import BadLineError, ByteSource, Lines, open_bytes, split_name
from moee_index.readers.tables import Form, form_of, records_of
from moee_index.readers.topics import read_topics
from moee_index.text import escaped
from moee_index.types import Query

# Names of the id and the text, each the first that is there.
QUERY_IDS = ("id", "_id", "qid", "query_id", "query-id", "queryid", "topic_id")
QUERY_TEXTS = ("text", "query", "question", "query_text", "contents", "content", "title")
_LISTS = ("candidates", "documents", "positive", "passages")
_Numbered = tuple[Query, int]


def read_texts(texts: Sequence[str], queries: str | None) -> tuple[list[str], list[str]]:
    """(ids, texts) given on the command line (ids from 1), or read from a file of queries."""
    if queries is None:
        if not texts:
            raise MisuseError("no text; give TEXT, or a file with --queries (- is stdin)")
        if not all(text.strip() for text in texts):
            raise MisuseError("the text is empty; give a text to embed")
        return [str(number) for number in range(1, len(texts) + 1)], list(texts)
    read = list(read_queries(queries))
    if not read:
        raise MisuseError(f"{escaped(queries)} holds no texts to embed")
    return [query.id for query in read], [query.text for query in read]


def read_queries(path: str | Path, *, stdin: IO[bytes] | None = None) -> Iterator[Query]:
    """Queries of a file, each as soon as its line is read, so that stdin answers as it comes.

    JSON lines with `text` and `id` or `_id` (BEIR's queries.jsonl, or the folder that holds it) or
    an array of such objects or of texts; CSV or TSV under a header, or Parquet; `id<TAB>text`
    lines; TREC topics; or one query a line. Which of these follows from the ending, else from the
    beginning. Text and id may have other names, QUERY_TEXTS and QUERY_IDS.

    A query without text is an error, and so is a blank line (ignored in JSON lines and tables): a
    query dropped in silence would spoil what is measured with the answers. An id that comes twice
    is an error, because their answers could not be told apart.

    Raises CorpusError naming file and line.
    """
    path = _in_folder(path)
    name = "stdin" if str(path) == "-" else escaped(str(path))
    seen: dict[str, int] = {}
    ending = split_name(Path(path))[1]
    with open_bytes(path, stdin, text=ending != ".parquet") as source:
        form = form_of(source, name, ending, QUERY_IDS, QUERY_TEXTS)
        for query, number in _queries(source, name, form):
            if query.id in seen:
                first = f"first at line {seen[query.id]}"
                raise BadLineError(
                    query.source, query.text, f"query id {query.id!r} again, {first}"
                )
            seen[query.id] = number
            yield query


def _in_folder(path: str | Path) -> str | Path:
    """The file of queries in a BEIR folder; what is no folder as it is."""
    if str(path) == "-" or not Path(path).is_dir():
        return path
    files = [Path(path) / f"queries.jsonl{ending}" for ending in ("", ".gz", ".zst")]
    return next((file for file in files if file.is_file()), files[0])


def _queries(source: ByteSource, name: str, form: Form) -> Iterator[_Numbered]:
    if form.kind == "topics":
        yield from read_topics(Lines(source.stream, name))
    elif form.kind in ("tab", "plain"):
        lines = Lines(source.stream, name)
        if form.header:
            next(lines)
        for line in lines:
            yield _query(line, form.kind == "tab", lines), lines.number
    else:
        for record in records_of(source, name, form):
            try:
                yield _of_fields(record.fields, record.number, record.source), record.number
            except ValueError as error:
                raise BadLineError(record.source, record.line, str(error)) from None


def _query(line: str, tab: bool, lines: Lines) -> Query:
    """The query of a line of text."""
    key: Any = lines.number
    text = line
    try:
        if tab:
            key, there, text = line.partition("\t")
            if not there:
                raise ValueError(
                    "no tab, but the lines before have one; write id<TAB>text in every line"
                )
        return _checked(key, text, lines.source)
    except ValueError as error:
        raise BadLineError(lines.source, line, str(error)) from None


def _of_fields(fields: Mapping[str, Any], number: int, source: str) -> Query:
    text = next((name for name in QUERY_TEXTS if name in fields), None)
    if text is None:
        raise ValueError('no field \'text\'; a query is {"_id": …, "text": …}')
    if text != "text" and any(name in fields for name in _LISTS):
        raise ValueError("this is a candidate list, not a query; rerank takes it")
    key = next((fields[name] for name in QUERY_IDS if fields.get(name) is not None), number)
    return _checked(key, text_of(fields[text], text), source)


def _checked(key: Any, text: str, source: str) -> Query:
    key = id_of(key, "the query's id")
    if not text.strip():
        raise ValueError("the query is empty; every line needs one")
    return Query(key, text, source)
