"""One segment of an index, opened for reading: its documents, raw rows, which count, its pair.

The small files are checked whole as they are opened. How segments make up an index is left to
`snapshot`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError, counted
from moee_index.fusion import Standardizer
from moee_index.index.approximate.candidates import Candidates
from moee_index.index.approximate.coarse import CoarseFile, CoarseQuantizer
from moee_index.index.filters import Filter
from moee_index.index.lexical.postings import Postings
from moee_index.index.search.pair import PairSearcher
from moee_index.index.store.checksums import CheckedFile
from moee_index.index.store.document_reader import DocumentReader, StoredDocument
from moee_index.index.store.faiss_files import FLAT, open_part
from moee_index.index.store.fields import FieldReader
from moee_index.index.store.layout import (
    CANDIDATES,
    DOCUMENTS,
    FIELDS,
    LEADING,
    LEXICAL,
    coarse_name,
    code_checks_name,
    codes_name,
    deleted_name,
    leading_name,
    norms_name,
    postings_name,
    standardizer_name,
)
from moee_index.index.store.leading import LeadingPart, open_leading
from moee_index.index.store.manifest import FileEntry, Manifest, Segment
from moee_index.index.store.reading import HINT, reading
from moee_index.index.store.rows import RowNumbers, RowReader
from moee_index.index.store.standardizer import read_standardizer
from moee_index.types import PARTS, Pair, Part

Mask = npt.NDArray[np.bool_]
# From so many documents on threads share the evaluation of a filter.
_MANY = 20_000
_MOST_READERS = 4


class OpenSegment:
    """A segment as one manifest lists it.

    live: bool [rows], which rows count; None where all do. postings: None in an index without;
    candidates: None in an exact one.
    Raises IndexDamagedError naming a file that is missing, of another size, or altered where that
    shows without reading everything.
    """

    def __init__(self, directory: Path, manifest: Manifest, entry: Segment) -> None:
        self.entry = entry
        self._directory = directory
        self._manifest = manifest
        self.live = _live(directory, manifest, entry)
        self.raw = open_rows(directory, manifest, entry)
        self.postings = _open_postings(directory, manifest, entry)
        self.candidates = _open_candidates(directory, manifest, entry)
        path = manifest.path(directory, DOCUMENTS, entry)
        listed = manifest.files[f"{entry.name}/{DOCUMENTS}"]
        self.documents = DocumentReader(path, lambda file: check_content(file, path, listed))
        try:
            self.fields = self._open_fields()
        except BaseException:
            self.documents.close()
            raise
        held = (self.documents.documents, self.documents.rows)
        if held != (entry.documents, entry.rows):
            self.close()
            raise IndexDamagedError(
                f"{path} holds {counted(held[0], 'document')} in {counted(held[1], 'row')} "
                f"instead of {entry.documents} in {entry.rows}; restore it or build again with "
                "--overwrite"
            )

    def _open_fields(self) -> FieldReader:
        path = self._manifest.path(self._directory, FIELDS, self.entry)
        listed = self._manifest.files[f"{self.entry.name}/{FIELDS}"]
        readers = readers_for(self.entry.documents)
        return FieldReader(path, lambda file: check_content(file, path, listed), readers)

    def close(self) -> None:
        self.documents.close()
        self.fields.close()

    def matching(self, condition: Filter) -> Mask:
        """For each row whether its document matches a filter; deleted ones included."""
        quick = condition.over_columns(self.fields.column)
        if quick is None:
            numbers = self.documents.has_numbers
            return self.documents.matching(*condition.over_json(numbers=numbers))
        mask = self.fields.matching(*quick)
        if len(mask) != self.entry.rows:
            path = self._manifest.path(self._directory, FIELDS, self.entry)
            raise IndexDamagedError(
                f"{path} is of {counted(len(mask), 'row')} instead of {self.entry.rows}; {HINT}"
            )
        return mask

    @property
    def folder(self) -> Path:
        return self._directory / self.entry.name

    def live_documents(self) -> Iterator[StoredDocument]:
        """The documents that count, in their order."""
        for document in self.documents.in_order():
            if self.live is None or self.live[document.first]:
                yield document

    @property
    def live_rows(self) -> RowNumbers | None:
        """Which rows count, ascending; None where all do."""
        return None if self.live is None else np.flatnonzero(self.live)

    def searcher(self, standardizer: Standardizer, block_rows: int | None) -> PairSearcher:
        """What searches the segment's pair of FAISS files."""
        entry, manifest = self.entry, self._manifest
        both = PARTS.map(lambda part: open_codes(self._directory, manifest, entry, part))
        return PairSearcher(
            both.map(lambda each: each[0]),
            both.map(lambda each: each[1]),
            entry.index_type,
            self.raw,
            read_norms(self._directory, manifest, entry),
            standardizer,
            entry.codes_error,
            block_rows,
            self.candidates,
            open_components(self._directory, manifest, entry),
        )


