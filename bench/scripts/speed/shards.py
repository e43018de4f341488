"""A head and three shards against one server of the same index, on loopback: `python
bench/scripts/speed/shards.py [INDEX]`.

Milliseconds of one client's queries, one after the other, on both in turn. new: queries whose words
have not been counted; again: a query that was asked before; vectors: words and snippets left out.
load: queries a second of several clients. All servers share this machine, which on two cores makes
a head slower than it is on four machines.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import CORPUS, ROOT, make_parser, say, show
from serve import VECTORS, Connection, load, milliseconds, question, running

# Shares of the corpus in three segments, none of which is joined with others.
_SHARES = (4, 2, 1)


def build(folder: Path) -> Path:
    """An index of the bundled corpus, in three segments."""
    lines = CORPUS.read_text(encoding="utf-8").rstrip("\n").split("\n")
    index, start = folder / "news", 0
    for number, share in enumerate(_SHARES):
        stop = start + share * len(lines) // sum(_SHARES)
        stop = len(lines) if number == len(_SHARES) - 1 else stop
        part = folder / f"{number}.jsonl"
        part.write_text("\n".join(lines[start:stop]) + "\n", encoding="utf-8")
        start = stop
        first = ["build", str(part), "--index", str(index)]
        command = ["add", str(index), str(part)] if number else first
        subprocess.run(
            [sys.executable, "-m", "moee_index", "-q", *command], check=True, cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return index


def ranges(index: Path) -> list[str]:
    """The segments of three servers."""
    manifest = json.loads((index / "manifest.json").read_text(encoding="utf-8"))
    count = len(manifest["segments"])
    if count < len(_SHARES):
        raise SystemExit(f"{index} has {count} segments; three servers need one each at least")
    first, second = count // 3, 2 * count // 3
    return [f"0-{first - 1}", f"{first}-{second - 1}", f"{second}-"]


def latencies(
    urls: dict[str, str], count: int, body: Callable[[random.Random], dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Milliseconds of queries on each server in turn."""
    connections = {name: Connection(url) for name, url in urls.items()}
    times: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(-5, count):
        # Each server has its own queries: the same again would be a matter of caches.
        for place, (name, connection) in enumerate(connections.items()):
            asked = body(random.Random(number * len(urls) + place))  # noqa: S311
            started = time.perf_counter()
            status, content = connection.ask("POST", "/v1/search", asked)
            if status != 200:
                raise SystemExit(content.decode("utf-8", "replace"))
            if number >= 0:
                times[name].append(time.perf_counter() - started)
    return {name: milliseconds(each) for name, each in times.items()}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("index", type=Path, nargs="?", help="[default: one of the bundled corpus]")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()

    def tell(name: str, row: dict[str, Any]) -> None:
        show({"what": name, **row}, given.json, f"{name}: {row}")

    with ExitStack() as stack:
        index = given.index
        if index is None:
            say(f"building an index of {CORPUS}")
            index = build(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        shards = [
            stack.enter_context(running(index, "--segments", segments))
            for segments in ranges(index)
        ]
        head = stack.enter_context(running("--shards", *shards))
        urls = {"head": head, "one": stack.enter_context(running(index))}
        tell("new", latencies(urls, given.queries, lambda chance: {"query": question(chance)}))
        tell("again", latencies(urls, given.queries, lambda _: {"query": "heat and a flood"}))
        vectors = latencies(
            urls, given.queries, lambda chance: {"query": question(chance), **VECTORS}
        )
        tell("vectors", vectors)
        for name, url in urls.items():
            tell(f"load {name}", load(url, given.clients, given.seconds))


if __name__ == "__main__":
    main()
