"""Lists on the command line: queries, candidates and runs in the forms of other projects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import one_line_error, run
from paths import DATA

FORMS = DATA / "forms"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    rows = "id,text,year,zip\na,cats and dogs,2024,007\nb,ships at sea,2.5,7\nc,bread,,x\n"
    (folder / "c.csv").write_text(rows)
    run("-q", "build", folder / "c.csv", "--index", folder / "i")
    run("-q", "build", folder / "c.csv", "--index", folder / "texts", "--csv-types", "text")
    return folder / "i"


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ("year > 2", {"a", "b"}),
        ("year = 2024", {"a"}),
        ('year = "2024"', {"a"}),
        ("year = 2.5 or zip = 7", {"b"}),
        ("zip != 7", {"a", "c"}),
        ('zip = "007"', {"a"}),
    ],
)
def test_a_filter_reads_the_numbers_of_csv(index: Path, condition: str, ids: set[str]) -> None:
    result = run("-q", "query", "x", "--index", index, "--filter", condition, "--json")
    hits = json.loads(result.stdout)["hits"]
    assert {hit["id"] for hit in hits} == ids
    assert all(isinstance(hit["metadata"]["year"], str) for hit in hits)


def test_csv_types_text_leaves_them_texts(index: Path) -> None:
    other = index.parent / "texts"
    result = run("query", "x", "--index", other, "--filter", "year > 2", status=2)
    assert "field year holds text, not numbers" in one_line_error(result)
    corpus = index.parent / "c.csv"
    result = run("build", corpus, "--index", other, status=1)
    assert "are read with other types (--csv-types)" in one_line_error(result)
    run("build", corpus, "--index", other, "--csv-types", "text")
    run("verify", other, "--full")
    run("verify", index, "--full")
    # What is added and joined keeps how it is read.
    run("-q", "add", index, DATA / "forms" / "list-spaced-qrels.csv", "--text-field", " corpus-id")
    run("-q", "compact", index)
    result = run("-q", "query", "x", "--index", index, "--filter", "year > 2 and zip = 7", "--json")
    assert [hit["id"] for hit in json.loads(result.stdout)["hits"]] == ["b"]


def test_queries_in_other_forms(index: Path) -> None:
    for name, ids in (
        ("kaggle-queries.csv", ["q1", "q2"]),
        ("trec-robust-topics.txt", ["301", "302"]),
        ("texts.json", ["1", "2"]),
    ):
        path = FORMS / f"list-{name}"
        result = run("-q", "query", "--index", index, "--queries", path, "-k", "1", "--trec")
        assert [line.split()[0] for line in result.stdout.splitlines()] == ids
        result = run("-q", "embed", "--queries", path)
        assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ids


def test_an_empty_text_is_not_embedded() -> None:
    assert "the text is empty" in one_line_error(run("embed", "a", " ", status=2))


def test_candidates_keep_their_ids(tmp_path: Path) -> None:
    lists = '{"query": "cats", "qid": "q7", "candidates": [{"docid": "D9", "text": "kittens"}]}\n'
    result = run("rerank", "--trec", stdin=lists)
    assert result.stdout.startswith("q7 Q0 0 1 ")
    assert result.stderr.count("there is docid, rename it to id") == 1
    texts = '{"id": "D9", "text": "kittens"}\n{"_id": "D3", "text": "ships"}\n'
    (tmp_path / "c.jsonl").write_text(texts)
    from_file = run("-q", "rerank", "cats", "--candidates", tmp_path / "c.jsonl", "--trec").stdout
    assert from_file == run("-q", "rerank", "cats", "--trec", stdin=texts).stdout
    assert [line.split()[2] for line in from_file.splitlines()] == ["D9", "D3"]


def test_a_run_passes_over_what_is_missing(index: Path, tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("qid\tquery\n1\tcats\n2\tships\n")
    (tmp_path / "run").write_text("1\ta\t1\n1\tz\t2\n1\ta\t3\n1\tb\t4\n2\tz\t1\n")
    given = ("rerank", "--index", index, "--queries", tmp_path / "q.tsv")
    given = (*given, "--candidates", tmp_path / "run", "--trec")
    assert "'a' twice for query '1'" in one_line_error(run("-q", *given, status=1))
    result = run(*given, "--missing-ok")
    assert [line.split()[:3:2] for line in result.stdout.splitlines()] == [["1", "a"], ["1", "b"]]
    assert "passed over 2 lines of the run whose document is not in the index, and 1" in (
        result.stderr
    )
    run("rerank", "cats", "--missing-ok", stdin="a\n", status=2)


def test_a_run_is_refused_before_it_begins(index: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "cats"}\n{"id": "b c", "text": "x"}\n')
    run("-q", "build", tmp_path / "c.jsonl", "--index", tmp_path / "i")
    (tmp_path / "q.tsv").write_text("1\tcats\nq 2\tships\n")
    given = ("-q", "query", "--index", tmp_path / "i", "--trec")
    result = run(*given, "cats", "-k", "1", status=1)
    assert result.stdout == "" and "whose id has whitespace ('b c')" in one_line_error(result)
    run(*given, "cats", "--filter", 'id = "a"')
    result = run(
        "-q", "query", "--index", index, "--queries", tmp_path / "q.tsv", "--trec", status=1
    )
    assert result.stdout == "" and "q.tsv:2: query id 'q 2': empty or" in one_line_error(result)
    lists = '{"query": "a", "candidates": ["x"]}\n{"query": "b", "qid": 1, "candidates": ["x"]}\n'
    (tmp_path / "l.jsonl").write_text(lists)
    result = run("-q", "rerank", "--candidates", tmp_path / "l.jsonl", "--trec", status=1)
    assert result.stdout == "" and "l.jsonl:2: query id '1' again" in one_line_error(result)
    result = run("-q", "rerank", "--trec", stdin=lists, status=1)
    assert len(result.stdout.splitlines()) == 1 and "query id '1' again" in one_line_error(result)
    run("-q", "rerank", "--candidates", tmp_path / "l.jsonl", "--json")


def test_the_nearest_field_first(index: Path) -> None:
    result = run("query", "x", "--index", index, "--filter", "YEAR = 1", status=2)
    assert "the nearest first: year, " in one_line_error(result)
    result = run("query", "x", "--index", index, "--filter", '.id = "a"', status=2)
    assert "no document has the field .id" in one_line_error(result)
