"""A head and its shards: what is refused at the start, what becomes of lost, slow and newer shards,
and a whole server before them."""

from __future__ import annotations

import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import one_line_error, run
from serving import Served, news, serving, serving_all, wait_for
from shards import Running, part_of, sharded

from fakes.word_encoder import FakeEncoder, fake_spec
from moee_index import Document, Encoder
from moee_index.errors import FingerprintMismatchError, MisuseError
from moee_index.index import add_documents, build_index, delete_documents
from moee_index.index.search.request import SearchRequest
from moee_index.serve.errors import RevisionError, ServerMismatchError, ShardError
from moee_index.serve.indexes import ServedIndex
from moee_index.serve.settings import Access, Spread
from moee_index.serve.shards.source import Shards

RANGES = ("0", "1", "2-")


def build(directory: Path, encoder: Any, documents: list[Document]) -> Path:
    """Three segments, of half as many documents each."""
    third = len(documents) // 7
    build_index(directory, documents[: 4 * third], encoder)
    add_documents(directory, documents[4 * third : 6 * third], encoder)
    add_documents(directory, documents[6 * third :], encoder)
    return directory


def texts(count: int = 70) -> list[Document]:
    return [Document(f"d{n}", f"w{n % 9} w{n % 7} w{n % 5}", {"x": n % 3}) for n in range(count)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "words", FakeEncoder(), texts())


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    """A copy of its own, to be changed."""
    return Path(shutil.copytree(built, tmp_path / "words"))


@pytest.fixture
def shards(index: Path, tmp_path: Path) -> Iterator[list[Running]]:
    with sharded(index, tmp_path / "parts", RANGES) as running:
        yield running


def head(running: list[Running], **options: Any) -> ServedIndex:
    source = Shards(Spread(tuple(each.url for each in running), **options))
    return ServedIndex(source.name(), source)


def ids(served: ServedIndex, *, partial: bool = False, k: int = 1000) -> tuple[set[str], list[int]]:
    """What a search finds, and the segments that gave no answer."""
    with served.held() as version:
        index = version.index.for_request(partial=partial)
        query = FakeEncoder().encode(["w1 w2"])
        (hits,) = index.answer(SearchRequest.checked(k, lexical=0.5), query, ["w1 w2"])
        assert hits.exact == (not index.missing)
        return {hit.id for hit in hits}, list(index.missing)


# The start


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (("0-1", "1-2"), "segment 1 is on URL0 and on URL1; give them segments that do not"),
        (("0-2", "1"), "segment 1 is on URL0 and on URL1"),
        (("0", "2"), "segment 1 is on none of the shards, and words has 3 segments"),
        (("1-2",), "segment 0 is on none of the shards"),
        (("0",), "segments 1-2 are on none of the shards"),
    ],
)
def test_segments_are_each_on_one_shard(
    index: Path, tmp_path: Path, ranges: tuple[str, ...], said: str
) -> None:
    with sharded(index, tmp_path / "parts", ranges) as running:
        for number, each in enumerate(running):
            said = said.replace(f"URL{number}", each.url)
        with pytest.raises(MisuseError) as raised:
            head(running)
        assert said in str(raised.value)


def test_shards_are_of_one_version_of_one_index_and_one_model(
    index: Path, shards: list[Running], tmp_path: Path
) -> None:
    other = build(tmp_path / "other" / "words", FakeEncoder(), texts(77))
    model = build(
        tmp_path / "model" / "words", FakeEncoder(fake_spec(fingerprint="e" * 64)), texts()
    )
    for directory, kind, said in (
        (other, MisuseError, "serve two indexes (built"),
        (model, FingerprintMismatchError, "were built with different models (fake, fingerprint f"),
    ):
        with (
            sharded(directory, tmp_path / "more", ["1"]) as more,
            pytest.raises(kind, match="http") as raised,
        ):
            head([shards[0], *more, shards[2]])
        assert said in str(raised.value)
    delete_documents(index, ["d1"])
    part_of(index, shards[1].directory, "1")
    with pytest.raises(RevisionError, match=r"at revision 3 of words, and \S+ at 4; copy the new"):
        head(shards)


def test_addresses_are_of_shards(shards: list[Running]) -> None:
    with pytest.raises(MisuseError, match="name the servers: moee-index serve --shards URL"):
        head([])
    with pytest.raises(MisuseError, match="is named twice"):
        head([*shards, shards[0]])
    with pytest.raises(MisuseError, match="--shards 'words' is no address of a server"):
        Shards(Spread(("words",)))
    shards[1].stop()
    with pytest.raises(ServerMismatchError, match=rf"{shards[1].url} cannot be asked"):
        head(shards)
    shards[1].start()
    foreign = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=foreign.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{foreign.server_port}"
    with pytest.raises(ServerMismatchError, match=f"{url} is no server of segments"):
        Shards(Spread((url,))).name()
    foreign.shutdown()
    foreign.server_close()


