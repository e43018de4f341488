"""One request's questions to the shards of a version: all are asked at once, and answers are in the
order of the segments. What does not answer is an error, unless a part will do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from moee_index.serve.errors import RevisionError, ShardError
from moee_index.serve.shards.connection import Shard


@dataclass(frozen=True)
class Placed:
    """A shard, and the numbers of the segments that it holds."""

    shard: Shard
    segments: range


@dataclass(frozen=True)
class Asked:
    """A version of an index, and the shards that hold it, in the order of their segments. outdated:
    told where a shard serves another version; pool: of the threads that ask."""

    placed: Sequence[Placed]
    digest: str
    revision: int
    outdated: Callable[[], None]
    pool: ThreadPoolExecutor


class Asking:
    """The questions of one request. partial: whether answers of some shards will do. missing: the
    segments of those that have not answered; they are not asked again."""

    def __init__(self, asked: Asked, partial: bool) -> None:
        self._asked = asked
        self._partial = partial
        self._failures: dict[int, ShardError | RevisionError] = {}

    @property
    def missing(self) -> list[int]:
        return [
            segment
            for number in sorted(self._failures)
            for segment in self._asked.placed[number].segments
        ]

    def lenient(self) -> Asking:
        """The same, where shards that do not answer may not matter; see `insist`."""
        asking = Asking(self._asked, True)
        if self._partial:
            asking._failures = self._failures
        return asking

    def insist(self) -> None:
        """Raise what a shard has failed with, if any has."""
        for error in self._failures.values():
            raise error

    def one(self, placed: Placed, path: str, body: Mapping[str, Any]) -> Any:
        """What one shard answers. Raises ShardError, RevisionError."""
        try:
            return placed.shard.ask(path, self._content(body))
        except RevisionError:
            self._asked.outdated()
            raise

    def _content(self, body: Mapping[str, Any]) -> bytes:
        version = {"digest": self._asked.digest, "revision": self._asked.revision}
        return json.dumps({**version, **body}, allow_nan=False).encode("ascii")

    def all(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """What each shard answers, those aside that do not.

        Raises ShardError where one does not answer and a part will not do, or none answers;
        RevisionError where one serves another version.
        """
        asked, content = self._asked, self._content(body)
        sent = {
            number: asked.pool.submit(placed.shard.ask, path, content)
            for number, placed in enumerate(asked.placed)
            if number not in self._failures
        }
        answers: list[Any] = []
        failures: dict[int, ShardError | RevisionError] = {}
        for number, future in sent.items():
            try:
                answers.append(future.result())
            except (ShardError, RevisionError) as error:
                failures[number] = error
        if any(isinstance(error, RevisionError) for error in failures.values()):
            asked.outdated()
        if self._partial:
            self._failures |= failures
        if failures and not (self._partial and answers):
            raise next(iter(failures.values()))
        if not sent:
            self.insist()
        return answers
