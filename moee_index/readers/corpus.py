"""Corpora: files of texts in, a stream of documents out.

Reads folders, stdin and the formats of formats/, and says where in which file a document
stands. Duplicate ids are found by the index, which keeps the ids.

Nothing is read whole: one line, or one small batch of Parquet rows, is in memory at a time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

from moee_index.errors import MisuseError
from moee_index.readers.corpus_files import CorpusFile, as_utf8, corpus_files
from moee_index.readers.documents import DocumentMaker, Reject
from moee_index.readers.formats import FORMATS, READERS
from moee_index.readers.formats.records import Quoting, Reading
from moee_index.readers.lines import ByteSource, open_bytes, split_name
from moee_index.text import check_texts
from moee_index.types import Document, Notify, ignore

__all__ = ["CorpusReader", "Reject", "default_index_name", "read_corpora"]

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
    format: str | None = None,
    metadata: Sequence[str] | None = None,
    metadata_except: Sequence[str] = (),
    header: bool = True,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    csv_types: Literal["auto", "text"] = "auto",
    on_bad: Literal["error", "skip"] = "error",
    reject: Reject | None = None,
    stdin: IO[bytes] | None = None,
    notify: Notify = ignore,
) -> CorpusReader:
    """Documents of the given corpora (INTERFACE, "Corpus in"), one after another.

    Paths are looked at before anything is read: a missing file or an unknown ending is an
    error at once, not after hours. A folder is BEIR's, or one of Parquet parts. A document without
    an id gets `<file stem>:<line>`; where the same stem is given more than once, the path as given
    replaces the stem.

    id_field, text_field: the fields to take instead of `id` (or `_id`) and `text`; `a.b` is b in
    the object a. format: what all of the files are, whatever their names say: one of FORMATS.
    metadata, metadata_except: the other fields to keep, or not to keep.
    header, columns, delimiter, quoting: of CSV and TSV: whether the first line names the columns,
    their names where it does not, what is between fields, and whether quotation marks quote
    ("standard", which is RFC 4180, or "none"). csv_types: whether filters read texts of their
    metadata that spell a number as one ("auto"), or all as the texts they are ("text").
    on_bad: "error" raises on the first line that cannot be used; "skip" calls
    `reject(source, line, reason)` for each and goes on. What ends a whole file (no such file,
    truncated compression, a header without the text column) is an error either way.
    notify: told once where a field looks like the id that the documents lack, and the like.

    In memory is one line, element or row of at most 64 MiB, or one batch of Parquet rows.

    Raises CorpusError naming file and line; MisuseError for arguments that cannot be meant.
    """
    reading = Reading(
        id=id_field,
        text=text_field,
        format=format,
        metadata=None if metadata is None else tuple(check_texts(metadata, "field")),
        metadata_except=tuple(check_texts(metadata_except, "field")),
        delimiter=delimiter,
        quoting=quoting,
        csv_types=csv_types,
        header=header,
        columns=None if columns is None else tuple(check_texts(columns, "column")),
        notify=notify,
    )
    if on_bad not in ("error", "skip"):
        raise MisuseError(f"on_bad is {on_bad!r}; it is 'error' or 'skip'")
    if format not in (None, *FORMATS):
        raise MisuseError(f"the format is {format!r}; it is one of {', '.join(FORMATS)}")
    files = [file for path in _checked_paths(paths) for file in corpus_files(path, format)]
    _check_use(reading, files)
    stems = Counter(file.stem for file in files)
    progress = _Progress(files)
    maker = DocumentMaker(reading, None if on_bad == "error" else reject or ignore)

    def documents() -> Generator[Document]:
        for file in files:
            prefix = as_utf8(file.stem if stems[file.stem] == 1 else file.path)
            with open_bytes(file.path, stdin, text=file.kind != ".parquet") as source:
                progress.current = source
                within = replace(reading, partitions=file.partitions)
                records = READERS[file.kind](source, file.name, within)
                untyped = csv_types == "auto" and file.kind in (".csv", ".tsv")
                yield from maker.documents(records, prefix, file.partitions, untyped=untyped)
                progress.finish(file)
        maker.end()

    return CorpusReader(documents(), progress)


def _checked_paths(paths: object) -> list[str | Path]:
    """Raises MisuseError for what is not several names of files."""
    if isinstance(paths, str | bytes | os.PathLike) or not isinstance(paths, Iterable):
        raise MisuseError("corpora are given as a list of names; for one write [name]")
    taken = list(paths)
    if not taken:
        raise MisuseError(_NO_CORPUS)
    for position, path in enumerate(taken):
        if not isinstance(path, str | Path):
            raise MisuseError(f"corpus {position} is of type {type(path).__name__}, not a name")
    return taken


def _check_use(reading: Reading, files: Sequence[CorpusFile]) -> None:
    """Raises MisuseError where options say nothing about any of the files."""
    if sum(file.path == "-" for file in files) > 1:
        raise MisuseError("stdin (-) can be read only once")
    if reading.of_tables and not any(file.kind in (".csv", ".tsv") for file in files):
        raise MisuseError(
            f"{reading.of_tables} is for CSV and TSV, and none of the files is one; leave it out, "
            "or say so with --format"
        )


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


class _Progress:
    def __init__(self, files: Sequence[CorpusFile]) -> None:
        sizes = [file.size for file in files]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)
        self.current: ByteSource | None = None
        self._finished = 0

    @property
    def read(self) -> int:
        return self._finished + (self.current.position if self.current else 0)

    def finish(self, file: CorpusFile) -> None:
        self.current = None
        self._finished += file.size or 0
