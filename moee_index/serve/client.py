"""The command line's side: what a server is asked for in place of loading a model here.

Neither torch nor numpy is imported, for a warm answer is there before they would be.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moee_index.errors import MisuseError, MoeeIndexError, NotAnIndexError, counted
from moee_index.index.store.layout import MANIFEST
from moee_index.serve.address import Address, headers_of, why_unreachable
from moee_index.serve.errors import ServerMismatchError
from moee_index.serve.settings import KEY_VARIABLE
from moee_index.text import shown
from moee_index.types import EncoderOptions, Hit, Notify, Progress, Query, blocks

if TYPE_CHECKING:
    from moee_index.readers.candidates import CandidateList

VARIABLE = "MOEE_INDEX_SERVER"
# checkpoint.find.BUNDLED, whose module imports torch.
_BUNDLED = "tiny"
# What makes up the score of a text that is reranked.
_SHARES = ("score", "hs", "rw", "lexical", "bm25", "words")
# Texts of a request.
_TEXTS = 256
# Seconds to reach a server, to wait for an answer, and in all for one that is busy.
_CONNECT, _ANSWER, _BUSY = 3.0, 600.0, 60.0
# What decides how a model runs here, and can mean nothing there.
_RUN_OPTIONS = ("batch_tokens", "threads", "revision")


class Client:
    """A server at an address; key: as it wants it, from the environment.

    Raises MisuseError for an address that is none.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._address = Address.parse(url, "--server")
        self.url = self._address.url
        self._key = key
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("POST", path, json.dumps(body).encode("utf-8"))

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        """What a server answers; of one that is busy, once it is not.

        Raises ServerMismatchError where it cannot be reached, MisuseError for what it takes for a
        wrong call, MoeeIndexError for the rest.
        """
        end = time.monotonic() + _BUSY
        while True:
            status, wait, content = self._once(method, path, body)
            if status in (429, 503) and wait is not None and time.monotonic() + wait < end:
                time.sleep(wait)
                continue
            break
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if status == 200 and answer is not None:
            return answer
        raise self._error(status, answer)

    def _error(self, status: int, answer: Any) -> MoeeIndexError:
        error = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(error, dict):
            return ServerMismatchError(f"{self.url} is no moee-index server (status {status})")
        message = f"{self.url}: {error.get('message')}"
        if status == 401:
            return ServerMismatchError(f"{message}, which {KEY_VARIABLE} sets")
        return MisuseError(message) if status in (400, 404, 413) else MoeeIndexError(message)

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, float | None, bytes]:
        """Status, seconds to wait if it is busy, content; on a connection that may be kept."""
        fresh = self._connection is None
        try:
            connection = self._connected()
            connection.request(method, path, body, headers_of(self._key, body))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection = None
            if not fresh:
                return self._once(method, path, body)  # it was kept too long
            raise ServerMismatchError(
                f"{self.url} cannot be asked ({why_unreachable(error)}); is the server running?"
            ) from error
        wait = response.getheader("Retry-After")
        seconds = float(wait) if wait is not None and wait.isdecimal() else None
        return response.status, seconds, content

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = self._address.connect(_CONNECT)
            connection.sock.settimeout(_ANSWER)
            self._connection = connection
        return self._connection


@dataclass(frozen=True)
class Remote:
    """A server, and what is asked of it. name: of the index or model there; told: how the index is
    called here; alpha, lexical: its default weights of RW in `sum` and of words; revision: the one
    that is meant, None for any."""

    client: Client
    name: str
    told: str
    alpha: float = 1.0
    lexical: float = 0.0
    revision: int | None = None


def at_server(url: str | None, tell: Notify, find: Callable[[Client], Remote]) -> Remote | None:
    """What is asked of a server, or None for what is done here: without `url` that of
    MOEE_INDEX_SERVER is tried, and why it does not serve is told.

    Raises ServerMismatchError where the server of `url` does not serve.
    """
    key = os.environ.get(KEY_VARIABLE)
    if url is not None:
        return find(Client(url, key))
    variable = os.environ.get(VARIABLE)
    if not variable:
        return None
    try:
        return find(Client(variable, key))
    except MoeeIndexError as error:
        tell(f"not asked of {VARIABLE}, but done here: {error}")
        return None


