"""The documents of a finished segment, looked up by row, by id, by filter; and the read-only
connection to a finished SQLite file, which fields.py shares.

SQL is always parameterised. A document is verified by its checksum, and the whole file before an id
is reported as absent. Never writes.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError
from moee_index.index.store.documents import (
    HAS_NUMBERS,
    VARIABLES,
    PreparedDocument,
    document_checksum,
)
from moee_index.index.store.passage_names import named_after, passage_name
from moee_index.index.store.reading import HINT, reading, sqlite_uri
from moee_index.types import Document, Span, joined

RowNumbers = npt.NDArray[np.int64]
# Documents read together, and characters of them.
_AT_A_TIME = 1024
_CHARACTERS = 16 << 20


@dataclass(frozen=True)
class StoredDocument:
    """A document of a segment. number: its place there; first: the row of its first passage;
    spells_numbers: whether filters read texts of its metadata as numbers."""

    number: int
    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    source: str
    first: int
    spans: tuple[Span, ...]
    spells_numbers: bool = False

    @property
    def rows(self) -> range:
        return range(self.first, self.first + len(self.spans))

    def name_at(self, row: int) -> str:
        """The name of the passage at a row: `<id>#<n>`, or the id where the document is not
        split."""
        return passage_name(self.id, row - self.first + 1) if len(self.spans) > 1 else self.id

    def passage(self, row: int) -> str:
        """The text of the passage at a row."""
        start, stop = self.spans[row - self.first]
        return self.text[start:stop]

    def prepared(self) -> PreparedDocument:
        """As it was when it was written."""
        document = Document(
            self.id,
            self.text,
            self.metadata,
            self.title,
            self.source,
            untyped=self.spells_numbers,
        )
        return PreparedDocument.of(document).split(self.spans)


class CheckedDatabase:
    """A finished SQLite file of a segment, opened read-only and checked before it is trusted.

    Used from any thread, and a context manager.

    check: raises IndexDamagedError unless the whole file, given open, is what it was when it was
    written; called at most once, when an answer depends on it. connections: how many threads may
    read at a time. Raises what `reading` raises.
    """

    def __init__(
        self, path: Path, check: Callable[[BufferedReader], None], connections: int = 1
    ) -> None:
        self._path = path
        self._check = check
        self._checked = False
        self._lock = threading.Lock()
        # immutable: nothing writes to a finished file, so no lock and no journal are looked for.
        uri = sqlite_uri(path, "immutable=1")
        with contextlib.ExitStack() as opened, reading(path):
            # Open from the beginning: a newer version of the index may take the name away.
            self._file = opened.enter_context(path.open("rb"))
            self._connections = [
                opened.enter_context(
                    contextlib.closing(sqlite3.connect(uri, uri=True, check_same_thread=False))
                )
                for _ in range(connections)
            ]
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._opened.close()

    def _rows(
        self,
        sql: str,
        values: Sequence[Any] = (),
        most: int | None = None,
        kinds: tuple[type, ...] = (),
    ) -> list[Any]:
        """What a query gives, or with `most` its first rows, up to the one with which their texts
        have so many characters. kinds: of the columns, where they matter: an altered file may have
        a value of any type in any place."""
        with self._lock, reading(self._path):
            cursor = self._connections[0].execute(sql, values)
            rows = cursor.fetchall() if most is None else _first_rows(cursor, most)
            if kinds and any(tuple(map(type, row)) != kinds for row in rows):
                raise ValueError("a value is of another type than was written")
            return rows

    def check(self) -> None:
        """The whole file is what it was when it was written, or IndexDamagedError."""
        with self._lock:
            if not self._checked:
                self._check(self._file)
                self._checked = True

    def problems(self) -> list[str]:
        """Problems that SQLite's own check finds."""
        return [str(row[0]) for row in self._rows("PRAGMA integrity_check(5)") if row[0] != "ok"]


