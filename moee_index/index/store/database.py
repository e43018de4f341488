"""A finished SQLite file of a segment: opened read-only, checked before it is believed.

Knows connections and checksums. Refuses to know tables, and to write.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from moee_index.errors import IndexDamagedError

HINT = "restore it or build again with --overwrite"


class CheckedDatabase:
    """Used from any thread, and a context manager.

    check: raises IndexDamagedError unless the whole file, given open, is what it was when it was
    written; called at most once, when an answer depends on it. connections: how many threads may
    read at a time. Raises IndexDamagedError where the file is not what it should be.
    """

    def __init__(
        self, path: Path, check: Callable[[BufferedReader], None], connections: int = 1
    ) -> None:
        self._path = path
        self._check = check
        self._checked = False
        self._lock = threading.Lock()
        # immutable: nothing writes to a finished file, so no lock and no journal are looked for.
        uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        with contextlib.ExitStack() as opened, self._damaged():
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

    @contextlib.contextmanager
    def _damaged(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.DatabaseError, ValueError, OverflowError) as error:
            raise IndexDamagedError(f"{self._path} is damaged ({error}); {HINT}") from error

    def close(self) -> None:
        with self._lock:
            self._opened.close()

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._damaged():
            return self._connections[0].execute(sql, values).fetchall()

    def check(self) -> None:
        """The whole file is what it was when it was written, or IndexDamagedError."""
        with self._lock:
            if not self._checked:
                self._check(self._file)
                self._checked = True

    def problems(self) -> list[str]:
        """What SQLite's own check says is wrong; empty if nothing is."""
        return [str(row[0]) for row in self._rows("PRAGMA integrity_check(5)") if row[0] != "ok"]
