"""Processes that do tasks: which one is at what, what they tell, and what becomes of one that dies.

How processes are started is left to a `Crew`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import moee_index.errors as errors
from moee_index.errors import MoeeIndexError, WorkerError, counted
from moee_index.index.workers.tasks import Task
from moee_index.text import shown
from moee_index.types import Notify

# How often a task is given to a new process after one has died of it.
RESTARTS = 3
_WAIT = 0.5


@dataclass(frozen=True)
class Note:
    """Something that a process has chosen, to be told once."""

    text: str


@dataclass(frozen=True)
class Moved:
    """How many documents of its task a process has done."""

    documents: int


@dataclass(frozen=True)
class Done:
    """What came of a task."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """A task ended with an error, which would end it again. kind: the class of ours, None for what
    nobody thought of."""

    kind: str | None
    text: str

    @classmethod
    def of(cls, error: Exception) -> Failed:
        for kind in type(error).__mro__ if isinstance(error, MoeeIndexError) else ():
            if getattr(errors, kind.__name__, None) is kind:
                return cls(kind.__name__, str(error))
        return cls(None, f"{type(error).__name__}: {error}")

    def error(self, worker: str, what: str) -> MoeeIndexError:
        if self.kind is not None:
            kind: type[MoeeIndexError] = getattr(errors, self.kind)
            return kind(self.text)
        return WorkerError(
            f"{worker}, {what}: unexpected {shown(self.text, 300)}; the same command goes on from "
            "there, and if it fails again, report it"
        )


@dataclass(frozen=True)
class Lost:
    """A process has died. said: how, and what it said last. final: whether it has been started
    again so often that it is given up."""

    said: str
    final: bool


Message = Note | Moved | Done | Failed | Lost


class Hand(Protocol):
    """One process."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def begin(self, task: Task) -> None:
        """Give it a task; it has none."""

    def news(self) -> Sequence[Message]:
        """What it has told since it was asked last. Does not wait."""

    def restart(self) -> None:
        """Start another process in its place, without a task."""


class Crew(Protocol):
    """Some processes that were started together."""

    @property
    def hands(self) -> Sequence[Hand]: ...

    @property
    def scratch(self) -> bool:
        """Whether shards are to be written on a disk of each process's machine."""

    def wait(self, seconds: float) -> None:
        """Until one of them may have news, or so long."""

    def close(self) -> None:
        """End all of them. May be called again."""


@dataclass
class _At:
    """What a process is at."""

    number: int
    task: Task
    what: str
    moved: int = 0
    deaths: int = 0


@dataclass
class Pool:
    """A context manager: the processes end with it."""

    crew: Crew
    notify: Notify
    _told: set[str] = field(default_factory=set)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.crew.close()

    def __len__(self) -> int:
        return len(self.crew.hands)

    def ask(self, task: Task, what: str) -> Any:
        """Have the first process do a task."""
        return self.run([task], [what], everywhere=False)[0]

    def everywhere(self, task: Task, what: str) -> list[Any]:
        """Have each process do a task."""
        count = len(self.crew.hands)
        return self.run([task] * count, [what] * count, everywhere=True)

    def run(
        self,
        tasks: Sequence[Task],
        what: Sequence[str],
        *,
        moved: Callable[[int], object] = lambda documents: None,
        done: Callable[[Any], object] = lambda value: None,
        everywhere: bool = False,
    ) -> list[Any]:
        """Have tasks done, each by the next process that is free, or the n-th by the n-th.

        what: what each is called in messages. moved: called with the documents that the tasks
        under way have done. done: called with what comes of each. Returns that, in the order of
        the tasks. Raises what a task raises; WorkerError where a process dies again and again:
        all processes have ended then.
        """
        try:
            return self._run(tasks, what, moved, done, everywhere)
        except BaseException:
            self.crew.close()  # before anybody looks at what they have left
            raise

    def _run(
        self,
        tasks: Sequence[Task],
        what: Sequence[str],
        moved: Callable[[int], object],
        done: Callable[[Any], object],
        everywhere: bool,
    ) -> list[Any]:
        waiting = deque(enumerate(tasks))
        results: list[Any] = [None] * len(tasks)
        busy: dict[int, _At] = {}
        while waiting or busy:
            for place, hand in enumerate(self.crew.hands):
                if waiting and place not in busy and (not everywhere or waiting[0][0] == place):
                    number, task = waiting.popleft()
                    busy[place] = _At(number, task, what[number])
                    hand.begin(task)
            self.crew.wait(_WAIT)
            for place in list(busy):
                for message in self.crew.hands[place].news():
                    if self._heard(self.crew.hands[place], busy[place], message):
                        results[busy.pop(place).number] = message.value  # type: ignore[union-attr]
                        done(message.value)  # type: ignore[union-attr]
                        break
            moved(sum(at.moved for at in busy.values()))
        return results

    def _heard(self, hand: Hand, at: _At, message: Message) -> bool:
        """Whether a message says that a task is done."""
        if isinstance(message, Done):
            return True
        if isinstance(message, Failed):
            raise message.error(hand.name, at.what)
        if isinstance(message, Moved):
            at.moved = message.documents
        elif isinstance(message, Note):
            self._tell(message.text)
        else:
            self._again(hand, at, message)
        return False

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.notify(text)

    def _again(self, hand: Hand, at: _At, lost: Lost) -> None:
        """Have a new process go on with what one has died of."""
        at.deaths += 1
        at.moved = 0
        if lost.final or at.deaths > RESTARTS:
            times = "again and again" if lost.final else counted(at.deaths, "time")
            raise WorkerError(
                f"{hand.name} died {times} at {at.what} ({lost.said}); what is finished stays, and "
                "the same command goes on from there: with fewer --workers if memory is short"
            )
        self.notify(f"{hand.name} died at {at.what} ({lost.said}): started again")
        hand.restart()
        hand.begin(at.task)