def test_a_key_is_sent_to_shards(index: Path, tmp_path: Path) -> None:
    access = Access(keys=(b"a-key-of-16-or-more",))
    with sharded(index, tmp_path / "parts", RANGES, access) as running:
        with pytest.raises(ServerMismatchError, match=r"API key is missing.*--shard-key-file"):
            head(running)
        with pytest.raises(ServerMismatchError, match="is not known"):
            head(running, key="another-key-of-16")
        assert len(ids(head(running, key="a-key-of-16-or-more"))[0]) == 70


# Lost, slow, newer


def test_a_lost_shard_is_an_error_unless_a_part_will_do(shards: list[Running]) -> None:
    served = head(shards)
    assert ids(served) == ({f"d{n}" for n in range(70)}, [])
    shards[1].stop()
    with pytest.raises(ShardError, match=rf"{shards[1].url} cannot be asked .*; start that server"):
        ids(served)
    found, missing = ids(served, partial=True)
    assert found == {f"d{n}" for n in (*range(40), *range(60, 70))} and missing == [1]
    with served.held() as version:
        # A document that is there is told of, one that is not there may be on the lost one.
        assert set(version.index.documents(["d3"])) == {"d3"}
        with pytest.raises(ShardError):
            version.index.documents(["d45"])
        with pytest.raises(ShardError):
            version.index.for_request(partial=True).answer_like(SearchRequest.checked(), "d45")
        index = version.index.for_request(partial=True)
        assert len(index.answer_like(SearchRequest.checked(90), "d3")) == 49
        assert index.missing == [1] and index.count_documents("x = 1") == 16
    served.refresh(watching=True)
    assert served.fault is not None and shards[1].url in served.fault
    shards[1].start()
    assert ids(served) == ({f"d{n}" for n in range(70)}, [])
    served.refresh(watching=True)
    assert served.fault is None and served.reloads == 0
    for each in shards:
        each.stop()
    with pytest.raises(ShardError):
        ids(served, partial=True)
    for each in shards:
        each.start()


def test_a_slow_shard_has_its_time_and_no_more(shards: list[Running]) -> None:
    served = head(shards, timeout=1.0)
    assert len(ids(served)[0]) == 70
    shards[2].delay = 30.0
    started = time.monotonic()
    with pytest.raises(ShardError, match=r"has not answered within 1 seconds; .*--shard-timeout"):
        ids(served)
    asked = len(shards[2].asked)
    found, missing = ids(served, partial=True)
    # Once it was not there for a request, it is not waited for again.
    assert len(found) == 60 and missing == [2] and len(shards[2].asked) == asked + 1
    assert time.monotonic() < started + 6
    shards[2].delay = 0.0
    assert len(ids(served)[0]) == 70


def test_shards_are_asked_at_the_same_time(shards: list[Running]) -> None:
    served = head(shards)
    ids(served)
    for each in shards:
        each.delay = 0.5
    started = time.monotonic()
    ids(served)  # the words of the query are known
    assert 0.5 < time.monotonic() - started < 1.4
    assert [each.asked[-1] for each in shards] == ["/v1/shard/search"] * 3


def test_a_newer_version_is_served_once_all_shards_have_it(
    index: Path, shards: list[Running]
) -> None:
    served = head(shards)
    ids(served)
    delete_documents(index, ["d0", "d69"])
    part_of(index, shards[0].directory, RANGES[0])
    with pytest.raises(RevisionError, match=r"words is at revision 4, not 3; ask again once all"):
        ids(served)
    with pytest.raises(RevisionError):
        ids(served)
    assert served.fault is not None and "copy the newest to all" in served.fault
    # What is at another version is no part of this one.
    assert ids(served, partial=True)[1] == [0]
    part_of(index, shards[1].directory, RANGES[1])
    # Started anew with the newer version.
    shards[2].stop()
    part_of(index, shards[2].directory, RANGES[2])
    shards[2].start()
    found, _ = ids(served)
    assert len(found) == 68 and served.version.revision == 4 and served.fault is None


