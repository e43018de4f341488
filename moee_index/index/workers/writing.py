"""The driver of several processes that write one index: it reads the corpus once, has each shard
embedded, and puts the segments in the order of the shards.

It holds the index's lock, as a single process does. A run that is killed at any moment is gone on
with by the same command: the corpus is read again, and what is embedded of the same documents with
the same options stays.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from moee_index.atomic import json_bytes, move_directory, storage_errors, write_file
from moee_index.errors import IndexChangedError, IndexDamagedError
from moee_index.fusion import Moments, Standardize, Standardizer
from moee_index.index.store.layout import (
    BUILDING,
    REJECTED,
    next_revision,
    segment_folders,
    segment_name,
)
from moee_index.index.store.manifest import Building, Manifest
from moee_index.index.store.revisions import remove_segment
from moee_index.index.store.rows import RowReader
from moee_index.index.store.token_weights import begin_token_weights, needed_token_weights
from moee_index.index.store.workers_folder import (
    RUN,
    SHARDS,
    done_folder,
    holds_work,
    placed_segments,
    remove_workers,
    workers_folder,
    working_folder,
)
from moee_index.index.workers.finished import Finished, finished_shard, read_moments
from moee_index.index.workers.pool import Pool
from moee_index.index.workers.spool import Shard, Spool, choose_buckets, choose_shards
from moee_index.index.workers.tasks import Derive, Derived, Embed, LookForRun
from moee_index.index.write.derive import Deriving
from moee_index.index.write.resume import check_resumable
from moee_index.index.write.segment import NewSegments, Writing
from moee_index.index.write.windows import (
    Rejects,
    nothing_to_index,
    windows,
)
from moee_index.types import Pair, Progress

_AT_A_TIME = 256
# Seconds that a file may take to be seen by other machines, on a network's file system.
_SEEN_SECONDS = 5.0


@dataclass(frozen=True)
class _Plan:
    """How the documents of an interrupted run were divided. digests: of its shards, by number."""

    buckets: int
    shards: int
    digests: Mapping[int, str]

    def write(self, folder: Path) -> None:
        digests = {str(number): digest for number, digest in self.digests.items()}
        content = {"buckets": self.buckets, "shards": self.shards, "digests": digests}
        write_file(folder / SHARDS, json_bytes(content))

    @classmethod
    def read(cls, folder: Path) -> _Plan | None:
        """None where there is none, or none that can be read."""
        try:
            content = json.loads((folder / SHARDS).read_bytes())
            digests = {int(number): str(each) for number, each in content["digests"].items()}
            return cls(int(content["buckets"]), int(content["shards"]), digests)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass
class ShardedWriting(Writing):
    """One run of writing a segment for each shard. pool: the processes."""

    pool: Pool = field(kw_only=True)
    _listed: Collection[str] = ()

    def __post_init__(self) -> None:
        self._run = uuid.uuid4().hex
        self._folder = workers_folder(self.directory)

    def run(self, manifest: Manifest | None) -> Sharded:
        self._listed = {entry.name for entry in manifest.segments} if manifest else set()
        plan = self._begin()
        look = LookForRun(self.directory.absolute(), self._run, _SEEN_SECONDS)
        self.pool.everywhere(look, "looking for it")
        plan, shards = self._spool(plan)
        finished = self._embed(shards)
        if not finished and self.wanted.purpose == "build":
            raise nothing_to_index(self.counts)
        published = manifest.revision if manifest else 0
        return Sharded(
            directory=self.directory,
            pool=self.pool,
            run=self._run,
            building=self.wanted,
            revision=next_revision(self.directory, published),
            shards=plan.shards,
            finished=finished,
        )

    def give_up(self) -> None:
        if not holds_work(self.directory, self._listed):
            remove_workers(self.directory)

    # What is there

    def _begin(self) -> _Plan | None:
        """Make the folder this run's. Returns how an interrupted one, which this one goes on with,
        had divided the documents."""
        self._drop_single()
        self._take_back()
        plan = self._interrupted()
        with storage_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
        self.wanted.write(self._folder)
        if (weights := needed_token_weights(self.encoder)) is not None:
            begin_token_weights(self._folder, weights)
        write_file(self._folder / RUN, self._run.encode())
        return plan

    def _drop_single(self) -> None:
        """Remove what a single process has left, which several do not go on with."""
        for folder in segment_folders(self.directory):
            single = (folder / BUILDING).exists() and folder.name not in self._listed
            if not single or folder in placed_segments(self.directory, self._listed):
                continue
            if not self.changing:
                raise IndexChangedError(
                    f"the interrupted build in {self.directory} was begun without --workers; leave "
                    "it out to resume it, or give --overwrite to start over"
                )
            self.notify("starting over: the interrupted run was begun without --workers")
            remove_segment(folder)

    def _take_back(self) -> None:
        """Put finished shards back where a run has them that does not publish."""
        for folder in placed_segments(self.directory, self._listed):
            finished = Finished.read(folder)
            if finished is None or not self._folder.is_dir():
                with storage_errors(folder):
                    shutil.rmtree(folder)
            else:
                move_directory(folder, done_folder(self.directory, finished.shard))

    def _interrupted(self) -> _Plan | None:
        """How an interrupted run had divided the documents, if this one can go on with it; its
        batches are kept then. What it has left is removed otherwise."""
        if not holds_work(self.directory, self._listed):
            return None
        try:
            building = Building.read(self._folder)
            plan = _Plan.read(self._folder)
            if building is None or plan is None or building.purpose != self.wanted.purpose:
                remove_workers(self.directory)
                return None
            check_resumable(self.directory, building, self.wanted, changing=self.changing)
        except (IndexChangedError, IndexDamagedError) as error:
            if not self.changing:
                raise
            self.notify(f"starting over: {error}")
            remove_workers(self.directory)
            return None
        self.notify(f"resuming an interrupted {building.purpose}")
        self._take_over(building)
        return plan

    # Reading

    def _spool(self, before: _Plan | None) -> tuple[_Plan, list[Shard]]:
        """Divide the corpus into shards on disk. Raises IndexChangedError where an interrupted
        build had another corpus."""
        buckets = before.buckets if before else choose_buckets(len(self.pool))
        spool = Spool(self._folder, buckets)
        for batch in windows(
            self.documents,
            _AT_A_TIME,
            lambda identifier, number: None,
            Rejects(self._folder / REJECTED, self.counts),
            self.counts,
            skip_bad=self.skip_bad,
            wanted=self.take,
            takes_out=self.takes_out,
        ):
            for prepared in batch.documents:
                spool.add(prepared)
            self.progress("reading", self.counts.read, self.total)
        count = before.shards if before else choose_shards(spool.documents, len(self.pool), buckets)
        shards = spool.finish(count)
        plan = _Plan(buckets, count, {shard.number: shard.digest for shard in shards})
        if before is not None and plan != before:
            self._changed()
        plan.write(self._folder)
        self._drop_other(plan)
        return plan, shards

    def _changed(self) -> None:
        if not self.changing:
            raise IndexChangedError(
                f"the corpus is not the one that the interrupted build in {self.directory} began "
                "with; give the same corpus to resume it, or --overwrite to start over"
            )
        self.notify("embedding shards again whose documents have changed")

    def _drop_other(self, plan: _Plan) -> None:
        """Remove shards that the corpus no longer has."""
        with storage_errors(self._folder):
            for path in self._folder.iterdir():
                kind, _, number = path.name.partition("-")
                known = number.isdigit() and int(number) in plan.digests
                if kind in ("done", "shard") and path.is_dir() and not known:
                    shutil.rmtree(path)

    # Embedding

    def _embed(self, shards: Sequence[Shard]) -> list[Finished]:
        """Have the shards embedded that are not, and return all in their order."""
        total, began = sum(shard.documents for shard in shards), time.perf_counter()
        finished = {}
        for shard in shards:
            found = finished_shard(self.directory, shard.number, shard.digest, self.wanted)
            if found is not None:
                finished[shard.number] = replace(found, texts=0, tokens=0.0, resumed=found.rows)
        waiting = [shard for shard in shards if shard.number not in finished]

        def moved(documents: int) -> None:
            done = sum(each.documents for each in finished.values())
            self.progress("embedding", done + documents, total)

        def done(one: Finished) -> None:
            finished[one.shard] = one

        self.pool.run(
            [self._task(shard) for shard in waiting],
            [f"shard {shard.number + 1}" for shard in waiting],
            moved=moved,
            done=done,
        )
        moved(0)
        in_order = [finished[shard.number] for shard in shards]
        self._count(in_order, time.perf_counter() - began)
        return in_order

    def _task(self, shard: Shard) -> Embed:
        return Embed(
            self.directory.absolute(),
            self._run,
            shard,
            self.wanted,
            needed_token_weights(self.encoder),
            self.skip_bad,
            self.pool.crew.scratch,
        )

    def _count(self, finished: Sequence[Finished], seconds: float) -> None:
        counts = self.counts
        counts.rejected += sum(each.rejected for each in finished)
        counts.texts = sum(each.texts for each in finished)
        counts.tokens = sum(each.tokens for each in finished)
        counts.resumed = sum(each.resumed for each in finished)
        counts.seconds = seconds if counts.texts else 0.0
        counts.stages["compute"] = seconds


@dataclass(frozen=True)
class Sharded:
    """Shards whose documents and raw rows are all on disk, in the order of their numbers; as
    `Written` is for one segment. shards: how many the documents were divided into."""

    directory: Path
    pool: Pool
    run: str
    building: Building
    revision: int
    shards: int
    finished: Sequence[Finished]

    @property
    def documents(self) -> int:
        return sum(each.documents for each in self.finished)

    @property
    def rows(self) -> int:
        return sum(each.rows for each in self.finished)

    @property
    def truncated(self) -> int:
        return sum(each.truncated for each in self.finished)

    @property
    def computed_on(self) -> Mapping[str, int]:
        """Device and type → documents."""
        found: dict[str, int] = {}
        for each in self.finished:
            found[each.hardware] = found.get(each.hardware, 0) + each.documents
        return found

    def fit(self, which: Standardize, report: Progress) -> Standardizer:
        """A standardizer of all rows, from the moments of each shard's."""
        report("standardizing", 0, self.rows)
        moments = [
            read_moments(done_folder(self.directory, each.shard), each.rows)
            for each in self.finished
        ]

        def merged(first: Pair[Moments], second: Pair[Moments]) -> Pair[Moments]:
            return first.zip(second).map(lambda both: both[0].merged(both[1]))

        report("standardizing", self.rows, self.rows)
        return Standardizer.of(reduce(merged, moments), which)

    @property
    def raw(self) -> list[tuple[RowReader, None]]:
        """Their rows, all of which count."""
        dims = self.building.spec.dims
        return [
            (
                RowReader(
                    done_folder(self.directory, each.shard), self.building.store, each.rows, dims
                ),
                None,
            )
            for each in self.finished
        ]

    def derive(self, how: Deriving, report: Progress) -> NewSegments:
        """Have written what follows from rows and documents, and put the segments in place."""
        tell = self.pool.notify
        if len(self.computed_on) > 1:
            kinds = ", ".join(f"{name} ({n})" for name, n in self.computed_on.items())
            tell(
                f"documents were embedded on different hardware: {kinds}; vectors of one text "
                "differ by rounding"
            )
        tasks = [
            Derive(
                self.directory.absolute(),
                self.run,
                each,
                self.building,
                replace(how, coarse=None),
                self.revision,
            )
            for each in self.finished
        ]
        done = 0

        def moved(one: Derived) -> None:
            nonlocal done
            done += one.segment.rows
            report("indexing", done, self.rows)

        derived = self.pool.run(
            tasks, [f"shard {each.shard + 1}" for each in self.finished], done=moved
        )
        return self._placed(derived)

    def _gather_rejects(self) -> None:
        """Join what the processes could not use to what the driver could not."""
        path = workers_folder(self.directory) / REJECTED
        for each in self.finished:
            rejected = done_folder(self.directory, each.shard) / REJECTED
            with storage_errors(path):
                if rejected.exists():
                    with path.open("ab") as file, rejected.open("rb") as more:
                        shutil.copyfileobj(more, file)

    def keep_rejects(self, directory: Path) -> None:
        """Put the lines that the run could not use beside the index."""
        path = workers_folder(self.directory) / REJECTED
        with storage_errors(directory):
            if path.exists():
                path.replace(directory / REJECTED)
            else:
                (directory / REJECTED).unlink(missing_ok=True)

    def _placed(self, derived: Sequence[Derived]) -> NewSegments:
        """Give the segments their names in the index, which the manifest will list."""
        self._gather_rejects()
        segments, files = [], {}
        for number, (each, one) in enumerate(zip(self.finished, derived, strict=True)):
            name = segment_name(self.revision + number)
            segments.append(replace(one.segment, name=name))
            files.update({f"{name}/{path}": entry for path, entry in one.files.items()})
            move_directory(done_folder(self.directory, each.shard), self.directory / name)
            shutil.rmtree(working_folder(self.directory, each.shard), ignore_errors=True)
        return NewSegments(segments, files)
