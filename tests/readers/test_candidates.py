"""Candidates: every form of file, and every object of a caller, gives each its own id and text."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import DATA

from moee_index.errors import CorpusError, MisuseError, MoeeIndexError
from moee_index.readers.candidates import CandidateList, as_documents, read_candidates
from moee_index.types import Document

FORMS = DATA / "forms"


def lists(path: Path | str, query: str | None = None, **more: Any) -> list[tuple[Any, ...]]:
    return [
        (each.query_id, each.query, [(d.id, d.text) for d in each.candidates])
        for each in read_candidates(path, query=query, **more)
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cohere-request.json", [(None, "cats", [("0", "kittens"), ("s1", "ships")])]),
        ("jina-request.jsonl", [(None, "cats", [("0", "kittens"), ("1", "ships")])]),
        ("tei-request.jsonl", [(None, "cats", [("0", "kittens"), ("1", "ships")])]),
        ("docid-candidates.jsonl", [("q7", "cats", [("0", "kittens"), ("1", "ships")])]),
    ],
)
def test_forms_of_other_projects(name: str, expected: list[Any]) -> None:
    path = FORMS / f"list-{name}"
    assert lists(path) == expected
    assert lists("-", stdin=io.BytesIO(path.read_bytes())) == expected


@pytest.mark.parametrize(
    ("name", "query", "reason"),
    [
        ("mteb-reranking.jsonl", None, "MTEB's positive and negative texts are to be joined"),
        ("langchain-documents.jsonl", "q", "no field 'text'; rename 'page_content' to it"),
        ("beir-queries.jsonl", None, "no field 'query', there are '_id', 'text', 'metadata'"),
        ("trec-covid-topics.xml", None, ":1: broken JSON"),
        ("cohere-request.json", "q", ":1: this list has its own query"),
        ("kaggle-queries.csv", "q", ":1: no column of texts; there are 'query_id', 'query'"),
    ],
)
def test_forms_that_are_refused(name: str, query: str | None, reason: str) -> None:
    with pytest.raises(CorpusError) as caught:
        lists(FORMS / f"list-{name}", query)
    assert str(caught.value).startswith(str(FORMS / f"list-{name}")) and reason in str(caught.value)


def test_a_field_that_looks_like_the_id_is_told_once() -> None:
    told: list[str] = []
    lists(FORMS / "list-docid-candidates.jsonl", notify=told.append)
    assert len(told) == 1
    assert "there is docid, rename it to id" in told[0]
    content = b'{"docno": 1, "text": "a"}\n{"docno": 2, "text": "b"}\n'
    assert lists("-", "q", stdin=io.BytesIO(content), notify=told.append)[0][2] == [
        ("0", "a"),
        ("1", "b"),
    ]
    assert len(told) == 2
    content = b'{"_id": "x", "docid": 1, "text": "a"}\n'
    assert lists("-", "q", stdin=io.BytesIO(content), notify=told.append)[0][2] == [("x", "a")]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("-", '{"_id": "D9", "text": "a"}\n{"id": 3, "text": "b"}\n', [("D9", "a"), ("3", "b")]),
        ("c.txt", '{"id": "D9", "text": "a"}\n', [("D9", "a")]),
        ("c.txt", 'first\n{"text": 3}\n', [("0", "first"), ("1", '{"text": 3}')]),
        ("c.json", '[{"id": "x", "text": "a"},\n "b"]', [("x", "a"), ("1", "b")]),
        ("-", '[\n{"id": "x", "text": "a"}\n]', [("x", "a")]),
        ("c.csv", "id,text\nx,a\ny,b\n", [("x", "a"), ("y", "b")]),
        ("c.tsv", "id\ttext\nx\ta\n", [("x", "a")]),
        ("c.tsv", "x\ta\ny\tb\n", [("x", "a"), ("y", "b")]),
        ("c.txt", "x\ta\n", [("0", "x\ta")]),
        ("c.txt", "[a] list\n<b>\n", [("0", "[a] list"), ("1", "<b>")]),
        ("c.jsonl", '{"id": null, "_id": "x", "text": "a"}\n', [("x", "a")]),
        ("c.jsonl", '{"id": 1.0, "text": "a"}\n', [("1", "a")]),
    ],
)
def test_the_candidates_of_one_query(
    tmp_path: Path, name: str, text: str, expected: list[tuple[str, str]]
) -> None:
    if name == "-":
        assert lists("-", "q", stdin=io.BytesIO(text.encode())) == [(None, "q", expected)]
    else:
        (tmp_path / name).write_text(text)
        assert lists(tmp_path / name, "q") == [(None, "q", expected)]


@pytest.mark.parametrize("name", ["query_id", "qid", "id", "_id", "query-id"])
def test_the_id_of_a_query_has_many_names(name: str) -> None:
    line = json.dumps({name: 7, "query": "a", "candidates": ["x"]}).encode()
    assert lists("-", stdin=io.BytesIO(line)) == [("7", "a", [("0", "x")])]


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        ("a text", "this is one text"),
        (b"bytes", "this is bytes"),
        ({"text": "a"}, "this is dict"),
        (Document("1", "a"), "this is Document"),
        (None, "this is NoneType"),
        (3, "this is int"),
        (["a", None], "candidate 1: null where a text"),
        (["a", 3.5], "candidate 1: a number where"),
        (["a", np.float32(1)], "candidate 1: float32 where"),
        (["a", b"x"], "candidate 1: bytes where"),
        (["a", ("x",)], "candidate 1: tuple where"),
        (["half \ud83d"], "candidate 0: it holds half a surrogate pair"),
        ([{"text": "caf\udce9"}], "candidate 0: its text is not UTF-8 (byte 0xe9"),
        ([{"text": None}], "candidate 0: field 'text' is null"),
        ([{"text": "a", "id": 1.5}], "candidate 0: field 'id' is a number"),
        ([{"text": "a", "id": True}], "candidate 0: field 'id' is true or false"),
        ([{"text": "a", "id": "\ud800"}], "candidate 0: its id holds half"),
        ([{"text": "a", "title": 3}], "candidate 0: field 'title' is a number"),
        ([{"text": "a", "id": 10**5000}], "candidate 0: "),
        ([Document("\ud800", "x")], "candidate 0: its id holds half"),
        ([Document("1", "caf\udce9")], "candidate 0: its text is not UTF-8"),
        (["a", {"id": "0", "text": "b"}], "candidate 1: id '0' again"),
    ],
)
def test_objects_that_are_no_candidates(candidates: Any, reason: str) -> None:
    with pytest.raises(MisuseError) as caught:
        as_documents(candidates)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_objects_that_are() -> None:
    texts = ("a text", "b")
    expected = [("0", "a text"), ("1", "b")]
    for given_as in (list(texts), texts, iter(texts), (t for t in texts), np.array(texts)):
        assert [(d.id, d.text) for d in as_documents(given_as)] == expected
        assert all(type(d.text) is str for d in as_documents(texts))
    (document,) = as_documents([{"id": np.int64(7), "text": "a", 1: "odd"}])  # type: ignore[dict-item]
    assert document.id == "7"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(
    VALUES
    | st.lists(
        VALUES
        | st.fixed_dictionaries({"text": VALUES}, optional={"id": VALUES, "_id": VALUES})
        | st.builds(Document, st.text(), st.text()),
        max_size=4,
    )
)
def test_any_object_is_candidates_or_misuse(candidates: Any) -> None:
    try:
        documents = as_documents(candidates)
    except MisuseError as error:
        assert "\n" not in str(error)
    else:
        assert len(documents) == len(candidates) == len({d.id for d in documents})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        max_size=6,
        unique_by=lambda pair: pair[0] or object(),
    ),
    st.sampled_from(["id", "_id"]),
)
def test_no_candidate_has_the_id_or_text_of_another(
    pairs: list[tuple[str | None, str]], name: str
) -> None:
    candidates = [{"text": t} if key is None else {name: key, "text": t} for key, t in pairs]
    expected = [(key or str(n), text) for n, (key, text) in enumerate(pairs)]
    line = json.dumps({"query": "q", "candidates": candidates}).encode()
    if len({key for key, _ in expected}) < len(expected):
        with pytest.raises(CorpusError, match="again"):
            lists("-", stdin=io.BytesIO(line))
        return
    assert lists("-", stdin=io.BytesIO(line)) == [(None, "q", expected)]
    one = "\n".join(json.dumps(candidate) for candidate in candidates).encode()
    if candidates:
        assert lists("-", "q", stdin=io.BytesIO(one)) == [(None, "q", expected)]


PIECES = [
    *(b"{", b"}", b"[", b"]", b'"query"', b'"candidates"', b'"text"', b":", b",", b"\n", b"a"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(PIECES),
        max_size=20,
    ).map(b"".join),
    st.sampled_from(["c", "c.txt", "c.jsonl", "c.json", "c.csv", "c.tsv", "c.gz"]),
    st.sampled_from([None, "q"]),
)
def test_any_bytes_are_candidates_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, query: str | None
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    try:
        found: list[CandidateList] = list(read_candidates(path, query=query))
    except MoeeIndexError as error:
        assert "\n" not in str(error)
    else:
        for each in found:
            assert len({d.id for d in each.candidates}) == len(each.candidates)
