"""Commands that change an index, killed and failing at every step; and others who are there too.

All that there is to try, which takes some ten minutes:

    MOEE_INDEX_KILLS=100 MOEE_INDEX_FLIPS=50 MOEE_INDEX_STRIDE=1 pytest tests/test_index_crash.py
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
from paths import FAST

from fakes.indexes import (
    CHANGES,
    change_for_ever,
    fake_documents,
    left_over,
    prepared,
    reindex_for_ever,
    run_at_once,
    run_limited,
    state,
    trap_everywhere,
)
from fakes.word_encoder import FakeEncoder, held
from moee_index.atomic import LOCK
from moee_index.errors import IndexDamagedError, MoeeIndexError, NotAnIndexError, StorageError
from moee_index.index import Index, add_documents, build_index, compact_index, verify_index
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest, _checksum
from stress import crashes

KILLS = int(os.environ.get("MOEE_INDEX_KILLS", "3"))
FLIPS = int(os.environ.get("MOEE_INDEX_FLIPS", "5"))
# Of the calls that change files, every so many-th is made to fail; another one in every run.
STRIDE = int(os.environ.get("MOEE_INDEX_STRIDE", "8"))
FIRST = 1 + random.randrange(STRIDE)
# A deletion writes little; the others many files.
FEWEST_STEPS = {"delete": 12, "delete everything": 4}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where fsync costs nothing, if there is such a place: these tests write a lot."""
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        yield Path(name)


def until_changed(directory: Path, times: int) -> Iterator[int]:
    """Count so often, and until another process has put ten more versions in place."""
    first, begun = Manifest.read(directory).revision, time.monotonic()
    for number in itertools.count():
        if number >= times and Manifest.read(directory).revision >= first + 10:
            return
        assert time.monotonic() < begun + 120, "the other process does not get on"
        yield number


@pytest.fixture(scope="module")
def processes() -> Any:
    return forks.context()


# Killed


@pytest.mark.parametrize("command", crashes.COMMANDS)
def test_killed_at_random_moments(folder: Path, command: str) -> None:
    """While another process reads: verified, nothing lost, nothing twice, gone on with."""
    documents = crashes.sample(130)
    seed = time.time_ns() % 10**6
    (outcome,) = crashes.try_all(folder, documents, kills=KILLS, seed=seed, commands=[command])
    assert outcome.problems == [], f"seed {seed}"
    assert outcome.kills == KILLS
    assert outcome.reads > 0


@pytest.mark.parametrize("name", CHANGES)
def test_killed_at_every_step(folder: Path, processes: Any, name: str) -> None:
    steps, problems = trapped(folder, processes, name, "exit")
    assert problems == []
    assert steps >= FEWEST_STEPS.get(name, 30) // STRIDE


@pytest.mark.parametrize("mode", ["once", "full"])
@pytest.mark.parametrize("name", CHANGES)
def test_failing_at_every_step(folder: Path, processes: Any, name: str, mode: str) -> None:
    """A call that fails, or a disk that is full from there on: one clear error, the old version
    whole, nothing that lies about, and the same command works once there is room."""
    steps, problems = trapped(folder, processes, name, mode)
    assert problems == []
    assert steps >= FEWEST_STEPS.get(name, 28) // STRIDE


def trapped(folder: Path, processes: Any, name: str, mode: str) -> tuple[int, list[str]]:
    answers = processes.Queue()
    process = processes.Process(
        target=trap_everywhere, args=(name, mode, str(folder), answers, FIRST, STRIDE)
    )
    process.start()
    steps, problems = answers.get(timeout=200)
    process.join()
    return steps, problems


def test_a_lock_file_of_a_dead_process_is_no_obstacle(folder: Path) -> None:
    prepared(folder / "i")
    (folder / "i" / LOCK).write_text("4711 of another machine")
    for name in ("delete", "add", "reindex", "compact", "overwrite"):
        CHANGES[name][1](folder / "i")
    assert verify_index(folder / "i", full=True).ok


# No room


@pytest.mark.parametrize("name", CHANGES)
def test_full_disk(mounted: Path, folder: Path, name: str) -> None:
    """With ever more room, until it is enough."""
    make, change = CHANGES[name]
    index = mounted / "i"
    if make is not None:
        make(folder / "before")
        shutil.copytree(folder / "before", folder / "after")
    change(folder / "after")
    after = state(folder / "after")
    failed = 0
    for pages in itertools.chain(range(0, 20, 3), range(20, 400, 12)):
        if make is not None:
            shutil.copytree(folder / "before", index)
        ballast = mounted / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(mounted).free - 4096 * pages))
        try:
            change(index)
        except StorageError as error:
            failed += 1
            assert "\n" not in str(error)
            assert "full" in str(error) and "start the same command again" in str(error)
        else:
            break
        finally:
            ballast.unlink()
        if make is not None:
            assert verify_index(index, full=True).ok
            assert left_over(index, unfinished=True) == set()
            # An add that could not join small segments any more is done all the same.
            assert state(index) in (state(folder / "before"), after)
        change(index)
        assert verify_index(index, full=True).ok
        assert state(index) == after
        shutil.rmtree(index)
    assert failed >= (1 if name.startswith("delete") else 3)
    assert state(index) == after