@pytest.mark.parametrize("last", ["2-", "2"])
def test_what_is_added_is_served_by_who_has_all_later_segments(
    index: Path, tmp_path: Path, last: str
) -> None:
    ranges = ("0", "1", last)
    with sharded(index, tmp_path / "parts", ranges) as running:
        served = head(running)
        add_documents(index, [Document("new", "w1 w2")], FakeEncoder())
        for each, segments in zip(running, ranges, strict=True):
            part_of(index, each.directory, segments)
        served.refresh(watching=True)
        if last == "2-":
            assert served.fault is None and "new" in ids(served)[0]
        else:
            assert "segment 3 is on none of the shards, and words has 4" in str(served.fault)


# A head as it is started, with the model that is bundled


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Encoder) -> Path:
    return build(tmp_path_factory.mktemp("whole") / "news", tiny, news(140))


@pytest.fixture(scope="module")
def both(
    whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Served, list[Running]]]:
    """A head, and a server that has all of the same index."""
    with (
        sharded(whole, tmp_path_factory.mktemp("parts"), RANGES) as running,
        serving_all(("--shards", *(each.url for each in running)), (whole,)) as (ours, theirs),
    ):
        yield ours, theirs, running


QUERY = "a vote in parliament"
BODIES: tuple[dict[str, Any], ...] = (
    {"query": QUERY},
    {"query": [QUERY, "a storm", QUERY], "k": 30, "offset": 2},
    {"query": QUERY, "method": "concat", "lexical": 0.5, "k1": 0.9, "b": 0.3},
    {"query": QUERY, "lexical": 1, "k": 200},
    {"query": QUERY, "lexical": 0, "alpha": 0.25, "snippet_width": 60},
    {"query": QUERY, "filter": 'part = "evening"', "facets": ["part", "number"], "passages": True},
    {"query": QUERY, "method": "hs", "min_score": 0.1, "k": 200, "snippets": False},
    {"query": 'parliament -election "the"', "syntax": True, "facets": ["part"], "partial": True},
    {"like": news(1)[0].id, "k": 7},
    {"query": QUERY, "exact": True, "revision": 3},
)


@pytest.mark.parametrize("body", BODIES)
def test_a_head_answers_searches_as_one_server(
    both: tuple[Served, Served, list[Running]], body: dict[str, Any]
) -> None:
    ours, theirs, _ = both
    answers = [each.post("/v1/search", body) for each in (ours, theirs)]
    assert [answer.status for answer in answers] == [200, 200], answers[0].content
    found, expected = (answer.json for answer in answers)
    for answer in (found, expected):
        for each in answer.get("answers", [answer]):
            del each["took_ms"]
    assert found == expected


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/indexes", None),
        ("GET", "/v1/models", None),
        ("GET", f"/v1/indexes/news/documents/{news(100)[99].id}", None),
        ("GET", f"/v1/indexes/news/passages?id={news(130)[129].id}", None),
        ("POST", "/v1/indexes/news/facets", {"filter": "number > 20", "query": "+the"}),
        ("POST", "/v1/indexes/news/filter", {"filter": "number > 20"}),
        ("POST", "/v1/indexes/news/filter", {"filter": "numbr > 20"}),
        (
            "POST", "/v1/indexes/news/routing",
            {"document": news(1)[0].id, "other": news(140)[139].id},
        ),
        ("POST", "/v1/indexes/news/routing", {"document": news(140)[139].id, "query": QUERY}),
        ("POST", "/v1/rerank", {"model": "news", "query": QUERY, "documents": ["A vote", "Rain"]}),
        (
            "POST", "/v1/rerank",
            {"model": "news", "query": QUERY, "texts": ["A vote", "Rain"], "lexical": 0.5},
        ),
        ("POST", "/v1/embeddings", {"model": "news#sum", "input": ["one", "two"]}),
        ("GET", "/", None),
    ],
)  # fmt: skip
def test_a_head_answers_all_else_as_one_server(
    both: tuple[Served, Served, list[Running]], method: str, path: str, body: Any
) -> None:
    ours, theirs, _ = both
    answers = [each.ask(method, path, body) for each in (ours, theirs)]
    assert [answer.status for answer in answers] == [200, 200], answers[0].content
    if path == "/":
        assert answers[0].content == answers[1].content
        return
    found, expected = (answer.json for answer in answers)
    for models in (found, expected):
        for entry in models["data"] if path == "/v1/models" else ():
            del entry["created"]
    assert found == expected


def test_what_a_head_cannot_tell_is_refused(both: tuple[Served, Served, list[Running]]) -> None:
    ours, theirs, _ = both
    path = "/v1/indexes/news/routing/documents?layer=0&expert=0"
    assert theirs.get(path).status == 200
    answer = ours.get(path)
    assert (
        answer.status == 400
        and "has all of news: moee-index serve INDEX" in (answer.error["message"])
    )
    for body in ({"query": "a", "filter": "numbr = 1"}, {"like": "nothing"}, {"query": ""}):
        found, expected = (each.post("/v1/search", body) for each in (ours, theirs))
        assert found.status == expected.status >= 400
        assert found.error == expected.error


