"""Whether an index is what its manifest says: quickly by sizes and counts, fully by every byte.

Repairs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moee_index.errors import IndexDamagedError, MoeeIndexError, counted
from moee_index.fusion import Standardizer, unit_rows
from moee_index.index.lexical.segment import check_lexical
from moee_index.index.segment import (
    OpenSegment,
    check_file,
    open_coarse,
    open_codes,
    open_components,
    open_rows,
    open_standardizer,
    read_norms,
)
from moee_index.index.store.faiss_files import FLAT, codes_of
from moee_index.index.store.layout import (
    DOCUMENTS,
    FIELDS,
    codes_name,
    index_directory,
    leading_name,
    norms_name,
)
from moee_index.index.store.manifest import Manifest, Segment
from moee_index.index.store.reading import HINT
from moee_index.types import PARTS, Progress, columns

_BLOCK = 2048
# Unit vectors computed again differ by rounding alone.
_SAME = 1e-5


@dataclass
class VerifyReport:
    """What was looked at, and what is wrong: each problem names a file."""

    index: str
    documents: int = 0
    full: bool = False
    checks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_index(
    directory: str | Path,
    *,
    full: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check an index.

    Always: manifest, sizes, counts, dimensions, SQLite's own check, and that both FAISS files
    open. full: also the SHA-256 of every file, and standardised rows, norms and FAISS codes
    computed again from the raw rows.

    In memory are some megabytes of texts and rows at a time, or one long document; the ids of all
    documents; of each row 8 bytes.

    Raises NotAnIndexError if there is no finished index, IndexDamagedError where the manifest
    itself cannot be trusted, StorageError where it cannot be read. Everything else is reported, not
    raised: files that may not or cannot be read with that reason.
    """
    directory = index_directory(directory)
    while True:
        manifest = Manifest.read(directory)
        report = VerifyReport(str(directory), manifest.documents, full)
        _Check(directory, manifest, report, progress or (lambda stage, done, total: None)).run()
        # A writer may have put a newer version in place meanwhile, and removed this one.
        if report.ok or Manifest.read(directory).revision == manifest.revision:
            return report


