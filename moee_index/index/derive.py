"""From raw rows to everything that follows from them: standardizer, norms, FAISS files, manifest.

Knows the order in which these are made and that the manifest comes last. Refuses to know the model
and how the rows came to be there: a build and a later reindex are the same to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

from moee_index.embeddings import Embeddings, EncoderSpec, FloatArray
from moee_index.errors import IndexDamagedError
from moee_index.fusion import Standardize, Standardizer, unit_rows
from moee_index.index.manifest import (
    DOCUMENTS,
    NORMS,
    PARTS,
    STANDARDIZER,
    Building,
    Manifest,
    codes_name,
    file_entries,
    raw_name,
)
from moee_index.index.pair import FLAT, write_factory, write_flat
from moee_index.index.storage import write_file
from moee_index.index.vectors import RowReader

# (stage, done, total): what a progress bar shows; total None where it is not known.
Progress = Callable[[str, int, int | None], None]
_BLOCK = 2048


def dims_of(spec: EncoderSpec) -> dict[str, int]:
    return {"hs": spec.hs_dim, "rw": spec.rw_dim}


@dataclass(frozen=True)
class Derivation:
    """What to make of raw rows."""

    standardize: Standardize
    index_type: str
    store: str
    alpha: float = 1.0


def derive(
    generation: Path,
    spec: EncoderSpec,
    rows: int,
    wanted: Derivation,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Write standardizer, norms and both FAISS files of a generation from its raw rows.

    The same rows give the same bytes. Returns part → longest difference of a vector to its codes.
    Raises StorageError; MisuseError for an index type that cannot be built from so few rows.
    """
    dims = dims_of(spec)
    paths = {part: generation / raw_name(part, wanted.store) for part in PARTS}
    raw = RowReader(paths, wanted.store, rows, dims)
    report = progress or (lambda stage, done, total: None)
    report("standardizing", 0, rows)
    standardizer = Standardizer.fit(Embeddings(raw.hs, raw.rw), wanted.standardize)
    report("standardizing", rows, rows)
    write_standardizer(generation / STANDARDIZER, standardizer)

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

        path = generation / codes_name(part)
        if wanted.index_type == FLAT:
            errors[part] = write_flat(path, units(), rows, dims[part])
        else:
            write_factory(path, wanted.index_type, part, units, rows, dims[part])
    write_file(generation / NORMS, norms.tobytes())
    return errors


def describe(
    generation: Path,
    building: Building,
    rows: int,
    wanted: Derivation,
    codes_error: dict[str, float],
    *,
    counts: dict[str, int],
    model_bytes: dict[str, int] | None,
) -> Manifest:
    """The manifest of a generation whose files are all written; it reads them for checksums."""
    raw = tuple(raw_name(part, wanted.store) for part in PARTS)
    names = (DOCUMENTS, *raw, NORMS, STANDARDIZER, *(codes_name(part) for part in PARTS))
    return Manifest(
        generation=generation.name,
        spec=building.spec,
        documents=rows,
        standardize=wanted.standardize,
        index_type=dict.fromkeys(PARTS, wanted.index_type),
        store=wanted.store,
        alpha=wanted.alpha,
        batch_tokens=building.batch_tokens,
        window=building.window,
        codes_error=codes_error,
        counts=counts,
        model_bytes=model_bytes,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        program=metadata.version("moee-index"),
        files=file_entries(generation, names),
    )


def write_standardizer(path: Path, standardizer: Standardizer) -> None:
    from safetensors.numpy import save

    # safetensors keeps no empty file apart from a damaged one: name what is standardised.
    write_file(path, save(standardizer.to_arrays(), {"standardize": standardizer.which}))


def read_standardizer(path: Path, which: str) -> Standardizer:
    """Raises IndexDamagedError where the file is altered or is for other parts than `which`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        standardizer = Standardizer.from_arrays(load(path.read_bytes()))
        if standardizer.which != which:
            raise ValueError(f"it is for {standardizer.which}, not for {which}")
    except (SafetensorError, ValueError, OSError) as error:
        raise IndexDamagedError(
            f"{path} is damaged ({error}); restore it or build again with --overwrite"
        ) from error
    return standardizer
