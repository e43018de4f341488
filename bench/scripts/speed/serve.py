"""A server under load, on loopback: `python bench/scripts/speed/serve.py [INDEX]`.

warm: one client, one short query after the other. load: queries a second and their times with more
and more clients. batching: the rate of the most clients against that of a server whose batches hold
one text. limit: what is answered past the queue's limit. probes: /livez during a large batch.
mixed: resident memory over thousands of searches, embeddings and rerankings, some of whose clients
leave before the answer. Clients are threads of this process, which takes a part of the machine.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from harness import CORPUS, ROOT, make_parser, say, show

# Vectors alone: counting words and choosing snippets take most of a search, and are not batched.
VECTORS = {"lexical": 0, "snippets": False}
_JSON = {"Content-Type": "application/json"}
_WORDS = ("heat", "vote", "storm", "river", "train", "court", "music", "school", "flood", "law")


class Connection:
    """A client's connection, kept between its requests."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=600
        )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, content, _JSON if content else {})
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def running(*options: str | Path) -> Iterator[str]:
    """A server's address, once it is ready. options: on its command line."""
    command = [sys.executable, "-m", "moee_index", "serve", "--port", "0", "--no-log"]
    process = subprocess.Popen(
        [*command, *map(str, options)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    url = next(line.split()[-1] for line in process.stderr if "listening on" in line)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    while Connection(url).ask("GET", "/readyz")[0] != 200:
        time.sleep(0.1)
    try:
        yield url
    finally:
        process.terminate()
        process.wait()


def question(chance: random.Random) -> str:
    """A short query; hardly any two are equal."""
    return " ".join(chance.choices(_WORDS, k=5)) + f" {chance.randrange(10**6)}"


def milliseconds(times: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1)}


def load(url: str, clients: int, seconds: float, **options: Any) -> dict[str, Any]:
    """Queries a second, and how long they take, with so many clients at once; options: of
    /v1/search."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        chance, connection = random.Random(number), Connection(url)  # noqa: S311
        while time.perf_counter() < end:
            started = time.perf_counter()
            body = {"query": question(chance), "k": 10, **options}
            status, _ = connection.ask("POST", "/v1/search", body)
            times.append(time.perf_counter() - started)
            statuses[status] += 1

    side_by_side(client, clients)
    row = {"clients": clients, "queries_s": round(len(times) / seconds, 1), **milliseconds(times)}
    return {**row, "statuses": dict(statuses)}


def side_by_side(client: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def limit(index: Path) -> dict[str, Any]:
    """Statuses of 32 clients that together ask for many times what the queue holds."""
    statuses: Counter[int] = Counter()

    def client(number: int) -> None:
        connection = Connection(url)
        for turn in range(10):
            texts = [f"{number} {turn} {i} " + "some words " * 20 for i in range(40)]
            statuses[connection.ask("POST", "/v1/embeddings", _embeddings(texts))[0]] += 1

    with running(index, "--queue-tokens", "10000") as url:
        side_by_side(client, 32)
    return {"statuses": dict(statuses)}


def _embeddings(texts: list[str]) -> dict[str, Any]:
    return {"model": "tiny", "input": texts, "encoding_format": "base64"}


def probes(url: str) -> dict[str, Any]:
    """How long /livez takes while a large request is computed."""
    texts = [f"{i} " + "some more words " * 30 for i in range(2500)]
    large = threading.Thread(
        target=lambda: Connection(url).ask("POST", "/v1/embeddings", _embeddings(texts))
    )
    times: list[float] = []
    connection = Connection(url)
    large.start()
    time.sleep(0.2)
    while large.is_alive():
        started = time.perf_counter()
        connection.ask("GET", "/livez")
        times.append(time.perf_counter() - started)
        time.sleep(0.01)
    return {"probes": len(times), **milliseconds(times), "most_ms": round(max(times) * 1000, 1)}


def mixed(url: str, count: int, clients: int) -> dict[str, Any]:
    """Resident memory after a fifth of the requests, and after all."""
    done, first = 0, 0.0
    lock = threading.Lock()

    def client(number: int) -> None:
        nonlocal done, first
        chance, connection = random.Random(number), Connection(url)  # noqa: S311
        while True:
            with lock:
                if done >= count:
                    return
                done += 1
                if done == count // 5:
                    first = resident(url)
            path, body = request(chance)
            if chance.random() < 0.02:
                leave(url, path, body)
            else:
                connection.ask("POST", path, body)

    side_by_side(client, clients)
    time.sleep(12)  # a server gives freed memory back every few seconds
    last = resident(url)
    return {
        "requests": count,
        "resident_mb": [round(first / 1e6, 1), round(last / 1e6, 1)],
        "growth": round(last / first - 1, 4),
    }


def request(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A search, embeddings or a reranking, of any size."""
    texts = [question(chance) * chance.randrange(1, 30) for _ in range(chance.randrange(1, 12))]
    kind = chance.randrange(3)
    if kind == 0:
        return "/v1/search", {"query": question(chance), "k": chance.randrange(1, 100)}
    if kind == 1:
        return "/v1/embeddings", _embeddings(texts)
    return "/v1/rerank", {"query": question(chance), "documents": texts}


def leave(url: str, path: str, body: dict[str, Any]) -> None:
    """Ask, and do not wait for the answer."""
    address = urlsplit(url)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        time.sleep(0.005)


def resident(url: str) -> float:
    _, content = Connection(url).ask("GET", "/metrics")
    line = next(
        line for line in content.decode().splitlines() if line.startswith("moee_resident_bytes ")
    )
    return float(line.split()[1])


def measure(given: Any, index: Path) -> None:
    """Everything in turn, shown as it is there."""

    def tell(name: str, row: dict[str, Any]) -> None:
        show({"part": name, **row}, given.json, f"{name:9} {json.dumps(row)}")

    counts = [int(count) for count in given.clients.split(",")]
    with running(index) as url:
        load(url, 1, 2.0)
        tell("warm", load(url, 1, given.seconds))
        rows = [load(url, count, given.seconds) for count in counts]
        for row in rows:
            tell("load", row)
        together = load(url, counts[-1], given.seconds, **VECTORS)
        tell("probes", probes(url))
        tell("mixed", mixed(url, given.mixed, 8))
    with running(index, "--batch-tokens", "1") as url:
        load(url, 1, 2.0)
        alone = load(url, counts[-1], given.seconds, **VECTORS)
    ratio = together["queries_s"] / max(alone["queries_s"], 0.1)
    tell("batching", {"together": together, "alone": alone, "ratio": round(ratio, 2)})
    tell("limit", limit(index))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("index", type=Path, nargs="?", help="[default: one of the bundled corpus]")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--mixed", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = given.index
        if index is None:
            index = Path(folder) / "news"
            say(f"building an index of {CORPUS}")
            build = ["build", str(CORPUS), "--index", str(index)]
            subprocess.run(
                [sys.executable, "-m", "moee_index", "-q", *build], check=True, cwd=ROOT,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
        measure(given, index)


if __name__ == "__main__":
    main()
