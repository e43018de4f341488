"""TREC runs and qrels: what is written is read back, and every broken line is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moee_index.errors import CorpusError
from moee_index.readers.trec import (
    RunLine,
    read_qrels,
    read_run,
    read_run_lists,
    run_line,
    run_scores,
)

ids = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(ids, ids, st.floats(width=32, allow_nan=False, allow_infinity=False))),
)
def test_a_run_comes_back_with_its_float32_scores(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str, float]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    expected = [RunLine(q, d, rank, s) for rank, (q, d, s) in enumerate(lines, 1)]
    path.write_text(
        "".join(run_line(e.query_id, e.document_id, e.rank, e.score) + "\n" for e in expected),
        encoding="utf-8",
    )
    found = list(read_run(path))
    assert [(f.query_id, f.document_id, f.rank) for f in found] == [
        (e.query_id, e.document_id, e.rank) for e in expected
    ]
    assert [np.float32(f.score) for f in found] == [np.float32(e.score) for e in expected]


def test_run_line_has_nine_digits() -> None:
    assert run_line("q1", "d1", 3, 1.23456789012) == "q1 Q0 d1 3 1.23456789 moee-index"
    assert run_line("q", "d", 1, 1e-12) == "q Q0 d 1 1e-12 moee-index"


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\u00a0b", "a\u2028b", " "])
def test_ids_that_a_run_cannot_hold(name: str) -> None:
    with pytest.raises(CorpusError, match=r"document id .* use --json"):
        run_line("q", name, 1, 1.0)
    with pytest.raises(CorpusError, match="query id"):
        run_line(name, "d", 1, 1.0)


def test_reading_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q1 Q0 d1 1 2.5 bm25\r\n\nq1\tQ0\td2\t2\t-1e3\tbm25\nq2 Q0 d1 1 0 x\n")
    lists = list(read_run_lists(path))
    assert lists == [
        ("q1", [RunLine("q1", "d1", 1, 2.5, "bm25"), RunLine("q1", "d2", 2, -1000.0, "bm25")]),
        ("q2", [RunLine("q2", "d1", 1, 0.0, "x")]),
    ]
    assert [line.source for _, lines in lists for line in lines] == [
        f"{path}:1",
        f"{path}:3",
        f"{path}:4",
    ]
    assert run_scores(path) == {"q1": {"d1": 2.5, "d2": -1000.0}, "q2": {"d1": 0.0}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("q Q0 d 1 1.0\n", ":1: 5 columns where a TREC run has 6"),
        ("q Q0 d 1 1.0 tag more\n", ":1: 7 columns"),
        ("q Q0 d first 1.0 tag\n", ":1: rank 'first' or score '1.0' is not a finite number"),
        ("q Q0 d 1 nan tag\n", ":1: rank '1' or score 'nan'"),
        ("q Q0 d 1 1 t\nq Q0 d 2 1 t\n", ":2: document 'd' twice for query 'q'"),
        ("q Q0 d 1 1 t\nr Q0 d 1 1 t\nq Q0 e 2 1 t\n", ":3: query 'q' again"),
    ],
)
def test_broken_runs(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(text)
    with pytest.raises(CorpusError) as caught:
        list(read_run_lists(path))
    assert f"{path}{reason}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td 2\t0\nq2\td1\t-1\n"),
        ("test.tsv", "q1\td1\t2\r\nq1\td 2\t0\r\nq2\td1\t-1\r\n"),
        ("qrels", "q1\t0\td1\t2\nq1\t0\td 2\t0\n\nq2\t0\td1\t-1\n"),
        (
            "test.jsonl",
            '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n'
            '{"query-id": "q1", "corpus-id": "d 2", "score": 0.0}\n'
            '{"query-id": "q2", "corpus-id": "d1", "score": -1}\n',
        ),
    ],
)
def test_qrels_in_their_forms(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert read_qrels(path) == {"q1": {"d1": 2, "d 2": 0}, "q2": {"d1": -1}}


def test_trec_qrels_with_blanks(tmp_path: Path) -> None:
    path = tmp_path / "qrels"
    path.write_text("1 0 a 1\n1 0 b 0\n")
    assert read_qrels(path) == {"1": {"a": 1, "b": 0}}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("qrels", "1 0 a\n1 0 a yes\n", ":2: relevance 'yes' is not a whole number"),
        ("qrels", "1 0 a 0.5\n", ":1: relevance '0.5' is not a whole number"),
        ("qrels", "1 0\n", ":1: 2 columns where qrels have 3"),
        ("qrels", "1 0 a 1\n1 0 a 2\n", ":2: document 'a' of query '1' is judged 2, and 1 before"),
        ("q.jsonl", '{"query-id": "1", "score": 1}\n', ":1: no field 'corpus-id'"),
        ("q.jsonl", "1 0 a 1\n", ":1: broken JSON"),
    ],
)
def test_broken_qrels(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CorpusError) as caught:
        read_qrels(path)
    assert f"{path}{reason}" in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_qrels, run_scores):
        with pytest.raises(CorpusError, match="no such file"):
            read(tmp_path / "missing")
