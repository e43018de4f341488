"""What every format gives and is given: records of named fields, and how they are to be read."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moee_index.errors import MisuseError
from moee_index.readers.lines import BadLineError
from moee_index.text import check_text
from moee_index.types import Notify, ignore

Quoting = Literal["standard", "none"]
# A tab is hard to type.
_TABS = {"tab": "\t", "\\t": "\t"}


@dataclass(frozen=True)
class Reading:
    """How records are read and which of their fields are taken.

    id, text: fields instead of `id` (or `_id`) and `text`; None is the default.
    format: what the file is, whatever its name says. metadata: the other fields that are kept
    (None: all), metadata_except: those that are not.
    Of tables: delimiter; quoting (None: quoted, except that a .tsv is only where its first line
    is); header: whether the first line names the fields, else `columns` do; csv_types: whether
    filters may read numbers in their texts (auto), or not (text).
    partitions: fields that all records of the file have besides their own. texts: whether an
    element of a JSON array may be a text, which is then an object that holds it alone.

    Raises MisuseError for what cannot be meant.
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
    csv_types: str = "auto"
    notify: Notify = ignore
    partitions: Mapping[str, str | None] = field(default_factory=dict)
    texts: bool = False

    def __post_init__(self) -> None:
        for what, name in (("id", self.id), ("text", self.text)):
            if name is not None and not check_text(name, f"the {what} field's name"):
                raise MisuseError(f"the {what} field's name is empty")
        if self.id is not None and self.id == self.text:
            raise MisuseError(f"{self.id!r} cannot be both the id and the text")
        if self.metadata is not None and self.metadata_except:
            raise MisuseError("give --metadata or --metadata-except, not both")
        if self.header and self.columns is not None:
            raise MisuseError("--columns names the columns of a file without a header: --no-header")
        if not self.header and self.columns is None:
            raise MisuseError("--no-header needs the columns' names, such as --columns id,text")
        if self.quoting not in (None, "standard", "none"):
            raise MisuseError(f"the quoting is {self.quoting!r}; it is standard or none")
        if self.csv_types not in ("auto", "text"):
            raise MisuseError(f"the types of CSV are {self.csv_types!r}; they are auto or text")
        if self.delimiter is not None:
            sign = _TABS.get(self.delimiter, check_text(self.delimiter, "the delimiter"))
            if len(sign) != 1 or sign in '"\r\n':
                raise MisuseError(f"the delimiter {sign!r} is not one character; tab is `tab`")
            object.__setattr__(self, "delimiter", sign)

    @property
    def of_tables(self) -> str:
        """An option that is given and concerns tables alone; empty if there is none."""
        if self.delimiter is not None:
            return "--delimiter"
        if self.quoting is not None:
            return "--quoting"
        if self.csv_types != "auto":
            return "--csv-types"
        return "" if self.header else "--no-header"

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
