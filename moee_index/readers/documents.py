"""Documents out of records: which field is the text, the id and the title, and what is kept of the
rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

from moee_index.readers.fields import id_like, id_of, take_field, text_like, text_of, title_of
from moee_index.readers.formats.records import Reading, Record, Records, as_json, list_names
from moee_index.readers.lines import BadLineError
from moee_index.text import shown
from moee_index.types import Document

Reject = Callable[[str, str, str], None]


class DocumentMaker:
    """Makes documents of records, and tells once of made-up ids where a field looks like one.

    reject: called with source, line and reason of what cannot be used; None raises instead.
    """

    def __init__(self, reading: Reading, reject: Reject | None) -> None:
        self._reading = reading
        self._reject = reject
        self._untyped = False
        self._told = reading.id is not None
        self._unseen = set(reading.metadata or ())
        self._any = False

    def documents(
        self,
        records: Records,
        prefix: str,
        partitions: dict[str, str | None],
        *,
        untyped: bool = False,
    ) -> Generator[Document]:
        """Documents of one file. prefix: of made-up ids; partitions: fields of all its records;
        untyped: as `Document.untyped`."""
        self._untyped = untyped
        for record in records:
            try:
                if isinstance(record, BadLineError):
                    raise record
                document = self._document(record, prefix, partitions)
            except BadLineError as bad:
                if self._reject is None:
                    raise
                self._reject(bad.source, bad.line, bad.reason)
            else:
                yield document

    def end(self) -> None:
        """Tell which fields were named and never there."""
        for name in sorted(self._unseen) if self._any else ():
            self._reading.notify(f"metadata: no document has a field {name!r}")

    def _document(self, record: Record, prefix: str, partitions: dict[str, str | None]) -> Document:
        fields = {**partitions, **record.fields}
        self._any = True
        if self._unseen:
            self._unseen.difference_update(fields)
        try:
            return self._checked(fields, record, prefix)
        except ValueError as error:
            fields = {name: as_json(value) for name, value in record.fields.items()}
            line = record.line or json.dumps(fields, ensure_ascii=False)
            raise BadLineError(record.source, line, str(error)) from None

    def _checked(self, fields: dict[str, Any], record: Record, prefix: str) -> Document:
        text_name = self._reading.text or "text"
        text = _taken(fields, "text", text_name, record)
        # As an empty cell of a table: a document without text.
        text = "" if text is None else text_of(text, text_name)
        key = self._key(fields, record)
        made = key is None
        if made:
            key = f"{prefix}:{record.number}"
            self._tell(fields, key)
        title = title_of(fields.get("title"), numbers=True)
        if not title:
            fields.pop("title", None)
        metadata = {
            name: as_json(value)
            for name, value in fields.items()
            if name == "title" or self._reading.keeps(name)
        }
        key = id_of(key, "the id")
        return Document(key, text, metadata, title, record.source, made, self._untyped)

    def _key(self, fields: dict[str, Any], record: Record) -> Any:
        """The value of the id; None where a record has none."""
        name = self._reading.id
        if name is not None:
            key = _taken(fields, "id", name, record)
            if key is None:
                raise ValueError(f"field {name!r} is null; every document needs an id")
            return key
        for name in ("id", "_id"):
            if name in fields and fields[name] is None:
                del fields[name]
        name = next((name for name in ("id", "_id") if name in fields), None)
        if name is None:
            return None
        key = fields.pop(name)
        if isinstance(key, dict) and len(key) == 1:
            inner = f"{name}.{next(iter(key))}"
            raise ValueError(
                f"the id is an object; take what is in it with --id-field {shown(inner)}"
            )
        return key

    def _tell(self, fields: dict[str, Any], key: str) -> None:
        if self._told:
            return
        self._told = True
        if alike := [shown(name) for name in id_like(fields)]:
            self._reading.notify(
                f"ids: no field id or _id, so documents are named {shown(key)} and so on; there is "
                f"{' and '.join(alike[:3])}, take it with --id-field {alike[0]}"
            )


def _taken(fields: dict[str, Any], kind: str, name: str, record: Record) -> Any:
    try:
        return take_field(fields, name)
    except KeyError:
        there = list(record.fields)
    advice = f"choose with --{kind}-field"
    if kind == "text" and (alike := text_like(there)):
        advice = f"{alike[0]!r} looks like it: --text-field {shown(alike[0])}"
    raise ValueError(f"no {kind} field {name!r}; there are {list_names(there)}; {advice}")
