"""What kind of file a list of queries or candidates is, and its records.

Told by the ending of its name, else by its first line. What a record means is left to queries.py
and candidates.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from moee_index.errors import CorpusError
from moee_index.readers.formats import READERS
from moee_index.readers.formats.records import Reading, Record, list_names
from moee_index.readers.lines import (
    BYTE_ORDER_MARK,
    BadLineError,
    ByteSource,
    is_object,
)
from moee_index.readers.topics import BEGINS_TOPICS

Kind = Literal[".jsonl", ".json", ".csv", ".tsv", ".parquet", "topics", "tab", "plain"]
_JSON = {".jsonl": ".jsonl", ".ndjson": ".jsonl", ".json": ".json"}
# An array of objects or texts; a line of prose has something else behind a bracket.
_ARRAY = re.compile(r'\[\s*(\{|"|$)')
# Of a longer first line the end may not be seen.
_SEEN = 2**14


@dataclass(frozen=True)
class Form:
    """kind: how the file is read. header: whether a first line of `tab` names its columns. text:
    the column of a table that holds the texts; delimiter: between its fields."""

    kind: Kind
    header: bool = False
    text: str | None = None
    delimiter: str | None = None


def form_of(
    source: ByteSource, name: str, ending: str, ids: Sequence[str], texts: Sequence[str]
) -> Form:
    """The form of an open file. ids, texts: names of the columns that are looked for.

    Raises CorpusError for a table without a column of texts, and for a kind that is not read.
    """
    if ending == ".parquet":
        return Form(".parquet", text=_parquet_column(source, texts))
    beginning = source.head.decode("utf-8", "replace").lstrip(BYTE_ORDER_MARK)
    first = re.split("[\r\n]", beginning, maxsplit=1)[0]
    if ending in _JSON:
        return Form(".json" if _ARRAY.match(first) else _JSON[ending])  # type: ignore[arg-type]
    if ending == ".xml" or BEGINS_TOPICS.match(beginning):
        return Form("topics")
    if ending in (".csv", ".tsv"):
        return _table(first, name, ending, ids, texts)
    if _ARRAY.match(first) or first.strip() == "{":
        return Form(".json")
    if is_object(first) or (first.startswith("{") and len(beginning) > _SEEN):
        return Form(".jsonl")
    header = _names(first, "," if "\t" not in first else "\t")
    if _has(header, ids) and _has(header, texts):
        return _table(first, name, ".tsv" if "\t" in first else ".csv", ids, texts)
    return Form("tab" if "\t" in first else "plain")


def _names(line: str, delimiter: str) -> list[str]:
    return [name.strip('"') for name in line.split(delimiter)]


def _plain(name: str) -> str:
    return name.strip().lower()


def _has(names: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(_plain(name) in wanted for name in names)


def _table(first: str, name: str, ending: str, ids: Sequence[str], texts: Sequence[str]) -> Form:
    if ending == ".csv":
        delimiter = max(",;\t|", key=first.count)
        text = _column(_names(first, delimiter), texts)
        if text is None:
            raise CorpusError(
                f"{name}:1: no column of texts; there are {list_names(_names(first, delimiter))}; "
                f"call it {texts[0]!r} in the header, and that of the ids {ids[0]!r}"
            )
        return Form(".csv", text=text, delimiter=delimiter)
    names = _names(first, "\t")
    text = _column(names, texts)
    if text is None or not (_has(names, ids) or len(names) == 1):
        return Form("tab")
    if len(names) == 2 and _has(names[:1], ids):
        return Form("tab", header=True)
    return Form(".tsv", text=text)


def _parquet_column(source: ByteSource, texts: Sequence[str]) -> str | None:
    """The column of texts of a Parquet file; None where the file cannot be read from its end,
    which its reader says better."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.stream is not source.raw or not source.raw.seekable():
        return None
    try:
        return _column(pq.read_schema(source.raw).names, texts)
    except (pa.ArrowException, OSError):
        return None
    finally:
        source.raw.seek(0)


def _column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The column whose name comes first among those wanted."""
    for one in wanted:
        for name in names:
            if _plain(name) == one:
                return name
    return None


def records_of(source: ByteSource, name: str, form: Form) -> Iterator[Record]:
    """The records of a file, the fields of tables under names in small letters. Raises
    BadLineError for the first that cannot be read."""
    reading = Reading(text=form.text, delimiter=form.delimiter, texts=True)
    for record in READERS[form.kind](source, name, reading):
        if isinstance(record, BadLineError):
            raise record
        if form.text is not None:
            fields = {_plain(key): value for key, value in record.fields.items()}
            record = Record(fields, record.number, record.source, record.line)
        yield record
