"""Derive from raw rows: standardizer, norms, FAISS files, candidates and their checksums.

A build, an added segment and a reindex all use this, wherever the rows come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.atomic import write_file
from moee_index.fusion import PartStandardizer, Standardize, Standardizer, unit_rows
from moee_index.index.approximate.candidates import write_candidates
from moee_index.index.approximate.coarse import CoarseQuantizer
from moee_index.index.store.approximation import Approximation
from moee_index.index.store.checksums import Codes, piece_crcs
from moee_index.index.store.faiss_files import (
    FLAT,
    codes_of,
    open_part,
    write_factory,
    write_flat,
)
from moee_index.index.store.layout import code_checks_name, codes_name, norms_name
from moee_index.index.store.manifest import Segment
from moee_index.index.store.rows import LiveRows, RowNumbers, RowReader
from moee_index.index.write.leading import write_leading
from moee_index.types import PARTS, FloatArray, Pair, Part, Progress, columns

_BLOCK = 2048


def fit_standardizer(
    segments: list[tuple[RowReader, RowNumbers | None]],
    dims: Pair[int],
    which: Standardize,
    report: Progress,
) -> Standardizer:
    """Fit on the rows that count of some segments: (rows, which of them count; None is all)."""
    rows = PARTS.map(lambda part: LiveRows(part, segments, dims[part]))
    report("standardizing", 0, len(rows.hs))
    standardizer = Standardizer.fit(rows, which)
    report("standardizing", len(rows.hs), len(rows.hs))
    return standardizer


@dataclass(frozen=True)
class Deriving:
    """What an index makes of rows and documents. index_type: of both FAISS files; language: of
    postings, None for none; coarse, and what a manifest says of it: of an approximate index."""

    standardizer: Standardizer
    index_type: str
    language: str | None
    coarse: CoarseQuantizer | None
    approximation: Approximation | None

    def segment(
        self, folder: Path, raw: RowReader, documents: int, revision: int, report: Progress
    ) -> Segment:
        """Write norms, both FAISS files and their checksums of a segment from its raw rows; with a
        coarse quantizer, which needs flat files, its candidates too; without, the leading
        components of a large one.

        The same rows give the same bytes. Returns the segment as the manifest lists it, nothing
        deleted, without postings. Raises StorageError; MisuseError for an index type that cannot be
        built from so few rows.
        """
        norms = np.empty((len(raw), 2), dtype="<f4")
        errors = PARTS.map(lambda part: self._write(folder, raw, part, norms, revision, report))
        write_file(folder / norms_name(revision), norms.tobytes())
        leading = None
        if self.index_type == FLAT:
            with _written_codes(folder, raw, revision) as codes:
                if self.coarse is not None:
                    write_candidates(folder, self.coarse, codes, revision, report)
                else:
                    leading = write_leading(folder, codes, revision, report)
        return Segment(
            name=folder.name,
            documents=documents,
            rows=len(raw),
            index_type=Pair(self.index_type, self.index_type),
            codes_error=errors if self.index_type == FLAT else None,
            derived=revision,
            candidates=None if self.coarse is None else revision,
            leading=leading,
        )

    def _write(
        self,
        folder: Path,
        raw: RowReader,
        part: Part,
        norms: npt.NDArray[np.float32],
        revision: int,
        report: Progress,
    ) -> float:
        """Write a part's FAISS file. Returns the codes' error; of an approximate type 0.0, which
        nothing asks for."""

        def units() -> Iterator[FloatArray]:
            lengths = columns(norms)[part]
            return _units(raw.parts[part], part, self.standardizer[part], lengths, report)

        path = folder / codes_name(part, revision)
        rows, dim = raw.parts[part].shape
        error = 0.0
        if self.index_type == FLAT:
            error = write_flat(path, units(), rows, dim)
        else:
            write_factory(path, self.index_type, part, units, rows, dim)
        write_file(folder / code_checks_name(part, revision), piece_crcs(path).tobytes())
        return error


@contextlib.contextmanager
def _written_codes(folder: Path, raw: RowReader, revision: int) -> Iterator[Pair[Codes]]:
    """The codes of a segment's flat files, which were written just now."""

    def opened(part: Part) -> Any:
        path, dim = folder / codes_name(part, revision), raw.parts[part].shape[1]
        return open_part(path, FLAT, len(raw), dim)

    # The codes are views of what FAISS maps, which has to outlive them.
    indexes = PARTS.map(opened)
    yield indexes.map(codes_of)


def _units(
    rows: npt.NDArray[Any],
    part: Part,
    standardizer: PartStandardizer | None,
    norms: npt.NDArray[np.float32],
    report: Progress,
) -> Iterator[FloatArray]:
    """One part's unit vectors, block by block; their lengths are written to `norms`."""
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float32)
        vectors, lengths = unit_rows(block, part, standardizer)
        norms[start : start + len(block)] = lengths
        yield vectors.astype(np.float32)
        report(f"indexing {part}", start + len(block), len(rows))
