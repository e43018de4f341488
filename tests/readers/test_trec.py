"""TREC runs and qrels: what is written is read back, and every broken line is named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import DATA

from moee_index.errors import CorpusError
from moee_index.readers.trec import (
    PassedOver,
    RunIds,
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
        ("q Q0 d first 1.0 tag\n", ":1: rank 'first' is not a whole number"),
        ("q Q0 d 1.5 1.0 tag\n", ":1: rank '1.5' is not a whole number"),
        ("q Q0 d 1_0 1.0 tag\n", ":1: rank '1_0' is not a whole number"),
        ("q Q0 d 1 nan tag\n", ":1: score 'nan' is not a finite number"),
        ("q Q0 d 1 1e999 tag\n", ":1: score '1e999' is not a finite number"),
        ("q Q0 d 1 ٣ tag\n", ":1: score '٣' is not a finite number"),
        ("q Q0 d " + "9" * 5000 + " 1 tag\n", ":1: rank '"),
        ('{"query": "a"}\n', ":1: 2 columns where a TREC run has 6"),
        ("q,Q0,d,1,1.0,tag\n", ":1: 1 column where a TREC run has 6"),
        ("docid qid score\nd q 1\n", ":1: the columns are not those of a run"),
        ("q d 1\nq e 1\n", ":2: the third column, 1, follows 1; it holds ranks, which rise"),
        ("q d 0\nq e 0.5\n", ":2: rank '0.5' is not a whole number"),
        ("q d 0.5\nq e 0.7\n", ":2: the third column, 0.7, follows 0.5; it holds scores"),
        ("q d 2\nq e 3\n", ":2: the third column, 3, follows 2; it holds scores, which fall"),
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
        ("qrels", "1 0 a\n1 0 a yes\n", ":1: relevance 'a' is not a whole number"),
        ("qrels", "1 0 a 1\n1 0 a yes\n", ":2: relevance 'yes' is not a whole number"),
        ("qrels", "1 a relevant\n1 b 1\n", ":1: relevance 'relevant' is not a whole number"),
        ("qrels", "1 0 a 1_0\n", ":1: relevance '1_0' is not a whole number"),
        ("qrels", "1 0 a " + "9" * 400 + "\n", ":1: relevance '"),
        ("qrels", "1\t\t1\n", ":1: the document's id is empty"),
        ("q.csv", "qid,docid,rel\n1,a\n", ":2: 2 columns, but the header has 3"),
        ("q.csv", 'qid,docid,rel\n1,"a,1\n', ":2: broken row"),
        (
            "q.jsonl",
            '{"query-id": null, "corpus-id": "a", "score": 1}\n',
            ":1: the query's id is null",
        ),
        (
            "q.jsonl",
            '{"query-id": true, "corpus-id": "a", "score": 1}\n',
            ":1: the query's id is true",
        ),
        ("q.jsonl", '{"query-id": "1", "corpus-id": "a", "score": null}\n', ":1: relevance None"),
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pandas-qrels.csv", {"q1": {"d1": 1, "d,2": 0}, "q2": {"d1": -1}}),
        ("trec-qrels.txt", {"301": {"FBIS3-1": 1, "FBIS3-2": -2}, "302": {"LA1": 0}}),
        ("ir-datasets-qrels.tsv", {"q1": {"d1": 2, "d2": 0}}),
        ("spaced-qrels.csv", {"q1": {"d1": 1}}),
        ("swapped-qrels.tsv", {"q1": {"d1": 1, "d 2": 0}}),
        ("mteb-qrels.jsonl", {"1": {"31": 1, "32": 0}}),
    ],
)
def test_judgements_of_other_projects(
    name: str, expected: dict[str, dict[str, int]], tmp_path: Path
) -> None:
    path = DATA / "forms" / f"list-{name}"
    assert read_qrels(path) == expected
    assert read_qrels("-", stdin=io.BytesIO(path.read_bytes())) == expected
    (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_qrels(tmp_path / path.name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "msmarco-run.tsv",
            {"1048585": [("7187158", 1, -1.0), ("7187157", 2, -2.0)], "2": [("4339068", 1, -1.0)]},
        ),
        (
            "scores-run.tsv",
            {"1048585": [("7187158", 1, 12.5), ("7187157", 2, 12.5)], "2": [("4339068", 1, -3.0)]},
        ),
        ("anserini-run.txt", {"1048585": [("7187158", 1, 18.8116), ("7187157", 2, 18.333401)]}),
        ("pandas-run.txt", {"q1": [("d1", 1, 3.5), ("d2", 2, 1e-05)]}),
    ],
)
def test_runs_of_other_projects(
    name: str, expected: dict[str, list[tuple[str, int, float]]], tmp_path: Path
) -> None:
    path = DATA / "forms" / f"list-{name}"
    (tmp_path / "run").write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for each in (path, tmp_path / "run"):
        found = {
            query: [(line.document_id, line.rank, line.score) for line in lines]
            for query, lines in read_run_lists(each)
        }
        assert found == expected


def test_a_run_between_tabs_may_hold_blanks(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q 1\tQ0\td 1\t1\t2.5\tx y\n")
    assert list(read_run(tmp_path / "run")) == [RunLine("q 1", "d 1", 1, 2.5, "x y")]


def test_doubled_documents_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("q Q0 d 1 3 t\nq Q0 e 2 2 t\nq Q0 d 3 1 t\nr Q0 d 1 1 t\n")
    passed_over = PassedOver()
    lists = dict(read_run_lists(path, passed_over=passed_over))
    assert [(line.document_id, line.rank) for line in lists["q"]] == [("d", 1), ("e", 2)]
    assert len(lists["r"]) == 1
    assert passed_over == PassedOver(doubled=1)
    assert PassedOver().told() is None and "1 whose document" in str(passed_over.told())


def test_the_ids_of_a_run_are_fit_and_each_there_once() -> None:
    ids = RunIds()
    assert [ids.take(None, 1), ids.take("q", 2), ids.take(None, 3)] == ["1", "q", "3"]
    for query_id, number in (("q", 4), ("1", 5), (None, 3)):
        with pytest.raises(CorpusError, match="again"):
            ids.take(query_id, number)
    with pytest.raises(CorpusError, match=r"^f:1: query id 'a b': empty or with whitespace"):
        ids.take("a b", 1, "f:1")


PIECES = [
    *(b"q", b"Q0", b"d", b"1", b"0.5", b" ", b"\t", b"\n", b",", b"{", b'"', b"qid", b"score"),
    *(b"\r\n", b"docid", b"-1", b"\0", b"\xff", b"\xef\xbb\xbf"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(PIECES),
        max_size=20,
    ).map(b"".join),
    st.sampled_from(["f", "f.tsv", "f.csv", "f.jsonl", "f.txt.gz"]),
)
def test_any_bytes_are_judgements_and_a_run_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    for read in (read_qrels, run_scores):
        try:
            read(path)
        except CorpusError as error:
            assert "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(ids, st.dictionaries(ids, st.integers(-5, 5), min_size=1), min_size=1),
    st.sampled_from(["trec", "beir", "tab", "csv", "jsonl"]),
)
def test_as_many_judgements_as_were_written(
    tmp_path_factory: pytest.TempPathFactory, qrels: dict[str, dict[str, int]], form: str
) -> None:
    path = tmp_path_factory.mktemp("qrels") / ("q.jsonl" if form == "jsonl" else f"q.{form}")
    rows = [(q, d, score) for q, judged in qrels.items() for d, score in judged.items()]
    with path.open("w", encoding="utf-8", newline="") as file:
        if form == "csv":
            csv.writer(file).writerows([("query-id", "corpus-id", "score"), *rows])
        elif form == "jsonl":
            names = ("query-id", "corpus-id", "score")
            file.writelines(json.dumps(dict(zip(names, r, strict=True))) + "\n" for r in rows)
        elif form == "trec":
            file.writelines(f"{q} 0 {d} {score}\n" for q, d, score in rows)
        else:
            header = "query-id\tcorpus-id\tscore\n" if form == "beir" else ""
            file.write(header)
            file.writelines(f"{q}\t{d}\t{score}\n" for q, d, score in rows)
    assert read_qrels(path) == qrels


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_qrels, run_scores):
        with pytest.raises(CorpusError, match="no such file"):
            read(tmp_path / "missing")