@pytest.mark.parametrize("name", CHANGES)
def test_size_limit(folder: Path, processes: Any, name: str) -> None:
    """As a full disk where nothing can be mounted: RLIMIT_FSIZE, in a process of its own."""
    make, change = CHANGES[name]
    if make is not None:
        make(folder / "before")
        shutil.copytree(folder / "before", folder / "after")
    change(folder / "after")
    after = state(folder / "after")
    largest = max(path.stat().st_size for path in (folder / "after").rglob("*"))
    failed = 0
    for share in (0.0, 0.01, 0.05, 0.1, 0.3, 0.99, 2.0):
        index = folder / "i"
        if make is not None:
            shutil.copytree(folder / "before", index)
        answers = processes.Queue()
        process = processes.Process(
            target=run_limited, args=(name, str(index), int(share * largest), answers)
        )
        process.start()
        kind, message = answers.get(timeout=60)
        process.join()
        assert kind in ("none", "StorageError"), message
        failed += kind != "none"
        assert kind == "none" or "start the same command again" in message
        if make is not None:
            assert verify_index(index, full=True).ok
            assert state(index) in (state(folder / "before"), after)
        change(index)
        assert state(index) == after
        shutil.rmtree(index)
    assert failed >= 2


@pytest.mark.parametrize("short", [1, 100, 4000])
def test_the_last_bytes_of_a_faiss_file_do_not_fit(
    folder: Path, processes: Any, short: int
) -> None:
    """FAISS itself only prints what it meets as it closes a file."""
    build_index(folder / "i", fake_documents(200), FakeEncoder(), index_type="HNSW8")
    before = state(folder / "i")
    size = (folder / "i/segment-0001/hs-0001.faiss").stat().st_size
    answers = processes.Queue()
    process = processes.Process(
        target=run_limited, args=("reindex", str(folder / "i"), size - short, answers)
    )
    process.start()
    kind, message = answers.get(timeout=60)
    process.join()
    assert kind == "StorageError", message
    assert "hs-0002.faiss" in message
    assert verify_index(folder / "i", full=True).ok
    assert state(folder / "i") == before


# Others at the same time


def test_two_writers_at_once(folder: Path, processes: Any) -> None:
    """Each pair of commands, started together: what comes out is what one of them gives, or both
    one after the other; who comes too late says so."""
    names = ("overwrite", "add", "delete", "reindex", "compact")
    prepared(folder / "before")
    told: list[str] = []
    for pair in itertools.combinations_with_replacement(names, 2):
        allowed = {}
        for order in ((pair[0],), (pair[1],), pair, pair[::-1]):
            shutil.copytree(folder / "before", folder / "first")
            for name in order:
                CHANGES[name][1](folder / "first")
            allowed[order] = state(folder / "first")
            shutil.rmtree(folder / "first")
        index = folder / "i"
        shutil.copytree(folder / "before", index)
        barrier, answers = processes.Barrier(2), processes.Queue()
        started = [
            processes.Process(target=run_at_once, args=(name, str(index), barrier, answers))
            for name in pair
        ]
        for process in started:
            process.start()
        ended = [answers.get(timeout=60) for _ in pair]
        for process in started:
            process.join()
        worked = [name for name, kind, _ in ended if kind == "none"]
        assert worked, ended
        for _, kind, message in ended:
            if kind != "none":
                assert kind == "IndexLockedError", message
                assert "another process is writing" in message and "\n" not in message
                told.append(message)
        assert verify_index(index, full=True).ok
        assert left_over(index) == set()
        orders = [tuple(worked)] if len(worked) == 1 else [pair, pair[::-1]]
        assert state(index) in [allowed[order] for order in orders], (pair, ended)
        shutil.rmtree(index)
    assert told, "no two of them ever met"


def test_two_builds_at_once_into_an_empty_directory(folder: Path, processes: Any) -> None:
    refused = 0
    for number in range(4):
        index = folder / str(number)
        barrier, answers = processes.Barrier(2), processes.Queue()
        started = [
            processes.Process(target=run_at_once, args=("build", str(index), barrier, answers))
            for _ in range(2)
        ]
        for process in started:
            process.start()
        ended = [answers.get(timeout=60) for _ in started]
        for process in started:
            process.join()
        kinds = sorted(kind for _, kind, _ in ended)
        assert kinds in (["IndexLockedError", "none"], ["none", "none"]), ended
        refused += kinds[0] != "none"
        assert verify_index(index, full=True).documents == 24
        assert left_over(index) == set()
    assert refused


