"""Queries: every form of file gives as many queries as it holds, or an error that says why."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import DATA

from moee_index.errors import CorpusError, MisuseError, MoeeIndexError
from moee_index.readers.queries import read_queries, read_texts

FORMS = DATA / "forms"


def pairs(path: Path | str, text: str | bytes | None = None) -> list[tuple[str, str]]:
    if text is not None:
        content = text.encode() if isinstance(text, str) else text
        if str(path) == "-":
            return [(q.id, q.text) for q in read_queries("-", stdin=io.BytesIO(content))]
        Path(path).write_bytes(content)
    return [(query.id, query.text) for query in read_queries(path)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trec-robust-topics.txt", [("301", "lost ferries"), ("302", "bread & butter prices")]),
        ("trec-ad-hoc-topics.txt", [("051", "Subsidies for shipyards")]),
        ("anserini-microblog-topics.txt", [("MB901", "storm on the coast")]),
        (
            "trec-covid-topics.xml",
            [("1", "origin of the virus"), ("2", "research & development")],
        ),
        (
            "trec-clinical-trials-topics.xml",
            [("1", "Patient is a 45-year-old man with a cough."), ("2", "A woman with headaches.")],
        ),
        (
            "beir-queries.jsonl",
            [("PLAIN-2", "Do ships cause cancer?"), ("PLAIN-12", "What is bread?")],
        ),
        ("anserini-queries.jsonl", [("156493", "do goldfish grow"), ("1110199", "what is wifi")]),
        (
            "msmarco-queries.tsv",
            [("1048585", "what is a ship's brother"), ("2", " Androgen receptor define")],
        ),
        ("kaggle-queries.csv", [("q1", "ships, boats"), ("q2", "bread")]),
        ("excel-german-queries.csv", [("1", "Schiffe"), ("2", "Brot")]),
        ("pretty-queries.json", [("q1", "cats"), ("q2", "ships")]),
        ("texts.json", [("1", "cats"), ("2", 'ships at "sea"')]),
    ],
)
def test_forms_of_other_projects(
    name: str, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    path = FORMS / f"list-{name}"
    assert pairs(path) == expected
    # As the ending does not say it, on stdin, compressed and behind a mark of byte order.
    content = path.read_bytes()
    if path.suffix in (".txt", ".xml", ".jsonl", ".json") or "kaggle" in name:
        assert pairs("-", content) == expected
        assert pairs(tmp_path / "no-ending", b"\xef\xbb\xbf" + content) == expected
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(content))
    assert pairs(tmp_path / f"{path.name}.gz") == expected
    (tmp_path / path.name).write_bytes(content.replace(b"\n", b"\r\n"))
    assert pairs(tmp_path / path.name) == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "anserini-background-topics.txt",
            "topic 901 has no <title> and no <query>, but <num>, <docid>",
        ),
        (
            "trec-precision-medicine-topics.xml",
            "topic 1 has no <title> and no <query>, but <disease>",
        ),
        ("mteb-reranking.jsonl", ":1: this is a candidate list, not a query; rerank takes it"),
        ("docid-candidates.jsonl", ":1: this is a candidate list"),
        ("langchain-documents.jsonl", ":1: no field 'text'"),
    ],
)
def test_forms_that_are_refused(name: str, reason: str) -> None:
    with pytest.raises(CorpusError) as caught:
        pairs(FORMS / f"list-{name}")
    assert str(caught.value).startswith(str(FORMS / f"list-{name}")) and reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("q.tsv", "query-id\ttext\nq1\tcats\n", [("q1", "cats")]),
        ("q", "qid\tquery\nq1\tcats\n", [("q1", "cats")]),
        ("q.tsv", "text\tid\ncats\tq1\n", [("q1", "cats")]),
        ("q.tsv", "query-id\ttext\tmetadata\nq1\tcats\t{}\n", [("q1", "cats")]),
        ("q.tsv", "q1\tcats\tand dogs\n", [("q1", "cats\tand dogs")]),
        ("q.tsv", "id\tcats\n", [("id", "cats")]),
        ("q.txt", "[cats] or dogs\n<b> in bold\n{braces}\n", None),
        ("q.txt", "id, text\n", [("1", "")]),
        ("q.csv", "ID,Text\n1,cats\n", [("1", "cats")]),
        (
            "q.csv",
            '\ufeff"text"\n"cats\nand dogs"\nships\n',
            [("2", "cats\nand dogs"), ("4", "ships")],
        ),
        (
            "q.jsonl",
            '{"qid": 7, "text": "a"}\n{"id": 8.0, "text": "b"}\n',
            [("7", "a"), ("8", "b")],
        ),
        ("q.ndjson", '\n{"text": "a"}\n\n{"text": "b"}\n', [("2", "a"), ("4", "b")]),
        ("q.json", '{"text": "a"}\n{"text": "b"}\n', [("1", "a"), ("2", "b")]),
        ("q", "<top><num>1<title>a<top><num>2<title>b", [("1", "a"), ("2", "b")]),
        ("q", "<TOP>\n<NUM>1\n<TITLE>a\n</TOP>", [("1", "a")]),
        ("q.xml", "<topic id='x'><title>a &lt; b</title></topic>", [("x", "a < b")]),
    ],
)
def test_headers_and_beginnings(
    tmp_path: Path, name: str, text: str, expected: list[tuple[str, str]] | None
) -> None:
    if expected is None:
        expected = [(str(number), line) for number, line in enumerate(text.splitlines(), 1)]
    if expected == [("1", "")]:
        assert pairs(tmp_path / name, text) == []  # a header, and nothing under it
    else:
        assert pairs(tmp_path / name, text) == expected


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("q.csv", "a,b\n1,2\n", ":1: no column of texts; there are 'a', 'b'; call it 'text'"),
        ("q.csv", "id,text\n1,a\n1,b\n", ":3: query id '1' again, first at line 2"),
        ("q.csv", "id,text\n1,\n", ":2: the query is empty"),
        ("q.csv", "id,text\n1,a,b\n", ":2: 3 fields"),
        ("q.tsv", "query-id\ttext\nq1 cats\n", ":2: no tab"),
        ("q.tsv", "\tcats\n", ":1: the query's id is empty"),
        ("q.jsonl", '{"text": null}\n', ":1: field 'text' is null"),
        ("q.jsonl", '{"text": "a", "id": true}\n', ":1: the query's id is true or false"),
        ("q.jsonl", '{"text": "a"}\n{"text": "b", "id": 1}\n', ":2: query id '1' again"),
        ("q.json", '["a", 3]', ":2: a number where"),
        ("q.json", '[{"text": "a"}', "ends without its ]"),
        ("q.json", '["a", "\\ud800"]', ":2: half a surrogate pair"),
        ("q.txt", "a\n\nb\n", ":2: the query is empty"),
        ("q.xml", "<html><p>no topics</p></html>", "XML without a <top> or <topic>"),
        ("q", "<top><title>a</top>", ":1: a topic without a number"),
        ("q", "<top><num>1</top>", ":1: topic 1 has no <title>"),
        ("q", "<top><num>1<title>a</top>\n<top><num>1<title>b</top>", ":2: query id '1' again"),
        ("q", b"PAR1\x15\x04", "is a Parquet file"),
        ("q.parquet", b"PAR1\x15\x04", "cannot be read as Parquet"),
        ("q", b"PK\x03\x04abc", "is a ZIP archive"),
        ("q", b"caf\xe9\n", ":1: not UTF-8 (byte 0xe9"),
        ("q", b"\xff\xfec\0a\0t\0", "is UTF-16 text"),
        ("q.jsonl", '{"text": ' + "[" * 5000, ":1: broken JSON"),
        ("q.jsonl", '{"text": "a", "id": ' + "1" * 5000 + "}", ":1: broken JSON"),
        ("q.jsonl", "cats\n", ":1: broken JSON"),
        ("q", "version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_what_cannot_be_read_says_why(
    tmp_path: Path, name: str, text: str | bytes, reason: str
) -> None:
    with pytest.raises(CorpusError) as caught:
        pairs(tmp_path / name, text)
    assert str(tmp_path / name) in str(caught.value) and reason in str(caught.value)
    assert "\n" not in str(caught.value)


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1
)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(["jsonl", "json", "csv", "tsv", "array"]))
def test_as_many_queries_as_were_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], form: str
) -> None:
    import csv

    named = {f"q {number}": text for number, text in enumerate(texts)}
    rows = [{"_id": key, "text": text} for key, text in named.items()]
    path = tmp_path_factory.mktemp("q") / f"q.{'json' if form == 'array' else form}"
    if form == "csv":
        named = {key: text.replace("\0", "") or "x" for key, text in named.items()}
        named = {key: text if text.strip() else "x" for key, text in named.items()}
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["id", "text"], *named.items()])
    elif form == "tsv":
        named = {key: " ".join(text.split()) for key, text in named.items()}
        path.write_text("".join(f"{k}\t{t}\n" for k, t in named.items()), encoding="utf-8")
    elif form == "array":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    try:
        found = pairs(path)
    except CorpusError as error:
        # Only where the format cannot hold a text: a carriage return alone, outside of marks.
        assert form == "csv" and "\r" in "".join(named.values()), error
    else:
        assert len(found) == len(named)
        assert dict(found) == named


PIECES = [
    *(b"<top>", b"</top>", b"<num>", b"1", b"<title>", b"a b", b"\n", b"\t", b",", b"{", b"}"),
    *(b'"', b"[", b"]", b'"text"', b":", b"id", b"text", b"\xef\xbb\xbf", b"\0", b"\xff"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(PIECES),
        max_size=20,
    ).map(b"".join),
    st.sampled_from(["q", "q.txt", "q.jsonl", "q.json", "q.csv", "q.tsv", "q.xml", "q.jsonl.gz"]),
)
def test_any_bytes_are_queries_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        found = list(read_queries(path))
    except MoeeIndexError as error:
        assert "\n" not in str(error)
    else:
        assert len({query.id for query in found}) == len(found)
        assert all(query.text.strip() and query.id for query in found)


def test_a_text_to_embed_is_no_empty_one() -> None:
    assert read_texts(["a", "b"], None) == (["1", "2"], ["a", "b"])
    for texts in ([], [""], ["a", " \n"]):
        with pytest.raises(MisuseError):
            read_texts(texts, None)


def test_the_folder_of_a_beir_set(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "1", "text": "a"}\n'))
    assert pairs(tmp_path) == [("1", "a")]
    with pytest.raises(CorpusError, match=r"queries\.jsonl: no such file"):
        pairs(DATA)


@pytest.mark.parametrize(
    "columns",
    [
        {"_id": ["q1", "q2"], "title": ["", ""], "text": ["cats", "ships"]},
        {"query": ["cats", "ships"], "query_id": ["q1", "q2"]},
        {"QID": ["q1", "q2"], "Query": ["cats", "ships"]},
    ],
)
def test_parquet_of_the_hub(tmp_path: Path, columns: dict[str, list[str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "q.parquet")
    assert pairs(tmp_path / "q.parquet") == [("q1", "cats"), ("q2", "ships")]
    content = (tmp_path / "q.parquet").read_bytes()
    with pytest.raises(CorpusError, match="stdin: is a Parquet file"):
        pairs("-", content)
