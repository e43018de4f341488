"""The metadata of a segment's documents again, with a column for each field, for filters.

    documents   number → id, and a cell for each field with a column
    fields      which fields there are, the kinds of their values, their columns
    about       whether all fields are listed; passages of each document where any has several

Written when a segment is finished, from its documents alone. Fields that many documents
have come first; long texts, and what is beyond the most columns, can only be looked up in the JSON
of documents.sqlite.

| value of the field | its cell |
|---|---|
| none | NULL |
| number | INTEGER or REAL; whole numbers beyond 64 bits as the nearest double |
| text | TEXT |
| null, true, false | a blob of one letter: n, t, f |
| object | the blob o |
| list | a blob of lines: each element that is not a list or object, as JSON, between line ends |

A field of which texts spell numbers (spelled_numbers.py) has a second column, of these numbers.

JSON escapes line ends, so that an element of a list is found with its line ends around it by one
search for bytes. SQL is always parameterised. Questions about cells are filters/over_columns's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moee_index.atomic import replacing, storage_errors
from moee_index.errors import counted
from moee_index.index.store.document_reader import CheckedDatabase, DocumentReader
from moee_index.index.store.field_names import dotted
from moee_index.index.store.layout import DOCUMENTS, FIELDS
from moee_index.index.store.reading import reading
from moee_index.types import Progress, ignore

# With more names than this they cannot be listed, and filters are not checked.
MOST_FIELDS = 2000
# A row's header has a byte for each.
MOST_COLUMNS = 64
# Bytes of a field's cells on average: a scan reads them all, whichever field is asked for.
LONGEST = 200
_REPORT_EVERY = 4096
# Of each document in order: id, number of its passages, metadata as JSON text, and the numbers that
# its texts spell, likewise (empty: none).
Described = Callable[[], Iterable[tuple[str, int, str, str]]]
_MAPPED = 1 << 40  # bytes; SQLite takes the most that it was built for
_TABLES = ("documents", "fields", "about")
Cell = int | float | str | bytes | None


class Cells(NamedTuple):
    """SQL that names the cell of a field, and that of the numbers its texts spell (None where none
    does)."""

    cell: str
    number: str | None = None


INT64 = range(-(2**63), 2**63)
NOWHERE = Cells("NULL")
_OBJECT = b"o"
_WORDS = {None: b"n", True: b"t", False: b"f"}
LINE = "\n"
_NO_ROOM = (
    "the temporary database of a full check cannot be written ({why}); make room, or name a folder "
    "that has some in SQLITE_TMPDIR"
)
_NOTHING = "{}"  # metadata of a document without any


def write_fields(folder: Path, report: Progress) -> None:
    """Write fields.sqlite of a segment whose documents are all written.

    The same documents give the same bytes. Raises StorageError, IndexDamagedError.
    """
    path = folder / FIELDS
    with (
        # Nothing to compare with yet: what a manifest will say of the file is made later.
        DocumentReader(folder / DOCUMENTS, lambda file: None) as documents,
        replacing(path) as temporary,
        storage_errors(path),
    ):
        # Left by a writer that was killed: start a new file.
        temporary.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            # The file is synced as a whole and renamed, or removed: no journal could add to that.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            fill(connection, documents.described, documents.documents, report)


def fill(
    connection: sqlite3.Connection, described: Described, total: int, report: Progress
) -> None:
    """The tables, in an empty database. described is called twice."""
    fields = _Found()
    for done, (_, _, metadata, spelled) in enumerate(described()):
        fields.see(metadata, spelled)
        if done % _REPORT_EVERY == 0:
            report("fields", done, total)
    columns = fields.columns()
    number_columns = [name for name in columns if name in fields.spelled]
    names = "".join(f", {_column(position)}" for position in columns.values())
    names += "".join(f", {_number_column(columns[name])}" for name in number_columns)
    passages: list[int] = []

    def rows() -> Iterator[list[Cell]]:
        for number, (identifier, count, metadata, spelled) in enumerate(described()):
            passages.append(count)
            cells = _cells(metadata, columns)
            numbers = _cells(spelled or _NOTHING, number_columns)
            yield [number, identifier, *cells, *numbers]

    connection.execute("BEGIN")
    # No types: a column keeps what is put into it.
    connection.execute(f"CREATE TABLE documents (number INTEGER PRIMARY KEY, id{names})")
    connection.execute("CREATE TABLE fields (name TEXT, kind TEXT, place INTEGER)")
    connection.execute("CREATE TABLE about (complete INTEGER, documents INTEGER, passages BLOB)")
    marks = ", ".join("?" * (2 + len(columns) + len(number_columns)))
    connection.executemany(f"INSERT INTO documents VALUES ({marks})", rows())  # noqa: S608
    connection.executemany(
        "INSERT INTO fields VALUES (?, ?, ?)",
        [(name, kind, columns.get(name)) for name, kind in sorted(fields.kinds)],
    )
    split = any(count != 1 for count in passages)
    counts = np.array(passages, dtype="<u4").tobytes() if split else None
    complete = len(fields.kinds) < MOST_FIELDS
    connection.execute("INSERT INTO about VALUES (?, ?, ?)", (complete, len(passages), counts))
    connection.execute("COMMIT")
    report("fields", total, total)


def _cells(metadata: str, names: Iterable[str]) -> list[Cell]:
    """Cells of some fields of a document, in the order of their names."""
    cells: dict[str, Cell] = dict.fromkeys(names)
    if cells and metadata != _NOTHING:
        for name, value in values_of(json.loads(metadata)):
            if name in cells:
                cells[name] = cell(value)
    return list(cells.values())


class _Found:
    """The fields of all documents: kinds, how many documents have each, bytes of their cells;
    spelled: those of which texts spell numbers, so that they hold numbers too."""

    def __init__(self) -> None:
        self.kinds: set[tuple[str, str]] = set()
        self.spelled: set[str] = set()
        self._documents: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def see(self, metadata: str, spelled: str) -> None:
        if metadata == _NOTHING:
            return
        for name, value in values_of(json.loads(spelled or _NOTHING)):
            if kind_of(value) == "number" and self._is_listed(name, "number"):
                self.spelled.add(name)
        for name, value in values_of(json.loads(metadata)):
            if not self._is_listed(name, kind_of(value)):
                continue
            self._documents[name] += 1
            found = cell(value)
            if isinstance(found, str | bytes):
                # Characters do as well as bytes to tell short from long.
                self._bytes[name] += len(found)

    def _is_listed(self, name: str, kind: str) -> bool:
        """Whether there is room for a kind of a field, which is taken."""
        if (name, kind) not in self.kinds:
            if len(self.kinds) >= MOST_FIELDS:
                return False
            self.kinds.add((name, kind))
        return True

    def columns(self) -> dict[str, int]:
        """Field → the number of its column, the fields of the most documents first."""
        short = [
            name for name, count in self._documents.items() if self._bytes[name] <= LONGEST * count
        ]
        chosen = sorted(short, key=lambda name: (-self._documents[name], name))[:MOST_COLUMNS]
        return {name: place for place, name in enumerate(chosen)}


def _column(place: int) -> str:
    return f"f{place}"


def _number_column(place: int) -> str:
    return f"n{place}"


@dataclass(frozen=True, eq=False)
class _Listed:
    """The tables `fields` and `about`. columns: field → its columns, None where it has none.
    passages: uint32 [documents], of each document; None where each has one."""

    kinds: set[tuple[str, str]]
    columns: dict[str, Cells | None]
    complete: bool
    documents: int
    passages: npt.NDArray[np.uint32] | None


class FieldReader(CheckedDatabase):
    """fields.sqlite of a finished segment; see CheckedDatabase."""

    def __init__(
        self, path: Path, check: Callable[[BufferedReader], None], connections: int = 1
    ) -> None:
        super().__init__(path, check, connections)
        try:
            with reading(path):
                for connection in self._connections:
                    # Every filter reads all of it; copying it takes as long as looking at it.
                    connection.execute(f"PRAGMA mmap_size = {_MAPPED}")
        except BaseException:
            self.close()
            raise

    @cached_property
    def _listed(self) -> _Listed:
        """What is needed of every filter; nothing is before the first."""
        self.check()
        fields = self._rows("SELECT name, kind, place FROM fields")
        about = self._rows("SELECT complete, documents, passages FROM about")
        there = {name for _, name, *_ in self._rows("PRAGMA table_info(documents)")}

        def cells(place: int) -> Cells:
            number = _number_column(place)
            return Cells(_column(place), number if number in there else None)

        with reading(self._path):
            ((complete, documents, passages),) = about
            return _Listed(
                kinds={(name, kind) for name, kind, _ in fields},
                columns={
                    name: None if place is None else cells(int(place)) for name, _, place in fields
                },
                complete=bool(complete),
                documents=documents,
                passages=None if passages is None else np.frombuffer(passages, dtype="<u4"),
            )

    def known(self) -> set[tuple[str, str]] | None:
        """(name, kind of value) of every metadata field; None where there are too many."""
        return self._listed.kinds if self._listed.complete else None

    def column(self, path: tuple[str, ...], own: bool = False) -> Cells | None:
        """SQL for a field's cells, as `over_columns.Column` has it."""
        if own:
            return Cells("id") if path == ("id",) else None
        listed, name = self._listed, dotted(path)
        column = listed.columns.get(name)
        if column is None and (name in listed.columns or not listed.complete):
            return None
        return column or NOWHERE

    def matching(self, condition: str, values: Sequence[Any]) -> npt.NDArray[np.bool_]:
        """For each row of the segment whether its document meets a SQL condition, which is 0 or 1
        for every document. As many threads share the documents as there are connections."""
        listed = self._listed
        # One text of all answers: a row for each document would take Python longer than the scan.
        # CASE leaves a chain of tests as soon as the answer is known; their value alone does not.
        sql = (
            "SELECT group_concat(hit, '') FROM "  # noqa: S608
            f"(SELECT CASE WHEN {condition} THEN '1' ELSE '0' END AS hit FROM documents "
            "WHERE number >= ? AND number < ? ORDER BY number)"
        )
        ends = np.linspace(0, listed.documents, len(self._connections) + 1).astype(int).tolist()

        def answer(connection: sqlite3.Connection, start: int, stop: int) -> str:
            matching = connection.execute(sql, (*values, start, stop)).fetchone()[0]
            return matching or ""

        with self._lock, reading(self._path):
            # sqlite3 releases the GIL while it looks for a row.
            with ThreadPoolExecutor(len(self._connections)) as pool:
                answers = "".join(pool.map(answer, self._connections, ends[:-1], ends[1:]))
            matching = np.frombuffer(answers.encode(), dtype=np.uint8) == ord("1")
            if len(matching) != listed.documents:
                raise ValueError(f"{len(matching)} of " + counted(listed.documents, "document"))
            return matching if listed.passages is None else np.repeat(matching, listed.passages)

    def follows_from(self, documents: DocumentReader) -> bool:
        """Whether it is what the segment's documents give, row by row.

        What they give is written to a temporary database of SQLite's, most of which is on disk.
        """
        with (
            storage_errors(Path(tempfile.gettempdir()), _NO_ROOM),
            contextlib.closing(sqlite3.connect("", isolation_level=None)) as expected,
        ):
            fill(expected, documents.described, documents.documents, ignore)
            for table in _TABLES:
                rows = f"SELECT * FROM {table} ORDER BY rowid"  # noqa: S608
                with self._lock, reading(self._path):
                    pairs = itertools.zip_longest(
                        self._connections[0].execute(rows), expected.execute(rows)
                    )
                    if any(found != wanted for found, wanted in pairs):
                        return False
        return True


