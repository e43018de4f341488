"""Who may ask: keys, names of the server, pages of other sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import one_line_error, run
from serving import Served, serving

KEY, OTHER = "a-key-of-16-or-more", "another-key-of-ours"
ASK = {"query": "a", "texts": ["b"]}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without an index, that wants a key and knows a proxy and a site."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# ours\n{OTHER}\n\n  {KEY}\n", encoding="utf-8")
    more = ["--allowed-host", "search.example.org", "--cors-origin", "https://app.example.org"]
    with serving("--api-key-file", keys, *more) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_any_of_the_keys_opens(locked: Served, key: str) -> None:
    assert locked.post("/rerank", ASK, headers=bearer(key)).status == 200
    assert locked.post("/rerank", ASK, headers={"Authorization": f"bearer {key}"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer(KEY[:-1]),
        bearer(KEY + "x"),
        bearer("# ours"),
        bearer("käse" * 8),
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
    ],
)
def test_nothing_else_does(locked: Served, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in ("/rerank", "/v1/search", "/v1/embeddings"):
        answer = locked.post(path, ASK, headers=encoded)  # type: ignore[arg-type]
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert KEY not in answer.error["message"]
    for path in ("/metrics", "/v1/models", "/v1/indexes", "/openapi.json", "/info"):
        assert locked.get(path, headers=encoded).status == 401  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_probes_need_neither_key_nor_name(locked: Served, path: str) -> None:
    assert locked.get(path, headers={"Host": "10.1.2.3:8080"}).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:8080", 200),
        ("search.example.org", 200),
        ("search.example.org:443", 200),
        ("attacker.example", 421),
        ("search.example.org.attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("192.168.0.7", 421),
        ("", 421),
    ],
)
def test_a_request_for_another_server_is_refused(locked: Served, host: str, status: int) -> None:
    """What a page sends whose own name has been made to mean this machine."""
    answer = locked.post("/rerank", ASK, headers={**bearer(KEY), "Host": host})
    assert answer.status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://app.example.org", 200),
        ("https://APP.example.org", 200),
        ("http://app.example.org", 403),
        ("https://app.example.org.attacker.example", 403),
        ("http://attacker.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_of_other_sites_are_refused(locked: Served, origin: str, status: int) -> None:
    answer = locked.post("/rerank", ASK, headers={**bearer(KEY), "Origin": origin})
    assert answer.status == status
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (origin if status == 200 else None)


def test_its_own_page_may_ask(locked: Served) -> None:
    own = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}
    assert locked.post("/rerank", ASK, headers={**bearer(KEY), **own}).status == 200
    other = {"Host": "localhost:8080", "Origin": "http://localhost:3000"}
    assert locked.post("/rerank", ASK, headers={**bearer(KEY), **other}).status == 403


def test_a_browser_may_send_the_key_from_an_allowed_site(locked: Served) -> None:
    asked = {
        "Origin": "https://app.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answer = locked.ask("OPTIONS", "/v1/search", headers=asked)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    foreign = locked.ask(
        "OPTIONS", "/v1/search", headers={**asked, "Origin": "http://attacker.example"}
    )
    assert foreign.status == 403 and "access-control-allow-origin" not in foreign.headers


def test_without_a_key_nobody_else_is_let_in(served: Served) -> None:
    rebound = {"Host": "attacker.example:8080", "Origin": "http://attacker.example:8080"}
    assert served.post("/rerank", ASK, headers=rebound).status == 421
    assert served.post("/rerank", ASK, headers={"Origin": "http://attacker.example"}).status == 403
    assert "access-control-allow-origin" not in served.post("/rerank", ASK).headers


def test_the_log_names_a_key_by_its_fingerprint_and_holds_no_text(locked: Served) -> None:
    secret = "nobody may read this"
    answer = locked.post("/rerank", {"query": secret, "texts": [secret]}, headers=bearer(KEY))
    name = answer.headers["x-request-id"]
    from serving import wait_for

    wait_for(lambda: any(record["id"] == name for record in locked.records()))
    (record,) = [record for record in locked.records() if record["id"] == name]
    assert record["route"] == "/rerank" and record["status"] == 200
    assert len(record["key"]) == 8 and record["tokens"] > 0 and record["texts"] == 2
    assert {"read", "tokenize", "queue", "forward", "scan", "write"} <= record["stages_ms"].keys()
    assert secret not in str(locked.lines) and KEY not in str(locked.lines)


def test_a_requests_own_id_is_kept(locked: Served) -> None:
    kept = locked.get("/livez", headers={"X-Request-ID": "mine-7"})
    assert kept.headers["x-request-id"] == "mine-7"
    made = locked.get("/livez", headers={"X-Request-ID": 'x" y'})
    assert made.headers["x-request-id"] != 'x" y'


# The command line


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--host", "::"], "--api-key-file"),
        (["--host", "example.invalid", "--no-auth"], "listened on"),
        (["--api-key-file", "keys", "--no-auth"], "contradicts"),
        (["--cors-origin", "example.org"], "https://example.org"),
        (["--cors-origin", "*"], "https://example.org"),
        (["--name", "DIR"], "NAME=DIR"),
        (["--name", "a/b=DIR"], "cannot be an index's name"),
        (["--name", "a#hs=DIR"], "cannot be an index's name"),
        (["--name", "=DIR"], "cannot be an index's name"),
        (["one/news", "two/news"], "also the name of one/news"),
        (["--port", "70000"], "--port"),
        (["--grace", "-1"], "--grace"),
        (["--deadline", "0"], "--deadline"),
    ],
)
def test_a_server_that_makes_no_sense_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys").write_text(KEY, encoding="utf-8")
    assert word in one_line_error(run("serve", *args, status=2))


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (None, 1, "cannot be read"),
        (b"", 2, "no key"),
        (b"# nothing\n", 2, "no key"),
        (b"short\n", 2, "keys:1"),
        (b"a-key-of-16-or-more\nwith a blank in it\n", 2, "keys:2"),
        ("schlüssel-schlüssel".encode(), 2, "ASCII"),
        (b"\xff\xfe\xff\xfe", 2, "UTF-8"),
    ],
)
def test_a_file_of_keys_that_makes_no_sense(
    tmp_path: Path, content: bytes | None, status: int, word: str
) -> None:
    keys = tmp_path / "keys"
    if content is not None:
        keys.write_bytes(content)
    result = run("serve", "--api-key-file", keys, "--port", "0", status=status)
    assert word in one_line_error(result)
    assert "a-key-of-16-or-more" not in result.stderr


def test_what_is_no_index_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    assert str(tmp_path) in one_line_error(run("serve", tmp_path, "--port", "0", status=1))


def test_a_port_that_is_taken_is_told(served: Served) -> None:
    port = served.url.rsplit(":", 1)[1]
    assert f"--port {port}" in one_line_error(run("serve", "--port", port, status=2))