def test_a_build_that_finds_all_done_while_others_write(folder: Path, processes: Any) -> None:
    """It looks without a lock: the version that it looks at may go away under it."""
    documents = fake_documents(70)
    build_index(folder / "i", documents, FakeEncoder())
    stop, answers = processes.Event(), processes.Queue()
    process = processes.Process(target=reindex_for_ever, args=(str(folder / "i"), stop, answers))
    process.start()
    assert answers.get(timeout=60) == "ready"
    for _ in until_changed(folder / "i", 40):
        assert build_index(folder / "i", documents, FakeEncoder()).unchanged
    stop.set()
    assert answers.get(timeout=60) > 5
    process.join()


def test_a_copy_made_while_an_index_is_written(folder: Path, processes: Any) -> None:
    """It is a version of the index, whole, or says in one line what is missing."""
    prepared(folder / "i")
    stop, answers = processes.Event(), processes.Queue()
    process = processes.Process(target=change_for_ever, args=(str(folder / "i"), stop, answers))
    process.start()
    assert answers.get(timeout=60) == "ready"
    copies = []
    for number in until_changed(folder / "i", 60):
        copy = folder / f"copy{number}"
        # Of files that were gone by then.
        with contextlib.suppress(shutil.Error, FileNotFoundError):
            shutil.copytree(folder / "i", copy)
        copies.append(copy)
    stop.set()
    held_by = answers.get(timeout=60)
    process.join()
    whole = 0
    for copy in copies:
        try:
            found = held(copy)
            with Index.open(copy, FakeEncoder()) as index:
                index.search("w3 w4", 50)
        except (IndexDamagedError, NotAnIndexError) as error:
            assert "\n" not in str(error)
            assert str(copy) in str(error)
            if copy.exists() and (copy / MANIFEST).exists():
                assert not verify_index(copy, full=True).ok
        else:
            assert found == held_by[Manifest.read(copy).revision]
            whole += 1
            if verify_index(copy, full=True).ok:
                add_documents(copy, fake_documents(26)[24:], FakeEncoder())
                compact_index(copy)
                assert held(copy)[:-2] == found
    assert len(held_by) > 5
    assert whole


# Altered


def test_flipped_bytes_in_an_index_of_several_segments(folder: Path) -> None:
    """A full check names the file; a query refuses or is unaffected; a change refuses, too, or
    does not copy it."""
    prepared(folder / "i")
    manifest = Manifest.read(folder / "i")
    assert [one.deleted_rows for one in manifest.segments] == [2, 1, 0]
    index = Path(shutil.copytree(folder / "i", folder / "copy"))
    expected = answers(index)
    compact_index(folder / "i")
    compacted = held(folder / "i")
    rng = np.random.default_rng(3)
    copied = folder / "changed"
    for name in manifest.files:
        path = index / name
        content = bytearray(path.read_bytes())
        refused = 0
        for turn, place in enumerate((0, *rng.integers(0, len(content), FLIPS))):
            content[place] ^= 0x55
            path.write_bytes(content)
            problems = verify_index(index, full=True).problems
            assert any(f"{name} is altered" in problem for problem in problems), problems
            try:
                assert answers(index) == expected
            except MoeeIndexError as error:
                assert "\n" not in str(error)
                refused += 1
            if turn < 4:
                shutil.copytree(index, copied)
                try:
                    compact_index(copied)
                    assert held(copied) == compacted
                except MoeeIndexError as error:
                    assert "\n" not in str(error)
                    assert not verify_index(copied, full=True).ok
                shutil.rmtree(copied)
            content[place] ^= 0x55
        path.write_bytes(content)
        # Of SQLite's pages an answer reads few; rows that are deleted are nobody's answer.
        partly = name.endswith((".sqlite", "hs.f32", "rw.f32", "rows.crc"))
        assert refused == FLIPS + 1 or partly, name
    assert verify_index(index, full=True).ok


def answers(directory: Path) -> list[Any]:
    """What queries of all kinds answer."""
    with Index.open(directory, FakeEncoder()) as index:
        return [
            *(index.search("w3 w4", 80, method=method) for method in ("sum", "concat", "hs", "rw")),
            index.search("w3 w4", 5, filter="x = 1"),
            index.search("w3 w4", 80, lexical=0.4),
            index.search("w3 w4", 80, lexical=1),
            index.documents(["d3", "nd1", "d1", "nowhere"]),
            index.vectors(["d3", "nd9"]).hs.tobytes(),
            list(index.ids()),
        ]


def test_a_bitmap_that_lies(folder: Path) -> None:
    """Right checksums, another count: as another program would write it."""
    prepared(folder / "i")
    path = folder / "i" / MANIFEST
    content = json.loads(path.read_text())
    for key, value in (("deleted_rows", 3), ("deleted_documents", 3), ("deleted", None)):
        altered = json.loads(json.dumps(content))
        del altered["sha256"]
        altered["segments"][0][key] = value
        path.write_text(json.dumps({**altered, "sha256": _checksum(altered)}))
        try:
            assert not verify_index(folder / "i", full=True).ok
        except IndexDamagedError as error:
            assert MANIFEST in str(error)