class DocumentReader(CheckedDatabase):
    """documents.sqlite of a finished segment; see CheckedDatabase."""

    def __init__(self, path: Path, check: Callable[[BufferedReader], None]) -> None:
        super().__init__(path, check)
        try:
            # Numbers have no gaps (`problems` looks for them); counting would read them all.
            sql = "SELECT (SELECT max(number) FROM documents), (SELECT max(row) FROM passages)"
            ((number, row),) = self._rows(sql)
            with reading(self._path):
                self.documents = 0 if number is None else int(number) + 1
                self.rows = 0 if row is None else int(row) + 1
        except BaseException:
            self.close()
            raise

    def at_rows(self, rows: Sequence[int]) -> dict[int, StoredDocument]:
        """Row → the document whose passage it is."""
        numbers: dict[int, int] = {}
        for part in _parts(rows):
            numbers.update(
                self._rows(
                    f"SELECT row, document FROM passages WHERE row IN ({_marks(part)})",  # noqa: S608
                    part,
                    kinds=(int, int),
                )
            )
        documents = self.get(sorted(set(numbers.values())))
        by_row: dict[int, StoredDocument] = {}
        for row in rows:
            document = documents.get(numbers.get(row, -1))
            if document is None or row not in document.rows:
                raise IndexDamagedError(f"{self._path} lacks row {row}; {HINT}")
            by_row[row] = document
        return by_row

    def get(self, numbers: Sequence[int]) -> dict[int, StoredDocument]:
        """Number → document, checked."""
        documents: dict[int, StoredDocument] = {}
        for part in _parts(numbers):
            documents.update(
                self._read(f"number IN ({_marks(part)})", part, ordered=False),
            )
        for number in numbers:
            if number not in documents:
                raise IndexDamagedError(f"{self._path} lacks document {number}; {HINT}")
        return documents

    def in_order(self, first: int = 0) -> Iterator[StoredDocument]:
        """All documents from number `first` on; some megabytes of texts are held at a time, or one
        document."""
        number = first
        while number < self.documents:
            stop = min(number + _AT_A_TIME, self.documents)
            documents = self._read("number >= ? AND number < ?", (number, stop), ordered=True)
            if not documents or list(documents) != list(range(number, number + len(documents))):
                raise IndexDamagedError(f"{self._path} lacks documents from {number}; {HINT}")
            yield from documents.values()
            number += len(documents)

    def contents(self) -> Iterator[str]:
        """What is embedded of each row, in order. Documents are not checked one by one."""
        number = row = 0
        while number < self.documents:
            documents = self._rows(
                "SELECT title, text, count FROM documents WHERE number >= ? AND number < ? "
                "ORDER BY number",
                (number, number + _AT_A_TIME),
                most=_CHARACTERS,
            )
            if not documents:
                raise IndexDamagedError(f"{self._path} lacks documents from {number}; {HINT}")
            number += len(documents)
            rows = sum(count for _, _, count in documents)
            spans = iter(
                self._rows(
                    "SELECT start, stop FROM passages WHERE row >= ? AND row < ? ORDER BY row",
                    (row, row + rows),
                )
            )
            row += rows
            for title, text, count in documents:
                for span in islice(spans, count):
                    yield joined(title, text[slice(*span)])

    def described(self) -> Iterator[tuple[str, int, str, str]]:
        """Of each document in order: id, number of its passages, metadata as JSON text, and the
        numbers that texts of it spell, likewise (empty where none does)."""
        numbers, beside = "''", ""
        if self.has_numbers:
            numbers, beside = "coalesce(fields, '')", " LEFT JOIN numbers ON document = number"
        number = 0
        while number < self.documents:
            rows = self._rows(
                f"SELECT id, count, metadata, {numbers} FROM documents{beside} "  # noqa: S608
                "WHERE number >= ? AND number < ? ORDER BY number",
                (number, number + _AT_A_TIME),
                most=_CHARACTERS,
                kinds=(str, int, str, str),
            )
            if not rows:
                raise IndexDamagedError(f"{self._path} lacks documents from {number}; {HINT}")
            yield from ((*described, spelled or None) for *described, spelled in rows)
            number += len(rows)

    @cached_property
    def has_numbers(self) -> bool:
        """Whether texts of any document's metadata are read as numbers: there is a table of
        them."""
        return bool(self._rows(HAS_NUMBERS)[0][0])

    def _read(
        self, where: str, values: Sequence[int], *, ordered: bool
    ) -> dict[int, StoredDocument]:
        order = " ORDER BY number" if ordered else ""
        spells = "number IN (SELECT document FROM numbers)" if self.has_numbers else "0"
        rows = self._rows(
            "SELECT number, id, title, text, metadata, source, first, count, checksum, "  # noqa: S608
            f"{spells} FROM documents WHERE {where}{order}",
            values,
            most=_CHARACTERS if ordered else None,
            kinds=(int, str, str, str, str, str, int, int, int, int),
        )
        documents: dict[int, StoredDocument] = {}
        for (
            number,
            identifier,
            title,
            text,
            metadata,
            source,
            first,
            count,
            checksum,
            spells,
        ) in rows:
            passages = self._rows(
                "SELECT document, start, stop FROM passages WHERE row >= ? AND row < ? "
                "ORDER BY row",
                (first, first + count),
                kinds=(int, int, int),
            )
            spans = [tuple(span) for _, *span in passages]
            with reading(self._path):
                # Rows are all that joins a text to its vectors: both tables must agree on them.
                if len(passages) != count or any(owner != number for owner, *_ in passages):
                    raise ValueError(f"document {number} has rows of another one")
                if document_checksum(identifier, title, text, metadata, spans) != checksum:
                    raise ValueError(f"document {number} does not match its checksum")
                documents[number] = StoredDocument(
                    number,
                    identifier,
                    title,
                    text,
                    json.loads(metadata),
                    source,
                    first,
                    tuple(spans),
                    bool(spells),
                )
        return documents

    def numbers_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Documents by id; ids that are not there are left out, once the file is checked."""
        numbers: dict[str, int] = {}
        for part in _parts(ids):
            numbers.update(
                self._rows(
                    f"SELECT id, number FROM documents WHERE id IN ({_marks(part)})",  # noqa: S608
                    part,
                    kinds=(str, int),
                )
            )
        if len(numbers) < len(set(ids)):
            self.check()
        return numbers

    def named_after(self, identifier: str) -> Iterator[tuple[str, int]]:
        """(id, first row) of documents whose id is that of a passage of `identifier`."""
        for name, _, first in named_after(self._rows, identifier):
            yield name, first

    def ids_like(self, pattern: str) -> Iterator[tuple[str, int]]:
        """(id, first row) of documents whose id fits a pattern of SQLite's GLOB. Only the index of
        ids is read through."""
        sql = "SELECT number FROM documents WHERE id GLOB ?"
        rowids = self._rows(sql, (pattern,), kinds=(int,))
        for part in _parts([number for (number,) in rowids]):
            yield from self._rows(
                f"SELECT id, first FROM documents WHERE number IN ({_marks(part)})",  # noqa: S608
                part,
                kinds=(str, int),
            )

    def truncated(self, rows: range) -> list[bool]:
        """For each of some rows whether something was cut off."""
        sql = "SELECT truncated FROM passages WHERE row >= ? AND row < ? ORDER BY row"
        return [bool(row[0]) for row in self._rows(sql, (rows.start, rows.stop))]

    def matching(self, condition: str, values: Sequence[Any]) -> npt.NDArray[np.bool_]:
        """For each row whether its document meets a SQL condition (`filters.over_json`)."""
        self.check()
        sql = f"SELECT first, count FROM documents WHERE {condition}"  # noqa: S608
        matches = np.array(self._rows(sql, values), dtype=np.int64).reshape(-1, 2)
        # +1 where a document's rows begin, -1 behind them: the running sum is 1 within.
        steps = np.zeros(self.rows + 1, dtype=np.int8)
        np.add.at(steps, matches[:, 0], 1)
        np.add.at(steps, matches.sum(axis=1), -1)
        matching: npt.NDArray[np.bool_] = np.cumsum(steps[:-1], dtype=np.int8) > 0
        return matching

    def problems(self) -> list[str]:
        """Problems that SQLite's own check and the numbers show."""
        problems = super().problems()
        for table, key, held in (
            ("documents", "number", self.documents),
            ("passages", "row", self.rows),
        ):
            sql = f"SELECT min({key}), max({key}), count(*) FROM {table}"  # noqa: S608
            low, high, count = self._rows(sql)[0]
            if held and (low, high, count) != (0, held - 1, held):
                problems.append(f"{table} run from {low} to {high}, but there are {count}")
        return problems


def _first_rows(cursor: sqlite3.Cursor, most: int) -> list[Any]:
    rows, held = [], 0
    for row in cursor:
        rows.append(row)
        held += sum(len(cell) for cell in row if isinstance(cell, str))
        if held >= most:
            break
    cursor.close()
    return rows


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), VARIABLES):
        yield list(values[start : start + VARIABLES])


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
