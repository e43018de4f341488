"""Bad requests of every kind: a status of the tree, OpenAI's body, never a traceback."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from serving import Served

from moee_index import Encoder, Index
from moee_index.index import delete_documents

SEARCH = {"index": "news", "query": "a"}
SHORT = base64.b64encode(b"\0" * 8).decode()
NANS = base64.b64encode(b"\xff" * 1024).decode()


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/v1/search", {"query": "a"}, 400, "news, passages"),
        ("/v1/search", {**SEARCH, "index": "nowhere"}, 404, "nowhere"),
        ("/v1/search", {**SEARCH, "index": "../news"}, 404, "not served"),
        ("/v1/search", {**SEARCH, "index": "/etc/passwd"}, 404, "not served"),
        ("/v1/search", {**SEARCH, "query": " "}, 400, "empty"),
        ("/v1/search", {**SEARCH, "query": ["a", ""]}, 400, "empty"),
        ("/v1/search", {**SEARCH, "query": []}, 400, "at least one"),
        ("/v1/search", {"index": "news"}, 400, "query, vector and like"),
        ("/v1/search", {**SEARCH, "like": "x"}, 400, "query, vector and like"),
        ("/v1/search", {"index": "news", "like": "nobody"}, 404, "nobody"),
        ("/v1/search", {**SEARCH, "k": 0}, 400, "k"),
        ("/v1/search", {**SEARCH, "k": 10**9}, 400, "10000"),
        ("/v1/search", {**SEARCH, "k": 10**30}, 400, "k"),
        ("/v1/search", {**SEARCH, "k": "ten"}, 400, "k"),
        ("/v1/search", {**SEARCH, "offset": -1}, 400, "offset"),
        ("/v1/search", {**SEARCH, "alpha": -1}, 400, "alpha"),
        ("/v1/search", {**SEARCH, "method": "hs", "alpha": 1}, 400, "alpha"),
        ("/v1/search", {**SEARCH, "method": "best"}, 400, "method"),
        ("/v1/search", {**SEARCH, "lexical": 2}, 400, "lexical"),
        ("/v1/search", {**SEARCH, "filter": "part =="}, 400, "filter"),
        ("/v1/search", {**SEARCH, "filter": "nothing = 1"}, 400, "nothing"),
        ("/v1/search", {**SEARCH, "filter": f'part = "{"x" * 10_000}"'}, 400, "4096 bytes"),
        ("/v1/search", {**SEARCH, "filter": "(" * 2000}, 400, "filter"),
        ("/v1/search", {**SEARCH, "facets": ["nothing"]}, 400, "nothing"),
        ("/v1/search", {**SEARCH, "surprise": 1}, 400, "surprise"),
        ("/v1/search", {"index": "news", "vector": {"hs": "!", "rw": ""}}, 400, "base64"),
        ("/v1/search", {"index": "news", "vector": {"hs": SHORT, "rw": SHORT}}, 400, "256"),
        ("/v1/search", {"index": "news", "vector": {"hs": NANS, "rw": NANS}}, 400, "finite"),
        ("/v1/embeddings", {"model": "tiny"}, 400, "input"),
        ("/v1/embeddings", {"model": "tiny", "input": None}, 400, "input"),
        ("/v1/embeddings", {"model": "tiny", "input": [1.5]}, 400, "input"),
        ("/v1/embeddings", {"model": "tiny", "input": ["a", 1]}, 400, "input"),
        ("/v1/embeddings", {"model": "", "input": "a"}, 404, "not served"),
        ("/v1/embeddings", {"model": "#", "input": "a"}, 404, "not served"),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "encoding_format": "f16"}, 400, "f"),
        ("/v1/rerank", {"query": "a"}, 400, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "texts": ["b"]}, 400, "documents"),
        ("/v1/rerank", {"query": "a", "documents": []}, 400, "empty"),
        ("/v1/rerank", {"query": "", "documents": ["b"]}, 400, "empty"),
        ("/v1/rerank", {"query": "a", "documents": [{"title": "b"}]}, 400, "document 0"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 400, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "model": "no"}, 404, "not served"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 9}, 400, "512"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(
    served: Served, path: str, body: dict[str, Any], status: int, word: str
) -> None:
    answer = served.post(path, body)
    assert answer.status == status, answer.content
    assert word in answer.error["message"]
    assert str(Path.cwd()) not in answer.content.decode()
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b'{"index": "news", "query": "a", "alpha": NaN}', 400),
        (b'{"index": "news", "query": "a", "alpha": Infinity}', 400),
        (b'{"index": "news", "query": "a", "alpha": 1e999}', 400),
        (b'{"index": "news", "query": "\\ud800"}', 400),
        (b'{"index": "news", "query": ["\\ud800"]}', 400),
        (b'{"index": "news", "query": "a", "filter": "part = \\"\\ud800\\""}', 400),
        (b'{"index": "news", "like": "\\udfff"}', 400),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"query":' * 50_000 + b"1" + b"}" * 50_000, 400),
        (b'{"k": ' + b"9" * 10_000 + b"}", 400),
        (b'{"index": "news", "query": "' + b"a" * (9 << 20) + b'"}', 413),
    ],
)
def test_bodies_that_are_no_request(served: Served, content: bytes, status: int) -> None:
    answer = served.post("/v1/search", content)
    assert answer.status == status, answer.content[:300]
    assert answer.error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_is_not_said_to_be_json_is_refused(served: Served, kind: str) -> None:
    """A page of another site can send such bodies without asking first."""
    body = json.dumps(SEARCH).encode()
    answer = served.post("/v1/search", body, headers={"Content-Type": kind})
    assert answer.status == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/search", 405),
        ("DELETE", "/v1/indexes", 405),
        ("GET", "/nothing", 404),
        ("POST", "/docs", 405),
        ("GET", "/v1/indexes/news/documents/nobody", 404),
        ("GET", "/v1/indexes/news/documents/%00", 404),
        ("GET", "/v1/indexes/news/documents/%ed%a0%80", 400),
        ("GET", "/v1/indexes/other/documents/x", 404),
        ("GET", "/v1/indexes/..%2f..%2fetc/documents/passwd", 404),
        ("GET", "/v1/indexes/news/documents/../../../etc/passwd", 404),
        ("POST", "/livez", 405),
    ],
)
def test_addresses(served: Served, method: str, path: str, status: int) -> None:
    answer = served.ask(method, path)
    assert answer.status in (status, 404), answer.content
    assert answer.error["message"]


def test_a_request_with_more_tokens_than_the_queue_holds_never_fits(served: Served) -> None:
    answer = served.post("/v1/embeddings", {"model": "tiny", "input": ["word " * 500] * 700})
    assert answer.status == 413
    assert "tokens" in answer.error["message"]
    assert served.metric("moee_queue_tokens") == 0


def test_a_header_that_is_too_long_is_refused(served: Served) -> None:
    answer = served.ask("GET", "/livez", headers={"X-Long": "x" * 100_000})
    assert answer.status == 431
    assert served.get("/livez?" + "x" * 50_000).status == 431


def test_a_deleted_document_is_gone(tmp_path: Path, tiny: Encoder) -> None:
    from serving import build_news, news, serving

    index = build_news(tmp_path / "news", 20, tiny)
    name = news(1)[0].id
    with serving(index) as served:
        path = f"/v1/indexes/news/documents/{name}"
        assert served.get(path).status == 200
        delete_documents(index, [name])
        assert served.get(path).status == 404
        answer = served.post("/v1/search", {"like": name})
        assert answer.status == 404
        with Index.open(index) as opened:
            hits = served.post("/v1/search", {"query": "a", "k": 100}).json["hits"]
            assert len(hits) == len(opened) == 19


def test_openapi_describes_the_routes(served: Served) -> None:
    described = served.get("/openapi.json").json
    assert {"/v1/search", "/v1/embeddings", "/rerank", "/livez"} <= described["paths"].keys()
    assert "422" not in json.dumps(described)