def open_codes(
    directory: Path, manifest: Manifest, entry: Segment, part: Part
) -> tuple[Any, CheckedFile]:
    """A part's FAISS index and the file behind it, of which FAISS reads nothing unchecked but
    codes.

    Raises IndexDamagedError where the file is altered, and what `open_part` raises.
    """
    path = manifest.path(directory, codes_name(part, entry.derived), entry)
    crcs = read_checked(directory, manifest, code_checks_name(part, entry.derived), entry)
    if len(crcs) % 4:
        raise IndexDamagedError(f"{path} has checksums of {len(crcs)} bytes; {HINT}")
    file = CheckedFile(path, np.frombuffer(crcs, dtype="<u4"))
    kind, dim = entry.index_type[part], manifest.spec.dims[part]
    # Of an approximate index FAISS alone knows what an answer depends on.
    codes = entry.rows * dim * 2 if kind == FLAT else 0
    file.check(0, max(file.size - codes, 0))
    return open_part(path, kind, entry.rows, dim, checked=True), file


# The number of a segment, and a document of it that counts.
Match = tuple[int, StoredDocument]


def readers_for(documents: int) -> int:
    """How many threads evaluate a filter over this many documents."""
    return min(_MOST_READERS, os.cpu_count() or 1) if documents >= _MANY else 1


def find_live(segments: Sequence[OpenSegment], ids: Sequence[str]) -> dict[str, Match]:
    """Documents that count, by id; ids that are not there are left out.

    Raises IndexDamagedError rather than miss one in an altered file.
    """
    matches: dict[str, Match] = {}
    for segment_number, segment in enumerate(segments):
        numbers = segment.documents.numbers_of(ids)
        stored = segment.documents.get(list(numbers.values()))
        for identifier, number in numbers.items():
            document = stored[number]
            if document.id != identifier:
                segment.documents.check()
            if segment.live is None or segment.live[document.first]:
                matches[identifier] = segment_number, document
    return matches


def open_rows(directory: Path, manifest: Manifest, entry: Segment) -> RowReader:
    """Raw rows of a segment. Raises IndexDamagedError."""
    for name in entry.names(manifest.store):
        manifest.path(directory, name, entry)
    return RowReader(directory / entry.name, manifest.store, entry.rows, manifest.spec.dims)


def _open_postings(directory: Path, manifest: Manifest, entry: Segment) -> Postings | None:
    if entry.lexical is None:
        return None
    path = manifest.path(directory, postings_name(entry.lexical.revision), entry)
    name = code_checks_name(LEXICAL, entry.lexical.revision)
    crcs = read_checked(directory, manifest, name, entry)
    return Postings(path, np.frombuffer(crcs, dtype="<u4"), entry.rows)


def _open_candidates(directory: Path, manifest: Manifest, entry: Segment) -> Candidates | None:
    if entry.candidates is None:
        return None
    path = manifest.path(directory, codes_name(CANDIDATES, entry.candidates), entry)
    name = code_checks_name(CANDIDATES, entry.candidates)
    crcs = read_checked(directory, manifest, name, entry)
    return Candidates(path, np.frombuffer(crcs, dtype="<u4"), entry.rows)


