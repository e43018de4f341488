"""The documents of an index in SQLite, and which batches of them are embedded.

Knows SQL, always parameterised. Refuses to know vectors: a row number is all that joins a document
to its vectors. The rollback journal is kept instead of WAL, because a finished file must open from
a read-only directory.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moee_index.corpus import Document
from moee_index.errors import CorpusError, IndexDamagedError
from moee_index.index.storage import storage_errors

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    copy_of INTEGER,
    truncated INTEGER NOT NULL,
    source TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS documents_content ON documents (content_hash);
CREATE TABLE IF NOT EXISTS windows (
    window INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
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
# SQLite's own limit on variables in one statement was 999 for long.
_VARIABLES = 900


@dataclass(frozen=True)
class StoredDocument:
    """What a hit tells about its document."""

    id: str
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class PreparedDocument:
    """A document as it is stored: metadata as JSON text, the content's hash beside it."""

    document: Document
    metadata: str
    content_hash: bytes

    @classmethod
    def of(cls, document: Document) -> PreparedDocument:
        """Raises CorpusError for what cannot be stored: values JSON lacks, broken Unicode."""
        where = f"{document.source}: " if document.source else ""
        try:
            metadata = json.dumps(document.metadata, ensure_ascii=False, allow_nan=False)
            metadata.encode()
            document.id.encode()
            document.title.encode()
            content_hash = hashlib.sha256(document.content.encode()).digest()
        except UnicodeEncodeError:
            raise CorpusError(
                f"{where}document {document.id!r} holds half a surrogate pair, which no UTF-8 "
                "text can; mend it or skip it with --on-bad skip"
            ) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise CorpusError(
                f"{where}metadata of document {document.id!r} is not JSON ({error}); mend it or "
                "skip it with --on-bad skip"
            ) from None
        return cls(document, metadata, content_hash)


@dataclass(frozen=True)
class Window:
    """A run of documents whose batches are planned together."""

    number: int
    first: int
    count: int
    plan: str
    tokens: int
    done: bool


class _Lookups(abc.ABC):
    """What a build in progress and a finished file are both asked."""

    @abc.abstractmethod
    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]: ...

    def source_of(self, identifier: str, before: int) -> str | None:
        """Where an id of a row below `before` came from; None if there is no such id."""
        found = self._rows(
            "SELECT source FROM documents WHERE id = ? AND row < ?", (identifier, before)
        )
        return str(found[0][0]) if found else None

    def stored(self, first: int, count: int) -> list[tuple[str, str, str, str, int | None]]:
        """id, title, text, metadata as JSON and `copy_of` of rows first…first+count."""
        return self._rows(
            "SELECT id, title, text, metadata, copy_of FROM documents "
            "WHERE row >= ? AND row < ? ORDER BY row",
            (first, first + count),
        )


