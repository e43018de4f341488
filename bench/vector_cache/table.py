"""The vectors of one key on disk: the product's raw rows, and a table that says whose they are.

    hs.f32 rw.f32 rows.crc   rows and their checksums, as in an index
    texts.sqlite             sha256 of a text → its row, tokens, whether it was truncated; and what
                             the rows are: key, dimensions, facts about the model

Rows are synced before the table names them, so a kill at any moment loses the batch that was being
written and nothing else; rows that no table names are overwritten. Several processes may read and
write: SQLite's lock lets one write at a time, and each begins where the last one ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.atomic import storage_errors
from moee_index.errors import IndexDamagedError, ModelError, StorageError
from moee_index.index.store.checksums import row_crcs
from moee_index.index.store.rows import RowNumbers, RowReader, RowWriter, StoredRows, map_rows
from moee_index.types import Embeddings, Pair

FORMAT = 2
TABLE = "texts.sqlite"
STORE = "float32"
BUSY_SECONDS = 60.0
_REFUSED = (
    "{path}: {why}; make room there or name another directory with --vectors, and run again: what "
    "was embedded so far is kept"
)
disk_errors = partial(storage_errors, message=_REFUSED)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    row INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    tokens INTEGER NOT NULL,
    truncated INTEGER NOT NULL
);
"""
# Format 1: rows of HS and RW side by side, their checksums in the table `texts`.
_ROWS_1 = "rows.f32"
_FROM_1 = """
INSERT INTO vectors SELECT row, hash, tokens, truncated FROM texts;
DROP TABLE texts;
UPDATE meta SET value = '2' WHERE name = 'format';
"""
_BLOCK = 4096