def open_components(
    directory: Path, manifest: Manifest, entry: Segment
) -> Pair[LeadingPart] | None:
    """A segment's leading components; None where it has none. Raises IndexDamagedError."""
    if entry.leading is None:
        return None
    path = manifest.path(directory, leading_name(entry.leading.revision), entry)
    name = code_checks_name(LEADING, entry.leading.revision)
    crcs = read_checked(directory, manifest, name, entry)
    return open_leading(path, np.frombuffer(crcs, dtype="<u4"), entry.rows, manifest.spec.dims)


def _live(directory: Path, manifest: Manifest, entry: Segment) -> Mask | None:
    if entry.deleted is None:
        return None
    content = read_checked(directory, manifest, deleted_name(entry.deleted), entry)
    # Before unpacking, which would make room for as many rows as a manifest may lie about.
    fits = len(content) == -(-entry.rows // 8)
    deleted = np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=entry.rows if fits else 0)
    if not fits or int(deleted.sum()) != entry.deleted_rows:
        raise IndexDamagedError(
            f"{directory / entry.name / deleted_name(entry.deleted)} does not hold the "
            f"{entry.deleted_rows} deleted rows of the manifest; restore it"
        )
    live: Mask = deleted == 0
    return live


def read_norms(directory: Path, manifest: Manifest, entry: Segment) -> npt.NDArray[np.float32]:
    """|z(h)| and |z(r)| of each row, float32 [n, 2]."""
    content = read_checked(directory, manifest, norms_name(entry.derived), entry)
    if len(content) != entry.rows * 2 * 4:
        raise IndexDamagedError(
            f"{directory / entry.name / norms_name(entry.derived)} does not hold {entry.rows} "
            "rows; build again with --overwrite"
        )
    return np.frombuffer(content, dtype="<f4").reshape(entry.rows, 2)


def open_standardizer(directory: Path, manifest: Manifest) -> Standardizer:
    name = standardizer_name(manifest.standardizer)
    content = read_checked(directory, manifest, name)
    return read_standardizer(directory / name, manifest.standardize, content, manifest.spec.dims)


def hold_coarse(directory: Path, manifest: Manifest) -> CoarseFile | None:
    """The file of an approximate index's coarse quantizer; None of another index. Raises
    IndexDamagedError where it is missing or of another size, StorageError."""
    approximation = manifest.approximation
    if approximation is None:
        return None
    name = coarse_name(approximation.coarse)
    path, listed = manifest.path(directory, name), manifest.files[name]
    return CoarseFile(
        path,
        lambda file: read_content(file, path, listed),
        manifest.spec.dims,
        approximation.lists,
    )


def open_coarse(directory: Path, manifest: Manifest) -> CoarseQuantizer | None:
    """The coarse quantizer of an approximate index; None of another. Raises IndexDamagedError,
    LibraryError."""
    held = hold_coarse(directory, manifest)
    if held is None:
        return None
    with contextlib.closing(held):
        return held.opened()


def read_checked(
    directory: Path, manifest: Manifest, name: str, entry: Segment | None = None
) -> bytes:
    """A small file, whole. Raises IndexDamagedError where it is not what was written."""
    path = manifest.path(directory, name, entry)
    listed = manifest.files[name if entry is None else f"{entry.name}/{name}"]
    with reading(path), path.open("rb") as file:
        return read_content(file, path, listed)


def read_content(file: BufferedReader, path: Path, listed: FileEntry) -> bytes:
    """As `read_checked`, of an open file, whose name may be gone already."""
    with reading(path):
        file.seek(0)
        content = file.read()
    if hashlib.sha256(content).hexdigest() != listed.sha256:
        raise _wrong_sha256(path)
    return content


def check_file(path: Path, listed: FileEntry) -> None:
    """Raises IndexDamagedError where a file's SHA-256 is not the listed one."""
    with reading(path), path.open("rb") as file:
        check_content(file, path, listed)


def check_content(file: BufferedReader, path: Path, listed: FileEntry) -> None:
    """As `check_file`, for an open file, whose name may be gone already."""
    with reading(path):
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != listed.sha256:
        raise _wrong_sha256(path)


def _wrong_sha256(path: Path) -> IndexDamagedError:
    return IndexDamagedError(
        f"{path} is altered (its SHA-256 does not match the manifest); restore it or build again "
        "with --overwrite"
    )
