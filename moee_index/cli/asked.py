"""The queries of a command line: TEXT, a file, or stdin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moee_index.types import Query

# Queries of a file that are embedded and searched together.
BLOCK = 64


@dataclass(frozen=True)
class Asked:
    """Queries of a command line, and how many are answered together. with_ids: whether their ids
    are printed."""

    queries: Iterator[Query]
    block: int
    with_ids: bool


def what_is_asked(
    text: tuple[str, ...], queries: str | None, like: str | None, trec: bool
) -> Asked:
    """What is asked by TEXT, --queries or stdin."""
    source = "-" if queries is None and not text and like is None else queries
    if source is None:
        return Asked(_numbered(text), BLOCK, trec)
    _look_at(str(source))
    if trec:
        _check_ids(str(source))
    block = 1 if queries is None else BLOCK  # stdin is answered line by line as it comes
    return Asked(_read(str(source)), block, queries is not None or trec)


def _numbered(texts: tuple[str, ...]) -> Iterator[Query]:
    from moee_index.types import Query

    return (Query(str(number), text) for number, text in enumerate(texts, 1))


def _look_at(source: str) -> None:
    """Fail on a missing file before the model is loaded."""
    from moee_index.errors import CorpusError

    if source != "-" and not Path(source).exists():
        raise CorpusError(f"{source}: no such file; --queries takes a file of queries, or -")


def _check_ids(source: str | None) -> None:
    """Fail before a long run on what a run cannot hold; stdin can be read only once."""
    from moee_index.readers.trec import RunIds

    if source is not None and source != "-":
        ids = RunIds()
        for number, query in enumerate(_read(source), 1):
            ids.take(query.id, number, query.source)


def _read(source: str) -> Iterator[Query]:
    from moee_index.readers.queries import read_queries

    return read_queries(source)
