"""Parquet: a row a record.

Read in batches of about BATCH_BYTES, and from disk through a buffer, so that a row group of any
size takes a page of each column and one batch in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from moee_index.errors import CorpusError, StorageError, first_line
from moee_index.readers.fields import id_like
from moee_index.readers.formats.delimited import require
from moee_index.readers.formats.records import Reading, Record, Records
from moee_index.readers.lines import READ_ERRORS, ByteSource, fail_reading

BATCH_BYTES = 8 * 2**20
_ROWS = 512  # of a batch, at most
_BUFFER = 2**20


def read_parquet(source: ByteSource, name: str, reading: Reading) -> Records:
    """Raises CorpusError when the file is not a Parquet file, is damaged, or has not the columns
    asked for."""
    import pyarrow as pa

    number = 0
    with _seekable(source, name) as stream:
        try:
            for row in _rows(stream, source, name, reading):
                number += 1
                yield Record(row, number, f"{name}:{number}", "")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a name that is no text
            raise CorpusError(
                f"{name}: cannot be read as Parquet after row {number} ({first_line(error)})"
            ) from None


@contextmanager
def _seekable(source: ByteSource, name: str) -> Iterator[IO[bytes]]:
    """Parquet is read from its end: what comes compressed or through a pipe is put on disk."""
    if source.stream is source.raw and source.raw.seekable():
        yield source.raw
        return
    with tempfile.TemporaryFile() as unpacked:
        while chunk := _chunk(source, name):
            try:
                unpacked.write(chunk)
            except OSError as error:
                folder = tempfile.gettempdir()
                raise StorageError(
                    f"{name}: cannot be unpacked in {folder} ({error.strerror or error}); free "
                    "space there, or name another folder with TMPDIR"
                ) from None
        unpacked.seek(0)
        yield unpacked


def _chunk(source: ByteSource, name: str) -> bytes:
    try:
        return source.stream.read(2**20)
    except READ_ERRORS as error:
        fail_reading(name, error)


def _rows(
    stream: IO[bytes], source: ByteSource, name: str, reading: Reading
) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    from moee_index.readers.formats.arrow_values import plain_values

    with pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False) as file:
        names = list(file.schema_arrow.names)
        require(names, name, reading)
        taken = _taken(names, reading)
        done, total = 0, max(file.metadata.num_rows, 1)
        for group in range(file.metadata.num_row_groups):
            rows = _rows_at_a_time(file.metadata.row_group(group))
            for batch in file.iter_batches(
                rows, row_groups=[group], columns=taken, use_threads=False
            ):
                columns = [plain_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    yield dict(zip(batch.schema.names, values, strict=True))
                done += batch.num_rows
                source.report(done / total)


def _rows_at_a_time(group: Any) -> int:
    """How many rows of a group make a batch, by its metadata."""
    fitting: int = BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1)
    return max(1, min(_ROWS, fitting))


def _taken(names: list[str], reading: Reading) -> list[str] | None:
    """The columns to read; None for all."""
    wanted = {"id", "_id", "text", "title", *id_like(names)}
    for name in (reading.id, reading.text):
        if name is not None:
            wanted.add(name if name in names else name.split(".")[0])
    taken = [name for name in names if name in wanted or reading.keeps(name)]
    return None if len(taken) == len(names) else taken
