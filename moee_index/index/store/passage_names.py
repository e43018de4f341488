"""The names of passages, `<id>#<n>`, and which ids of documents look like one.

Inside an index passages are told apart by row. A name is what is printed, so no document may have
one that a passage of another document has or could have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

_MARK = "#"
_AFTER_MARK = chr(ord(_MARK) + 1)
_AT_A_TIME = 256
# Runs a statement: SQL and its parameters → rows.
Query = Callable[[str, Sequence[Any]], list[Any]]
SameName = tuple[str, str]
"""An id that is (or would be) the name of a passage of the document with the other id."""


def passage_name(identifier: str, number: int) -> str:
    """Of a document's passage; number: from 1."""
    return f"{identifier}{_MARK}{number}"


def named_passage(name: str) -> tuple[str, int] | None:
    """(id of the document, number of the passage) that a name of that form means; else None."""
    identifier, mark, number = name.rpartition(_MARK)
    digits = number.isascii() and number.isdigit() and len(number) < 10
    if not (mark and digits) or number.startswith("0"):
        return None
    return identifier, int(number)


def named_after(query: Query, identifier: str) -> Iterator[tuple[str, int, int]]:
    """(id, number, first row) of documents whose id is that of a passage of `identifier`, of a
    table `documents` whose ids are in an index."""
    last = identifier + _MARK
    while True:
        found = query(
            "SELECT id, number, first FROM documents WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
            (last, identifier + _AFTER_MARK, _AT_A_TIME),
        )
        for other, number, first in found:
            if (named := named_passage(other)) is not None and named[0] == identifier:
                yield other, number, first
        if len(found) < _AT_A_TIME:
            return
        last = found[-1][0]


def same_name(where: str, names: SameName) -> str:
    """The message for two documents that cannot both be in an index of passages."""
    name, identifier = names
    return (
        f"{where}id {name!r} is the name of a passage of document {identifier!r} too (passages are "
        "named <id>#<n>); give one of the two another id, or leave the later one out with "
        "--on-bad skip"
    )
