"""What may be an id, a text or a title, whichever file it comes from, and where it may be.

Raises ValueError with a reason that fits after `file:line: `; where the value is is left to
the callers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from moee_index.readers.lines import json_kind

# Names that other projects' collections have for an id and a text, in small letters and digits.
_IDS = {
    *("id", "docid", "doc", "docno", "documentid", "pid", "passageid", "paragraphid", "corpusid"),
    *("textid", "articleid", "recordid", "uid", "uuid", "guid"),
}
_TEXTS = {
    *("text", "texts", "contents", "content", "body", "passage", "passagetext", "segment"),
    *("document", "documenttext", "doctext", "paragraph", "pagecontent", "sentence", "abstract"),
    *("article", "rawtext", "raw", "plaintext", "fulltext", "maintext"),
}


def id_like(names: Iterable[str]) -> list[str]:
    """Those of the names that other collections use for an id (docid, pid, …)."""
    return [name for name in names if _bare(name) in _IDS and name not in ("id", "_id")]


def text_like(names: Iterable[str]) -> list[str]:
    """Those of the names that other collections use for a text (contents, body, passage, …)."""
    return [name for name in names if _bare(name) in _TEXTS and name != "text"]


def _bare(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def take_field(fields: dict[str, Any], name: str) -> Any:
    """Take a field out, or with dots in its name one of an object (`_id.$oid`), as in filters.

    Objects that hold nothing else go with it; those of the caller's are not changed.
    Raises KeyError where there is none.
    """
    if name in fields:
        return fields.pop(name)
    outer, dot, inner = name.partition(".")
    if not dot or not isinstance(fields.get(outer), dict):
        raise KeyError(name)
    within = dict(fields[outer])
    value = take_field(within, inner)
    if within:
        fields[outer] = within
    else:
        del fields[outer]
    return value


def id_of(value: object, what: str) -> str:
    """An id as text. what: what a message calls it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{what} is {json_kind(value)}; it must be text or a whole number")
    if value == "":
        raise ValueError(f"{what} is empty")
    return str(value)


def text_of(value: object, name: str) -> str:
    """The text of the field `name`, empty or not."""
    if isinstance(value, bytes):
        raise ValueError(f"field {name!r} is not UTF-8")
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} is {json_kind(value)}, not text")
    return value


def title_of(value: object, *, numbers: bool = False) -> str:
    """A title, empty if there is none. numbers: a number is allowed too."""
    if value is None:
        return ""
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value, "title")