def find_index(
    client: Client, index: Path | None, options: Mapping[str, Any], default: Callable[[], Path]
) -> Remote:
    """The index that is meant, on a server: a directory's by what its manifest holds, else by its
    name there. default: gives the directory that is meant where none is named.

    Raises ServerMismatchError where it is not served as it is here, or with other options.
    """
    entries = client.get("/v1/indexes")["data"]
    if index is None:
        try:
            index = default()
        except NotAnIndexError:
            return _only(client, entries, options)
    if (index / MANIFEST).is_file():
        digest = hashlib.sha256((index / MANIFEST).read_bytes()).hexdigest()
        found = next((entry for entry in entries if entry["digest"] == digest), None)
        why = "does not serve this version of"
    else:
        found = next((entry for entry in entries if entry["name"] == str(index)), None)
        why = "has no index"
    if found is None:
        raise ServerMismatchError(f"{client.url} {why} {index} (it has {_names(entries)})")
    _check_options(client, found, options)
    return _found(client, found, str(index))


def _only(client: Client, entries: Sequence[Any], options: Mapping[str, Any]) -> Remote:
    if len(entries) != 1:
        raise ServerMismatchError(
            f"{client.url} has {counted(len(entries), 'index', 'indexes')} "
            f"({_names(entries)}); name one with --index"
        )
    (only,) = entries
    _check_options(client, only, options)
    return _found(client, only, only["name"])


def _found(client: Client, entry: Mapping[str, Any], told: str) -> Remote:
    revision = entry["revision"]
    return Remote(client, entry["name"], told, entry["alpha"], entry["lexical"], revision)


def _names(entries: Sequence[Any]) -> str:
    return ", ".join(entry["name"] for entry in entries) or "none"


def find_model(client: Client, options: Mapping[str, Any]) -> Remote:
    """The model that is meant, on a server. Raises ServerMismatchError where it is not served, or
    with other options."""
    wanted = options["model"] or _BUNDLED
    entries = client.get("/v1/models")["data"]
    found = next((entry for entry in entries if entry["id"] == wanted), None)
    if found is None or "encoder" not in found:
        raise ServerMismatchError(f"{client.url} does not serve the model {shown(wanted)}")
    asked = {name for name in EncoderOptions.names() if options[name] not in (None, "auto")}
    if not found["as_shipped"] and asked != set(EncoderOptions.names()):
        raise ServerMismatchError(
            f"{client.url} serves the model {wanted} with other options than its own"
        )
    _check_options(client, {**found, "model": wanted}, options)
    return Remote(client, wanted, wanted)


