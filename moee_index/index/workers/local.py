"""Workers as processes on this machine, started anew rather than forked: a fork would inherit
threads that hold locks.

A process ends by itself as soon as the one that started it is gone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from moee_index.errors import counted
from moee_index.index.workers.pool import Done, Failed, Lost, Message, Moved, Note
from moee_index.index.workers.tasks import LoadElsewhere, Task, Worker
from moee_index.limits import processor_limit
from moee_index.text import one_line, shown
from moee_index.types import Notify

# forkserver would be quicker, and is not everywhere.
METHOD = "spawn"
_PATIENCE = 5.0
_LAST = 4000


def local_threads(workers: int, requested: int | None, notify: Notify) -> int:
    """Threads of each of several processes, which share the processors."""
    if requested is not None:
        return requested
    limit = processor_limit()
    threads = max(1, limit.value // workers)
    notify(
        f"{counted(workers, 'worker')} with {counted(threads, 'thread')} each: "
        f"{counted(limit.value, 'processor')} shared"
    )
    return threads


class LocalCrew:
    """Processes on this machine."""

    scratch = False

    def __init__(self, count: int, load: LoadElsewhere, threads: int) -> None:
        # What they say on stderr.
        self._logs = tempfile.TemporaryDirectory(prefix="moee-index-", ignore_cleanup_errors=True)
        logs = Path(self._logs.name)
        self.hands = [LocalHand(place, load, threads, logs) for place in range(count)]

    def wait(self, seconds: float) -> None:
        wait([hand.connection for hand in self.hands if hand.expects_news], seconds)

    def close(self) -> None:
        for hand in self.hands:
            hand.end()
        self._logs.cleanup()


class LocalHand:
    """One process and the pipe to it."""

    def __init__(self, place: int, load: LoadElsewhere, threads: int, logs: Path) -> None:
        self._place, self._load, self._threads = place, load, threads
        self._log = logs / f"worker-{place + 1}.log"
        self.expects_news = False
        self._start()

    @property
    def name(self) -> str:
        return f"worker {self._place + 1}"

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(METHOD)
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve,
            args=(theirs, self._log, self._load, self._place, self._threads),
            name=f"moee-index {self.name}",
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        pid: int | None = self._process.pid
        return pid

    def begin(self, task: Task) -> None:
        self.expects_news = True
        with contextlib.suppress(OSError):  # that it is dead is heard next
            self.connection.send(task)

    def news(self) -> Sequence[Message]:
        heard: list[Message] = []
        try:
            while self.connection.poll():
                heard.append(self.connection.recv())
        except (EOFError, OSError):
            heard.append(Lost(self._death(), final=False))
        self.expects_news = not any(isinstance(each, Done | Failed | Lost) for each in heard)
        return heard

    def _death(self) -> str:
        """How the process ended, and what it said last."""
        self._process.join(_PATIENCE)
        status = self._process.exitcode
        if status is not None and status < 0:
            number = -status
            name = next((each.name for each in signal.Signals if each == number), f"{number}")
            how = f"killed by {name}"
            if name == "SIGKILL":
                how += ", as the system does where memory is short"
        else:
            how = f"exit status {status}"
        with contextlib.suppress(OSError):
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _LAST))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
            if lines:
                how += f"; it said last: {shown(one_line(lines[-1]), 300)}"
        return how

    def restart(self) -> None:
        self.end()
        self._start()

    def end(self) -> None:
        """Kill it: what it has committed is on disk, and nothing of the rest is worth waiting
        for."""
        self.connection.close()
        self._process.kill()
        self._process.join(_PATIENCE)


def serve(connection: Connection, log: Path, load: LoadElsewhere, place: int, threads: int) -> None:
    """What a process does: one task after another, until it is left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    with contextlib.suppress(OSError):
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 2)
        os.close(handle)
    sending = threading.Lock()

    def tell(message: Message) -> None:
        with sending:
            try:
                connection.send(message)
            except OSError:
                os._exit(1)

    tasks: queue.Queue[Task] = queue.Queue()
    threading.Thread(target=_receive, args=(connection, tasks), daemon=True).start()
    worker = Worker(load, place, threads, lambda text: tell(Note(text)))
    while True:
        task = tasks.get()
        try:
            answer: Message = Done(task.do(worker, lambda documents: tell(Moved(documents))))
        except Exception as error:
            answer = Failed.of(error)
        tell(answer)


def _receive(connection: Connection, tasks: queue.Queue[Task]) -> None:
    """Take tasks as they come; end the process, whatever it is at, when nobody is left to give
    any."""
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)
