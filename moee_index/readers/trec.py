"""TREC's two file formats: runs (what a search found) and qrels (what is relevant).

Errors name file and line. The measures are in `tune.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from moee_index.errors import CorpusError, counted
from moee_index.readers.lines import BadLineError, Lines, open_bytes, parse_object, split_name

TAG = "moee-index"
Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class RunLine:
    """One line of a TREC run: `query Q0 document rank score tag`. source: `file:line`."""

    query_id: str
    document_id: str
    rank: int
    score: float
    tag: str = TAG
    source: str = field(default="", compare=False)


def run_line(query_id: str, document_id: str, rank: int, score: float, tag: str = TAG) -> str:
    """One line of a TREC run without its line end; the score with 9 significant digits.

    Nine digits bring a float32 back exactly.
    Raises CorpusError when an id is empty or holds whitespace: it would shift the columns.
    """
    for kind, name in (("query", query_id), ("document", document_id)):
        if not name or any(character.isspace() for character in name):
            raise CorpusError(
                f"{kind} id {name!r}: empty or with whitespace, which a TREC line cannot hold; "
                "use --json, or ids without blanks"
            )
    return f"{query_id} Q0 {document_id} {rank} {score:.9g} {tag}"


def read_run(path: str | Path, *, stdin: IO[bytes] | None = None) -> Iterator[RunLine]:
    """The lines of a TREC run in their order; blank lines are skipped. `-` is stdin.

    Raises CorpusError naming file and line.
    """
    with open_bytes(path, stdin) as source:
        lines = Lines(source.stream, _name(path))
        for line in lines:
            columns = line.split()
            if not columns:
                continue
            if len(columns) != 6:
                raise BadLineError(
                    lines.source,
                    line,
                    f"{counted(len(columns), 'column')} where a TREC run has 6: query Q0 document "
                    "rank score tag",
                )
            query_id, _, document_id, rank, score, tag = columns
            try:
                parsed = RunLine(query_id, document_id, int(rank), float(score), tag, lines.source)
            except ValueError:
                parsed = None
            if parsed is None or not math.isfinite(parsed.score):
                raise BadLineError(
                    lines.source, line, f"rank {rank!r} or score {score!r} is not a finite number"
                )
            yield parsed


def read_run_lists(
    path: str | Path, *, stdin: IO[bytes] | None = None
) -> Iterator[tuple[str, list[RunLine]]]:
    """(query id, its lines in their order) for each query of a run, one query at a time.

    Raises CorpusError, besides read_run's, when a query's lines are not adjacent or when one
    names a document twice.
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
        if line.document_id in documents:
            raise CorpusError(
                f"{line.source}: document {line.document_id!r} twice for query {line.query_id!r}"
            )
        group.append(line)
        documents.add(line.document_id)
    if group:
        yield group[0].query_id, group


def run_scores(path: str | Path, *, stdin: IO[bytes] | None = None) -> Run:
    """A whole run as {query id: {document id: score}}, which the measures take."""
    return {
        query_id: {line.document_id: line.score for line in lines}
        for query_id, lines in read_run_lists(path, stdin=stdin)
    }


def read_qrels(path: str | Path, *, stdin: IO[bytes] | None = None) -> Qrels:
    """Relevance judgements: {query id: {document id: relevance}}.

    Three forms, recognized by the lines: BEIR's `query-id<TAB>corpus-id<TAB>score` with or without
    its header, TREC's four columns `query 0 document relevance`, and JSON lines with `query-id`,
    `corpus-id`, `score` (MTEB's on the hub).

    Raises CorpusError naming file and line; also when a pair is judged twice, differently.
    """
    qrels: Qrels = {}
    with open_bytes(path, stdin) as source:
        lines = Lines(source.stream, _name(path))
        json_lines = split_name(Path(path))[1] == ".jsonl"
        first = True
        for line in lines:
            if not line.strip():
                continue
            header, first = first and not json_lines and _is_header(line), False
            if header:
                continue
            try:
                query_id, document_id, relevance = (
                    _json_judgement(line) if json_lines else _judgement(line)
                )
            except ValueError as error:
                raise BadLineError(lines.source, line, str(error)) from None
            known = qrels.setdefault(query_id, {}).setdefault(document_id, relevance)
            if known != relevance:
                raise BadLineError(
                    lines.source,
                    line,
                    f"document {document_id!r} of query {query_id!r} is judged {relevance}, and "
                    f"{known} before",
                )
    return qrels


def _name(path: str | Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


def _is_header(line: str) -> bool:
    """Three words of which the last is not a number: query-id, corpus-id, score."""
    columns = line.split()
    return len(columns) == 3 and not columns[2].lstrip("-").isdigit()


def _judgement(line: str) -> tuple[str, str, int]:
    columns = line.split("\t") if "\t" in line else line.split()
    columns = [column.strip() for column in columns]
    if len(columns) == 4:
        del columns[1]
    if len(columns) != 3:
        raise ValueError(
            f"{counted(len(columns), 'column')} where qrels have 3 (query-id, corpus-id, score) "
            "or 4 (query, 0, document, relevance)"
        )
    return columns[0], columns[1], _relevance(columns[2])


def _json_judgement(line: str) -> tuple[str, str, int]:
    fields: Mapping[str, object] = parse_object(line)
    missing = [name for name in ("query-id", "corpus-id", "score") if name not in fields]
    if missing:
        raise ValueError(f"no field {missing[0]!r}")
    return str(fields["query-id"]), str(fields["corpus-id"]), _relevance(fields["score"])


def _relevance(value: object) -> int:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"relevance {value!r} is not a whole number")
    return int(number)