def _check_options(client: Client, entry: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raises ServerMismatchError for an option that was given and is not so on the server."""
    given = {name: options[name] for name in EncoderOptions.names()}
    if options["model"] is not None:
        given["model"] = options["model"]
    there = {**entry["encoder"], "model": entry["model"].partition("@")[0]}
    for name, value in given.items():
        if value not in (None, "auto") and value != there[name]:
            flag = name.replace("_", "-")
            raise ServerMismatchError(
                f"--{flag} {shown(str(value))} is {shown(str(there[name]))} on {client.url}"
            )
    for name in _RUN_OPTIONS:
        if options[name] is not None:
            raise ServerMismatchError(f"--{name.replace('_', '-')} cannot be had of {client.url}")
    if options["device"] != "auto":
        raise ServerMismatchError(f"--device cannot be had of {client.url}")


@dataclass(frozen=True)
class RemoteAnswer:
    """A query's hits as JSON has them, and the fields that stand between query and hits there."""

    query: Query
    hits: list[dict[str, Any]]
    details: dict[str, Any]


def hits_of(answer: RemoteAnswer) -> list[Hit]:
    """The hits of an answer."""
    return [Hit.from_json(hit) for hit in answer.hits]


@dataclass(frozen=True)
class RemoteSnippet:
    """The best part of a hit's text, as a server chose it."""

    text: str
    marks: tuple[tuple[int, int], ...]

    def as_json(self) -> dict[str, Any]:
        return {"snippet": self.text, "marks": self.marks}


@dataclass(frozen=True)
class RemoteSnippets:
    """What shows a hit's text: the part that the server chose."""

    chosen: RemoteSnippet

    def snippet(self, text: str, width: int = 0) -> RemoteSnippet:
        """That part, whatever the width: it was asked for in the terminal's."""
        return self.chosen

    def marks(self, text: str) -> Sequence[tuple[int, int]]:
        """Where words of the query are in a line, where that is the part."""
        return self.chosen.marks if text == self.chosen.text else ()


def snippets_of(answer: RemoteAnswer) -> Callable[[Hit], RemoteSnippets]:
    """From a hit of an answer to what shows its text."""
    parts = {
        hit["rank"]: RemoteSnippet(hit["snippet"], tuple(map(tuple, hit["marks"])))
        for hit in answer.hits
    }
    return lambda hit: RemoteSnippets(parts[hit.rank])


@dataclass(frozen=True)
class RemoteRanking:
    """A candidate list and its hits; alpha: the weight of RW in `sum`, None for other methods."""

    asked: CandidateList
    hits: list[Hit]
    alpha: float | None
    lexical: float
    seconds: float


def search(
    remote: Remote, queries: Iterable[Query], body: Mapping[str, Any], *, block: int
) -> Iterator[RemoteAnswer]:
    """Answers in the order of the queries, `block` of them asked together. body: the options, as
    /v1/search takes them."""
    common = {**body, "index": remote.name, "revision": remote.revision}
    for some in blocks(queries, block):
        asked = {**common, "query": [query.text for query in some]}
        answers = remote.client.post("/v1/search", asked)["answers"]
        for query, answer in zip(some, answers, strict=True):
            yield RemoteAnswer(query, *_parts(remote, answer))


def search_like(remote: Remote, identifier: str, body: Mapping[str, Any]) -> RemoteAnswer:
    """Documents like one of them."""
    common = {**body, "index": remote.name, "revision": remote.revision}
    answer = remote.client.post("/v1/search", {**common, "like": identifier})
    return RemoteAnswer(Query(identifier, ""), *_parts(remote, answer))


def _parts(remote: Remote, answer: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    hits = answer.pop("hits")
    for name in ("query", "query_id", "revision"):
        del answer[name]
    return hits, {**answer, "index": remote.told}


def rerank_lists(
    remote: Remote, lists: Iterable[CandidateList], body: Mapping[str, Any]
) -> Iterator[RemoteRanking]:
    """Candidate lists in the order of a server. body: the options, as /v1/rerank takes them."""
    for request in lists:
        started = time.perf_counter()
        documents = request.candidates
        hits: list[Hit] = []
        alpha = body["alpha"]
        if alpha is None and body["method"] == "sum":
            alpha = remote.alpha
        lexical = remote.lexical if body["lexical"] is None else body["lexical"]
        answer: dict[str, Any] = {"alpha": alpha, "lexical": lexical, "results": []}
        if documents:
            asked = {
                **body,
                "model": remote.name,
                "query": request.query,
                "documents": [document.content for document in documents],
            }
            answer = remote.client.post("/v1/rerank", asked)
        first: dict[str, Any] = {}
        for result in answer["results"]:
            # Of documents that share an id the best one counts.
            first.setdefault(documents[result["index"]].id, result)
        for rank, result in enumerate(first.values(), 1):
            document = documents[result["index"]]
            shares = {name: result[name] for name in _SHARES if name in result}
            hits.append(
                Hit.from_json(
                    {
                        **shares,
                        "rank": rank,
                        "id": document.id,
                        "text": document.text,
                        "metadata": document.metadata,
                    }
                )
            )
        seconds = time.perf_counter() - started
        yield RemoteRanking(request, hits, answer["alpha"], answer["lexical"], seconds)


def embed(
    remote: Remote, texts: Sequence[str], method: str, body: Mapping[str, Any], progress: Progress
) -> Iterator[bytes]:
    """Vectors as little-endian float32, in the order of the texts. body: alpha, raw."""
    done = 0
    for some in blocks(texts, _TEXTS):
        asked = {
            **body,
            "model": f"{remote.name}#{method}",
            "input": some,
            "encoding_format": "base64",
            "unit": False,
        }
        for item in remote.client.post("/v1/embeddings", asked)["data"]:
            yield base64.b64decode(item["embedding"])
        done += len(some)
        progress("embedding", done, len(texts))