def test_assistants_and_the_command_line_ask_a_head(
    both: tuple[Served, Served, list[Running]], whole: Path
) -> None:
    ours, theirs, _ = both
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    accept = {"Accept": "application/json, text/event-stream"}
    for name, arguments in (("search", {"query": QUERY}), ("list_indexes", {})):
        body = {**call, "params": {"name": name, "arguments": arguments}}
        found, expected = (each.post("/mcp", body, headers=accept) for each in (ours, theirs))
        assert found.status == expected.status == 200 and found.content == expected.content
    asked = ["query", "--index", whole, "--json", "-k", "3", QUERY, "--server"]
    found, expected = (run(*asked, each.url).stdout for each in (ours, theirs))
    assert [line.partition('"took_ms"')[0] for line in found.splitlines()] == [
        line.partition('"took_ms"')[0] for line in expected.splitlines()
    ]


def test_a_part_is_told_as_one(both: tuple[Served, Served, list[Running]]) -> None:
    ours, _, running = both
    running[0].stop()
    try:
        answer = ours.post("/v1/search", {"query": "not asked before", "k": 200})
        assert answer.status == 503 and answer.error["type"] == "overloaded_error"
        assert running[0].url in answer.error["message"]
        body = {"query": "not asked before", "k": 200, "partial": True, "facets": ["part"]}
        found = ours.post("/v1/search", body).json
        assert found["partial"] is True and found["missing_segments"] == [0]
        assert len(found["hits"]) == 60 and not found["exact"]
        assert sum(each["count"] for each in found["facets"][0]["values"]) == 60
        wait_for(lambda: "news" in ours.get("/readyz").json["unreadable"], ours, 20)
    finally:
        running[0].start()
    wait_for(lambda: not ours.get("/readyz").json["unreadable"], ours, 20)
    found = ours.post("/v1/search", {**body, "query": "asked now", "partial": True}).json
    assert "partial" not in found and len(found["hits"]) == 140


def test_a_server_of_segments_answers_a_head_alone(index: Path) -> None:
    with serving(index, "--segments", "0-1") as served:
        told = served.get("/v1/shard").json
        assert (told["first"], told["last"], told["segments"]) == (0, 1, 3)
        assert told["documents"] == 60 and told["revision"] == 3
        for path in ("/v1/search", "/v1/embeddings", "/mcp"):
            answer = served.post(path, {"query": "w1"})
            assert answer.status == 404 and "ask the head" in answer.error["message"]
        version = {"digest": "0" * 64, "revision": 3}
        answer = served.post("/v1/shard/first", version)
        assert answer.status == 409 and "is another index" in answer.error["message"]
        version["digest"] = told["digest"]
        for path, body in (
            ("/search", {}),
            ("/vectors", {"rows": [65]}),
            ("/words", {"terms": [1]}),
        ):
            answer = served.post(f"/v1/shard{path}", {**version, **body})
            assert answer.status == 400 and answer.error["message"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("INDEX", "--segments", "0-3"), "has 3 segments (0-2), so that segments 0-3 cannot"),
        (("INDEX", "--segments", "3-"), "has 3 segments (0-2)"),
        (("INDEX", "--segments", "2-1"), "the first is 0 or more, the last no less"),
        (("INDEX", "--segments", "all"), "are written as 0-3, as 2, or as 4-"),
        (("--segments", "0"), "--segments are of one index"),
        (("INDEX", "--segments", "0", "--model", "tiny"), "--model is for a model, and with --seg"),
        (("--shards",), "name the servers"),
        (("--shards", "http://127.0.0.1:1", "--segments", "0"), "--segments is for an index that"),
        (("--shards", "http://127.0.0.1:1", "--name", "a=b"), "--name is for an index that"),
        (("INDEX", "--shard-key-file", "keys"), "--shard-key-file is for a head"),
    ],
)
def test_options_that_do_not_go_together(index: Path, options: tuple[str, ...], said: str) -> None:
    given = [str(index) if option == "INDEX" else option for option in options]
    assert said in one_line_error(run("serve", "--port", "0", *given, status=2))


def test_a_head_without_its_shards_does_not_start() -> None:
    error = one_line_error(run("serve", "--shards", "http://127.0.0.1:1", "--port", "0", status=1))
    assert "http://127.0.0.1:1 cannot be asked" in error
