"""Rows of text and vectors written to a file of one of four formats, a block at a time.

Parquet (a row group a block), JSON lines, npy (the matrix; ids in a second file) and safetensors
(tensors; ids in the header). Nothing is held longer than a block but safetensors' header, which
its readers hold too. The same rows give the same bytes. What the vectors mean is left to
export.py, and to `embed`, which saves those of a few texts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from moee_index.atomic import new_files
from moee_index.errors import MisuseError, StorageError
from moee_index.model.checkpoint.header import safetensors_header
from moee_index.types import FloatArray

Columns = Mapping[str, FloatArray]
# safetensors' readers refuse a longer header.
HEADER_BYTES = 100_000_000
_FLOAT = np.dtype("<f4")
_UNWRITABLE = "{path} cannot be written: {why}; free space or take another place"


@dataclass(frozen=True)
class ExportRow:
    """What accompanies a row's vectors. passage: None where the document is not split; is_first:
    whether it is the first of its document."""

    id: str
    passage: str | None
    text: str
    title: str
    metadata: dict[str, Any]
    is_first: bool = True

    @property
    def name(self) -> str:
        """What names this row alone: its passage, or its document."""
        return self.id if self.passage is None else self.passage


@dataclass(frozen=True)
class Layout:
    """What is written: dims: column of vectors → dimensions; rows: how many there will be; names:
    gives `ExportRow.name` of each row, in their order; facts: what a reader of the file has to
    know."""

    dims: Mapping[str, int]
    rows: int
    names: Callable[[], Iterable[str]]
    facts: Mapping[str, str]


class Writer(Protocol):
    """Takes all rows in blocks; `finish` when they are all there, `abandon` when they never will
    be."""

    def write(self, rows: Sequence[ExportRow], columns: Columns) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


class _Plain:
    """Nothing to do at the end."""

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class JsonLines(_Plain):
    """A line a row: id, passage, text, title, metadata, then the vectors as lists."""

    def __init__(self, files: Sequence[BinaryIO], layout: Layout) -> None:
        self._file = files[0]

    def write(self, rows: Sequence[ExportRow], columns: Columns) -> None:
        lists = {name: vectors.tolist() for name, vectors in columns.items()}
        for i, row in enumerate(rows):
            line = {
                "id": row.id,
                "passage": row.passage,
                "text": row.text,
                "title": row.title,
                "metadata": row.metadata,
                **{name: vectors[i] for name, vectors in lists.items()},
            }
            self._file.write(_json(line) + b"\n")


class Matrix(_Plain):
    """The matrix as npy, and in a second file {"id", "passage"} of its rows, one per line."""

    def __init__(self, files: Sequence[BinaryIO], layout: Layout) -> None:
        self._matrix, self._ids = files
        (dim,) = layout.dims.values()
        np.lib.format.write_array_header_1_0(
            self._matrix,
            {"descr": _FLOAT.str, "fortran_order": False, "shape": (layout.rows, dim)},
        )

    def write(self, rows: Sequence[ExportRow], columns: Columns) -> None:
        (vectors,) = columns.values()
        self._matrix.write(_bytes(vectors))
        for row in rows:
            self._ids.write(_json({"id": row.id, "passage": row.passage}) + b"\n")


class Tensors(_Plain):
    """safetensors: a tensor a column; `ids` (a JSON list of names) and facts in the header.

    Raises StorageError where so many ids are more than a header may hold.
    """

    def __init__(self, files: Sequence[BinaryIO], layout: Layout) -> None:
        self._file = files[0]
        header, slices = self._header(layout)
        self._file.write(header)
        self._places = {name: part.start for name, part in slices.items()}

    def _header(self, layout: Layout) -> tuple[bytes, dict[str, slice]]:
        names, length = [], 0
        for name in layout.names():
            names.append(name)
            length += len(name.encode())
            if length > HEADER_BYTES:
                break
        facts = {**layout.facts, "ids": json.dumps(names, ensure_ascii=False)}
        tensors = {
            name: ("F32", (layout.rows, dim), _FLOAT.itemsize) for name, dim in layout.dims.items()
        }
        header, slices = safetensors_header(tensors, facts)
        if len(header) > HEADER_BYTES:
            raise StorageError(
                f"the ids of {layout.rows} rows are too long for the header of a safetensors file "
                f"(at most {HEADER_BYTES} bytes); export to .parquet instead"
            )
        return header, slices

    def write(self, rows: Sequence[ExportRow], columns: Columns) -> None:
        for name, vectors in columns.items():
            self._file.seek(self._places[name])
            content = _bytes(vectors)
            self._file.write(content)
            self._places[name] += len(content)


class Parquet:
    """id, passage, text, title, metadata (JSON text) and vectors (lists of fixed length); facts in
    the file's metadata, their keys beginning with `moee_index.`."""

    def __init__(self, files: Sequence[BinaryIO], layout: Layout) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = [
            pa.field(name, pa.string(), nullable=name == "passage")
            for name in ("id", "passage", "text", "title", "metadata")
        ]
        vectors = [
            pa.field(name, pa.list_(pa.float32(), dim), nullable=False)
            for name, dim in layout.dims.items()
        ]
        facts = {f"moee_index.{name}": value for name, value in layout.facts.items()}
        self._schema = pa.schema([*texts, *vectors], metadata=facts)
        # A dictionary of vectors' numbers would be as long as the numbers.
        self._writer = pq.ParquetWriter(files[0], self._schema, use_dictionary=False)

    def write(self, rows: Sequence[ExportRow], columns: Columns) -> None:
        import pyarrow as pa

        arrays = [
            pa.array([row.id for row in rows], pa.string()),
            pa.array([row.passage for row in rows], pa.string()),
            pa.array([row.text for row in rows], pa.string()),
            pa.array([row.title for row in rows], pa.string()),
            pa.array([_json(row.metadata).decode() for row in rows], pa.string()),
        ]
        for vectors in columns.values():
            numbers = pa.array(np.ascontiguousarray(vectors, dtype=_FLOAT).reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1]))
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, len(rows)))

    def finish(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        # Else it writes the file's end when it is let go of; the file may be what has failed.
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()
        self._writer.is_open = False


FORMATS: Mapping[str, Callable[[Sequence[BinaryIO], Layout], Writer]] = {
    ".parquet": Parquet,
    ".jsonl": JsonLines,
    ".npy": Matrix,
    ".safetensors": Tensors,
}


def ids_beside(path: Path) -> Path:
    """The file with the ids of a matrix in `path`."""
    return path.with_name(f"{path.stem}.ids.jsonl")


def files_of(path: Path) -> list[Path]:
    """All files that an export to `path` consists of, `path` first."""
    return [path, ids_beside(path)] if path.suffix == ".npy" else [path]


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raises MisuseError for an ending of no format and for a file that is there, StorageError for
    a directory that is not."""
    if path.suffix not in FORMATS:
        raise MisuseError(f"{path}: the name must end in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent}: no such directory; make it, or name another file")
    for file in files_of(path):
        if file.is_dir():
            raise MisuseError(f"{file} is a directory; name a file")
        if file.exists() and not overwrite:
            raise MisuseError(f"{file} already exists; give --overwrite, or name another file")


@contextlib.contextmanager
def whole_file(path: Path, layout: Layout, *, overwrite: bool) -> Iterator[Writer]:
    """A writer to `path` (and the file beside it) that appears when the block ends well, and
    not at all if it fails.

    A matrix is never left beside the ids of another. Raises StorageError, MisuseError.
    """

    def check() -> None:
        check_target(path, overwrite=overwrite)

    check()
    with new_files(files_of(path), _UNWRITABLE, check) as files:
        writer = FORMATS[path.suffix](files, layout)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.abandon()
            raise


def vector_lines(ids: Sequence[str], texts: Sequence[str], vectors: FloatArray) -> Iterator[str]:
    """JSON lines {"id", "text", "vector"}."""
    for identifier, text, vector in zip(ids, texts, vectors, strict=True):
        line = {"id": identifier, "text": text, "vector": vector.tolist()}
        yield json.dumps(line, ensure_ascii=False)


def save_vectors(path: Path, ids: Sequence[str], texts: Sequence[str], vectors: FloatArray) -> None:
    """Write the vectors of a few texts to .npy (the matrix alone), .safetensors (`vectors`, ids as
    metadata) or .jsonl. Raises StorageError."""
    with new_files([path], _UNWRITABLE) as files:
        if path.suffix == ".npy":
            np.save(files[0], vectors, allow_pickle=False)
        elif path.suffix == ".safetensors":
            layout = Layout({"vectors": vectors.shape[1]}, len(vectors), lambda: ids, {})
            Tensors(files, layout).write([], {"vectors": vectors})
        else:
            for line in vector_lines(ids, texts, vectors):
                files[0].write(line.encode() + b"\n")


def _bytes(vectors: FloatArray) -> memoryview:
    return np.ascontiguousarray(vectors, dtype=_FLOAT).data.cast("B")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