@dataclass
class _Check:
    directory: Path
    manifest: Manifest
    report: VerifyReport
    progress: Progress
    altered: list[str] = field(default_factory=list)

    def run(self) -> None:
        if self.report.full:
            self._checksums()
        else:
            self._step("sizes", self._sizes)
        self._step("documents", self._documents)
        self._step("vectors", self._vectors)
        if self.report.full:
            self._step("codes and norms from raw rows", self._recompute)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except MoeeIndexError as error:
            # What follows from an altered file is not a second problem.
            told = [*self.altered, *self.report.problems]
            if not any(one in str(error) for one in told):
                self.report.problems.append(str(error))

    def _step(self, name: str, check: Callable[[], None]) -> None:
        self.report.checks.append(name)
        with self._reported():
            check()

    def _sizes(self) -> None:
        for relative in self.manifest.files:
            with self._reported():
                self.manifest.path(self.directory, relative)

    def _checksums(self) -> None:
        self.report.checks.append("checksums")
        files = self.manifest.files
        for done, (relative, entry) in enumerate(files.items()):
            self.progress("checksums", done, len(files))
            found = len(self.report.problems)
            with self._reported():
                check_file(self.manifest.path(self.directory, relative), entry)
            if len(self.report.problems) > found:
                self.altered.append(str(self.directory / relative))
        self.progress("checksums", len(files), len(files))

    def _open(self, entry: Segment) -> contextlib.closing[OpenSegment]:
        return contextlib.closing(OpenSegment(self.directory, self.manifest, entry))

    def _documents(self) -> None:
        seen: dict[str, str] = {}
        for entry in self.manifest.segments:
            with self._reported(), self._open(entry) as segment:
                path = self.manifest.path(self.directory, DOCUMENTS, entry)
                for problem in segment.documents.problems():
                    self.report.problems.append(f"{path}: {problem}")
                if self.report.full or len(self.manifest.segments) > 1:
                    self._contents(segment, path, seen)
                # What follows from documents is looked at once these are known to be sound.
                with self._reported():
                    self._fields(segment)
                with self._reported():
                    self._postings(segment)

    def _fields(self, segment: OpenSegment) -> None:
        path = self.manifest.path(self.directory, FIELDS, segment.entry)
        problems = segment.fields.problems()
        if self.report.full and not segment.fields.follows_from(segment.documents):
            problems.append("it does not follow from the documents")
        if problems:
            raise IndexDamagedError(f"{path}: {'; '.join(problems)}")

    def _postings(self, segment: OpenSegment) -> None:
        language = self.manifest.language
        if segment.postings is not None:
            segment.postings.check(full=self.report.full)
        if self.report.full and language is not None:
            problem = check_lexical(segment, language, self.progress)
            if problem is not None:
                raise IndexDamagedError(problem)

    def _contents(self, segment: OpenSegment, path: Path, seen: dict[str, str]) -> None:
        """Each document agrees with its checksum, none counts twice, and passages hang together."""
        end = deleted = 0
        for document in segment.documents.in_order():
            if document.first != end:
                raise IndexDamagedError(f"{path}: passages of {document.id!r} are not in order")
            end = document.first + len(document.spans)
            if segment.live is not None:
                rows = segment.live[document.first : end]
                if rows.any() != rows.all():
                    raise IndexDamagedError(f"{path}: {document.id!r} is deleted in part")
                if not rows.all():
                    deleted += 1
                    continue
            if document.id in seen:
                raise IndexDamagedError(
                    f"{path}: document {document.id!r} is also in {seen[document.id]}"
                )
            seen[document.id] = segment.entry.name
        if deleted != segment.entry.deleted_documents:
            raise IndexDamagedError(
                f"{path}: {counted(deleted, 'document')} deleted, not "
                f"{segment.entry.deleted_documents}"
            )

    def _vectors(self) -> None:
        coarse = None
        with self._reported():
            open_standardizer(self.directory, self.manifest)
            coarse = open_coarse(self.directory, self.manifest)
        for entry in self.manifest.segments:
            for _, part in PARTS:
                with self._reported():
                    open_codes(self.directory, self.manifest, entry, part)
            with self._reported(), self._open(entry) as segment:
                if segment.candidates is not None and coarse is not None:
                    segment.candidates.check(coarse)
            with self._reported():
                open_rows(self.directory, self.manifest, entry)
                read_norms(self.directory, self.manifest, entry)
                open_components(self.directory, self.manifest, entry)

    def _recompute(self) -> None:
        standardizer = open_standardizer(self.directory, self.manifest)
        for entry in self.manifest.segments:
            with self._reported():
                self._recompute_one(entry, standardizer)

    def _recompute_one(self, entry: Segment, standardizer: Standardizer) -> None:
        raw = open_rows(self.directory, self.manifest, entry)
        norms = read_norms(self.directory, self.manifest, entry)
        leading = open_components(self.directory, self.manifest, entry)
        for part, column in columns(norms):
            path = self.manifest.path(self.directory, codes_name(part, entry.derived), entry)
            index, file = open_codes(self.directory, self.manifest, entry, part)
            file.check(0, file.size)
            codes = codes_of(index) if entry.index_type[part] == FLAT else None
            components = None if leading is None else leading[part]
            if components is not None and not components.is_orthonormal():
                raise self._false_components(entry)
            for start in range(0, entry.rows, _BLOCK):
                block = slice(start, min(start + _BLOCK, entry.rows))
                self.progress(f"checking {part}", start, entry.rows)
                stored = raw.stored(block).parts[part].astype(np.float32)
                units, lengths = unit_rows(stored, part, standardizer[part])
                if not np.allclose(column[block], lengths, rtol=_SAME, atol=0):
                    raise IndexDamagedError(
                        f"{self.directory / entry.name / norms_name(entry.derived)} does not "
                        f"follow from the raw rows near {start}"
                    )
                if codes is None:
                    continue
                held = codes[block].astype(np.float32)
                if components is not None and not components.holds(
                    range(block.start, block.stop), held
                ):
                    raise self._false_components(entry)
                apart = np.abs(held - units.astype("<f2")).max()
                if not apart <= 1e-3:
                    raise IndexDamagedError(
                        f"{path} does not follow from the raw rows near {start}"
                    )

    def _false_components(self, entry: Segment) -> IndexDamagedError:
        assert entry.leading is not None
        path = self.directory / entry.name / leading_name(entry.leading.revision)
        return IndexDamagedError(f"{path} does not follow from the codes beside it; {HINT}")