def values_of(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every field of one document, nested objects' too: its dotted name and its value.

    metadata: as json.loads gives it. Names that are not plain are in backticks, as in a filter.
    """
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", metadata)]
    while waiting:
        above, level = waiting.pop()
        for key, value in level.items():
            name = above + dotted((key,))
            yield name, value
            if isinstance(value, Mapping):
                waiting.append((f"{name}.", value))


def kind_of(value: Any) -> str:
    """number, text, boolean, null, list or object. Raises TypeError for what JSON cannot hold."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        return "list"
    if isinstance(value, Mapping):
        return "object"
    raise TypeError(f"{type(value).__name__} is not a kind of value that JSON has")


def cell(value: Any) -> Cell:
    """The cell of a field's column for a value as json.loads gives it."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return _OBJECT
    plain = (item for item in value if not isinstance(item, Mapping | list | tuple))
    return "".join([LINE, *(element(item) + LINE for item in plain)]).encode()


def element(value: Any) -> str:
    """An element of a list, the same text for the same value: 1 and 1.0 are one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = _number(value)
        if isinstance(value, float) and value.is_integer() and int(value) in INT64:
            value = int(value)
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _number(value: int | float) -> int | float:
    """As SQLite can hold it."""
    if isinstance(value, float) or value in INT64:
        return value
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
