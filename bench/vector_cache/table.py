"""The vectors of one key on disk: rows of a fixed width, and a table that says whose they are.

    rows.f32       rows of HS and RW side by side, float32, only ever appended to
    texts.sqlite   sha256 of a text → its row, its checksum, tokens, whether it was truncated; and
                   what the rows are: key, dimensions, facts about the model

Rows are synced before the table names them, so a kill at any moment loses the batch that was being
written and nothing else; rows that no table names are overwritten. Several processes may read and
write: SQLite's lock lets one write at a time, and each begins where the last one ended.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexLockedError, ModelError, StorageError
from moee_index.types import Embeddings

FORMAT = 1
ROWS = "rows.f32"
TABLE = "texts.sqlite"
BUSY_SECONDS = 60.0
_TAKE_ROWS = 4096
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS texts (
    row INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    crc INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    truncated INTEGER NOT NULL
);
"""

RowNumbers = npt.NDArray[np.int64]
P = ParamSpec("P")
R = TypeVar("R")


class DamagedError(StorageError):
    """Files of stored vectors do not belong together; `VectorStore.shelf` makes them anew."""


def _in_turn(method: Callable[P, R]) -> Callable[P, R]:
    """One thread at a time: a build plans in one and computes in another."""

    @functools.wraps(method)
    def locked(*args: P.args, **named: P.kwargs) -> R:
        shelf: Any = args[0]
        with shelf._lock:
            return method(*args, **named)

    return locked


