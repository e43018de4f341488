"""Kill the processes of builds and adds by several processes at random moments.

    cd tests && python -m stress.workers [--kills 20] [--seed 0] [--what worker driver actor]

A worker is started again and the command ends; of a driver the processes end by themselves, and the
same command goes on; an actor is started again by Ray. After each the index must hold what one
process puts there: every document once, the same vectors and answers, nothing left over.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from paths import FAST

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder, FakeRecipe
from fakes.workers import WINDOW, add_by, build_by, documents_to_add, kill, same
from moee_index.index import add_documents, build_index
from moee_index.index.workers import on_ray
from moee_index.index.workers.start import Workers

COMMANDS = ("build", "add")
_SECONDS_PER_BATCH = 0.01
# Of a command that is not disturbed, its processes being there.
_LONGEST = 0.6


def single(directory: Path, command: str) -> None:
    """What one process makes of it."""
    build_index(directory, fake_documents(200), FakeEncoder(), window=WINDOW)
    if command == "add":
        add_documents(directory, documents_to_add(fake_documents(200)), FakeEncoder(), update=True)


def prepare(directory: Path, command: str) -> None:
    if command == "add":
        single(directory, "build")


def kill_an_actor(command: str, directory: Path, moment: float) -> int:
    """Run a command on the cluster that is there; kill one of its actors meanwhile. Returns how
    many were killed: none where the command was quicker."""
    hands: list[Any] = []
    begun = threading.Event()
    begin = on_ray.RayHand.begin

    def watched(hand: Any, task: Any) -> None:
        begin(hand, task)
        if hand not in hands:
            hands.append(hand)
        if type(task).__name__ == "Embed":
            begun.set()

    killed: list[int] = []

    def strike() -> None:
        begun.wait(60)
        time.sleep(moment)
        pids = [hand.pid for hand in hands if hand.pid is not None]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim := random.choice(pids), signal.SIGKILL)
                killed.append(victim)

    on_ray.RayHand.begin = watched  # type: ignore[method-assign]
    thread = threading.Thread(target=strike)
    thread.start()
    recipe = FakeRecipe(seconds_per_batch=_SECONDS_PER_BATCH)
    workers = Workers(2, ray="")
    documents = fake_documents(200)
    try:
        if command == "build":
            build_index(directory, documents, recipe, window=WINDOW, workers=workers)
        else:
            more = documents_to_add(documents)
            add_documents(directory, more, recipe, update=True, workers=workers)
    finally:
        on_ray.RayHand.begin = begin  # type: ignore[method-assign]
        thread.join()
    return len(killed)


def main() -> None:
    """Print a line a kill; an assertion or an error where anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--kills", type=int, default=20, help="of each kind, builds and adds in turn [20]"
    )
    parser.add_argument("--seed", type=int, default=0)
    kinds = ("worker", "driver", "actor")
    parser.add_argument("--what", nargs="+", choices=kinds, default=kinds)
    given = parser.parse_args()
    random.seed(given.seed)
    if "actor" in given.what:
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        ray = on_ray._import_ray()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, address="local")
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        folder = Path(name)
        for command in COMMANDS:
            single(folder / f"one-{command}", command)
        for what in given.what:
            killed = 0
            for number in range(given.kills):
                command = COMMANDS[number % 2]
                index = folder / "index"
                prepare(index, command)
                moment = (number + random.random()) / given.kills * _LONGEST
                if what == "actor":
                    killed += kill_an_actor(command, index, moment)
                else:
                    kill(what, command, index, moment, _SECONDS_PER_BATCH)
                    killed += 1
                    if what == "driver":
                        (build_by if command == "build" else add_by)(index)
                same(folder / f"one-{command}", index)
                shutil.rmtree(index)
                print(f"{what:<7} {number + 1}: {killed} kills, nothing wrong", flush=True)


if __name__ == "__main__":
    main()
