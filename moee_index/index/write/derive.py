"""From raw rows to what follows from them: standardizer, norms, FAISS files and their checksums.

Knows the order in which these are made. Refuses to know the model and how the rows came to be
there: a build, an added segment and a reindex are the same to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

from moee_index.atomic import write_file
from moee_index.fusion import Standardize, Standardizer, unit_rows
from moee_index.index.store.checksums import piece_crcs
from moee_index.index.store.faiss_files import FLAT, write_factory, write_flat
from moee_index.index.store.manifest import PARTS, Segment, code_checks_name, codes_name, norms_name
from moee_index.index.store.rows import LiveRows, RowNumbers, RowReader
from moee_index.types import Embeddings, EncoderSpec, FloatArray, Progress

# (stage, done, total): what a progress bar shows; total None where it is not known.
_BLOCK = 2048


def dims_of(spec: EncoderSpec) -> dict[str, int]:
    return {"hs": spec.hs_dim, "rw": spec.rw_dim}


def fit_standardizer(
    segments: list[tuple[RowReader, RowNumbers | None]],
    dims: dict[str, int],
    which: Standardize,
    report: Progress,
) -> Standardizer:
    """Fit on the rows that count of some segments: (rows, which of them count; None is all)."""
    rows = {part: LiveRows(part, segments, dims[part]) for part in PARTS}
    report("standardizing", 0, len(rows["hs"]))
    # Read in slices; `fit` asks for no more than an array's slices and shape.
    standardizer = Standardizer.fit(
        Embeddings(cast(FloatArray, rows["hs"]), cast(FloatArray, rows["rw"])), which
    )
    report("standardizing", len(rows["hs"]), len(rows["hs"]))
    return standardizer


def derive(
    folder: Path,
    raw: RowReader,
    standardizer: Standardizer,
    index_type: str,
    revision: int,
    *,
    documents: int,
    report: Progress,
) -> Segment:
    """Write norms, both FAISS files and their checksums of a segment from its raw rows.

    The same rows give the same bytes. Returns the segment as the manifest lists it, nothing
    deleted. Raises StorageError; MisuseError for an index type that cannot be built from so few
    rows.
    """
    rows = len(raw)
    norms = np.empty((rows, len(PARTS)), dtype="<f4")
    errors: dict[str, float] = {}
    for column, part in enumerate(PARTS):

        def units(part: str = part, column: int = column) -> Iterator[FloatArray]:
            stored, frozen = getattr(raw, part), getattr(standardizer, part)
            for start in range(0, rows, _BLOCK):
                block = stored[start : start + _BLOCK].astype(np.float32)
                vectors, lengths = unit_rows(block, part, frozen)
                norms[start : start + len(block), column] = lengths
                yield vectors.astype(np.float32)
                report(f"indexing {part}", start + len(block), rows)

        path = folder / codes_name(part, revision)
        dim = getattr(raw, part).shape[1]
        if index_type == FLAT:
            errors[part] = write_flat(path, units(), rows, dim)
        else:
            write_factory(path, index_type, part, units, rows, dim)
        write_file(folder / code_checks_name(part, revision), piece_crcs(path).tobytes())
    write_file(folder / norms_name(revision), norms.tobytes())
    return Segment(
        name=folder.name,
        documents=documents,
        rows=rows,
        index_type=dict.fromkeys(PARTS, index_type),
        codes_error=errors,
        derived=revision,
    )
