"""Encode, query and exact search alone and beside endless loops, for several numbers of threads.

    python bench/scripts/speed/busy.py [--threads 1,2,4] [--loops 0,1,2] [--runs 3] [--json]
        [--waits ours,before,late]

Each number of threads and way of waiting runs in a process of its own, `--runs` times in turn; the
table has the medians. Ways of waiting for one another: `ours` is what the package sets; `before`
what OpenMP's runtimes do by themselves; `late` a program that has imported torch before the
package; `passive` OMP_WAIT_POLICY=PASSIVE; a number that GOMP_SPINCOUNT.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import CORPUS, make_parser, median_seconds, run_way, say, show

# Articles encoded at once, documents searched, calls whose median counts.
_ARTICLES = 96
_DOCUMENTS = 10_000
_QUERIES = 15
_SECONDS = 1.5

_BEFORE = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
_WORK = ("articles_s", "query_ms", "search_ms")


def settings(wait: str) -> dict[str, str]:
    """The environment of a way of waiting."""
    if wait in ("ours", "late"):
        return {}
    if wait == "before":
        return _BEFORE
    if wait == "passive":
        return {"OMP_WAIT_POLICY": "PASSIVE"}
    return {"GOMP_SPINCOUNT": wait}


@contextmanager
def loops(count: int) -> Iterator[None]:
    """So many processes that do nothing but use a processor."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def rate(call: Callable[[], object], per_call: int) -> float:
    """So many things a second, over a second or two."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        call()
        done += per_call
    return done / (time.perf_counter() - started)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All loads in this process, which has its threads and its way of waiting."""
    if given.measure == "late":
        import torch

        torch.ones(1000, 1000) @ torch.ones(1000, 1000)
    from moee_index.encode.encoder import Encoder

    with CORPUS.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(_ARTICLES), strict=False)]
    encoder = Encoder.load(threads=given.threads[0])
    few = Encoder.load(threads=given.threads[0], few_texts=True)
    import search_data

    search_data.make(given.data, _DOCUMENTS, search_data.OLMOE)
    searcher = search_data.open_searcher(given.data)
    query = search_data.queries(1, search_data.OLMOE)
    found: dict[str, Any] = {}
    for call in (
        lambda: encoder.encode(texts),
        lambda: few.encode(texts[:1]),
        lambda: searcher.search(query, 10, "sum", 1.0),
    ):
        call()
    for count in given.loops:
        with loops(count):
            short = lambda: few.encode(["a storm in the north"], query=True)  # noqa: E731
            exact = lambda: searcher.search(query, 10, "sum", 1.0)  # noqa: E731
            found[str(count)] = {
                "articles_s": rate(lambda: encoder.encode(texts), len(texts)),
                "query_ms": median_seconds(short, _QUERIES) * 1000,
                "search_ms": median_seconds(exact, _QUERIES) * 1000,
            }
    return found


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def table(rows: list[dict[str, Any]], counts: list[int]) -> str:
    """One line for each number of threads and way of waiting; of the rates also the share of what
    the first way did alone with as many threads."""
    heads = [
        f"{name} +{count}" for name in ("articles/s", "query ms", "search ms") for count in counts
    ]
    lines = ["threads wait     " + "".join(f"{head:>16}" for head in heads)]
    alone = {row["threads"]: row["0"]["articles_s"] for row in reversed(rows) if "0" in row}
    for row in rows:
        cells = []
        for name in _WORK:
            for count in counts:
                value = row[str(count)][name]
                share = value / alone[row["threads"]] if row["threads"] in alone else None
                percent = f" {share:4.0%}" if name == "articles_s" and share is not None else ""
                cells.append(f"{value:.1f}{percent}")
        lines.append(
            f"{row['threads']:7} {row['wait']:<9}" + "".join(f"{cell:>16}" for cell in cells)
        )
    return "\n".join(lines)


def main() -> None:
    """Run all in turn, or as one of its processes measure."""
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=numbers, default=[1, 2, 4])
    parser.add_argument("--loops", type=numbers, default=[0, 1, 2])
    parser.add_argument("--waits", default="before,ours,late")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "moee-busy")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given)))
        return
    say(f"{os.cpu_count()} processors, load before {os.getloadavg()[0]:.1f}")
    taken: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for _ in range(given.runs):
        for threads in given.threads:
            for wait in given.waits.split(","):
                arguments = ["--measure", wait, "--threads", threads, "--data", given.data]
                arguments += ["--loops", ",".join(map(str, given.loops))]
                taken[threads, wait].append(run_way(__file__, arguments, **settings(wait)))
    rows = []
    for (threads, wait), runs in taken.items():
        row: dict[str, Any] = {"threads": threads, "wait": wait}
        for count in map(str, given.loops):
            row[count] = {
                name: statistics.median(run[count][name] for run in runs) for name in _WORK
            }
        rows.append({**row, "runs": runs})
        if given.json:
            show(rows[-1], True, "")
    if not given.json:
        print(table(rows, given.loops))


if __name__ == "__main__":
    main()
