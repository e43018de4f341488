"""Workers as actors of a Ray cluster: Ray places them, one a card or a share of a node's
processors, and starts one again that dies.

Of Ray only its core is used: rows go to the index's directory, not through Ray. Ray is imported as
soon as this module's class is made, and reports nothing about its use.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from moee_index.errors import LibraryError, MisuseError, WorkerError, counted, first_line
from moee_index.index.workers.pool import (
    RESTARTS,
    Done,
    Failed,
    Lost,
    Message,
    Moved,
    Note,
)
from moee_index.index.workers.tasks import LoadElsewhere, Task, Worker
from moee_index.text import one_line, shown
from moee_index.types import Notify

# Seconds to wait for a cluster; and for all actors to be placed, before it is told.
_REACHED_SECONDS = 10.0
_PLACED_SECONDS = 60.0
_GROUP = "news"
# Read as Ray is imported: it reports how it is used, unless told not to.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


class Actor:
    """One process of the cluster: does tasks in one thread, where the model was loaded, and tells
    in another how far it is."""

    def __init__(self, load: LoadElsewhere, threads: int) -> None:
        self._notes: list[str] = []
        self._moved = 0
        self._worker = Worker(load, 0, threads, self._notes.append)
        self._thread = ThreadPoolExecutor(1)

    def do(self, task: Task) -> Message:
        """Done or Failed."""
        return self._thread.submit(self._do, task).result()

    def _do(self, task: Task) -> Message:
        self._moved = 0
        try:
            return Done(task.do(self._worker, self._move))
        except Exception as error:
            return Failed.of(error)

    def _move(self, documents: int) -> None:
        self._moved = documents

    def news(self) -> tuple[int, list[Message]]:
        """Its number as a process, which changes where Ray has started it again; what it has
        chosen so far, and how many documents of its task are done."""
        return os.getpid(), [*map(Note, self._notes), Moved(self._moved)]


class RayCrew:
    """Actors. Ends the connection to Ray if it was made here.

    Raises LibraryError without Ray; MisuseError for what is no address, and for more workers than
    the cluster has room for; WorkerError where no cluster answers.
    """

    scratch = True

    def __init__(
        self,
        address: str,
        count: int | None,
        load: LoadElsewhere,
        threads: int | None,
        notify: Notify,
    ) -> None:
        self._notify = notify
        self._ray = _import_ray()
        if address:
            _check_answers(address)
        self._connected = not self._ray.is_initialized()
        if self._connected:
            _connect(self._ray, address)
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            count, resources, shared = _share(nodes, count)
            own = threads or shared
            notify(
                f"Ray: {counted(count, 'worker')} on {counted(len(nodes), 'node')}, "
                f"{_told(resources)} and {counted(own, 'thread')} each"
            )
            actor = self._ray.remote(
                max_restarts=-1,
                max_task_retries=RESTARTS,
                concurrency_groups={_GROUP: 1},
                **resources,
            )(Actor)
            self.hands = [
                RayHand(self._ray, number, actor.remote(load, own)) for number in range(count)
            ]
            self._begun: float | None = time.monotonic()
        except BaseException:
            self.close()
            raise

    hands: Sequence[RayHand] = ()

    def wait(self, seconds: float) -> None:
        under_way = [hand.under_way for hand in self.hands if hand.under_way is not None]
        if under_way:
            self._ray.wait(under_way, num_returns=1, timeout=seconds)
        late = self._begun is not None and time.monotonic() > self._begun + _PLACED_SECONDS
        if late and any(hand.pid is None for hand in self.hands):
            self._notify("Ray: not all workers run yet; the cluster may have no room for them")
        if late:
            self._begun = None

    def close(self) -> None:
        hands, self.hands = self.hands, []
        for hand in hands:
            hand.end()
        if self._connected:
            self._connected = False
            self._ray.shutdown()


class RayHand:
    """One actor, which Ray starts again where it dies."""

    def __init__(self, ray: Any, number: int, actor: Any) -> None:
        self._ray, self._number, self.actor = ray, number, actor
        self.pid: int | None = None
        self._news: Any = None
        self.under_way: Any = None

    @property
    def name(self) -> str:
        return f"worker {self._number + 1}"

    def begin(self, task: Task) -> None:
        self.under_way = self.actor.do.remote(task)

    def news(self) -> Sequence[Message]:
        heard = self._heard()
        if self._ray.wait([self.under_way], timeout=0)[0]:
            if self._news is not None:
                heard += self._waited()
            try:
                heard.append(self._ray.get(self.under_way))
            except self._ray.exceptions.RayError as error:
                heard.append(Lost(shown(one_line(first_line(error)), 300), final=True))
            self.under_way = None
        return heard

    def _heard(self) -> list[Message]:
        """What it says while it works: asked again as soon as it has answered."""
        heard: list[Message] = []
        if self._news is not None and self._ray.wait([self._news], timeout=0)[0]:
            heard = self._waited()
        if self._news is None:
            options = {"concurrency_group": _GROUP}
            self._news = self.actor.news.options(**options).remote()
        return heard

    def _waited(self) -> list[Message]:
        news, self._news = self._news, None
        # One that is being started again tells nothing; what has become of it is heard of its task.
        heard: list[Message] = []
        with contextlib.suppress(self._ray.exceptions.RayError):
            pid, heard = self._ray.get(news, timeout=_REACHED_SECONDS)
            if self.pid not in (None, pid):
                heard.append(Note(f"{self.name} died (process {self.pid}): Ray started it again"))
            self.pid = pid
        return heard

    def restart(self) -> None:
        raise WorkerError(f"{self.name} cannot be started again")

    def end(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self.actor)


def _import_ray() -> Any:
    os.environ.update(_SETTINGS)
    if importlib.util.find_spec("ray") is None:
        raise LibraryError("--ray needs ray: pip install 'moee-index[ray]'")
    import ray

    return ray


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = address or "this machine"
        raise WorkerError(
            f"no Ray cluster could be reached at {where} ({shown(first_line(error), 200)}); start "
            "one there with ray start --head, or leave the address out"
        ) from error


def _check_answers(address: str) -> None:
    """Raises MisuseError for what is no address, WorkerError where nothing listens."""
    match = re.fullmatch(r"\[?([^\[\]/\s]+?)\]?:([0-9]{1,5})", address)
    if match is None:
        raise MisuseError(
            f"--ray {shown(address)} is not the HOST:PORT of a cluster that this machine is part "
            "of; write --ray last, or --ray= for the cluster of this machine"
        )
    try:
        socket.create_connection((match[1], int(match[2])), _REACHED_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise WorkerError(
            f"no Ray cluster answers at {shown(address)} ({first_line(error)}); start one there "
            "with ray start --head, or leave the address out"
        ) from error


def _share(
    nodes: Sequence[dict[str, float]], count: int | None
) -> tuple[int, dict[str, float], int]:
    """How many actors, what each takes of a node, and its threads.

    Raises MisuseError where so many have no room.
    """
    cards = [int(node.get("GPU", 0)) for node in nodes]
    processors = [int(node.get("CPU", 0)) for node in nodes]
    if sum(cards):
        count = count or sum(cards)
        if count > sum(cards):
            raise MisuseError(
                f"--workers {count} is more than the {counted(sum(cards), 'GPU')} of the cluster; "
                "one worker takes one"
            )
        each = min(have // own for have, own in zip(processors, cards, strict=True) if own)
        return count, {"num_gpus": 1, "num_cpus": 1}, max(1, each)
    count = count or sum(1 for have in processors if have) or 1
    for each in range(max(processors, default=0), 0, -1):
        if sum(have // each for have in processors) >= count:
            return count, {"num_cpus": each}, each
    raise MisuseError(
        f"--workers {count} is more than the {counted(sum(processors), 'processor')} of the "
        "cluster; one worker takes at least one"
    )


def _told(resources: dict[str, float]) -> str:
    return "1 GPU" if "num_gpus" in resources else counted(int(resources["num_cpus"]), "processor")