class Shelf:
    """The vectors of one key, for any number of threads.

    dims: (HS, RW), None while there are none. rows: the reader of those that are there, if any.
    Raises StorageError where the disk refuses, IndexDamagedError where files do not belong
    together.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        # A build plans in one thread and computes in another.
        self._lock = threading.RLock()
        self._numbers: dict[bytes, int] = {}
        self._tokens: list[int] = []
        self._truncated: list[bool] = []
        self._sound = np.zeros(0, dtype=bool)
        self.rows: RowReader | None = None
        self.dims: Pair[int] | None = None
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path / TABLE, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            self._open(identity)
            self._refresh()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Let go of the files; the shelf cannot be used any more."""
        with self._lock:
            self._connection.close()
            self.rows = None

    def __len__(self) -> int:
        return len(self._tokens)

    def _open(self, identity: str) -> None:
        with disk_errors(self.path / TABLE):
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)
            self._connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('format', ?), ('key', ?)",
                (str(FORMAT), identity),
            )
        expected = {"key": identity, "format": str(FORMAT)}
        if self._meta().items() >= {**expected, "format": "1"}.items():
            self._take_over()
        if not self._meta().items() >= expected.items():
            raise self._damaged("it is another model's, or of another version's format")

    def _take_over(self) -> None:
        """Bring vectors of format 1 into this one; what was damaged stays damaged."""
        with self._writing():
            if self._meta()["format"] != "1":
                return  # Another process was faster.
            said = self._connection.execute("SELECT crc FROM texts ORDER BY row").fetchall()
            if said:
                self._convert(np.array(said, dtype="<u4")[:, 0], self._read_dims())
            for statement in _FROM_1.strip().splitlines():
                self._connection.execute(statement)
        (self.path / _ROWS_1).unlink(missing_ok=True)

    def _convert(self, crcs: npt.NDArray[np.uint32], dims: Pair[int]) -> None:
        width = dims.hs + dims.rw
        old = map_rows(self.path / _ROWS_1, np.dtype("<f4"), len(crcs), width, growing=True)
        with RowWriter(self.path, STORE, dims, _REFUSED) as writer:
            for start in range(0, len(old), _BLOCK):
                block = old[start : start + _BLOCK]
                parts = Pair(block[:, : dims.hs], block[:, dims.hs :])
                crc = np.stack([row_crcs(parts.hs), row_crcs(parts.rw)], axis=1)
                crc[row_crcs(block) != crcs[start : start + _BLOCK]] ^= 1
                writer.append(start, StoredRows(parts, crc))
            writer.sync()

    def _meta(self) -> dict[str, str]:
        with disk_errors(self.path / TABLE):
            return dict(self._connection.execute("SELECT name, value FROM meta"))

    def _read_dims(self) -> Pair[int]:
        try:
            return Pair(*map(int, json.loads(self._meta()["dims"])))
        except (KeyError, ValueError, TypeError):
            raise self._damaged("its dimensions cannot be read") from None

    def _refresh(self) -> None:
        """Take in what this or another process has committed."""
        with disk_errors(self.path / TABLE):
            new = self._connection.execute(
                "SELECT row, hash, tokens, truncated FROM vectors WHERE row >= ? ORDER BY row",
                (len(self),),
            ).fetchall()
        if not new:
            return
        count = len(self) + len(new)
        if new[-1][0] != count - 1:
            raise self._damaged("the table of texts has gaps")
        self.dims = self._read_dims()
        self.rows = RowReader(self.path, STORE, count, self.dims, growing=True)
        for row, digest, tokens, truncated in new:
            self._numbers[bytes(digest)] = row
            self._tokens.append(tokens)
            self._truncated.append(bool(truncated))
        self._sound = np.append(self._sound, np.zeros(len(new), dtype=bool))

    def _damaged(self, why: str) -> IndexDamagedError:
        return IndexDamagedError(f"{self.path} is damaged ({why}); remove it and run again")

    # Reading

    def rows_of(self, texts: Sequence[str]) -> RowNumbers:
        """Row of each text, int64 [n]; -1 where a text is not there."""
        digests = [text_hash(text) for text in texts]
        with self._lock:
            if any(digest not in self._numbers for digest in digests):
                self._refresh()
            return np.array([self._numbers.get(digest, -1) for digest in digests], dtype=np.int64)

    def missing(self, rows: RowNumbers) -> npt.NDArray[np.bool_]:
        """Which rows of `rows_of` are not there, or not what was written. Each is looked at once
        in a process."""
        with self._lock:
            missing = rows < 0
            there = rows[~missing]
            for row in np.unique(there[~self._sound[there]]):
                self._sound[row] = self.rows is not None and self.rows.altered(row) is None
            missing[~missing] = ~self._sound[there]
            return missing

    def take(self, rows: RowNumbers) -> Embeddings:
        """Raw float32 rows, copied, in the order asked for.

        Raises StorageError where a row is not what was written.
        """
        with self._lock:
            if self.rows is None or not len(rows):
                widths = (0, 0) if self.dims is None else _widths(self.dims)
                return Embeddings(*(np.empty((0, width), dtype=np.float32) for width in widths))
            if len(wrong := rows[self.missing(rows)]):
                raise StorageError(
                    f"{self.rows.altered(wrong[0])} is damaged (row {wrong[0]}); remove "
                    f"{self.path} and run again: its texts are embedded anew"
                )
            # Checked above, once in a process: settings are many.
            return Embeddings(*(np.asarray(values[rows]) for _, values in self.rows.parts))

    def tokens_of(self, rows: RowNumbers) -> npt.NDArray[np.int64]:
        """Tokens of each row's text, its template included; 0 where the writer did not say."""
        return np.array([self._tokens[row] for row in rows], dtype=np.int64)

    def truncated_of(self, rows: RowNumbers) -> list[bool]:
        """Whether each row's text was cut to fit."""
        return [self._truncated[row] for row in rows]

    # Writing

    def put(
        self,
        texts: Sequence[str],
        embeddings: Embeddings,
        tokens: Sequence[int],
        truncated: Sequence[bool],
    ) -> None:
        """Keep a batch; on return it is on disk. Texts that are there already are left alone,
        unless their rows are damaged.

        Raises StorageError; ModelError for values that are not finite or other dimensions.
        """
        dims = embeddings.map(lambda rows: int(rows.shape[1]))
        if not all(np.isfinite(rows).all() for _, rows in embeddings):
            raise ModelError("a vector holds values that are not finite; try --bits 32")
        with self._lock:
            with self._writing():
                self._refresh()
                if self.dims is not None and self.dims != dims:
                    raise ModelError(
                        f"{self.path} holds vectors of {_widths(self.dims)} dimensions, and the "
                        f"model gave {_widths(dims)}; remove that directory and run again"
                    )
                fresh, places = self._places([text_hash(text) for text in texts])
                if places:
                    self._write(places, embeddings, dims)
                    named = [
                        (row, digest, int(tokens[places[row]]), bool(truncated[places[row]]))
                        for digest, row in fresh.items()
                    ]
                    self._keep("dims", _widths(dims))
                    self._connection.executemany("INSERT INTO vectors VALUES (?, ?, ?, ?)", named)
            self._refresh()

    def _places(self, digests: Sequence[bytes]) -> tuple[dict[bytes, int], dict[int, int]]:
        """Rows of texts that have none yet; and of each row to write the text's position."""
        fresh: dict[bytes, int] = {}
        places: dict[int, int] = {}
        for position, digest in enumerate(digests):
            row = self._numbers.get(digest, -1)
            if row < 0:
                row = fresh.setdefault(digest, len(self) + len(fresh))
            elif not self.missing(np.array([row]))[0]:
                continue
            places.setdefault(row, position)
        return fresh, places

    def _write(self, places: Mapping[int, int], embeddings: Embeddings, dims: Pair[int]) -> None:
        taken = list(places.values())
        with RowWriter(self.path, STORE, dims, _REFUSED) as writer:
            writer.write(list(places), Embeddings(embeddings.hs[taken], embeddings.rw[taken]))
            writer.sync()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """SQLite's own lock: one writer, who begins where the last one ended."""
        with disk_errors(self.path / TABLE):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    # What the rows are

    @property
    def facts(self) -> dict[str, Any]:
        """What was kept about the model beside its vectors."""
        with self._lock:
            return dict(json.loads(self._meta().get("facts", "{}")))

    def keep_facts(self, facts: Mapping[str, Any]) -> None:
        """Keep facts about the model; those that are there stay where none are given anew."""
        with self._lock, self._writing():
            self._keep("facts", {**self.facts, **facts})

    def _keep(self, name: str, value: Any) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value))
        )


def text_hash(text: str) -> bytes:
    """sha256 of a text as the encoder is given it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _widths(dims: Pair[int]) -> tuple[int, int]:
    return dims.hs, dims.rw
