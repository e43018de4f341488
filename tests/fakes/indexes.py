"""Indexes of made-up documents, the changes that tests interrupt, and what must then hold."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import resource
import shutil
import signal
import sqlite3
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fakes.word_encoder import FakeEncoder, Held, held
from moee_index.atomic import LOCK
from moee_index.errors import MoeeIndexError
from moee_index.export.export import export_index
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    reindex_lexical,
    verify_index,
)
from moee_index.index.store.documents import DocumentStore
from moee_index.index.store.layout import BUILDING, MANIFEST, REJECTED
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.revisions import tidy
from moee_index.types import Document


def fake_documents(count: int) -> list[Document]:
    """Texts of 1 to 9 words, some of them equal."""
    rng = np.random.default_rng(11)
    return [
        Document(
            f"d{i}",
            " ".join(f"w{word}" for word in rng.integers(0, 40, rng.integers(1, 10))),
            {"x": 1} if i % 3 == 0 else {},
            source=f"c.jsonl:{i + 1}",
        )
        for i in range(count)
    ]


class Interrupted(BaseException):
    """As KeyboardInterrupt: no `except Exception` may swallow it."""


def interrupt_at(batch: int) -> FakeEncoder:
    """An encoder that is interrupted before its batch-th batch, counted from 1."""

    def on_batch(number: int) -> None:
        if number == batch:
            raise Interrupted

    return FakeEncoder(on_batch=on_batch)


def build_slowly(directory: str, overwrite: bool = False) -> None:
    """A build of about a second, to be killed."""
    build_index(
        directory,
        fake_documents(200),
        FakeEncoder(seconds_per_batch=0.01),
        window=32,
        overwrite=overwrite,
    )


def index_bytes(directory: Path) -> dict[str, str]:
    """What must not depend on interruptions: checksums of vectors and FAISS files, and the rows."""
    folder = sorted(directory.glob("segment-*"))[-1]
    files = [*folder.iterdir(), *directory.glob("standardizer-*")]
    found = {
        re.sub(r"-\d+", "", path.name): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        # What is written in several runs has its pages in another order.
        if not path.name.startswith("documents.sqlite") and path.suffix != ".json"
    }
    connection = sqlite3.connect(folder / "documents.sqlite")
    for table in ("documents", "passages"):
        rows = connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
        found[table] = hashlib.sha256(repr(rows).encode()).hexdigest()
    connection.close()
    return found


def _limited(size: int, change: Callable[[], object], answers: Any) -> None:
    """Do something while no file may grow beyond `size` bytes; tells the error's kind and text."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        change()
        answers.put(("none", ""))
    except Exception as error:
        answers.put((type(error).__name__, str(error)))


def build_limited(directory: str, size: int, answers: Any) -> None:
    """A build whose files may not grow beyond `size` bytes; tells the error's kind and text."""
    build = partial(build_index, directory, fake_documents(400), FakeEncoder(), window=32)
    _limited(size, build, answers)


def export_limited(directory: str, file: str, size: int, answers: Any) -> None:
    """An export whose files may not grow beyond `size` bytes; tells the error's kind and text."""
    with Index.open(directory) as index:
        _limited(size, partial(export_index, index, file), answers)


def read_for_ever(directory: str, stop: Any, answers: Any, opened: Any) -> None:
    """Open, search and close an index until told to stop; counts how often, tells every error."""
    errors = []
    Index.open(directory).close()
    answers.put("ready")
    while not stop.is_set():
        try:
            with Index.open(directory, FakeEncoder()) as index:
                index.search("w3 w4")
            opened.value += 1
        except Exception as error:
            errors.append(repr(error))
    answers.put(errors)


# Changes of an index, to be interrupted, killed, refused room, and started at once


def prepared(directory: Path, index_type: str = "flat") -> None:
    """An index of three segments, two of which have deleted documents."""
    build_index(
        directory, fake_documents(24), FakeEncoder(), standardize="both", window=8,
        index_type=index_type,
    )  # fmt: skip
    newer = [replace(one, id=f"n{one.id}", text=f"{one.text} n") for one in fake_documents(12)]
    add_documents(directory, newer[:8], FakeEncoder())
    add_documents(directory, newer[8:], FakeEncoder())
    delete_documents(directory, ["d1", "d5", "nd0"])


def without_postings(directory: Path) -> None:
    """Make of an index one as it was before there were postings."""
    manifest = Manifest.read(directory)
    entries = [replace(entry, lexical=None) for entry in manifest.segments]
    before = replace(manifest, language=None).with_segments(directory, entries)
    before.write(directory)
    tidy(directory, before)


def prepared_before(directory: Path) -> None:
    """As `prepared`, without postings."""
    prepared(directory)
    without_postings(directory)


def prepared_small(directory: Path) -> None:
    """An index whose segments are joined when one more comes."""
    build_index(directory, fake_documents(24), FakeEncoder(), standardize="both", window=8)
    for number in range(3):
        some = [replace(one, id=f"{one.id}-{number}") for one in fake_documents(3)]
        add_documents(directory, some, FakeEncoder())
    delete_documents(directory, ["d3", "d0-1"])


