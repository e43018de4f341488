"""CSV and TSV: rows of fields, quoted or not, as spreadsheets, pandas and plain exports write them.

At most one row of MAX_LINE characters is in memory.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moee_index.errors import CorpusError, counted
from moee_index.readers import lines as files
from moee_index.readers.fields import text_like
from moee_index.readers.formats.records import Reading, Record, Records, list_names
from moee_index.readers.lines import BYTE_ORDER_MARK, BadLineError, ByteSource, Lines
from moee_index.text import shown

_MARK = '"'
# What Excel writes, and reads, in front of a header to name the delimiter.
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}


@dataclass(frozen=True)
class _Row:
    """The fields of a row, the number of its first line, and the row as it stands."""

    fields: list[str]
    number: int
    text: str


_Rows = Iterator[_Row | BadLineError]


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    quoted: bool
    preamble: bool  # the first line names the delimiter
    returns: bool  # lines end with CR alone


def read_csv(source: ByteSource, name: str, reading: Reading) -> Records:
    """Rows, quoted as RFC 4180, Excel and pandas do; a row's line is its first one."""
    return _records(source, name, reading, _dialect(source.head, reading, ","))


def read_tsv(source: ByteSource, name: str, reading: Reading) -> Records:
    """Rows without quoting, as text/tab-separated-values has none, unless the first line's fields
    are all quoted."""
    return _records(source, name, reading, _dialect(source.head, reading, "\t"))


def _dialect(head: bytes, reading: Reading, delimiter: str) -> _Dialect:
    first = head.decode("utf-8", "replace").lstrip(BYTE_ORDER_MARK)
    line, end, _ = first.partition("\n")
    returns = "\r" in (line[:-1] if end else line)
    line = re.split("[\r\n]", first, maxsplit=1)[0]
    preamble = _SEPARATOR_LINE.fullmatch(line)
    if preamble:
        delimiter = preamble[1]
    delimiter = reading.delimiter or delimiter
    quoted = delimiter != "\t"
    if not quoted:
        quoted = all(
            len(field) > 1 and field[0] == field[-1] == _MARK for field in line.split(delimiter)
        )
    if reading.quoting is not None:
        quoted = reading.quoting == "standard"
    return _Dialect(delimiter, quoted, preamble is not None, returns)


def _records(source: ByteSource, name: str, reading: Reading, dialect: _Dialect) -> Records:
    lines = Lines(source.stream, name, keep_ends=dialect.quoted, returns=dialect.returns)
    rows = (_quoted if dialect.quoted else _unquoted)(lines, dialect.delimiter)
    if dialect.preamble:
        next(rows, None)
    table = _Table(name, reading, dialect)
    for row in rows:
        if isinstance(row, BadLineError):
            if table.awaits_header:
                raise row
            yield row
        elif table.awaits_header:
            table.take_header(row)
        elif record := table.record(row):
            yield record


class _Table:
    """The columns of a file, and what its rows become under them."""

    def __init__(self, name: str, reading: Reading, dialect: _Dialect) -> None:
        self._name = name
        self._reading = reading
        self._dialect = dialect
        self._header: list[str] | None = None
        self._names = list(reading.columns or ())
        self._unnamed = {at for at, name in enumerate(self._names) if not name.strip()}
        self._told = False
        self.awaits_header = reading.header
        if reading.columns is not None:
            require(self._names, name, reading)

    def take_header(self, row: _Row) -> None:
        """Raises CorpusError unless the names are different and those that are asked for."""
        if not row.text:
            return
        self.awaits_header = False
        where = f"{self._name}:{row.number}"
        self._header = row.fields
        self._names = [
            name if name.strip() else f"column {at}" for at, name in enumerate(row.fields, 1)
        ]
        self._unnamed = {at for at, name in enumerate(row.fields) if not name.strip()}
        require(self._names, where, self._reading, self._other_delimiter(row.text))

    def _other_delimiter(self, header: str) -> str:
        """A hint, where the header has the text's name between other delimiters."""
        wanted = self._reading.text or "text"
        for delimiter, called in _DELIMITERS.items():
            names = [name.strip(_MARK) for name in header.split(delimiter)]
            if delimiter != self._dialect.delimiter and wanted in names:
                return f"is another separator used? give --delimiter {called}"
        if self._reading.columns is None and any(len(name) > 60 for name in self._names):
            return "is it no header? then name the columns: --no-header --columns id,text"
        return ""

    def record(self, row: _Row) -> Record | BadLineError | None:
        """A row's record; None for a blank line, which is a record of one-column files alone."""
        where, fields = f"{self._name}:{row.number}", row.fields
        if not row.text and (self._dialect.quoted or len(self._names) > 1):
            return None
        if fields == self._header:
            reason = "the header again; were files joined? take it out"
            return BadLineError(where, row.text, reason)
        if len(fields) > len(self._names) and not any(fields[len(self._names) :]):
            fields = fields[: len(self._names)]
        if len(fields) != len(self._names):
            return BadLineError(where, row.text, self._ragged(fields))
        self._tell_quoting(fields)
        named = {
            name: field
            for at, (name, field) in enumerate(zip(self._names, fields, strict=True))
            if name.strip() and (field or at not in self._unnamed)
        }
        return Record(named, row.number, where, row.text)

    def _ragged(self, fields: list[str]) -> str:
        what = "the header has" if self._header is not None else "the columns named are"
        reason = f"{counted(len(fields), 'field')}, but {what} {len(self._names)}"
        if not self._dialect.quoted and any(field.startswith(_MARK) for field in fields):
            reason += "; if the file quotes its fields, give --quoting standard"
        return reason

    def _tell_quoting(self, fields: list[str]) -> None:
        if self._told or self._dialect.quoted or self._reading.quoting is not None:
            return
        if any(field[:1] == field[-1:] == _MARK and _MARK * 2 in field[1:-1] for field in fields):
            self._told = True
            self._reading.notify(
                f"{self._name}: fields are read with the quotation marks around them, as TSV has "
                "no quoting; if this file has, give --quoting standard"
            )


