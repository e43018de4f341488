"""The documents of a segment in SQLite as they are written, and which batches are embedded.

    documents   number (their order) → id, metadata, title, text; `first` and `count`: their rows
    passages    row → document, characters of its text, hash of what was embedded
    numbers     document → the fields whose texts spell numbers, as JSON; there only if any do
    windows, batches   what is planned together, and which batches are embedded

A document that is not split has one passage, all of its text. Metadata comes before the text, so
that a filter need not read through long texts.

SQL is always parameterised. A row number is all that joins a passage to its vectors. The rollback
journal is kept instead of WAL, because a finished file must open from a read-only directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moee_index.atomic import storage_errors
from moee_index.errors import CorpusError
from moee_index.index.store.passage_names import SameName, named_after, named_passage
from moee_index.index.store.spelled_numbers import spelled_numbers
from moee_index.types import Document, Span

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    title TEXT NOT NULL,
    source TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS passages (
    row INTEGER PRIMARY KEY,
    document INTEGER NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL,
    content_hash BLOB NOT NULL,
    truncated INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS passages_content ON passages (content_hash);
CREATE TABLE IF NOT EXISTS windows (
    window INTEGER PRIMARY KEY,
    first_row INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    first_document INTEGER NOT NULL,
    documents INTEGER NOT NULL,
    plan TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    done INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    window INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    PRIMARY KEY (window, batch)
) WITHOUT ROWID;
"""
_NUMBERS = "CREATE TABLE IF NOT EXISTS numbers (document INTEGER PRIMARY KEY, fields TEXT NOT NULL)"
HAS_NUMBERS = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'numbers'"
# SQLite reads JSON that is nested 1000 deep.
DEEPEST = 900
# SQLite's limit on variables in one statement used to be 999.
VARIABLES = 900
# Content hashes come in no order: the pages of their index are wanted again and again.
_CACHE_KIB = 64 << 10
_WINDOW = "window, first_row, rows, first_document, documents, plan, tokens, done"
# 128 bits: two texts of a corpus never share one.
_HASH_BYTES = 16


@dataclass(frozen=True)
class PreparedDocument:
    """A document as it is stored: metadata as JSON text, and what is embedded for each passage.

    numbers: what a filter reads as numbers in the texts of its metadata, as JSON text; None where
    that is nothing.
    """

    document: Document
    metadata: str
    numbers: str | None = None
    spans: tuple[Span, ...] = ()
    hashes: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, document: Document) -> PreparedDocument:
        """Not yet split. Raises CorpusError for what cannot be stored: values that JSON lacks,
        broken Unicode."""
        where = f"{document.source}: " if document.source else ""
        try:
            metadata = json.dumps(document.metadata, ensure_ascii=False, allow_nan=False)
            for text in (metadata, document.id, document.title, document.text):
                text.encode()
            if _depth(document.metadata, metadata) > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} deep")
        except UnicodeEncodeError:
            raise CorpusError(
                f"{where}document {document.id!r} holds half a surrogate pair, which UTF-8 "
                "cannot; mend it or skip it with --on-bad skip"
            ) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise CorpusError(
                f"{where}metadata of document {document.id!r} is not JSON ({error}); mend it or "
                "skip it with --on-bad skip"
            ) from None
        numbers = spelled_numbers(document.metadata) if document.untyped else {}
        return cls(document, metadata, json.dumps(numbers, ensure_ascii=False) if numbers else None)

    def split(self, spans: Sequence[Span]) -> PreparedDocument:
        """With these passages of its text."""
        contents = [self.document.content_of(span) for span in spans]
        hashes = [hashlib.sha256(content.encode()).digest()[:_HASH_BYTES] for content in contents]
        return replace(self, spans=tuple(spans), hashes=tuple(hashes))

    @property
    def contents(self) -> list[str]:
        """What is embedded, a text for each passage."""
        return [self.document.content_of(span) for span in self.spans]

    @property
    def checksum(self) -> int:
        read = self.document
        return document_checksum(read.id, read.title, read.text, self.metadata, self.spans)


