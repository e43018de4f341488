"""What every format gives and is given: records of named fields, and how they are to be read."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moee_index.readers.lines import BadLineError
from moee_index.types import Notify, ignore

Quoting = Literal["standard", "none"]


@dataclass(frozen=True)
class Reading:
    """How records are read and which of their fields are taken.

    id, text: fields instead of `id` (or `_id`) and `text`; None is the default.
    format: what the file is, whatever its name says. metadata: the other fields that are kept
    (None: all), metadata_except: those that are not.
    Of tables: delimiter; quoting (None: quoted, except that a .tsv is only where its first line
    is); header: whether the first line names the fields, else `columns` do.
    partitions: fields that all records of the file have besides their own.
    """

    id: str | None = None
    text: str | None = None
    format: str | None = None
    metadata: tuple[str, ...] | None = None
    metadata_except: tuple[str, ...] = ()
    delimiter: str | None = None
    quoting: Quoting | None = None
    header: bool = True
    columns: tuple[str, ...] | None = None
    notify: Notify = ignore
    partitions: Mapping[str, str | None] = field(default_factory=dict)

    def keeps(self, name: str) -> bool:
        """Whether a field that is neither id, text nor title becomes metadata."""
        return name not in self.metadata_except and (self.metadata is None or name in self.metadata)


@dataclass(frozen=True)
class Record:
    """Fields of one document, not yet checked.

    number: its line; of Parquet its row, of a JSON array its position, from 1.
    source: `file:number`. line: what it is shown as when it is rejected; empty means its fields as
    JSON. A value is what JSON can hold, or bytes that are not UTF-8.
    """

    fields: dict[str, Any]
    number: int
    source: str
    line: str


# A reader yields records, and in their place BadLineError values: a generator that raised one
# would be finished, and the lines behind it lost.
Records = Iterator[Record | BadLineError]


def list_names(names: Iterable[str]) -> str:
    """Names of fields for a message, the first twenty of them."""
    listed = [repr(name if len(name) <= 60 else name[:59] + "…") for name in names]
    return ", ".join(listed[:20]) + (", …" if len(listed) > 20 else "") or "none"


def as_json(value: Any) -> Any:
    """A value that JSON can hold: bytes that are not UTF-8 as base64."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
