"""Corpora: files of texts in, a stream of documents out.

Reads BEIR folders, stdin and the formats of formats.py, and says where in which file a document
stands. Duplicate ids are found by the index, which keeps the ids.

Nothing is read whole: one line, or one small batch of Parquet rows, is in memory at a time.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from moee_index.errors import CorpusError, MisuseError
from moee_index.readers.fields import id_of, text_of, title_of
from moee_index.readers.formats import READERS, Columns, Record, Records
from moee_index.readers.lines import BadLineError, ByteSource, open_bytes, split_name
from moee_index.types import Document, ignore

Reject = Callable[[str, str, str], None]
_NO_CORPUS = "no corpus given; name a file, a BEIR folder, or - for stdin"


class CorpusReader(Iterator[Document]):
    """The documents of some corpora, in their order, and how far the reading is.

    bytes_total: size of all files on disk, compressed as they are; None when one of them is stdin
    or a pipe. bytes_read: how many of these have been read. documents_expected: how many documents
    there will be if the rest is like what was read; None while unknown. For a progress bar.
    """

    def __init__(self, documents: Generator[Document], progress: _Progress) -> None:
        self._documents = documents
        self._progress = progress
        self._count = 0
        self._ended = False

    def __next__(self) -> Document:
        try:
            document = next(self._documents)
        except StopIteration:
            self._ended = True
            raise
        self._count += 1
        return document

    def close(self) -> None:
        """Close the file that is being read; the reader then ends."""
        self._documents.close()

    @property
    def bytes_total(self) -> int | None:
        return self._progress.total

    @property
    def bytes_read(self) -> int:
        return self._progress.read

    @property
    def documents_expected(self) -> int | None:
        if self._ended:
            return self._count
        if not self.bytes_total or not self.bytes_read:
            return None
        return round(self._count * max(1.0, self.bytes_total / self.bytes_read))


def read_corpora(
    paths: Sequence[str | Path],
    *,
    id_field: str | None = None,
    text_field: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
    reject: Reject | None = None,
    stdin: IO[bytes] | None = None,
) -> CorpusReader:
    """Documents of the given corpora (INTERFACE, "Corpus in"), one after another.

    Paths are looked at before anything is read: a missing file or an unknown ending is an
    error at once, not after hours. A document without an id gets `<file stem>:<line>`; where the
    same stem is given more than once, the path as given replaces the stem.

    id_field, text_field: the fields to take instead of `id` (or `_id`) and `text`.
    on_bad: "error" raises on the first line that cannot be used; "skip" calls
    `reject(source, line, reason)` for each and goes on. What ends a whole file (no such file,
    truncated compression, a header without the text column) is an error either way.

    Raises CorpusError naming file and line; MisuseError for arguments that cannot be meant.
    """
    _check_arguments(paths, id_field, text_field, on_bad)
    files = [_locate(path) for path in paths]
    if sum(file.path == "-" for file in files) > 1:
        raise MisuseError("stdin (-) can be read only once")
    stems = Counter(file.stem for file in files)
    progress = _Progress(files)
    columns = Columns(id_field, text_field)
    skipped = None if on_bad == "error" else reject or ignore

    def documents() -> Generator[Document]:
        for file in files:
            prefix = _utf8(file.stem) if stems[file.stem] == 1 else file.name
            with open_bytes(file.path, stdin, text=file.kind != ".parquet") as source:
                progress.current = source
                records = READERS[file.kind](source, file.name, columns)
                yield from _made(records, columns, prefix, skipped)
                progress.finish(file)

    return CorpusReader(documents(), progress)


def _check_arguments(
    paths: Sequence[str | Path], id_field: str | None, text_field: str | None, on_bad: str
) -> None:
    if not paths:
        raise MisuseError(_NO_CORPUS)
    if on_bad not in ("error", "skip"):
        raise MisuseError(f"on_bad is {on_bad!r}; it is 'error' or 'skip'")
    for name, value in (("id", id_field), ("text", text_field)):
        if value == "":
            raise MisuseError(f"the {name} field's name is empty")
    if id_field is not None and id_field == text_field:
        raise MisuseError(f"{id_field!r} cannot be both the id and the text")


def default_index_name(paths: Sequence[str | Path]) -> str:
    """Name of an index for these corpora: the first one's stem, or its BEIR folder's name.

    Raises MisuseError for stdin, which has no name.
    """
    if not paths:
        raise MisuseError(_NO_CORPUS)
    first = Path(paths[0])
    if str(first) == "-":
        raise MisuseError("a corpus from stdin has no name; give the index one with --index DIR")
    name = first.resolve().name if first.is_dir() else split_name(first)[0]
    if not name:
        raise MisuseError(f"{first} does not name an index; give one with --index DIR")
    return name


@dataclass(frozen=True)
class _File:
    path: str  # as given, for a BEIR folder its corpus file; "-" is stdin
    stem: str
    kind: str
    size: int | None

    @property
    def name(self) -> str:
        return "stdin" if self.path == "-" else _utf8(self.path)


def _utf8(name: str) -> str:
    """A file name as text: it need not be UTF-8, while ids and messages must be."""
    return name.encode("utf-8", "replace").decode("utf-8")


class _Progress:
    def __init__(self, files: Sequence[_File]) -> None:
        sizes = [file.size for file in files]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)
        self.current: ByteSource | None = None
        self._finished = 0

    @property
    def read(self) -> int:
        return self._finished + (self.current.position if self.current else 0)

    def finish(self, file: _File) -> None:
        self.current = None
        self._finished += file.size or 0


def _locate(name: str | Path) -> _File:
    if str(name) == "-":
        return _File("-", "stdin", ".jsonl", None)
    path = Path(name)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise CorpusError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be opened ({error.strerror or error})") from None
    if stat.S_ISDIR(status.st_mode):
        for ending in ("", ".gz", ".zst"):
            inner = path / f"corpus.jsonl{ending}"
            if inner.is_file():
                return _File(str(inner), "corpus", ".jsonl", inner.stat().st_size)
        raise CorpusError(
            f"{path}: a folder without corpus.jsonl, so not a BEIR data set; name the files in it"
        )
    stem, kind, _ = split_name(path)
    if kind not in READERS:
        hint = "; if it is one JSON object a line, name it .jsonl" if kind == ".json" else ""
        raise CorpusError(
            f"{path}: unknown kind of file {kind or '(no ending)'}; known are "
            f"{', '.join(READERS)}, each also with .gz or .zst{hint}"
        )
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    return _File(str(path), stem, kind, size)


def _made(
    records: Records, columns: Columns, prefix: str, reject: Reject | None
) -> Generator[Document]:
    for record in records:
        try:
            if isinstance(record, BadLineError):
                raise record
            document = _document(record, columns, prefix)
        except BadLineError as bad:
            if reject is None:
                raise
            reject(bad.source, bad.line, bad.reason)
        else:
            yield document


def _document(record: Record, columns: Columns, prefix: str) -> Document:
    try:
        return _checked(record, columns, prefix)
    except ValueError as error:
        line = record.line or json.dumps(record.fields, ensure_ascii=False)
        raise BadLineError(record.source, line, str(error)) from None


def _checked(record: Record, columns: Columns, prefix: str) -> Document:
    fields = dict(record.fields)
    text_name = columns.text or "text"
    text = text_of(_taken(fields, "text", text_name, record), text_name)
    if columns.id is not None:
        key = _taken(fields, "id", columns.id, record)
        if key is None:
            raise ValueError(f"field {columns.id!r} is null; every document needs an id")
    else:
        for name in ("id", "_id"):
            if name in fields and fields[name] is None:
                del fields[name]
        names = [name for name in ("id", "_id") if name in fields]
        key = fields.pop(names[0]) if names else f"{prefix}:{record.number}"
    key = id_of(key, "the id")
    title = title_of(fields.get("title"), numbers=True)
    if not title:
        fields.pop("title", None)
    return Document(key, text, fields, title, record.source)


def _taken(fields: dict[str, Any], kind: str, name: str, record: Record) -> Any:
    if name not in fields:
        there = ", ".join(map(repr, record.fields)) or "none"
        raise ValueError(f"no {kind} field {name!r}; there are {there}; choose with --{kind}-field")
    return fields.pop(name)
