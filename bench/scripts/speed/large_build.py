r"""A build of a million sentences: memory, throughput from the first to the last, disk, stages.

    python bench/scripts/speed/large_build.py \\
        TEXT.txt.zst INDEX [--documents 1000000] [--model CHECKPOINT]

TEXT is plain running text, zstandard-compressed; its sentences of 8 to 22 words, some 16 tokens
each, are the documents, in their order, each taken once. INDEX is where the index goes; it stays,
so a build that is interrupted goes on when it is started again (the figures are then those of the
rest). A shared machine is faster at one minute than at another: the same texts are embedded before
and after, and how fast tells what the machine gave. Told: anonymous memory at its highest,
documents a second in tenths of the build, bytes a document by file, seconds of work by stage
(planning, computing and writing overlap; deriving follows), and what a hundred million documents
would take at these rates.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from harness import PeakAnonymous, make_parser, memory, say, seconds, show

from moee_index.types import Document

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
_WORDS = (8, 22)
_PROBE = 4096


def sentences(path: Path, most: int) -> Iterator[Document]:
    """The first `most` distinct sentences of usual length, numbered."""
    import zstandard

    seen: set[int] = set()
    with (
        path.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file) as stream,
        TextIOWrapper(stream, encoding="utf-8") as lines,
    ):
        for line in lines:
            for sentence in _END.split(line.strip()):
                if not _WORDS[0] <= sentence.count(" ") + 1 <= _WORDS[1]:
                    continue
                known = hash(sentence)
                if known in seen:
                    continue
                seen.add(known)
                yield Document(f"s{len(seen)}", sentence)
                if len(seen) == most:
                    return


def tenths(timeline: list[tuple[float, int]], documents: int) -> list[float]:
    """Documents a second in each tenth of a build, from (seconds, documents done)."""
    rates: list[float] = []
    last_seconds, last_done = timeline[0]
    for tenth in range(1, 11):
        wanted = documents * tenth // 10
        seconds, done = next(point for point in timeline if point[1] >= min(wanted, documents))
        rates.append((done - last_done) / max(seconds - last_seconds, 1e-9))
        last_seconds, last_done = seconds, done
    return rates


def main() -> None:
    """Build and print one result."""
    parser = make_parser(__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--model")
    given = parser.parse_args()
    row = measure(given)
    rates = row["documents_per_second_by_tenth"]
    show(
        row,
        given.json,
        f"{row['documents']} documents in {row['seconds'] / 60:.1f} minutes; anonymous memory at "
        f"most {row['peak_anonymous_gb']:.2f} GB; first tenth {rates[0]:.0f} documents/s, last "
        f"{rates[-1]:.0f}; {row['bytes_per_document']:.0f} bytes a document",
    )


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Build the index and tell what it took."""
    from moee_index.encode.encoder import Encoder
    from moee_index.index import build_index

    encoder = Encoder.load(given.model, notify=say)
    probe = [document.text for document in sentences(given.text, min(_PROBE, given.documents))]
    before = len(probe) / seconds(lambda: encoder.encode(probe))
    timeline: list[tuple[float, int]] = [(time.perf_counter(), 0)]
    told = time.perf_counter()

    def progress(stage: str, done: int, total: int | None) -> None:
        nonlocal told
        now = time.perf_counter()
        if stage == "embedding":
            timeline.append((now, done))
        if now - told > 60:
            told = now
            say(f"{stage}: {done} after {(now - timeline[0][0]) / 60:.1f} minutes, {memory()}")

    with PeakAnonymous() as peak:
        report = build_index(
            given.index, sentences(given.text, given.documents), encoder, progress=progress
        )
    after = len(probe) / seconds(lambda: encoder.encode(probe))
    files = [path for path in given.index.rglob("*") if path.is_file()]
    sizes = {path.name: path.stat().st_size / report.embedded for path in files}
    per_document = report.seconds / report.embedded
    return {
        "documents": report.embedded,
        "seconds": report.seconds,
        "stages": dict(report.stages),
        "texts_per_second": report.texts_per_second,
        "tokens_per_second": report.tokens_per_second,
        "documents_per_second_by_tenth": tenths(timeline, report.embedded),
        "texts_per_second_alone": {"before": before, "after": after},
        "peak_anonymous_gb": peak.peak,
        "bytes_per_document": sum(sizes.values()),
        "bytes_per_document_by_file": sizes,
        "hundred_million": {
            "days": 1e8 * per_document / 86400,
            "terabytes": 1e8 * sum(sizes.values()) / 1e12,
        },
    }


if __name__ == "__main__":
    main()
