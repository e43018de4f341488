"""Early exit of an exact scan against reading every row: time, rows read, bytes.

    python bench/scripts/speed/early_exit.py INDEX --queries FILE [FILE…] [--lifted-from BASE]
        [--count 40] [--rounds 2] [--json]

INDEX is an exact one whose segments have leading components. Queries are JSON lines with `text`,
embedded as the index's own (by lifted.py's road where it was made by that). Each is asked both
ways in turn, one at a time, by several ways of asking, and several are asked together; medians of
the later rounds, so that what they read is in memory and checked. Told besides: which share of the
rows is read whole after their bounds, and the bytes of codes and components. Exits with an error
where the two answers differ.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from approximate import add_query_options, asked_texts, encoder_of
from harness import make_parser, say, show

from moee_index import Encoder
from moee_index.index import Index
from moee_index.index.search import shortlist
from moee_index.index.search.early_exit import EarlyExit
from moee_index.types import Embeddings

_WAYS: dict[str, dict[str, Any]] = {
    "sum, alpha 1": {"alpha": 1.0},
    "sum, alpha 0.25": {"alpha": 0.25},
    "sum, alpha 4": {"alpha": 4.0},
    "hs": {"method": "hs"},
    "rw": {"method": "rw"},
    "concat": {"method": "concat"},
    "sum, 100 hits": {"alpha": 1.0, "k": 100},
    "sum, words": {"alpha": 1.0, "lexical": 0.4},
}
_TOGETHER = (1, 2, 4, 8, 16, 32, 64)


@contextlib.contextmanager
def up_to(queries: int) -> Iterator[None]:
    """With early exit for so many queries at once."""
    before = shortlist._EARLY_QUERIES
    shortlist._EARLY_QUERIES = queries
    try:
        yield
    finally:
        shortlist._EARLY_QUERIES = before


class Reading:
    """Rows that are read whole, counted while this is open."""

    def __init__(self) -> None:
        self.rows = 0

    def __enter__(self) -> Reading:
        self._real = EarlyExit._only
        real = self._real

        def only(exit: EarlyExit, rows: range, places: Any) -> Any:
            self.rows += len(places)
            return real(exit, rows, places)

        EarlyExit._only = only  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        EarlyExit._only = self._real  # type: ignore[method-assign]


def ask(index: Index, queries: Embeddings, texts: list[str], way: dict[str, Any]) -> Any:
    """Seconds, and the hits."""
    options = {"lexical": 0.0, **way}
    began = time.perf_counter()
    answers = index.search_embeddings(queries, texts=texts, **options)
    return time.perf_counter() - began, [[(hit.id, hit.score) for hit in hits] for hits in answers]


def compare(
    index: Index, queries: Embeddings, texts: list[str], way: dict[str, Any], rounds: int
) -> dict[str, float]:
    """Medians in milliseconds of single queries, both ways in turn."""
    taken: dict[str, list[float]] = {"early": [], "whole": []}
    with Reading() as reading:
        for turn in range(rounds + 1):
            reading.rows = 0
            for number in range(len(texts)):
                some = slice(number, number + 1)
                one = Embeddings(queries.hs[some], queries.rw[some])
                found = {}
                for name, most in (("whole", 0), ("early", 1)):
                    with up_to(most):
                        seconds, found[name] = ask(index, one, texts[some], way)
                    if turn:
                        taken[name].append(seconds * 1e3)
                if found["whole"] != found["early"]:
                    raise SystemExit(f"{texts[number]!r} has two answers by {way}")
    early = taken["early"]
    return {
        "whole_ms": statistics.median(taken["whole"]),
        "early_ms": statistics.median(early),
        "early_p90_ms": float(np.quantile(early, 0.9)),
        "rows_read": reading.rows / len(texts) / len(index),
    }


def together(index: Index, queries: Embeddings, texts: list[str], rounds: int) -> dict[str, Any]:
    """Milliseconds of calls with several queries, both ways."""
    found: dict[str, Any] = {}
    for count in _TOGETHER:
        if count > len(texts):
            break
        some = Embeddings(queries.hs[:count], queries.rw[:count])
        row = {}
        for name, most in (("whole", 0), ("early", count)):
            with up_to(most):
                times = [ask(index, some, texts[:count], {})[0] for _ in range(rounds + 1)]
            row[f"{name}_ms"] = statistics.median(times[1:]) * 1e3
        found[str(count)] = row
    return found


def measure(index: Index, encode: Any, texts: list[str], rounds: int) -> dict[str, Any]:
    queries = encode(texts)
    segments = [segment.entry for segment in index.snapshot.segments]
    leading = [entry for entry in segments if entry.leading is not None]
    if not leading:
        raise SystemExit(f"{index.directory} has no leading components: nothing is left out")
    files = index.manifest.files
    size = sum(entry.size for name, entry in files.items() if "/leading-" in name)
    ways = dict(_WAYS) if index.manifest.language else {**_WAYS, "sum, words": {}}
    return {
        "documents": len(index),
        "bytes_of_codes": 2 * (index.spec.hs_dim + index.spec.rw_dim),
        "bytes_of_components": size / sum(entry.rows for entry in leading),
        "ways": {name: compare(index, queries, texts, way, rounds) for name, way in ways.items()},
        "together": together(index, queries, texts, rounds),
    }


def told(name: str, row: dict[str, Any]) -> str:
    lines = [
        f"{name}: {row['documents']:,} documents, {row['bytes_of_codes']} bytes of codes and "
        f"{row['bytes_of_components']:.0f} of components each",
        "| | every row, ms | early exit, ms | p90 | times | rows read |",
        "|---|---|---|---|---|---|",
    ]
    for way, one in row["ways"].items():
        ratio = one["whole_ms"] / one["early_ms"]
        lines.append(
            f"| {way} | {one['whole_ms']:.1f} | {one['early_ms']:.1f} | {one['early_p90_ms']:.1f} "
            f"| {ratio:.1f} | {one['rows_read']:.2%} |"
        )
    for count, one in row["together"].items():
        lines.append(f"{count} together: {one['whole_ms']:.0f} and {one['early_ms']:.0f} ms")
    return "\n".join(lines)


def main() -> None:
    """Measure each file of queries."""
    parser = make_parser(__doc__)
    add_query_options(parser, 40)
    parser.add_argument("--rounds", type=int, default=2)
    given: argparse.Namespace = parser.parse_args()
    with Index.open(given.index, Encoder.for_spec) as index:
        encode = encoder_of(index, given.lifted_from)
        for path in given.queries:
            texts = asked_texts(path, given.count)
            say(f"{path}: {len(texts)} queries")
            row = measure(index, encode, texts, given.rounds)
            show({"queries": path.name, **row}, given.json, told(path.name, row))


if __name__ == "__main__":
    main()
