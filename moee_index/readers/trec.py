"""TREC runs: what a search found, a line a document. Judgements are read by qrels.py.

Errors name file and line. The measures are in `tune.metrics`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from moee_index.errors import CorpusError, counted
from moee_index.readers.columns import ColumnKind, kind_of_column, split_columns
from moee_index.readers.lines import BadLineError, Lines, open_bytes
from moee_index.readers.qrels import Qrels, read_qrels
from moee_index.text import escaped, shown

__all__ = [
    "TAG",
    "PassedOver",
    "Qrels",
    "Run",
    "RunIds",
    "RunLine",
    "check_run_id",
    "read_qrels",
    "read_run",
    "read_run_lists",
    "run_line",
    "run_scores",
]

TAG = "moee-index"
Run = dict[str, dict[str, float]]
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_FORMS = (
    "6: query Q0 document rank score tag (or 3: query document rank, as MS MARCO's, or query "
    "document score)"
)


@dataclass(frozen=True)
class RunLine:
    """One line of a TREC run: `query Q0 document rank score tag`. source: `file:line`."""

    query_id: str
    document_id: str
    rank: int
    score: float
    tag: str = TAG
    source: str = field(default="", compare=False)


@dataclass
class PassedOver:
    """How many lines of a run were not used: of documents that a query names twice, or that are
    unknown."""

    doubled: int = 0
    unknown: int = 0

    def told(self) -> str | None:
        """For people; None if there were none."""
        if not self.doubled and not self.unknown:
            return None
        return (
            f"passed over {counted(self.unknown, 'line')} of the run whose document is not in the "
            f"index, and {self.doubled} whose document the query has already"
        )


def check_run_id(kind: str, name: str, source: str = "") -> None:
    """Raises CorpusError when an id is empty or holds whitespace: it would shift the columns of a
    run. kind: query or document."""
    if not name or any(character.isspace() for character in name):
        where = f"{source}: " if source else ""
        raise CorpusError(
            f"{where}{kind} id {shown(name)!r}: empty or with whitespace, which a TREC line cannot "
            "hold; use --json, or ids without blanks"
        )


def run_line(query_id: str, document_id: str, rank: int, score: float, tag: str = TAG) -> str:
    """One line of a TREC run without its line end; the score with 9 significant digits.

    Nine digits bring a float32 back exactly. Raises CorpusError as `check_run_id`.
    """
    check_run_id("query", query_id)
    check_run_id("document", document_id)
    return f"{query_id} Q0 {document_id} {rank} {score:.9g} {tag}"


class RunIds:
    """The query ids of a run that is written: each can be there once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def take(self, query_id: str | None, number: int, source: str = "") -> str:
        """The id of the number-th query, which is its number where it has none.

        Raises CorpusError for an id that a run cannot hold, or had before.
        """
        taken = str(number) if query_id is None else query_id
        check_run_id("query", taken, source)
        if taken in self._seen:
            where = f"{source}: " if source else ""
            raise CorpusError(
                f"{where}query id {shown(taken)!r} again (queries without one have their number); "
                "in a run their answers could not be told apart, use --json"
            )
        self._seen.add(taken)
        return taken


def read_run(path: str | Path, *, stdin: IO[bytes] | None = None) -> Iterator[RunLine]:
    """The lines of a TREC run in their order; blank lines and a header are skipped. `-` is stdin.

    Six columns between blanks or tabs, or three: query, document and either the rank (from 0 or
    1, rising) or the score (falling); of ranks the score is the rank's negative.

    Raises CorpusError naming file and line.
    """
    with open_bytes(path, stdin) as source:
        lines = Lines(source.stream, "stdin" if str(path) == "-" else escaped(str(path)))
        third: _Third | None = None
        first = True
        for line in lines:
            if not line.strip():
                continue
            columns = split_columns(line, (6, 3))
            try:
                header, first = first and _is_header(columns), False
                if header:
                    continue
                if len(columns) == 3:
                    third = third or _Third(columns[2])
                    yield third.line(columns, lines.source)
                else:
                    yield _run_line(columns, lines.source)
            except ValueError as error:
                raise BadLineError(lines.source, line, str(error)) from None