def document_checksum(
    identifier: str, title: str, text: str, metadata: str, spans: Iterable[Span]
) -> int:
    """CRC-32 of everything about a document that an answer contains."""
    crc = zlib.crc32(json.dumps([list(span) for span in spans]).encode())
    for part in (identifier, title, text, metadata):
        # Lengths keep the parts apart: "ab", "c" is not "a", "bc".
        content = part.encode()
        crc = zlib.crc32(content, zlib.crc32(len(content).to_bytes(8, "little"), crc))
    return crc


def _depth(metadata: dict[str, Any], written: str) -> int:
    """How deep metadata are nested, where their JSON text has brackets enough to be so at all."""
    if written.count("{") + written.count("[") <= DEEPEST:
        return 0
    level: list[Any] = [metadata]
    depth = 0
    while level:
        depth += 1
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for each in inner for one in each if isinstance(one, dict | list | tuple)]
    return depth


@dataclass(frozen=True)
class Window:
    """A run of documents whose passages' batches are planned together."""

    number: int
    first_row: int
    rows: int
    first_document: int
    documents: int
    plan: str
    tokens: int
    done: bool = field(default=False, compare=False)


Stored = tuple[str, str, str, str, int]


class DocumentStore:
    """documents.sqlite of a segment in progress. A context manager, used from any thread.

    Raises StorageError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        with storage_errors(path):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._connection.execute("PRAGMA journal_mode = TRUNCATE")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                self._connection.executescript(_SCHEMA)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> DocumentStore:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, storage_errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, storage_errors(self._path):
            return self._connection.execute(sql, values).fetchall()

    def __len__(self) -> int:
        """Documents."""
        return int(self._rows("SELECT coalesce(max(number) + 1, 0) FROM documents")[0][0])

    @property
    def embedded(self) -> int:
        """Rows of windows whose vectors are all on disk."""
        return int(self._rows("SELECT coalesce(sum(rows), 0) FROM windows WHERE done")[0][0])

    @property
    def truncated(self) -> int:
        """Documents that were truncated."""
        sql = "SELECT count(DISTINCT document) FROM passages WHERE truncated"
        return int(self._rows(sql)[0][0])

    def window(self, number: int) -> Window | None:
        found = self._rows(
            f"SELECT {_WINDOW} FROM windows WHERE window = ?",  # noqa: S608
            (number,),
        )
        if not found:
            return None
        number, first_row, rows, first_document, documents, plan, tokens, done = found[0]
        return Window(number, first_row, rows, first_document, documents, plan, tokens, bool(done))

    def source_of(self, identifier: str, before: int) -> str | None:
        """Where an id of a document below `before` came from; None if it is not there."""
        found = self._rows(
            "SELECT source FROM documents WHERE id = ? AND number < ?", (identifier, before)
        )
        return str(found[0][0]) if found else None

    def namesake(self, identifier: str, before: int) -> SameName | None:
        """A document below `before` whose name a passage of this one would have, or the reverse."""
        passage = named_passage(identifier)
        if passage is not None and self.source_of(passage[0], before) is not None:
            return identifier, passage[0]
        for name, number, _ in named_after(self._rows, identifier):
            if number < before:
                return name, identifier
        return None

    def stored(self, first: int, count: int) -> list[Stored]:
        """id, title, text, metadata as JSON, and whether texts of it spell numbers, of documents
        first…first+count."""
        spells = "number IN (SELECT document FROM numbers)" if self._has_numbers else "0"
        return self._rows(
            f"SELECT id, title, text, metadata, {spells} FROM documents "  # noqa: S608
            "WHERE number >= ? AND number < ? ORDER BY number",
            (first, first + count),
        )

    @property
    def _has_numbers(self) -> bool:
        return bool(self._rows(HAS_NUMBERS)[0][0])

    def add_window(
        self, window: Window, documents: Sequence[PreparedDocument], truncated: Sequence[bool]
    ) -> None:
        """Insert a window's documents and passages in one transaction."""
        with self._transaction() as connection:
            self._insert(connection, window.first_document, window.first_row, documents, truncated)
            connection.execute(
                "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    window.number,
                    window.first_row,
                    window.rows,
                    window.first_document,
                    window.documents,
                    window.plan,
                    window.tokens,
                ),
            )

    def append(
        self, first_row: int, documents: Sequence[PreparedDocument], truncated: Sequence[bool]
    ) -> None:
        """Documents whose rows are known already, behind those that are there."""
        with self._transaction() as connection:
            self._insert(connection, len(self), first_row, documents, truncated)

    def _insert(
        self,
        connection: sqlite3.Connection,
        first_document: int,
        first_row: int,
        documents: Sequence[PreparedDocument],
        truncated: Sequence[bool],
    ) -> None:
        rows: list[tuple[Any, ...]] = []
        passages: list[tuple[Any, ...]] = []
        numbers: list[tuple[int, str]] = []
        for number, prepared in enumerate(documents, first_document):
            read, first = prepared.document, first_row + len(passages)
            rows.append(
                (
                    number,
                    read.id,
                    first,
                    len(prepared.spans),
                    prepared.checksum,
                    prepared.metadata,
                    read.title,
                    read.source,
                    read.text,
                )
            )
            if prepared.numbers is not None:
                numbers.append((number, prepared.numbers))
            for span, content in zip(prepared.spans, prepared.hashes, strict=True):
                cut = int(truncated[len(passages)])
                passages.append((first_row + len(passages), number, *span, content, cut))
        connection.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)", passages)
        if numbers:
            connection.execute(_NUMBERS)
            connection.executemany("INSERT INTO numbers VALUES (?, ?)", numbers)

    def replan(self, window: Window) -> None:
        """Forget which batches of a window are embedded: they are not planned as they were."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM batches WHERE window = ?", (window.number,))
            connection.execute(
                "UPDATE windows SET plan = ?, tokens = ?, done = 0 WHERE window = ?",
                (window.plan, window.tokens, window.number),
            )

    def drop_from(self, window: Window) -> None:
        """Forget a window and all that came after it."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM documents WHERE number >= ?", (window.first_document,))
            connection.execute("DELETE FROM passages WHERE row >= ?", (window.first_row,))
            if self._has_numbers:
                connection.execute(
                    "DELETE FROM numbers WHERE document >= ?", (window.first_document,)
                )
            for table in ("windows", "batches"):
                connection.execute(f"DELETE FROM {table} WHERE window >= ?", (window.number,))  # noqa: S608

    def batches_done(self, window: int) -> set[int]:
        return {
            row[0] for row in self._rows("SELECT batch FROM batches WHERE window = ?", (window,))
        }

    def batches_are_done(self, window: int, batches: Sequence[int]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO batches VALUES (?, ?)",
                [(window, batch) for batch in batches],
            )

    def window_done(self, window: int) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE windows SET done = 1 WHERE window = ?", (window,))
            connection.execute("DELETE FROM batches WHERE window = ?", (window,))

    def rows_of_contents(
        self, hashes: Iterable[bytes], before: int
    ) -> dict[bytes, tuple[int, bool]]:
        """For contents stored at rows below `before`: the first such row, and if it was cut."""
        wanted = list(hashes)
        rows: dict[bytes, tuple[int, bool]] = {}
        for start in range(0, len(wanted), VARIABLES):
            part = wanted[start : start + VARIABLES]
            marks = ",".join("?" * len(part))
            for content, row, cut in self._rows(
                "SELECT content_hash, min(row), truncated FROM passages "  # noqa: S608
                f"WHERE content_hash IN ({marks}) AND row < ? GROUP BY content_hash",
                (*part, before),
            ):
                rows[content] = (row, bool(cut))
        return rows

    def finish(self) -> None:
        """Leave one file that opens read-only, with no journal beside it."""
        with self._lock, storage_errors(self._path):
            self._connection.execute("PRAGMA journal_mode = DELETE")
