"""Mixed calls from 8 threads on one encoder and one index: every answer equals the one made alone.

    python tests/stress/threads.py [CALLS] [THREADS]

By hand, with the bundled model: prints the calls that answered otherwise (there must be none), and
the throughput beside one thread's. Exit status 1 where an answer differs.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from moee_index import Document, Embeddings, Encoder, Index

CALLS, THREADS = 2000, 8
WORDS = ("cats", "dogs", "ships", "bread", "moon", "trade", "war", "music", "rain", "law", "iron")
Call = Callable[[], object]


def texts(count: int, seed: int) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(1, 24))) for _ in range(count)]


def call(number: int, encoder: Encoder, index: Index, asked: Embeddings) -> Call:
    """The number-th of the mixed calls; equal numbers give equal calls."""
    some = texts(1 + number % 3, number)
    k, which = 1 + number % 12, number % 9
    row = slice(number % len(asked), number % len(asked) + 2)
    condition = None if number % 2 else f"n = {number % 5}"
    method = ("sum", "concat", "hs", "rw")[number // 9 % 4]
    if which < 3:
        return lambda: encoder.encode(some, query=which == 1)
    if which < 6:
        return lambda: index.search(
            some[0], k, method=method, filter=condition, passages=which == 5
        )
    if which < 8:
        taken = Embeddings(asked.hs[row], asked.rw[row])
        return lambda: index.search_embeddings(taken, k, method=method, filter=condition)
    ids = [f"d{(number * step) % len(index)}" for step in (1, 7, 11)]
    return lambda: (index.documents(ids), index.passages(ids))


def same(found: object, alone: object) -> bool:
    """Bit by bit: a call's batches are its own."""
    if isinstance(found, Embeddings) and isinstance(alone, Embeddings):
        return all(np.array_equal(found[part], values) for part, values in alone)
    return found == alone


def run(calls: Sequence[Call], threads: int) -> tuple[list[object], float]:
    """The answers, and calls a second."""
    started = time.perf_counter()
    if threads == 1:
        answers = [each() for each in calls]
    else:
        with ThreadPoolExecutor(threads) as pool:
            answers = list(pool.map(lambda each: each(), calls))
    return answers, len(calls) / (time.perf_counter() - started)


def main(count: int, threads: int) -> int:
    encoder = Encoder.load()
    documents = [
        Document(f"d{number}", text, {"n": number % 5}) for number, text in enumerate(texts(400, 1))
    ]
    with tempfile.TemporaryDirectory() as folder:
        Index.build(Path(folder) / "i", documents, encoder, chunk="16:4").close()
        with Index.open(Path(folder) / "i", lambda _: encoder) as index:
            asked = encoder.encode(texts(40, 2), query=True)
            calls = [call(number, encoder, index, asked) for number in range(count)]
            run(calls[:20], 1)  # what is loaded or tried once
            alone, rate = run(calls, 1)
            answers, together = run(calls, threads)
    wrong = [
        n for n, (one, two) in enumerate(zip(answers, alone, strict=True)) if not same(one, two)
    ]
    print(f"{count} calls, {threads} threads: {len(wrong)} answered otherwise {wrong[:10]}")
    print(f"one thread {rate:.1f} calls/s, {threads} threads {together:.1f} calls/s")
    return 1 if wrong else 0


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    sys.exit(main(*(given + [CALLS, THREADS][len(given) :])))
