"""Searches: what `moee-index query --json` prints, and what only a server is asked."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from commands import run
from serving import Served, close, news

from moee_index import Encoder, Index

QUERY = "a vote in parliament"


def searched(served: Served, **body: Any) -> Any:
    answer = served.post("/v1/search", {"index": "news", **body})
    assert answer.status == 200, answer.content
    return answer.json


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([], {}),
        (["-k", "3", "--offset", "2"], {"k": 3, "offset": 2}),
        (["--method", "concat"], {"method": "concat"}),
        (["--alpha", "0.25"], {"alpha": 0.25}),
        (["--method", "hs", "--min-score", "0.1"], {"method": "hs", "min_score": 0.1}),
        (["--filter", 'part = "evening"'], {"filter": 'part = "evening"'}),
        (["--facet", "part"], {"facets": ["part"]}),
        (["--lexical", "0.5", "--k1", "1", "--b", "0.5"], {"lexical": 0.5, "k1": 1, "b": 0.5}),
        (["--lexical", "1"], {"lexical": 1}),
    ],
)
def test_answers_are_those_of_query(
    served: Served, news_index: Path, options: list[str], fields: dict[str, Any]
) -> None:
    found = searched(served, query=QUERY, **fields)
    printed = json.loads(run("query", "--json", "--index", news_index, *options, QUERY).stdout)
    assert found.pop("revision") == 1
    del found["took_ms"], printed["took_ms"]
    assert (found.pop("index"), printed.pop("index")) == ("news", str(news_index))
    close(found, printed)


def test_passages_are_hits_where_they_are_asked_for(served: Served, passages_index: Path) -> None:
    found = searched(served, index="passages", query=QUERY, passages=True)
    printed = json.loads(
        run("query", "--json", "--index", passages_index, "--passages", QUERY).stdout
    )
    close(found["hits"], printed["hits"])
    assert "#" in found["hits"][0]["id"]


def test_several_queries_have_several_answers(served: Served) -> None:
    queries = [QUERY, "storm", QUERY]
    answers = searched(served, query=queries, k=2)["answers"]
    assert [answer["query"] for answer in answers] == queries
    assert answers[0]["hits"] == answers[2]["hits"]
    close(answers[1]["hits"], searched(served, query="storm", k=2)["hits"])


def test_a_search_by_vector_finds_what_its_text_finds(served: Served, tiny: Encoder) -> None:
    raw = tiny.encode([QUERY], query=True)
    vector = {
        part: base64.b64encode(values.astype("<f4").tobytes()).decode() for part, values in raw
    }
    found = searched(served, vector=vector)
    assert found["query"] is None
    by_text = searched(served, query=QUERY, lexical=0)["hits"]
    assert [hit["id"] for hit in found["hits"]] == [hit["id"] for hit in by_text]
    close([hit["score"] for hit in found["hits"]], [hit["score"] for hit in by_text])


def test_a_query_that_comes_again_is_not_embedded_again(served: Served) -> None:
    query = "asked twice, and not before"
    first = searched(served, query=query)
    hits, embedded = (
        served.metric("moee_query_cache_total", outcome="hit"), served.metric("moee_texts_total")
    )  # fmt: skip
    again = searched(served, query=[query, query], k=5)["answers"]
    assert [hit["score"] for hit in again[1]["hits"]] == [hit["score"] for hit in first["hits"][:5]]
    assert served.metric("moee_query_cache_total", outcome="hit") == hits + 1
    assert served.metric("moee_texts_total") == embedded


def test_signs_are_conditions_where_they_are_meant(served: Served, news_index: Path) -> None:
    typed = 'parliament -election "the"'
    found = searched(served, query=typed, syntax=True, k=5, facets=["part"])
    printed = run("query", "--json", "--index", news_index, "-k", "5", "--facet", "part", typed)
    expected = json.loads(printed.stdout)
    close(found["hits"], expected["hits"])
    assert found["facets"] == expected["facets"]
    plain = searched(served, query=typed, k=5)
    printed = run("query", "--json", "--index", news_index, "-k", "5", "--plain", typed)
    close(plain["hits"], json.loads(printed.stdout)["hits"])


def test_snippets_have_the_width_that_is_asked_for(served: Served) -> None:
    hits = searched(served, query=QUERY, snippet_width=60)["hits"]
    assert all(len(hit["snippet"]) <= 60 for hit in hits)
    bare = searched(served, query=QUERY, snippets=False)["hits"]
    assert [hit["id"] for hit in bare] == [hit["id"] for hit in hits]
    assert not any("snippet" in hit for hit in bare)
    assert any(hit["snippet"][start:end] for hit in hits for start, end in hit["marks"])


def test_a_search_like_a_document_is_that_of_query_like(served: Served, news_index: Path) -> None:
    name = news(1)[0].id
    found = searched(served, like=name, k=3)
    printed = json.loads(
        run("query", "--json", "--index", news_index, "--like", name, "-k", "3").stdout
    )
    close(found["hits"], printed["hits"])
    assert found["like"] == name


def test_another_revision_is_not_answered_from(served: Served) -> None:
    assert searched(served, query=QUERY, revision=1)["revision"] == 1
    answer = served.post("/v1/search", {"index": "news", "query": QUERY, "revision": 2})
    assert answer.status == 409
    assert "revision 1, not 2" in answer.error["message"]


def test_a_document_is_there_with_its_passages(served: Served) -> None:
    document = news(30)[7]
    plain = served.get(f"/v1/indexes/news/documents/{quote(document.id)}").json
    assert plain["text"] == document.text
    assert plain["metadata"] == {**document.metadata, "title": document.title}
    split = served.get(f"/v1/indexes/passages/documents/{quote(document.id)}").json
    assert len(split["passages"]) > 1
    assert all(passage["text"] in document.text for passage in split["passages"])


def test_the_indexes_tell_what_filters_can_ask(served: Served, news_index: Path) -> None:
    entries = {entry["name"]: entry for entry in served.get("/v1/indexes").json["data"]}
    assert list(entries) == ["news", "passages"]
    assert entries["news"]["documents"] == 120
    assert entries["news"]["fields"] == {
        "number": ["number"], "part": ["text"], "title": ["text"]
    }  # fmt: skip
    with Index.open(news_index) as index:
        assert entries["news"]["encoder"]["fingerprint"] == index.spec.fingerprint
    assert entries["passages"]["chunk"] == "60:10"


def test_vectors_do_not_depend_on_who_else_asks(served: Served) -> None:
    """Side by side with many others, as alone, within the tolerance of batches."""
    import threading

    alone = served.post("/v1/embeddings", {"model": "tiny#hs", "input": QUERY}).json
    crowd = [
        threading.Thread(
            target=served.post,
            args=("/v1/embeddings", {"model": "tiny#hs", "input": [f"{n} word " * n] * 40}),
        )
        for n in range(1, 9)
    ]
    for thread in crowd:
        thread.start()
    together = [
        served.post("/v1/embeddings", {"model": "tiny#hs", "input": QUERY}).json for _ in range(5)
    ]
    for thread in crowd:
        thread.join()
    first = np.array(alone["data"][0]["embedding"])
    for each in together:
        assert float(np.array(each["data"][0]["embedding"]) @ first) > 0.9995
