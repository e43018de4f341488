r"""Memory of the driver and of the workers of a build, as documents become more.

    PYTHONPATH=tests python bench/scripts/speed/worker_memory.py DIRECTORY \
        [--documents 200000 1000000] [--workers 2]

The encoder is the tests' own, which hashes words: what is looked at is reading, dividing, writing
and deriving, not a model. Resident memory, mapped files aside, is sampled ten times a second; its
highest in each process is told, and how much more the last number of documents takes than the
first. Each build is in a process of its own; the index goes to DIRECTORY and is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import make_parser, say, show

from moee_index.index.workers import local
from moee_index.types import Document

_WORDS, _VOCABULARY = 12, 2000
_EACH = 0.1
_MB = 1e6


def documents(count: int) -> Iterator[Document]:
    """Made-up texts, each another one."""
    rng = np.random.default_rng(7)
    for number in range(count):
        words = rng.integers(0, _VOCABULARY, _WORDS)
        yield Document(f"d{number}", " ".join(f"w{word}" for word in words))


def anonymous(pid: int | str) -> int:
    """Bytes of a process's memory that are of no file; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    sizes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return sum(sizes) * 1024


def measure(directory: Path, count: int, workers: int) -> dict[str, Any]:
    """One build in this process, and the highest memory of all that take part."""
    from fakes.word_encoder import FakeRecipe
    from moee_index.index import build_index

    pids: list[int] = []
    start = local.LocalHand._start

    def started(hand: local.LocalHand) -> None:
        start(hand)
        pids.append(hand.pid or 0)

    local.LocalHand._start = started  # type: ignore[method-assign]
    peaks: dict[int | str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EACH):
            for pid in ("self", *pids):
                peaks[pid] = max(peaks.get(pid, 0), anonymous(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    try:
        build_index(
            directory, documents(count), FakeRecipe(batch_tokens=16384), workers=workers,
            standardize="both",
        )  # fmt: skip
    finally:
        done.set()
        thread.join()
    return {
        "documents": count,
        "seconds": time.perf_counter() - began,
        "driver_mb": peaks.pop("self") / _MB,
        "worker_mb": max(peaks.values()) / _MB,
    }


def main() -> None:
    """Measure each number of documents in a process of its own, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--documents", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        print(json.dumps(measure(given.directory, given.documents[0], given.workers)))
        return
    rows = []
    for count in given.documents:
        shutil.rmtree(given.directory, ignore_errors=True)
        command = [sys.executable, __file__, str(given.directory), "--here"]
        command += ["--documents", str(count), "--workers", str(given.workers)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(told))
        say(f"{rows[-1]}")
        shutil.rmtree(given.directory)
    first, last = rows[0], rows[-1]
    row = {
        "builds": rows,
        **{f"{who}_grows": last[f"{who}_mb"] / first[f"{who}_mb"] for who in ("driver", "worker")},
    }
    show(
        row,
        given.json,
        f"{first['documents']} → {last['documents']} documents: driver {first['driver_mb']:.0f} → "
        f"{last['driver_mb']:.0f} MB, a worker {first['worker_mb']:.0f} → "
        f"{last['worker_mb']:.0f} MB",
    )


if __name__ == "__main__":
    main()
