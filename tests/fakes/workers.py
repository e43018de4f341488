"""Builds and adds by several processes, for tests to start and to kill."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import pytest

from fakes.indexes import fake_documents, left_over
from fakes.word_encoder import FakeEncoder, FakeRecipe, held
from moee_index.index import Index, add_documents, build_index, verify_index
from moee_index.index.workers import local
from moee_index.types import Document

WINDOW = 32


def documents_to_add(documents: Sequence[Document]) -> list[Document]:
    """New ones, changed ones, one whose text is gone, and some that are there already."""
    new = [replace(one, id=f"n{one.id}", text=f"{one.text} new") for one in documents[:80]]
    changed = [replace(one, text=f"{one.text} changed") for one in documents[5:25]]
    return [*new, *changed, replace(documents[30], text=" "), *documents[40:50]]


def fork() -> None:
    """Have workers forked from the server of the tests."""
    forks.context()
    local.METHOD = "forkserver"


def build_by(directory: Path, count: int = 2, documents: int = 200, **options: Any) -> Any:
    """A build by processes that are forked from a server, which is quicker than new ones."""
    fork()
    recipe = options.pop("recipe", FakeRecipe())
    given = options.pop("given", None) or fake_documents(documents)
    return build_index(directory, given, recipe, workers=count, window=WINDOW, **options)


def add_by(directory: Path, count: int = 2, documents: int = 200, **options: Any) -> Any:
    """As `build_by`, of an add to an index of so many documents."""
    fork()
    recipe = options.pop("recipe", FakeRecipe())
    given = options.pop("given", None) or documents_to_add(fake_documents(documents))
    return add_documents(directory, given, recipe, workers=count, update=True, **options)


def same(one: Path, several: Path) -> None:
    """Both hold the same documents, vectors and answers; equal scores may be in another order."""
    assert sorted(held(one)) == sorted(held(several))
    assert verify_index(several, full=True).problems == []
    assert left_over(several) == set()
    queries = FakeEncoder().encode(["w3 w14", "w15 w9 w2", "w7"])
    with Index.open(one) as first, Index.open(several) as second:
        assert first.manifest.standardize == second.manifest.standardize
        for options in ({}, {"method": "concat"}, {"method": "rw"}, {"filter": "x = 1"}):
            for ours, theirs in zip(
                first.search_embeddings(queries, 50, **options),  # type: ignore[arg-type]
                second.search_embeddings(queries, 50, **options),  # type: ignore[arg-type]
                strict=True,
            ):
                assert [hit.score for hit in theirs] == pytest.approx(
                    [hit.score for hit in ours], abs=1e-5
                )
                scores = {hit.id: hit.score for hit in ours}
                last = ours[-1].score
                for hit in theirs:
                    if hit.score > last + 1e-5:
                        assert scores[hit.id] == pytest.approx(hit.score, abs=1e-5)


def drive(
    command: str, directory: str, answers: Any, seconds_per_batch: float, server: dict[str, Any]
) -> None:
    """In a process of its own: build or add, slowly; tells the processes that it starts, then the
    end or the error."""
    forks.join(server)
    started = local.LocalHand._start

    def start(hand: Any) -> None:
        started(hand)
        answers.put(("started", hand.pid))

    local.LocalHand._start = start  # type: ignore[method-assign]
    recipe = FakeRecipe(seconds_per_batch=seconds_per_batch)
    # A daemon may have no children, and who waits for this one may be gone.
    os.setpgid(0, 0)
    try:
        began = time.perf_counter()
        (build_by if command == "build" else add_by)(Path(directory), recipe=recipe)
        answers.put(("ended", time.perf_counter() - began))
    except Exception as error:
        answers.put(("failed", f"{type(error).__name__}: {error}"))


def kill(what: str, command: str, folder: Path, moment: float, seconds: float) -> str:
    """Start a build or an add and kill its driver or one of its processes after a while. Returns
    how the driver ended."""
    context = forks.context()
    answers = context.Queue()
    arguments = (command, str(folder), answers, seconds, forks.address())
    process = context.Process(target=drive, args=arguments)
    process.start()
    pids = [answers.get(timeout=60)[1] for _ in range(2)]
    time.sleep(moment)
    victim = process.pid if what == "driver" else random.choice(pids)
    assert victim is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    if what == "driver":
        process.join(30)
        deadline = time.monotonic() + 20
        while any(map(runs, pids)):  # they end by themselves
            assert time.monotonic() < deadline, "a process outlives its driver"
            time.sleep(0.02)
        return "killed"
    while (answer := answers.get(timeout=60))[0] == "started":
        pass
    process.join(30)
    assert answer[0] == "ended", answer
    return "ended"


def runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
