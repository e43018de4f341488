"""The formats of corpora, each a function that turns an open file into records of named fields.

Which field is the text and which the id is left to documents.py.
"""

from __future__ import annotations

from collections.abc import Callable

from moee_index.readers.formats.delimited import read_csv, read_tsv
from moee_index.readers.formats.jsonl import read_json, read_jsonl
from moee_index.readers.formats.parquet import read_parquet
from moee_index.readers.formats.plain import read_plain
from moee_index.readers.formats.records import Reading, Records
from moee_index.readers.lines import ByteSource

READERS: dict[str, Callable[[ByteSource, str, Reading], Records]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".txt": read_plain,
}
FORMATS = tuple(ending[1:] for ending in READERS if ending != ".ndjson")
