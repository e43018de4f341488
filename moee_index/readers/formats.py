"""Records: the files of a corpus, whatever their form, as one stream of named fields.

Knows JSONL, CSV and TSV, Parquet and plain text, and how each says where its records end. Refuses
to know what the fields are for: which is the text and which the id is corpus.py's business.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moee_index.errors import CorpusError
from moee_index.readers.lines import (
    MAX_LINE,
    BadLineError,
    ByteSource,
    Lines,
    parse_object,
    split_name,
)


@dataclass(frozen=True)
class Columns:
    """The fields asked for instead of `id` (or `_id`) and `text`; None is the default."""

    id: str | None
    text: str | None


@dataclass(frozen=True)
class Record:
    """Fields of one document, not yet checked.

    number: its line, of a Parquet file its row, from 1. source: `file:line`.
    line: what it is shown as when it is rejected; empty means its fields as JSON.
    """

    fields: dict[str, Any]
    number: int
    source: str
    line: str


# A reader yields records, and in their place BadLineError values: a generator that raised one
# would be finished, and the lines behind it lost.
Records = Iterator[Record | BadLineError]


def _read_jsonl(source: ByteSource, name: str, columns: Columns) -> Records:
    """One JSON object a line; blank lines are none."""
    lines = Lines(source.stream, name)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except BadLineError as bad:
            yield bad
            continue
        if not line.strip():
            continue
        try:
            yield Record(parse_object(line), lines.number, lines.source, line)
        except ValueError as error:
            yield BadLineError(lines.source, line, str(error))


def _read_text(source: ByteSource, name: str, columns: Columns) -> Records:
    """One document a line; a blank line is an empty document (counted, not embedded, by build)."""
    if columns.id is not None or columns.text not in (None, "text"):
        raise CorpusError(f"{name}: plain text has no fields; leave out the field options")
    lines = Lines(source.stream, name)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except BadLineError as bad:
            yield bad
            continue
        yield Record({"text": line}, lines.number, lines.source, line)


class _Kept(Iterator[str]):
    """Lines, and what the record at hand was made of."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.kept: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.kept).rstrip("\r\n")

    def __next__(self) -> str:
        line = next(self._lines)
        self.kept.append(line)
        return line


def _read_csv(source: ByteSource, name: str, columns: Columns) -> Records:
    """Rows under a header, quoted as Excel and pandas do; a row's line is its first one."""
    lines = Lines(source.stream, name, keep_ends=True)
    kept = _Kept(lines)
    delimiter = "\t" if split_name(Path(name))[1] == ".tsv" else ","
    # A quotation mark that is never closed would otherwise take the rest of the file for a field.
    csv.field_size_limit(MAX_LINE)
    rows = csv.reader(kept, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        first = lines.number + 1
        kept.kept.clear()
        where = f"{name}:{first}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except BadLineError as bad:
            if header is None:
                raise
            yield bad
            continue
        except csv.Error as error:
            hint = "; is a quotation mark not closed or not doubled?"
            broken = BadLineError(where, kept.text, f"broken row ({error}){hint}")
            if header is None:
                raise broken from None
            yield broken
            continue
        if not row:
            continue
        if header is None:
            header = _header(row, where, columns, delimiter)
            continue
        if len(row) != len(header):
            reason = f"{len(row)} fields where the header has {len(header)}"
            yield BadLineError(where, kept.text, reason)
            continue
        yield Record(dict(zip(header, row, strict=True)), first, where, kept.text)


def _header(row: list[str], where: str, columns: Columns, delimiter: str) -> list[str]:
    twice = [name for name, count in Counter(row).items() if count > 1]
    if twice:
        raise CorpusError(f"{where}: the header names {twice[0]!r} more than once")
    _require(row, where, columns)
    return row


def _require(names: Sequence[str], where: str, columns: Columns) -> None:
    """A table must have the columns that are asked for; told once, before any row."""
    for kind, name in (("text", columns.text or "text"), ("id", columns.id)):
        if name is not None and name not in names:
            there = ", ".join(map(repr, names))
            hint = f"choose with --{kind}-field"
            if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
                hint = "is another separator used? .csv is read with commas, .tsv with tabs"
            raise CorpusError(f"{where}: no {kind} column {name!r}; there are {there}; {hint}")


def _read_parquet(source: ByteSource, name: str, columns: Columns) -> Records:
    from moee_index.readers.parquet import read_rows

    def check(names: list[str]) -> None:
        _require(names, name, columns)

    for number, row in read_rows(source, name, check):
        where = f"{name}:{number}"
        if isinstance(row, str):
            yield BadLineError(where, "", row)
        else:
            yield Record(row, number, where, "")


READERS: dict[str, Callable[[ByteSource, str, Columns], Records]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