class Shelf:
    """The vectors of one key, for any number of threads.

    dims: (HS, RW), None while there are none. Raises StorageError where the disk refuses.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._rows: dict[bytes, int] = {}
        self._crc: list[int] = []
        self._tokens: list[int] = []
        self._truncated: list[bool] = []
        self._checked = np.zeros(0, dtype=bool)
        self._map: npt.NDArray[np.float32] | None = None
        self.dims: tuple[int, int] | None = None
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        self._connection = self._open(identity)
        try:
            self._refresh()
        except BaseException:
            self._connection.close()
            raise

    @_in_turn
    def close(self) -> None:
        """Let go of the files; the shelf cannot be used any more."""
        self._connection.close()
        self._map = None

    def __len__(self) -> int:
        return len(self._crc)

    def _open(self, identity: str) -> sqlite3.Connection:
        table = self.path / TABLE
        with disk_errors(table):
            connection = sqlite3.connect(
                table, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA synchronous = FULL")
                with contextlib.closing(connection.cursor()) as cursor:
                    cursor.executescript(_SCHEMA)
                    cursor.execute(
                        "INSERT OR IGNORE INTO meta VALUES ('format', ?), ('key', ?)",
                        (str(FORMAT), identity),
                    )
                    said = dict(cursor.execute("SELECT name, value FROM meta"))
            except BaseException:
                connection.close()
                raise
        if said.get("format") != str(FORMAT) or said.get("key") != identity:
            connection.close()
            raise self._damaged("it is another model's, or of another version's format")
        return connection

    def _refresh(self) -> None:
        """Take in what this or another process has committed."""
        with disk_errors(self.path / TABLE):
            said = dict(self._connection.execute("SELECT name, value FROM meta"))
            new = self._connection.execute(
                "SELECT row, hash, crc, tokens, truncated FROM texts WHERE row >= ? ORDER BY row",
                (len(self),),
            ).fetchall()
        if "dims" in said:
            try:
                hs_dim, rw_dim = json.loads(said["dims"])
                self.dims = int(hs_dim), int(rw_dim)
            except (ValueError, TypeError):
                raise self._damaged("its dimensions cannot be read") from None
        if not new:
            return
        if self.dims is None or new[-1][0] != len(self) + len(new) - 1:
            raise self._damaged("the table of texts has gaps")
        count = len(self) + len(new)
        try:
            size = (self.path / ROWS).stat().st_size
        except OSError:
            size = 0
        if size < count * self._row_bytes:
            raise self._damaged(
                f"{ROWS} has {size} bytes, {count} rows of {sum(self.dims)} take "
                f"{count * self._row_bytes}"
            )
        for row, digest, crc, tokens, truncated in new:
            self._rows[bytes(digest)] = row
            self._crc.append(crc)
            self._tokens.append(tokens)
            self._truncated.append(bool(truncated))
        self._checked = np.concatenate([self._checked, np.zeros(len(new), dtype=bool)])
        self._map = None

    def _damaged(self, why: str) -> DamagedError:
        return DamagedError(f"{self.path} is damaged ({why}); remove it and run again")

    @property
    def _row_bytes(self) -> int:
        assert self.dims is not None
        return sum(self.dims) * 4

    # Reading

    @_in_turn
    def rows_of(self, texts: Sequence[str]) -> RowNumbers:
        """Row of each text, int64 [n]; -1 where a text is not there."""
        digests = [text_hash(text) for text in texts]
        if any(digest not in self._rows for digest in digests):
            self._refresh()
        return np.fromiter(
            (self._rows.get(digest, -1) for digest in digests), np.int64, len(digests)
        )

    @_in_turn
    def take(self, rows: RowNumbers) -> Embeddings:
        """Raw float32 rows, copied, in the order asked for.

        Raises StorageError where a row is not what was written.
        """
        if self.dims is None or not len(rows):
            hs_dim, rw_dim = self.dims or (0, 0)
            return Embeddings(
                np.empty((0, hs_dim), dtype=np.float32), np.empty((0, rw_dim), dtype=np.float32)
            )
        mapped = self._mapped()
        self._check(rows, mapped)
        hs = np.empty((len(rows), self.dims[0]), dtype=np.float32)
        rw = np.empty((len(rows), self.dims[1]), dtype=np.float32)
        for start in range(0, len(rows), _TAKE_ROWS):
            some = slice(start, start + _TAKE_ROWS)
            block = mapped[rows[some]]
            hs[some], rw[some] = block[:, : self.dims[0]], block[:, self.dims[0] :]
        return Embeddings(hs, rw)

    @_in_turn
    def tokens_of(self, rows: RowNumbers) -> npt.NDArray[np.int64]:
        """Tokens of each row's text, its template included; 0 where the writer did not say."""
        return np.array(self._tokens, dtype=np.int64)[rows]

    @_in_turn
    def truncated_of(self, rows: RowNumbers) -> list[bool]:
        """Whether each row's text was cut to fit."""
        return [self._truncated[row] for row in rows]

    def _mapped(self) -> npt.NDArray[np.float32]:
        if self._map is None:
            assert self.dims is not None
            with disk_errors(self.path / ROWS):
                self._map = np.memmap(
                    self.path / ROWS, dtype="<f4", mode="r", shape=(len(self), sum(self.dims))
                )
        return self._map

    def _check(self, rows: RowNumbers, mapped: npt.NDArray[np.float32]) -> None:
        """Compare each row with its checksum, once in a process."""
        for row in np.unique(rows[~self._checked[rows]]):
            if zlib.crc32(mapped[row].tobytes()) != self._crc[row]:
                raise StorageError(
                    f"{self.path / ROWS} is damaged (row {row}); remove {self.path} and run again: "
                    "its texts are embedded anew"
                )
            self._checked[row] = True

    # Writing

    @_in_turn
    def put(
        self,
        texts: Sequence[str],
        embeddings: Embeddings,
        tokens: Sequence[int] | None = None,
        truncated: Sequence[bool] | None = None,
    ) -> None:
        """Append a batch; on return it is on disk. Texts that are there already are left alone.

        Raises StorageError; ModelError for values that are not finite or other dimensions.
        """
        dims = (embeddings.hs.shape[1], embeddings.rw.shape[1])
        if not len(texts) == len(embeddings.hs) == len(embeddings.rw):
            raise ModelError(
                f"{len(texts)} texts and {len(embeddings.hs)} vectors; this is a fault of the "
                "program"
            )
        block = np.ascontiguousarray(
            np.concatenate([embeddings.hs, embeddings.rw], axis=1), dtype="<f4"
        )
        if not np.isfinite(block).all():
            raise ModelError("a vector holds values that are not finite; try --bits 32")
        with self._writing():
            self._refresh()
            if self.dims is not None and self.dims != dims:
                raise ModelError(
                    f"{self.path} holds vectors of {self.dims} dimensions, and the model gave "
                    f"{dims}; remove that directory and run again"
                )
            fresh: dict[bytes, int] = {}
            for position, text in enumerate(texts):
                digest = text_hash(text)
                if digest not in self._rows:
                    fresh.setdefault(digest, position)
            if not fresh:
                return
            first = len(self)
            written = [block[position].tobytes() for position in fresh.values()]
            self._append(b"".join(written), first * block.shape[1] * 4)
            with disk_errors(self.path / TABLE):
                self._connection.execute(
                    "INSERT OR REPLACE INTO meta VALUES ('dims', ?)", (json.dumps(dims),)
                )
                self._connection.executemany(
                    "INSERT INTO texts VALUES (?, ?, ?, ?, ?)",
                    [
                        (
                            first + number,
                            digest,
                            zlib.crc32(written[number]),
                            int(tokens[position]) if tokens is not None else 0,
                            bool(truncated[position]) if truncated is not None else False,
                        )
                        for number, (digest, position) in enumerate(fresh.items())
                    ],
                )
        self._refresh()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """SQLite's own lock: one writer, who begins where the last one ended."""
        with disk_errors(self.path / TABLE):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with disk_errors(self.path / TABLE):
                self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def _append(self, content: bytes, place: int) -> None:
        path = self.path / ROWS
        with disk_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                view = memoryview(content)
                while view:
                    written = os.pwrite(handle, view, place)
                    view, place = view[written:], place + written
                os.fsync(handle)
            finally:
                os.close(handle)

    # What the rows are

    @property
    @_in_turn
    def facts(self) -> dict[str, Any]:
        """What was kept about the model beside its vectors."""
        with disk_errors(self.path / TABLE):
            found = self._connection.execute("SELECT value FROM meta WHERE name = 'facts'")
            row = found.fetchone()
        return dict(json.loads(row[0])) if row else {}

    @_in_turn
    def keep_facts(self, facts: Mapping[str, Any]) -> None:
        """Keep facts about the model; those that are there stay where none are given anew."""
        with self._writing():
            merged = {**self.facts, **facts}
            self._connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('facts', ?)", (json.dumps(merged),)
            )


def text_hash(text: str) -> bytes:
    """sha256 of a text as the encoder is given it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """What the disk says, in one line that tells what to do; an altered table is damage."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{where}: {error.strerror or error}; make room there or name another directory with "
            "--vectors, and run again: what was embedded so far is kept"
        ) from error
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "malformed" in text or "not a database" in text or "no such column" in text:
            raise DamagedError(
                f"{where} is damaged ({text}); remove {where.parent} and run again"
            ) from error
        if "locked" in text:
            raise IndexLockedError(
                f"{where} has been in use by another process for {BUSY_SECONDS:.0f} seconds; "
                "wait until it has ended, or name another directory with --vectors"
            ) from error
        raise StorageError(
            f"{where}: {text}; make room there or name another directory with --vectors, and run "
            "again: what was embedded so far is kept"
        ) from error