def _newer() -> list[Document]:
    """For a build anew and for an add: new ones, one that was deleted, others changed."""
    changed = [replace(one, text=f"{one.text} changed") for one in fake_documents(5)[1:]]
    return [*changed, *(replace(one, id=f"m{one.id}") for one in fake_documents(8))]


Change = Callable[[Path], object]
# Name → (what makes the index before, None where there is none; the change).
CHANGES: dict[str, tuple[Change | None, Change]] = {
    "build": (
        None,
        lambda directory: build_index(
            directory, fake_documents(24), FakeEncoder(), standardize="both", window=8
        ),
    ),
    "overwrite": (
        prepared,
        lambda directory: build_index(
            directory, _newer(), FakeEncoder(), window=8, overwrite=True, standardize="rw"
        ),
    ),
    "add": (
        prepared,
        lambda directory: add_documents(directory, _newer(), FakeEncoder(), update=True),
    ),
    "add and join": (
        prepared_small,
        lambda directory: add_documents(directory, _newer()[-3:], FakeEncoder()),
    ),
    "delete": (
        prepared,
        lambda directory: delete_documents(
            directory, ["d0", "d7", "nd2", *(f"nd{n}" for n in range(8, 12))], missing_ok=True
        ),
    ),
    "delete everything": (
        prepared,
        lambda directory: delete_documents(
            directory, [f"{n}d{i}" for n in ("", "n") for i in range(24)], missing_ok=True
        ),
    ),
    "reindex": (prepared, lambda directory: reindex(directory, standardize="rw")),
    "reindex one": (
        lambda directory: build_index(
            directory, fake_documents(24), FakeEncoder(), standardize="both"
        ),
        lambda directory: reindex(directory, standardize="none", index_type="SQ8"),
    ),
    "postings": (prepared_before, lambda directory: reindex_lexical(directory, language="en")),
    "other postings": (prepared, lambda directory: reindex_lexical(directory, language="de")),
    "compact": (prepared, compact_index),
    "compact linked": (lambda directory: prepared(directory, "HNSW8"), compact_index),
}


State = tuple[Held, str, list[str], list[list[tuple[str, float]]]]


def state(directory: Path) -> State:
    """All that users can tell one version of an index by."""
    queries = FakeEncoder().encode(["w3 w14", "w15 w9 w2 n"])
    with Index.open(directory) as index:
        found = [
            *index.search_embeddings(queries, 99),
            *index.search_embeddings(queries, 99, method="concat", filter="x = 1"),
        ]
        language = index.manifest.language
        if language is not None:
            texts = ["w3 w14", "w15 w9 w2 n"]
            found += index.search_embeddings(queries, 99, lexical=0.4, texts=texts)
        types = sorted({segment.entry.index_type["hs"] for segment in index.snapshot.segments})
        return (
            held(directory),
            index.manifest.standardize,
            [*types, str(language)],
            [[(hit.id, hit.score) for hit in hits] for hits in found],
        )


def left_over(directory: Path, *, unfinished: bool = False) -> set[str]:
    """Files that no version of an index needs; `unfinished`: those of a segment that can be gone
    on with do not count, nor a standardizer that was fitted on it."""
    found = {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }
    if (directory / MANIFEST).exists():
        found -= set(Manifest.read(directory).files)
    if unfinished:
        going_on = [path.parent.name for path in directory.glob(f"*/{BUILDING}")]
        found = {name for name in found if name.partition("/")[0] not in going_on}
        if going_on:
            found = {name for name in found if not re.fullmatch(r"standardizer-\d+.*", name)}
    return found - {MANIFEST, LOCK, REJECTED}


