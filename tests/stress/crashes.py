"""Kill build, add, delete, reindex and compact at random moments, and look at what is left.

    cd tests && python -m stress.crashes [CORPUS] [--kills 100] [--documents 300] [--seed 0]

Each command runs in a process of its own, which is forked from one that has the library imported
and begins when it is told to. It is killed with SIGKILL at a moment that is spread evenly over
the time that it takes undisturbed. After each kill `verify --full` must find nothing wrong, and the
index must hold, row by row, what it held before the command or what it holds after it; then the
same command is started again and must end with what it gives undisturbed. All the time another
process opens the index, searches it and looks up documents, and must never see an error.

The vectors are hashed words, not a model's: what is tried here is the order of writes. Every batch
takes two milliseconds, so that a command lasts long enough to be killed within.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import forks

from fakes.word_encoder import Held, expected_of, held
from moee_index.errors import MoeeIndexError
from moee_index.index import verify_index
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest
from moee_index.readers.corpus import read_corpora
from moee_index.types import Document
from stress.crash_index import Change, encoder, read_for_ever, sample, work

COMMANDS = ("build", "add", "delete", "reindex", "postings", "compact")
# Documents that an add brings or a delete takes.
_SOME = 40
_SLOWEST = 60.0


class Processes:
    """Starts commands, and kills them. Children are forked from a process that has imported the
    libraries and has run nothing, so that no thread of one is lost on the way."""

    def __init__(self) -> None:
        self._context = forks.context()

    def run(self, change: Change, directory: Path, moment: float | None = None) -> float | None:
        """Run a command, to its end (the seconds that it took) or until it is killed (None).

        Raises RuntimeError with the message of a command that failed.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(change, directory, theirs))
        process.start()
        theirs.close()
        try:
            if not ours.poll(_SLOWEST) or ours.recv() != "ready":
                raise RuntimeError(f"{change.command} did not begin")
            if moment is not None:
                time.sleep(moment)
                process.kill()
            answer = ours.recv() if ours.poll(_SLOWEST) else "it did not end"
        except EOFError:
            answer = None
        finally:
            process.kill()
            process.join()
            ours.close()
        if isinstance(answer, str):
            raise RuntimeError(f"{change.command}: {answer}")
        if answer is None and process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"{change.command} ended with status {process.exitcode}")
        return answer

    @contextlib.contextmanager
    def reader(self, directory: Path, report: Callable[[int, list[str]], None]) -> Iterator[None]:
        """A process that reads all the while; `report` is told how often, and its errors."""
        answers, stop = self._context.Queue(), self._context.Event()
        process = self._context.Process(target=read_for_ever, args=(directory, stop, answers))
        process.start()
        try:
            if answers.get(timeout=_SLOWEST) != "ready":
                raise RuntimeError("the reader did not begin")
            yield
            stop.set()
            report(*answers.get(timeout=_SLOWEST))
        finally:
            process.kill()
            process.join()


# The trial


@dataclass
class Outcome:
    """What became of one command. took: seconds undisturbed; new: kills after which the new
    version was there already; finished: runs that ended before their kill; reads: of the reader;
    problems: everything that must not be, in words."""

    command: str
    took: float = 0.0
    kills: int = 0
    new: int = 0
    finished: int = 0
    reads: int = 0
    problems: list[str] = field(default_factory=list)


