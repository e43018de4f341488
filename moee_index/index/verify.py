"""Whether an index is what its manifest says: quickly by sizes and counts, fully by every byte.

Knows every file of an index. Refuses to repair anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moee_index.errors import IndexDamagedError, MoeeIndexError
from moee_index.fusion import unit_rows
from moee_index.index.derive import dims_of, read_standardizer
from moee_index.index.documents import DocumentReader
from moee_index.index.manifest import (
    DOCUMENTS,
    NORMS,
    PARTS,
    STANDARDIZER,
    Manifest,
    codes_name,
    raw_name,
)
from moee_index.index.pair import FLAT, codes_of, open_part
from moee_index.index.storage import sha256_file
from moee_index.index.vectors import RowReader, map_rows

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
    progress: Callable[[str, int, int | None], None] | None = None,
) -> VerifyReport:
    """Check an index.

    Always: manifest, sizes, counts, dimensions, SQLite's own check, and that both FAISS files
    open. full: also the SHA-256 of every file, and standardised rows, norms and FAISS codes
    computed again from the raw rows.

    Raises NotAnIndexError where there is no finished index, IndexDamagedError where the manifest
    itself cannot be trusted. Everything else is reported, not raised.
    """
    directory = Path(directory)
    while True:
        manifest = Manifest.read(directory)
        report = VerifyReport(str(directory), manifest.documents, full)
        _Check(directory, manifest, report, progress or (lambda stage, done, total: None)).run()
        # A writer may have put a newer version in place meanwhile, and removed this one.
        if report.ok or Manifest.read(directory).generation == manifest.generation:
            return report


@dataclass
class _Check:
    directory: Path
    manifest: Manifest
    report: VerifyReport
    progress: Callable[[str, int, int | None], None]

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
        except (MoeeIndexError, OSError) as error:
            if str(error) not in self.report.problems:
                self.report.problems.append(str(error))

    def _step(self, name: str, check: Callable[[], None]) -> None:
        self.report.checks.append(name)
        with self._reported():
            check()

    def _path(self, name: str) -> Path:
        return self.manifest.path(self.directory, name)

    def _sizes(self) -> None:
        for relative in self.manifest.files:
            with self._reported():
                self._path(relative.partition("/")[2])

    def _checksums(self) -> None:
        self.report.checks.append("checksums")
        files = self.manifest.files
        for done, (relative, entry) in enumerate(files.items()):
            self.progress("checksums", done, len(files))
            with self._reported():
                path = self._path(relative.partition("/")[2])
                if sha256_file(path) != entry.sha256:
                    raise IndexDamagedError(
                        f"{path} is altered (its SHA-256 is not the recorded one); restore it or "
                        "build again with --overwrite"
                    )

    def _documents(self) -> None:
        path = self._path(DOCUMENTS)
        with contextlib.closing(DocumentReader(path)) as store:
            if len(store) != self.manifest.documents:
                raise IndexDamagedError(
                    f"{path} holds {len(store)} documents instead of {self.manifest.documents}"
                )
            for problem in store.problems():
                self.report.problems.append(f"{path}: {problem}")

    def _vectors(self) -> None:
        dims, rows = dims_of(self.manifest.spec), self.manifest.documents
        for part in PARTS:
            with self._reported():
                kind = self.manifest.index_type[part]
                open_part(self._path(codes_name(part)), kind, rows, dims[part])
        self._raw()
        map_rows(self._path(NORMS), np.dtype("<f4"), rows, len(PARTS))
        read_standardizer(self._path(STANDARDIZER), self.manifest.standardize)

    def _raw(self) -> RowReader:
        store = self.manifest.store
        paths = {part: self._path(raw_name(part, store)) for part in PARTS}
        return RowReader(paths, store, self.manifest.documents, dims_of(self.manifest.spec))

    def _recompute(self) -> None:
        manifest, raw = self.manifest, self._raw()
        dims, rows = dims_of(manifest.spec), manifest.documents
        standardizer = read_standardizer(self._path(STANDARDIZER), manifest.standardize)
        norms = map_rows(self._path(NORMS), np.dtype("<f4"), rows, len(PARTS))
        for column, part in enumerate(PARTS):
            path = self._path(codes_name(part))
            index = open_part(path, manifest.index_type[part], rows, dims[part])
            codes = codes_of(index) if manifest.index_type[part] == FLAT else None
            for start in range(0, rows, _BLOCK):
                block = slice(start, min(start + _BLOCK, rows))
                self.progress(f"checking {part}", start, rows)
                stored = getattr(raw, part)[block].astype(np.float32)
                units, lengths = unit_rows(stored, part, getattr(standardizer, part))
                if not np.allclose(norms[block, column], lengths, rtol=_SAME, atol=0):
                    raise IndexDamagedError(
                        f"{self._path(NORMS)} does not follow from the raw rows near {start}"
                    )
                if codes is None:
                    continue
                apart = np.abs(codes[block].astype(np.float32) - units.astype("<f2")).max()
                if not apart <= 1e-3:
                    raise IndexDamagedError(
                        f"{path} does not follow from the raw rows near {start}"
                    )