class DocumentStore(_Lookups):
    """documents.sqlite of a build in progress. A context manager; raises StorageError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            self._connection = sqlite3.connect(path, isolation_level=None)
            try:
                self._connection.execute("PRAGMA journal_mode = TRUNCATE")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_SCHEMA)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> DocumentStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with storage_errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with storage_errors(self._path):
            return self._connection.execute(sql, values).fetchall()

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM documents")[0][0])

    @property
    def embedded(self) -> int:
        """Documents of windows whose vectors are all on disk."""
        return int(self._rows("SELECT coalesce(sum(count), 0) FROM windows WHERE done")[0][0])

    @property
    def truncated(self) -> int:
        return int(self._rows("SELECT count(*) FROM documents WHERE truncated")[0][0])

    def window(self, number: int) -> Window | None:
        found = self._rows(
            "SELECT window, first, count, plan, tokens, done FROM windows WHERE window = ?",
            (number,),
        )
        if not found:
            return None
        window, first, count, plan, tokens, done = found[0]
        return Window(window, first, count, plan, tokens, bool(done))

    def add_window(
        self,
        window: Window,
        documents: Sequence[PreparedDocument],
        copies: Sequence[int | None],
        truncated: Sequence[bool],
    ) -> None:
        """Insert a window's documents at rows `window.first…` in one transaction."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        window.first + position,
                        prepared.document.id,
                        prepared.document.title,
                        prepared.document.text,
                        prepared.metadata,
                        prepared.content_hash,
                        copies[position],
                        int(truncated[position]),
                        prepared.document.source,
                    )
                    for position, prepared in enumerate(documents)
                ),
            )
            connection.execute(
                "INSERT INTO windows VALUES (?, ?, ?, ?, ?, 0)",
                (window.number, window.first, window.count, window.plan, window.tokens),
            )

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
            connection.execute("DELETE FROM documents WHERE row >= ?", (window.first,))
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
        found: dict[bytes, tuple[int, bool]] = {}
        for start in range(0, len(wanted), _VARIABLES):
            part = wanted[start : start + _VARIABLES]
            marks = ",".join("?" * len(part))
            for content, row, cut in self._rows(
                "SELECT content_hash, min(row), truncated FROM documents "  # noqa: S608
                f"WHERE content_hash IN ({marks}) AND row < ? GROUP BY content_hash",
                (*part, before),
            ):
                found[content] = (row, bool(cut))
        return found

    def finish(self) -> None:
        """Leave one file that opens read-only, with no journal beside it."""
        with storage_errors(self._path):
            self._connection.execute("PRAGMA journal_mode = DELETE")


class DocumentReader(_Lookups):
    """documents.sqlite of a finished index, opened read-only; used from any thread.

    Raises IndexDamagedError where the file is not what it should be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        # immutable: nothing writes to a finished file, so no lock and no journal are looked for.
        uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        with self._damaged():
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            try:
                # Rows have no gaps (`problems` looks for them), and counting would read them all.
                last = self._connection.execute("SELECT max(row) FROM documents").fetchone()[0]
            except BaseException:
                self._connection.close()
                raise
            self._count = 0 if last is None else int(last) + 1

    @contextlib.contextmanager
    def _damaged(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, ValueError) as error:
            raise IndexDamagedError(
                f"{self._path} is damaged ({error}); restore it or build again with --overwrite"
            ) from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __len__(self) -> int:
        return self._count

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._damaged():
            return self._connection.execute(sql, values).fetchall()

    def get(self, rows: Sequence[int]) -> dict[int, StoredDocument]:
        """The documents at these rows."""
        found: dict[int, StoredDocument] = {}
        for start in range(0, len(rows), _VARIABLES):
            part = [int(row) for row in rows[start : start + _VARIABLES]]
            marks = ",".join("?" * len(part))
            for row, identifier, text, metadata in self._rows(
                f"SELECT row, id, text, metadata FROM documents WHERE row IN ({marks})",  # noqa: S608
                part,
            ):
                with self._damaged():
                    found[row] = StoredDocument(identifier, text, json.loads(metadata))
        for row in rows:
            if row not in found:
                raise IndexDamagedError(
                    f"{self._path} lacks row {row}; restore it or build again with --overwrite"
                )
        return found

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Row numbers of the given ids; ids that are not there are left out."""
        found: dict[str, int] = {}
        for start in range(0, len(ids), _VARIABLES):
            part = list(ids[start : start + _VARIABLES])
            marks = ",".join("?" * len(part))
            found.update(
                self._rows(f"SELECT id, row FROM documents WHERE id IN ({marks})", part)  # noqa: S608
            )
        return found

    def problems(self) -> list[str]:
        """What SQLite's own check and the row numbers say is wrong; empty if nothing is."""
        found = [str(row[0]) for row in self._rows("PRAGMA integrity_check(5)") if row[0] != "ok"]
        low, high, count = self._rows("SELECT min(row), max(row), count(*) FROM documents")[0]
        if count and (low, high) != (0, count - 1):
            found.append(f"rows run from {low} to {high}, but there are {count}")
        return found