class Trial:
    """Kills commands again and again over indexes in `folder`, which must be empty."""

    def __init__(self, folder: Path, documents: Sequence[Document], seed: int) -> None:
        self._folder = folder
        self._documents = list(documents)
        self._first = {document.id: document for document in documents}
        self._chance = random.Random(seed)
        self._processes = Processes()
        self._round = 0

    def run(self, command: str, kills: int) -> Outcome:
        """Kill a command `kills` times, at moments spread evenly over its time."""
        outcome = Outcome(command)
        index = self._folder / command
        Change("build", self._documents).run(index)

        def read(count: int, errors: list[str]) -> None:
            outcome.reads = count
            outcome.problems += errors[:3]

        with self._processes.reader(index, read):
            now = self._documents
            times = []
            for _ in range(3):
                change, _, now = self._next(command, index, now)
                times.append(self._processes.run(change, index) or 0.0)
            outcome.took = sorted(times)[1]
            spread = True
            while outcome.kills < kills and not outcome.problems:
                # Where it was quicker than its killer, at any moment instead.
                low, width = (outcome.kills / kills, 1 / kills) if spread else (0.0, 1.0)
                share = low + self._chance.random() * width
                before = outcome.finished
                now = self._once(command, index, now, share, outcome)
                spread = outcome.finished == before
        shutil.rmtree(index)
        return outcome

    def _once(
        self,
        command: str,
        index: Path,
        now: list[Document],
        share: float,
        outcome: Outcome,
    ) -> list[Document]:
        """Kill one run at a share of the command's time, and start it again. Returns what the
        index then holds."""
        change, now, then = self._next(command, index, now)
        # Every other build makes a new index instead of replacing the one that is read.
        fresh = command == "build" and outcome.kills % 2 == 1
        target = self._folder / f"fresh-{self._round}" if fresh else index
        if fresh:
            change = replace(change, overwrite=False)
        before, after = (expected_of(documents, encoder=encoder()) for documents in (now, then))
        revision = None if fresh else Manifest.read(index).revision
        try:
            if self._processes.run(change, target, share * outcome.took) is None:
                outcome.kills += 1
                if not fresh or (target / MANIFEST).exists():
                    allowed = [after] if fresh else [before, after]
                    outcome.problems += _wrong(target, allowed, "after the kill")
                    outcome.new += Manifest.read(target).revision != revision
            else:
                outcome.finished += 1
            self._processes.run(change, target)
            outcome.problems += _wrong(target, [after], "after it was started again")
        except RuntimeError as error:
            outcome.problems.append(str(error))
        if not fresh:
            return then
        shutil.rmtree(target, ignore_errors=True)
        return now

    def _next(
        self, command: str, index: Path, now: list[Document]
    ) -> tuple[Change, list[Document], list[Document]]:
        """The next change of an index that holds these documents, what it holds once it is made
        such that the change has work to do, and what it must hold after the change."""
        self._round += 1
        if command == "build":
            changed = self._variants(now)
            return Change("build", changed, overwrite=True), now, changed
        if command == "add":
            # Half of them are there with another text, half are not there.
            new = self._variants(now[: 2 * _SOME])
            Change("delete", ids=[one.id for one in new[_SOME:]]).run(index)
            rest = now[2 * _SOME :]
            return Change("add", new), now[:_SOME] + rest, rest + new
        if command == "delete":
            there = {one.id for one in now}
            back = [one for one in self._documents if one.id not in there]
            if back:
                Change("add", back).run(index)
            now = now + back
            gone = [one.id for one in now[:_SOME]]
            return Change("delete", ids=gone), now, now[_SOME:]
        if command == "reindex":
            return Change("reindex", standardize=("rw", "both")[self._round % 2]), now, now
        if command == "postings":
            return Change("postings", language=("en", "de")[self._round % 2]), now, now
        new = self._variants(now[:_SOME])
        Change("add", new).run(index)
        now = now[_SOME:] + new
        return Change("compact"), now, now

    def _variants(self, documents: Sequence[Document]) -> list[Document]:
        """The same documents with texts that they never had."""
        return [
            replace(self._first[one.id], text=f"{self._first[one.id].text} r{self._round}")
            for one in documents
        ]


def _wrong(index: Path, allowed: list[Held], when: str) -> list[str]:
    """What is wrong with an index that must be sound and hold one of these."""
    try:
        problems = list(verify_index(index, full=True).problems)
        found = held(index)
    except MoeeIndexError as error:
        return [f"{when}: {error}"]
    ids = {one[0] for one in found}
    if len(ids) != len(found):
        problems.append("a document is there twice")
    if found not in allowed:
        lost = sorted({one[0] for one in allowed[0]} - ids)
        problems.append(f"it holds other documents or rows than it must (lost: {lost[:3]})")
    return [f"{when}: {problem}" for problem in problems]


def try_all(
    folder: Path,
    documents: Sequence[Document],
    *,
    kills: int,
    seed: int = 0,
    commands: Sequence[str] = COMMANDS,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Kill each command `kills` times over indexes of these documents, made in `folder`."""
    if len(documents) < 3 * _SOME:
        raise SystemExit(f"at least {3 * _SOME} documents are needed")
    trial = Trial(folder, documents, seed)
    outcomes = []
    for command in commands:
        outcomes.append(trial.run(command, kills))
        tell(outcomes[-1])
    return outcomes


def main() -> None:
    """Print a table, one line a command; exit status 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", nargs="?", type=Path, help="texts to index [made up]")
    parser.add_argument("--kills", type=int, default=100, help="of each command [100]")
    parser.add_argument("--documents", type=int, default=300, help="in the index [300]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=COMMANDS, action="append", help="these alone [all]")
    given = parser.parse_args()
    documents = sample(given.documents)
    if given.corpus is not None:
        with contextlib.closing(read_corpora([str(given.corpus)])) as reader:
            documents = list(itertools.islice(reader, given.documents))
    print(
        f"{'command':<8} {'kills':>6} {'new version':>12} {'ended first':>12} {'took':>8} "
        f"{'reads':>7}  wrong"
    )

    def tell(outcome: Outcome) -> None:
        print(
            f"{outcome.command:<8} {outcome.kills:>6} {outcome.new:>12} {outcome.finished:>12} "
            f"{outcome.took:>6.2f} s {outcome.reads:>7}  {len(outcome.problems) or 'nothing'}",
            flush=True,
        )
        for problem in outcome.problems:
            print(f"  {problem}")

    with tempfile.TemporaryDirectory() as folder:
        outcomes = try_all(
            Path(folder),
            documents,
            kills=given.kills,
            seed=given.seed,
            commands=given.command or COMMANDS,
            tell=tell,
        )
    sys.exit(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    main()
