"""A folder of files as a corpus: which of its files are read, and each as one document.

`.gitignore` and `.ignore` hold, hidden files and links that lead out of the folder are left alone.
What is in a file is left to file_texts.py.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moee_index.errors import CorpusError, MisuseError, counted
from moee_index.readers.file_texts import (
    ARCHIVES,
    KINDS,
    NoTextError,
    is_binary,
    lacking_library,
    read_text,
)
from moee_index.readers.formats.records import Record
from moee_index.readers.lines import BadLineError
from moee_index.text import escaped, text_fault

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_IGNORE_FILES = (".gitignore", ".ignore")  # the later one decides
# A larger file is data of some other kind; it would be read whole.
MOST_BYTES = 64 * 2**20


# From a file's id, when it was modified and its size to whether it need not be read.
Passed = Callable[[str, str, int], bool]


@dataclass(frozen=True)
class File:
    """A file to read. name: its path below the folder, with forward slashes; size in bytes,
    modified in nanoseconds since 1970."""

    path: Path
    name: str
    size: int
    modified: int

    @property
    def modified_text(self) -> str:
        """When it was modified last, in UTC to the second, as ISO 8601."""
        moment = datetime.fromtimestamp(self.modified // 10**9, tz=UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Folder:
    """The files of a folder that are read, in the order of their names, and how many are passed
    over, by the reason."""

    path: Path
    files: tuple[File, ...]
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def told(self) -> str:
        """What was found, for people."""
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.passed_over.items()))
        passed = f"; passed over: {left}" if left else ""
        return f"{escaped(str(self.path))}: {counted(len(self.files), 'file')}{passed}"


def record_of(file: File, number: int) -> Record | BadLineError:
    """A file as a record: its path is its id, its heading its title. A file whose text cannot be
    had is an error in its place."""
    source = escaped(str(file.path))
    try:
        return Record(_fields(file), number, source, file.name)
    except NoTextError as error:
        return BadLineError(source, file.name, str(error))


def _fields(file: File) -> dict[str, Any]:
    if file.size > MOST_BYTES:
        raise NoTextError(f"more than {MOST_BYTES // 2**20} MiB; is this a text?")
    read = read_text(file.path)
    titled = {"title": read.title} if read.title else {}
    return {
        "id": file.name,
        **titled,
        "text": read.text,
        "path": file.name,
        "modified": file.modified_text,
        "bytes": file.size,
    }


def look_at_folder(path: Path, globs: Sequence[str] = ()) -> Folder:
    """The files of a folder that are read. globs: patterns of paths below it, as in .gitignore
    files; without any, all files of the kinds that are known.

    Raises CorpusError where there is nothing to read or the folder cannot be listed, MisuseError
    for a pattern that is none.
    """
    walk = _Walk(path, _spec(globs) if globs else None)
    walk.visit(path, "", [])
    if not walk.files:
        folder = Folder(path, (), walk.passed_over)
        what = f"no file that --glob {' '.join(globs)} names"
        if not globs:
            what = f"no corpus.jsonl, no Parquet file and no file to read ({', '.join(KINDS)})"
        raise CorpusError(f"{folder.told()}; it holds {what}")
    return Folder(path, tuple(sorted(walk.files, key=lambda file: file.name)), walk.passed_over)


def _spec(lines: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise MisuseError(f"--glob {' '.join(lines)}: {error}") from None


# The patterns of a folder's ignore files, and the folder's path below the corpus, "" or with a
# slash at its end.
_Rules = tuple[str, "GitIgnoreSpec"]


class _Walk:
    """Goes through a folder; each file is taken or counted."""

    def __init__(self, root: Path, wanted: GitIgnoreSpec | None) -> None:
        self._root = root.resolve()
        self._wanted = wanted
        self.files: list[File] = []
        self.passed_over: Counter[str] = Counter()

    def visit(self, folder: Path, below: str, rules: list[_Rules]) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise CorpusError(
                    f"{escaped(str(folder))}: cannot be listed ({error.strerror or error})"
                ) from None
            self.passed_over["folders that cannot be listed"] += 1
            return
        rules = [*rules, *_ignore_rules(folder, below)]
        for entry in entries:
            name = below + entry.name
            if entry.name in _IGNORE_FILES:
                continue
            if entry.name.startswith("."):
                self.passed_over["hidden"] += 1
            elif entry.is_dir(follow_symlinks=False):
                if _ignored(f"{name}/", rules):
                    self.passed_over["ignored"] += 1
                else:
                    self.visit(folder / entry.name, f"{name}/", rules)
            elif _ignored(name, rules):
                self.passed_over["ignored"] += 1
            elif reason := self._take(folder / entry.name, name):
                self.passed_over[reason] += 1

    def _take(self, path: Path, name: str) -> str | None:
        """Take a file; else why it is passed over."""
        if path.is_symlink() and (path.is_dir() or not self._inside(path)):
            return "links"
        if self._wanted is not None and not self._wanted.match_file(name):
            return "not named by --glob"
        kind = path.suffix.lower()
        if self._wanted is None and kind not in KINDS:
            return "of other kinds"
        try:
            status = path.stat()
        except OSError:
            return "that cannot be read"
        if not stat.S_ISREG(status.st_mode):
            return "that are no files"  # opening a pipe would wait for a writer
        if text_fault(name):
            return "with names that are not UTF-8"
        if lacking := lacking_library(kind):
            return f"{kind} (needs pip install 'moee-index[files]': {lacking})"
        if kind not in ARCHIVES and is_binary(path):
            return "binary"
        self.files.append(File(path, name, status.st_size, status.st_mtime_ns))
        return None

    def _inside(self, path: Path) -> bool:
        try:
            return path.resolve(strict=True).is_relative_to(self._root)
        except (OSError, RuntimeError):  # it leads nowhere, or round in a circle
            return False


def _ignore_rules(folder: Path, below: str) -> Iterator[_Rules]:
    for name in _IGNORE_FILES:
        try:
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        from pathspec import GitIgnoreSpec

        # A line that git would not understand says nothing.
        yield below, GitIgnoreSpec.from_lines(line for line in lines if _is_pattern(line))


def _is_pattern(line: str) -> bool:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def _ignored(name: str, rules: Sequence[_Rules]) -> bool:
    """What the last rule says that speaks of a path, deeper folders' rules being later."""
    for below, spec in reversed(rules):
        said = spec.check_file(name.removeprefix(below)).include
        if said is not None:
            return said
    return False