def _is_header(columns: list[str]) -> bool:
    """A first line that names the columns. Raises ValueError where they are in another order."""
    kinds = [kind_of_column(name) for name in columns]
    if "query" not in kinds or "document" not in kinds:
        return False
    wanted: list[ColumnKind] = ["query", "document"]
    if [kinds[0], kinds[2 if len(columns) == 6 else 1]] != wanted or len(columns) not in (3, 6):
        raise ValueError(f"the columns are not those of a run, which are {_FORMS}")
    return True


def _run_line(columns: list[str], source: str) -> RunLine:
    if len(columns) != 6:
        other = ""
        if columns[0].startswith(("{", "[")):
            other = "; this looks like JSON"
        elif "," in columns[0]:
            other = "; this looks like CSV"
        raise ValueError(f"{counted(len(columns), 'column')} where a TREC run has {_FORMS}{other}")
    query_id, _, document_id, rank, score, tag = columns
    return RunLine(query_id, document_id, _rank(rank), _score(score), tag, source)


def _rank(text: str) -> int:
    number = _number(text)
    if not number.is_integer():
        raise ValueError(f"rank {text!r} is not a whole number")
    return int(number)


def _score(text: str) -> float:
    number = _number(text)
    if not math.isfinite(number):
        raise ValueError(f"score {text!r} is not a finite number")
    return number


def _number(text: str) -> float:
    """NaN for what is no number as machines write them."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


class _Third:
    """What the third of three columns is, which its first value decides; and whether it remains
    so, for a rank that is taken for a score would turn a ranking round."""

    def __init__(self, first: str) -> None:
        self._ranks = _number(first) in (0.0, 1.0)
        self._query = ""
        self._before = 0.0
        self._count = 0

    def line(self, columns: list[str], source: str) -> RunLine:
        query_id, document_id, third = columns
        value = float(_rank(third)) if self._ranks else _score(third)
        if query_id != self._query:
            self._query, self._count = query_id, 0
        elif (value <= self._before) if self._ranks else (value > self._before):
            what = "ranks, which rise" if self._ranks else "scores, which fall"
            raise ValueError(
                f"the third column, {third}, follows {self._before:g}; it holds {what} with each "
                "line of a query; sort the file, or write all six columns"
            )
        self._before = value
        self._count += 1
        if self._ranks:
            return RunLine(query_id, document_id, int(value), -value, source=source)
        return RunLine(query_id, document_id, self._count, value, source=source)


def read_run_lists(
    path: str | Path,
    *,
    stdin: IO[bytes] | None = None,
    passed_over: PassedOver | None = None,
) -> Iterator[tuple[str, list[RunLine]]]:
    """(query id, its lines in their order) for each query of a run, one query at a time.

    passed_over: counts documents that a query names twice, of which the first is taken.

    Raises CorpusError, besides read_run's, when a query's lines are not adjacent or, without
    `passed_over`, when one names a document twice.
    """
    done: set[str] = set()
    group: list[RunLine] = []
    documents: set[str] = set()
    for line in read_run(path, stdin=stdin):
        if group and line.query_id != group[0].query_id:
            yield group[0].query_id, group
            done.add(group[0].query_id)
            group, documents = [], set()
        if line.query_id in done:
            raise CorpusError(
                f"{line.source}: query {line.query_id!r} again; the lines of a query must stand "
                "together, sort the file by its first column"
            )
        if line.document_id not in documents:
            group.append(line)
            documents.add(line.document_id)
        elif passed_over is not None:
            passed_over.doubled += 1
        else:
            raise CorpusError(
                f"{line.source}: document {line.document_id!r} twice for query {line.query_id!r}; "
                "take one of the lines out, or pass over them with --missing-ok"
            )
    if group:
        yield group[0].query_id, group


def run_scores(path: str | Path, *, stdin: IO[bytes] | None = None) -> Run:
    """A whole run as {query id: {document id: score}}, which the measures take."""
    return {
        query_id: {line.document_id: line.score for line in lines}
        for query_id, lines in read_run_lists(path, stdin=stdin)
    }
