"""Parquet files: rows in, plain Python values out.

Knows pyarrow. Refuses to know which column is the text. Every value that comes out can be held by
JSON: times become ISO 8601 text, decimals floats, bytes text (base64 where they are not UTF-8).
"""

from __future__ import annotations

import base64
import datetime
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any
from uuid import UUID

from moee_index.errors import CorpusError
from moee_index.readers.lines import ByteSource, fail_reading

ROWS = 512  # rows decoded at a time


def read_rows(
    source: ByteSource, name: str, check: Callable[[list[str]], None]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(row number from 1, its fields); instead of the fields a reason where they are no text.

    check: called with the column names before the first row.
    Raises CorpusError when the file is no Parquet file or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with ExitStack() as stack:
        stream = source.stream
        try:
            if not stream.seekable() or stream is not source.raw:
                # Parquet is read from its end: what comes compressed is unpacked to disk first.
                unpacked = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(stream, unpacked, 2**20)
                unpacked.seek(0)
                stream = unpacked
            file = pq.ParquetFile(stream)
            stack.callback(file.close)
            check(list(file.schema_arrow.names))
            total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=ROWS, use_threads=False):
                for row in _rows(batch):
                    number += 1
                    yield number, row
                source.report(number / max(total, 1))
        except (pa.ArrowException, OSError, EOFError) as error:
            if isinstance(error, EOFError):
                fail_reading(name, error)
            raise CorpusError(
                f"{name}: cannot be read as Parquet after row {number} ({error})"
            ) from None


def _rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    names = batch.schema.names
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        for position in range(batch.num_rows):
            try:
                values = [column[position].as_py() for column in batch.columns]
            except UnicodeDecodeError:
                yield "not UTF-8"
            else:
                yield {n: plain(v) for n, v in zip(names, values, strict=True)}
        return
    for row in rows:
        yield {key: plain(value) for key, value in row.items()}


def plain(value: Any) -> Any:
    """The value in types that JSON knows; NaN and infinities become None."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return plain(float(value))
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, UUID):
        return str(value)
    return str(value)