class Trap:
    """Counts the calls that change files, and acts at the n-th: "exit" ends the process there as
    SIGKILL would, "once" fails that call alone, "full" fails it and all later ones that need room.
    """

    # Of the many small writes every ninth counts.
    _CALLS = ("replace", "unlink", "mkdir", "rmdir", "fsync", "ftruncate", "pwrite")
    _NEED_ROOM = ("replace", "mkdir", "fsync", "pwrite", "write_bytes", "insert")

    def __init__(self, number: int, mode: str) -> None:
        self._number = number
        self._mode = mode
        self._small = itertools.count()
        self.calls = 0

    def _met(self, name: str, half: Callable[[], object] = lambda: None) -> None:
        if name == "pwrite" and next(self._small) % 9:
            return
        if self._mode == "full" and name not in self._NEED_ROOM:
            return
        self.calls += 1
        if self.calls == self._number or (self._mode == "full" and self.calls > self._number):
            half()
            if self._mode == "exit":
                os._exit(9)
            code = errno.ENOSPC if self._mode == "full" else errno.EIO
            raise OSError(code, os.strerror(code))

    def __enter__(self) -> Trap:
        self._before: list[tuple[Any, str, Any]] = []

        def patch(where: Any, name: str, made: Callable[[Any], Any]) -> None:
            original = getattr(where, name)
            self._before.append((where, name, original))
            setattr(where, name, made(original))

        def counted(name: str) -> Callable[[Any], Any]:
            def made(original: Any) -> Any:
                def call(*args: Any, **options: Any) -> Any:
                    self._met(name)
                    return original(*args, **options)

                return call

            return made

        def written_by_half(original: Any) -> Any:
            def call(path: Path, content: bytes) -> Any:
                self._met("write_bytes", lambda: original(path, content[: len(content) // 2]))
                return original(path, content)

            return call

        def inserted(original: Any) -> Any:
            def call(*args: Any) -> Any:
                original(*args)
                self._met("insert")

            return call

        for name in self._CALLS:
            patch(os, name, counted(name))
        patch(Path, "write_bytes", written_by_half)
        # Within SQLite's transaction, before it is committed.
        patch(DocumentStore, "_insert", inserted)
        return self

    def __exit__(self, *_: object) -> None:
        for where, name, original in reversed(self._before):
            setattr(where, name, original)


def trap_everywhere(
    name: str, mode: str, folder: str, answers: Any, first: int = 1, stride: int = 1
) -> None:
    """Run a change again and again, with a trap at its first, second, … call that changes files
    (or at some of them), until it runs through; look after each what is left, then start it again
    without a trap.

    Tells the number of traps that were met, and everything that was wrong.
    """
    make, change = CHANGES[name]
    template, undisturbed = Path(folder) / "before", Path(folder) / "after"
    before: State | None = None
    if make is not None:
        make(template)
        before = state(template)
        shutil.copytree(template, undisturbed)
    change(undisturbed)
    after = state(undisturbed)
    problems: list[str] = []
    met = 0
    for number in itertools.count(first, stride):
        target = Path(folder) / "target"
        if make is not None:
            shutil.copytree(template, target)
        ended, told = _trapped(change, target, number, mode)
        met += not ended
        try:
            found: list[str] = [told] if told else []
            if (target / MANIFEST).exists():
                found += verify_index(target, full=True).problems
                now = state(target)
                if now not in (before, after):
                    found.append("it holds neither what it held nor what it is to hold")
                if mode == "full" and not ended:
                    found += sorted(left_over(target, unfinished=True))
            elif before is not None:
                found.append("there is no index any more")
            change(target)
            found += verify_index(target, full=True).problems
            if state(target) != after:
                found.append("started again it gives something else")
            # A finished build has nothing to do, and leaves what lies about to the next change.
            if name not in ("build", "overwrite"):
                found += sorted(left_over(target))
            problems += [f"{name}, {mode} {number}: {one}" for one in found]
        except Exception as error:
            problems.append(f"{name}, {mode} {number}: {error!r} {traceback.format_exc()}")
        shutil.rmtree(target, ignore_errors=True)
        if ended or len(problems) > 3:
            break
    answers.put((met, problems))


def _trapped(change: Change, target: Path, number: int, mode: str) -> tuple[bool, str]:
    """Whether a change ran through without meeting its trap, and what was wrong with how it
    failed."""
    if mode == "exit":
        child = os.fork()
        if not child:
            with Trap(number, mode):
                try:
                    change(target)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status == 0, "" if status in (0, 9) else f"status {status}"
    with Trap(number, mode) as trap:
        try:
            change(target)
        except MoeeIndexError as error:
            told = str(error)
            clear = "\n" not in told and ("the disk is full" in told or mode != "full")
            return False, "" if clear else f"not clear: {told}"
        except Exception as error:
            return False, f"not one of ours: {error!r}"
    # What only tidies up may fail: the change is done all the same.
    return trap.calls < number, ""


def run_limited(name: str, directory: str, size: int, answers: Any) -> None:
    """A change whose files may not grow beyond `size` bytes; tells the error's kind and text."""
    _limited(size, partial(CHANGES[name][1], Path(directory)), answers)


def run_at_once(name: str, directory: str, barrier: Any, answers: Any) -> None:
    """A change that begins when all are there; tells the error's kind and text."""
    barrier.wait()
    try:
        CHANGES[name][1](Path(directory))
        answers.put((name, "none", ""))
    except Exception as error:
        answers.put((name, type(error).__name__, str(error)))


def change_for_ever(directory: str, stop: Any, answers: Any) -> None:
    """Add, delete and compact until told to stop; tells what each version held, by its revision."""
    path, held_by = (
        Path(directory),
        {Manifest.read(Path(directory)).revision: held(Path(directory))},
    )
    answers.put("ready")
    for number in itertools.count():
        some = [replace(one, id=f"{one.id}-{number}") for one in fake_documents(6)]
        for step in (
            lambda some=some: add_documents(path, some, FakeEncoder()),
            lambda some=some: delete_documents(path, [one.id for one in some[2:]]),
            lambda: compact_index(path),
        ):
            step()
            held_by[Manifest.read(path).revision] = held(path)
            if stop.is_set():
                answers.put(held_by)
                return


def reindex_for_ever(directory: str, stop: Any, answers: Any) -> None:
    """Reindex until told to stop; tells how often."""
    answers.put("ready")
    for number in itertools.count(1):
        reindex(directory)
        if stop.is_set():
            answers.put(number)
            return