def _unquoted(lines: Lines, delimiter: str) -> _Rows:
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except BadLineError as bad:
            yield bad
            continue
        yield _Row(line.split(delimiter), lines.number, line)


class _RowLines(Iterator[str]):
    """Lines, and those that make up the current row. Lines behind a broken row's first can be
    read again: a quotation mark that nothing closes must not take the rows behind it."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._again: deque[tuple[int, str]] = deque()
        self._kept: list[tuple[int, str]] = []
        self._size = 0

    def start(self) -> None:
        self._kept, self._size = [], 0

    @property
    def first(self) -> int:
        """The number of the row's first line."""
        return self._kept[0][0] if self._kept else self._lines.number

    @property
    def text(self) -> str:
        return "".join(line for _, line in self._kept).rstrip("\r\n")

    @property
    def first_text(self) -> str:
        return self._kept[0][1].rstrip("\r\n") if self._kept else ""

    def read_again(self) -> None:
        self._again.extendleft(reversed(self._kept[1:]))

    def __next__(self) -> str:
        if self._again:
            number, line = self._again.popleft()
        else:
            line = next(self._lines)
            number = self._lines.number
        if not self._kept:
            line = line.lstrip(BYTE_ORDER_MARK)
        self._kept.append((number, line))
        self._size += len(line)
        if self._size > files.MAX_LINE:
            raise csv.Error(f"more than {files.MAX_LINE // 2**20} MiB")
        return line


def _quoted(lines: Lines, delimiter: str) -> _Rows:
    csv.field_size_limit(files.MAX_LINE)
    row_lines = _RowLines(lines)
    rows = csv.reader(row_lines, delimiter=delimiter, strict=True)
    while True:
        row_lines.start()
        try:
            fields = next(rows)
        except StopIteration:
            return
        except BadLineError as bad:
            row_lines.read_again()
            yield bad
        except csv.Error as error:
            row_lines.read_again()
            yield _broken(lines.name, row_lines, str(error), delimiter)
        else:
            yield _Row(fields, row_lines.first, row_lines.text)


def _broken(name: str, row_lines: _RowLines, fault: str, delimiter: str) -> BadLineError:
    if "new-line character" in fault:
        fault = "a carriage return outside of quotation marks"
    fault = fault.replace(f"'{delimiter}'", _DELIMITERS.get(delimiter, repr(delimiter)))
    return BadLineError(
        f"{name}:{row_lines.first}",
        row_lines.first_text,
        f"broken row ({fault}); is a quotation mark not closed or not doubled? If marks do not "
        "quote here, give --quoting none",
    )


def require(names: Sequence[str], where: str, reading: Reading, hint: str = "") -> None:
    """Raises CorpusError unless a table has the columns asked for, each once; before any row."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if twice:
        raise CorpusError(f"{where}: the header names {twice[0]!r} more than once; rename one")
    there = [*names, *reading.partitions]
    for kind, name in (("text", reading.text or "text"), ("id", reading.id)):
        if name is not None and name not in there and name.split(".")[0] not in there:
            alike = text_like(names) if kind == "text" else []
            hint = hint or f"choose with --{kind}-field"
            if alike and "--delimiter" not in hint:
                hint = f"{alike[0]!r} looks like it: --text-field {shown(alike[0])}"
            raise CorpusError(
                f"{where}: no {kind} column {name!r}; there are {list_names(names)}; {hint}"
            )
    for name in (*(reading.metadata or ()), *reading.metadata_except):
        if name not in there:
            raise CorpusError(f"{where}: no column {name!r}; there are {list_names(there)}")
