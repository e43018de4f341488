"""What a process is asked to do, and how it does it: the one protocol of all workers.

A task is a value that goes to another process, and so is what comes back. Each may be done twice:
what it leaves on disk is the same, and appears whole or not at all.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from moee_index.atomic import WriterLock, move_directory, storage_errors
from moee_index.errors import IndexLockedError, StorageError
from moee_index.fusion import Moments
from moee_index.index.approximate.coarse import CoarseQuantizer
from moee_index.index.lexical.segment import write_lexical
from moee_index.index.store.layout import coarse_name
from moee_index.index.store.manifest import Building, FileEntry, Segment, file_entry
from moee_index.index.store.reading import reading
from moee_index.index.store.revisions import program
from moee_index.index.store.rows import LiveRows, RowReader
from moee_index.index.store.workers_folder import (
    RUN,
    done_folder,
    workers_folder,
    working_folder,
)
from moee_index.index.workers.finished import Finished, finished_shard
from moee_index.index.workers.spool import Shard, read_spool
from moee_index.index.write.derive import Deriving
from moee_index.index.write.segment import SegmentWriting, Written
from moee_index.token_weights import TokenCounts, TokenWeights
from moee_index.types import PARTS, Chunking, EncoderSpec, Notify, Pair, Span, TextEncoder, ignore

Report = Callable[[int], None]
# Seconds that another process of the same shard, which is ending, may hold its lock.
_LOCK_SECONDS = 60.0
_LOOK_AGAIN = 0.1


class LoadElsewhere(Protocol):
    """How another process loads the encoder; it can be told to one (pickled)."""

    def load(self, *, place: int, threads: int | None, notify: Notify) -> TextEncoder:
        """place: which of several processes on one machine it is, from 0."""


class Task(Protocol):
    def do(self, worker: Worker, report: Report) -> Any:
        """report: called with the documents that are done."""


@dataclass(frozen=True)
class Facts:
    """What a process has loaded. weights: bytes by kind; hardware: device and type it computes in.

    lexical, language: what the model has as its indexes' defaults.
    """

    spec: EncoderSpec
    batch_tokens: int
    lexical: float
    language: str | None
    weights: dict[str, int] | None
    hardware: str
    host: str
    program: str


class Worker:
    """One process: its encoder, loaded when it is first needed."""

    def __init__(
        self, load: LoadElsewhere, place: int, threads: int | None, notify: Notify
    ) -> None:
        self._load, self._place, self._threads = load, place, threads
        self.notify = notify
        self._loaded: TextEncoder | None = None

    @property
    def encoder(self) -> TextEncoder:
        if self._loaded is None:
            self._loaded = self._load.load(
                place=self._place, threads=self._threads, notify=self.notify
            )
        return self._loaded

    def encoder_for(self, wanted: Building, weights: TokenWeights | None) -> TextEncoder:
        """With the token weights and the size of batches that all processes share."""
        encoder = self.encoder
        if weights is not None and encoder.spec.token_weights != weights.checksum:
            encoder = encoder.with_token_weights(weights)
        if encoder.batch_tokens != wanted.batch_tokens:
            encoder = encoder.with_batch_tokens(wanted.batch_tokens)
        return encoder

    @property
    def hardware(self) -> str:
        return str(getattr(self.encoder, "hardware", "unknown"))


@dataclass(frozen=True)
class Describe:
    """Load the encoder and say what it is."""

    def do(self, worker: Worker, report: Report) -> Facts:
        encoder: Any = worker.encoder
        return Facts(
            spec=encoder.spec,
            batch_tokens=encoder.batch_tokens,
            lexical=getattr(encoder, "lexical", 0.0),
            language=getattr(encoder, "language", None),
            weights=getattr(encoder, "weight_bytes", None),
            hardware=worker.hardware,
            host=platform.node(),
            program=program(),
        )


@dataclass(frozen=True)
class LookForRun:
    """See whether a process shares the index's directory with the driver. seconds: that what the
    driver has written may take to be seen."""

    directory: Path
    run: str
    seconds: float

    def do(self, worker: Worker, report: Report) -> None:
        deadline = time.monotonic() + self.seconds
        while not _is_current(self.directory, self.run):
            if time.monotonic() > deadline:
                raise StorageError(
                    f"node {platform.node()} does not see what is written to {self.directory}; "
                    "give --index a directory that all nodes share under the same path"
                )
            time.sleep(_LOOK_AGAIN)


@dataclass(frozen=True)
class CountTokens:
    """Count the tokens of some texts."""

    texts: Sequence[str]

    def do(self, worker: Worker, report: Report) -> TokenCounts:
        counts = TokenCounts()
        worker.encoder.count_tokens(self.texts, counts)
        return counts


@dataclass(frozen=True)
class DivideTexts:
    """Divide documents into passages, as `TextEncoder.passages` does."""

    documents: Sequence[tuple[str, str]]
    chunking: Chunking

    def do(self, worker: Worker, report: Report) -> list[list[Span]]:
        return worker.encoder.passages(self.documents, self.chunking)


@dataclass(frozen=True)
class Embed:
    """Embed a shard into a segment of its own, and put it where the driver finds it.

    scratch: whether it is written on a disk of the process's machine and copied, which suits
    SQLite better than a network's file system.
    """

    directory: Path
    run: str
    shard: Shard
    wanted: Building
    weights: TokenWeights | None
    skip_bad: bool
    scratch: bool

    def do(self, worker: Worker, report: Report) -> Finished:
        number, directory = self.shard.number, self.directory
        with _alone(directory, self.run, number):
            finished = finished_shard(directory, number, self.shard.digest, self.wanted)
            if finished is not None:
                return finished
            folder = self._scratch() if self.scratch else working_folder(directory, number)
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            finished, segment = self._embed(folder, worker, report)
            _check_current(directory, self.run)
            move_directory(segment, done_folder(directory, number))
            if self.scratch:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # others are at work there
                    folder.parent.rmdir()
            return finished

    def _scratch(self) -> Path:
        """The same one for whoever goes on with the shard on this machine."""
        name = sha256(os.fsencode(self.directory)).hexdigest()[:16]
        base = Path(tempfile.gettempdir()) / f"moee-index-{name}"
        with storage_errors(base):
            base.mkdir(mode=0o700, exist_ok=True)
            if hasattr(os, "getuid") and base.lstat().st_uid != os.getuid():
                raise StorageError(
                    f"{base} on {platform.node()} belongs to another user; set TMPDIR to a "
                    "directory of your own where Ray is started"
                )
        return base / f"shard-{self.shard.number:04d}"

    def _embed(self, folder: Path, worker: Worker, report: Report) -> tuple[Finished, Path]:
        buckets = range(self.shard.first, self.shard.end)
        writing = SegmentWriting(
            directory=folder,
            documents=lambda reject: read_spool(workers_folder(self.directory), buckets),
            encoder=worker.encoder_for(self.wanted, self.weights),
            wanted=self.wanted,
            skip_bad=self.skip_bad,
            changing=True,
            total=self.shard.documents,
            progress=lambda stage, done, total: report(done) if stage == "embedding" else None,
            notify=worker.notify,
        )
        try:
            written = writing.run(None)
        except BaseException:
            with suppress(StorageError, OSError):
                writing.give_up()
            raise
        counts = writing.counts
        finished = Finished(
            shard=self.shard.number,
            digest=self.shard.digest,
            run=self.run,
            documents=written.documents,
            rows=written.rows,
            truncated=written.truncated,
            rejected=counts.rejected,
            texts=counts.texts,
            tokens=counts.tokens,
            resumed=counts.resumed,
            hardware=worker.hardware,
        )
        finished.write(written.folder, _moments(written))
        return finished, written.folder


def _moments(written: Written) -> Pair[Moments]:
    building, rows = written.building, written.rows
    dims = building.spec.dims
    raw = RowReader(written.folder, building.store, rows, dims)
    return PARTS.map(lambda part: Moments.of(LiveRows(part, [(raw, None)], dims[part]), part))


@dataclass(frozen=True)
class Derived:
    """A segment as a manifest lists it, but for its name, and its files."""

    segment: Segment
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Derive:
    """Make codes, norms and postings of a finished shard. how: without the coarse quantizer, which
    is in the index's directory."""

    directory: Path
    run: str
    finished: Finished
    wanted: Building
    how: Deriving
    revision: int

    def do(self, worker: Worker, report: Report) -> Derived:
        number = self.finished.shard
        with _alone(self.directory, self.run, number):
            return self._derive(done_folder(self.directory, number))

    def _derive(self, folder: Path) -> Derived:
        store, dims = self.wanted.store, self.wanted.spec.dims
        how, documents = replace(self.how, coarse=self._coarse()), self.finished.documents
        raw = RowReader(folder, store, self.finished.rows, dims)
        segment = how.segment(folder, raw, documents, self.revision, ignore)
        if self.how.language is not None:
            lexical = write_lexical(folder, self.how.language, self.revision, ignore)
            segment = replace(segment, lexical=lexical)
        with storage_errors(folder):
            files = {name: file_entry(folder / name) for name in segment.names(store)}
        return Derived(segment, files)

    def _coarse(self) -> CoarseQuantizer | None:
        approximation = self.how.approximation
        if approximation is None:
            return None
        path = self.directory / coarse_name(approximation.coarse)
        with reading(path):
            content = path.read_bytes()
        return CoarseQuantizer.read(path, content, self.wanted.spec.dims, approximation.lists)


@contextmanager
def _alone(directory: Path, run: str, shard: int) -> Iterator[None]:
    """With the lock of a shard, which one process of an earlier run may still hold while it ends;
    and only while the run is the one that the driver is at."""
    folder = working_folder(directory, shard)
    _check_current(directory, run)
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    deadline = time.monotonic() + _LOCK_SECONDS
    lock = WriterLock(folder)
    while True:
        try:
            lock.__enter__()
            break
        except IndexLockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_AGAIN)
    try:
        _check_current(directory, run)
        yield
    finally:
        lock.__exit__(None, None, None)


def _is_current(directory: Path, run: str) -> bool:
    try:
        return (workers_folder(directory) / RUN).read_text() == run
    except OSError:
        return False


def _check_current(directory: Path, run: str) -> None:
    """Raises StorageError where the driver is another one by now, or the directory is gone."""
    if not _is_current(directory, run):
        raise StorageError(
            f"another run writes {directory} by now; this one has ended and writes nothing more"
        )
