"""Records: the files of a corpus, in whatever format, as one stream of named fields.

JSONL, CSV and TSV, Parquet and plain text. Which field is the text and which the id is left to
corpus.py. Values from Parquet become JSON values: times become ISO 8601 text, decimals floats,
bytes text (base64 where they are not UTF-8).
"""

from __future__ import annotations

import base64
import csv
import datetime
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from moee_index.errors import CorpusError, counted
from moee_index.readers.lines import (
    MAX_LINE,
    BadLineError,
    ByteSource,
    Lines,
    fail_reading,
    parse_object,
    split_name,
)

_ROWS = 512  # of Parquet, decoded at a time


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
    """One JSON object a line; blank lines are skipped."""
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
    """Lines, and those that make up the current record."""

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
            reason = f"{counted(len(row), 'field')}, but the header has {len(header)}"
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
    """Raises CorpusError unless the table has the columns asked for; before any row."""
    for kind, name in (("text", columns.text or "text"), ("id", columns.id)):
        if name is not None and name not in names:
            there = ", ".join(map(repr, names))
            hint = f"choose with --{kind}-field"
            if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
                hint = "is another separator used? .csv is read with commas, .tsv with tabs"
            raise CorpusError(f"{where}: no {kind} column {name!r}; there are {there}; {hint}")


def _read_parquet(source: ByteSource, name: str, columns: Columns) -> Records:
    def check(names: list[str]) -> None:
        _require(names, name, columns)

    for number, row in _read_rows(source, name, check):
        where = f"{name}:{number}"
        if isinstance(row, str):
            yield BadLineError(where, "", row)
        else:
            yield Record(row, number, where, "")


def _read_rows(
    source: ByteSource, name: str, check: Callable[[list[str]], None]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(row number from 1, its fields); or a reason instead of the fields where they are not text.

    check: called with the column names before the first row.
    Raises CorpusError when the file is not a Parquet file or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with ExitStack() as stack:
        stream = source.stream
        try:
            if not stream.seekable() or stream is not source.raw:
                # Parquet is read from its end: what comes compressed is unpacked to disk first.
                unpacked = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(stream, unpacked, 2**20)
                unpacked.seek(0)
                stream = unpacked
            file = pq.ParquetFile(stream)
            stack.callback(file.close)
            check(list(file.schema_arrow.names))
            total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                for row in _rows(batch):
                    number += 1
                    yield number, row
                source.report(number / max(total, 1))
        except (pa.ArrowException, OSError, EOFError) as error:
            if isinstance(error, EOFError):
                fail_reading(name, error)
            raise CorpusError(
                f"{name}: cannot be read as Parquet after row {number} ({error})"
            ) from None


def _rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    names = batch.schema.names
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        for position in range(batch.num_rows):
            try:
                values = [column[position].as_py() for column in batch.columns]
            except UnicodeDecodeError:
                yield "not UTF-8"
            else:
                yield {n: _plain(v) for n, v in zip(names, values, strict=True)}
        return
    for row in rows:
        yield {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """The value in types that JSON knows; NaN and infinities become None."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return _plain(float(value))
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, UUID):
        return str(value)
    return str(value)


READERS: dict[str, Callable[[ByteSource, str, Columns], Records]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
