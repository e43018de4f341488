"""Exact fused search beside FAISS's own flat indexes, and beside the memory's own speed.

    python bench/scripts/speed/search.py [--data DIR] [--documents 100000] [--runs 9] [--json]
        [--only search checks filters growth] [--sizes 10000,30000,100000,300000,1000000]
        [--plot FILE.png] [--make]

Random unit vectors of OLMoE's dimensions (2048 + 1024), float16 codes, method `sum`, k = 10. All
ways of a part run in turn, so that whatever else the machine does hits all alike; figures are
medians. Told:

search   1 to 64 queries in a call, over reading the codes' bytes once with as many threads, and
         over two `IndexFlatIP.search` calls (float32), one a part, with the same queries; and
         that both find the same documents
checks   the first search of a process, which checks the codes' checksums, from the disk and from
         memory, over later ones
filters  masks that leave 1 document to nearly all, and filters from their text on, over the
         search without one
growth   seconds and anonymous memory by the number of documents, each in a process of its own

DIR keeps the data for the next time (614 MB of codes and as much of raw rows for 100,000; twelve
GB for the largest of the growth); --make writes them and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import PeakAnonymous, make_parser, memory, run_way, say, seconds, show
from search_data import (
    OLMOE,
    make,
    make_documents,
    open_documents,
    open_fields,
    open_searcher,
    queries,
    units,
)

from moee_index.bench.report.plots import INSTALL
from moee_index.fusion import UnitVectors
from moee_index.index.filters import Filter
from moee_index.index.search.pair import PairSearcher
from moee_index.index.store.document_reader import DocumentReader
from moee_index.index.store.fields import FieldReader
from moee_index.types import PARTS, Pair

Mask = npt.NDArray[np.bool_]
_K = 10
_ALPHA = 1.0
_BATCHES = (1, 2, 3, 4, 6, 8, 16, 32, 64)
_LEFT = ("1", "100", "1 %", "10 %", "25 %", "50 %", "99 %", "all")
_CONDITIONS = (
    'lang = "en"',
    'lang = "en" and year >= 2020 and not source in ("source-1", "source-2")',
    'title contains "chess"',
    'tags contains "chess"',
    "number = 77777",
    "year exists",
)
_PLOTTED = {"one_s": "1 query", "many_s": "64 queries", "read_s": "reading the codes once"}


def in_turn(ways: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each way, all called in turn `runs` times after once for nothing."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            spent = seconds(way)
            if run:
                taken[name].append(spent)
    return {name: statistics.median(spent) for name, spent in taken.items()}


def reader(folder: Path) -> Callable[[], object]:
    """A call that reads both parts' FAISS files, by as many threads as a search uses."""
    import torch

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)
    words = [np.memmap(folder / f"{part}.faiss", np.uint8, "r") for _, part in PARTS]
    shares = [
        share
        for held in words
        for share in np.array_split(held[: len(held) // 8 * 8].view(np.uint64), 4 * threads)
    ]
    return lambda: list(pool.map(lambda share: int(share.sum()), shares))


def flat_ip(rows: int) -> Pair[Any]:
    """IndexFlatIP of each part's vectors."""
    import torch  # noqa: F401, I001  (before faiss: one OpenMP runtime)
    import faiss

    made = OLMOE.map(faiss.IndexFlatIP)
    for part, index in made:
        for block in units(rows, OLMOE[part], seed=1):
            index.add(block)
    return made


def call(
    searcher: PairSearcher, asked: UnitVectors, allowed: Mask | None = None
) -> Callable[[], Any]:
    return lambda: searcher.search(asked, _K, "sum", _ALPHA, allowed=allowed)


def both(theirs: Pair[Any], asked: UnitVectors) -> Callable[[], object]:
    vectors = asked.parts.map(lambda values: values.astype(np.float32))
    return lambda: [theirs[part].search(vectors[part], _K) for _, part in PARTS]


def measure_search(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    searcher, theirs = open_searcher(folder), flat_ip(given.documents)
    some = {count: queries(count, OLMOE) for count in _BATCHES}
    check_answers(searcher, theirs, some[64])
    ways: dict[str, Callable[[], object]] = {"read": reader(folder)}
    for count, asked in some.items():
        ways[f"ours {count}"] = call(searcher, asked)
        if count in (1, 64):
            ways[f"IndexFlatIP {count}"] = both(theirs, asked)
    found = in_turn(ways, given.runs)
    row: dict[str, Any] = {"seconds": found, "read_bytes": codes_bytes(given.documents)}
    row["one_over_read"] = found["ours 1"] / found["read"]
    row["one_over_faiss"] = found["ours 1"] / found["IndexFlatIP 1"]
    row["faiss_over_64"] = found["IndexFlatIP 64"] / found["ours 64"]
    show(
        row,
        given.json,
        f"read {found['read'] * 1e3:.1f} ms ({row['read_bytes'] / found['read'] / 1e9:.1f} GB/s); "
        f"one query {row['one_over_read']:.2f} of that, {row['one_over_faiss']:.2f} of two "
        f"IndexFlatIP; 64 queries {row['faiss_over_64']:.2f} times as fast as these; ms: "
        + ", ".join(f"{name} {spent * 1e3:.1f}" for name, spent in found.items()),
    )
    searcher.close()
    return row


def check_answers(searcher: PairSearcher, theirs: Pair[Any], asked: UnitVectors) -> None:
    """Stop the script where a document of the true top k is missing or another is there."""
    vectors = np.concatenate([asked.hs, asked.rw], axis=1).astype(np.float32)
    held = [theirs[part].reconstruct_n(0, theirs[part].ntotal) for _, part in PARTS]
    scores = vectors[:, : held[0].shape[1]] @ held[0].T + vectors[:, held[0].shape[1] :] @ held[1].T
    for ranking, own in zip(searcher.search(asked, _K, "sum", _ALPHA), scores, strict=True):
        best = set(np.argsort(-own)[:_K].tolist())
        # The raw rows are rounded to float16: near ties may change places.
        kth = np.sort(own)[-_K]
        for row in best.symmetric_difference(ranking.rows.tolist()):
            if abs(float(own[row]) - float(kth)) > 1e-4:
                raise SystemExit(f"row {row} scores {own[row]}, the {_K}th {kth}: a wrong answer")


def codes_bytes(rows: int) -> int:
    return rows * (OLMOE.hs + OLMOE.rw) * 2


def measure_checks(given: argparse.Namespace, folder: Path) -> None:
    """The first search of an opened pair, from the disk and from memory, over the second."""
    for count in (1, 64):
        asked = queries(count, OLMOE)
        spent: dict[str, list[float]] = {"cold": [], "first": [], "later": []}
        for run in range(2 * given.runs):
            if run % 2:
                forget(folder)
            searcher = open_searcher(folder)
            spent["cold" if run % 2 else "first"].append(seconds(call(searcher, asked)))
            spent["later"].append(seconds(call(searcher, asked)))
            searcher.close()
            # Its maps of the files go with it.
            del searcher
        found = {name: statistics.median(taken) for name, taken in spent.items()}
        show(
            {"queries": count, "seconds": found},
            given.json,
            f"checksums, {count} queries: first search {found['first'] * 1e3:.1f} ms, "
            f"{found['cold'] * 1e3:.1f} from the disk, second {found['later'] * 1e3:.1f}",
        )


def forget(folder: Path) -> None:
    """Let the system drop what it holds of the files, which nobody has open."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def masks(rows: int) -> dict[str, Mask]:
    order = np.random.default_rng(3).permutation(rows)
    made = {}
    for left in _LEFT:
        share = float(left.split()[0]) / 100 if "%" in left else 0.0
        count = rows if left == "all" else int(share * rows) or int(left.split()[0])
        made[left] = np.zeros(rows, dtype=bool)
        made[left][order[:count]] = True
    return made


def measure_filters(given: argparse.Namespace, folder: Path) -> None:
    searcher = open_searcher(folder)
    for count in (1, 64):
        asked = queries(count, OLMOE)
        ways = {"none": call(searcher, asked)}
        ways |= {left: call(searcher, asked, mask) for left, mask in masks(given.documents).items()}
        found = in_turn(ways, given.runs)
        over = {left: spent / found["none"] for left, spent in found.items()}
        show(
            {"queries": count, "seconds": found, "over_unfiltered": over},
            given.json,
            f"filters, {count} queries: unfiltered {found['none'] * 1e3:.1f} ms; over that, by "
            "what is left: "
            + ", ".join(f"{left}: {ratio:.2f}" for left, ratio in over.items() if left != "none"),
        )
    measure_conditions(given, searcher, folder)
    searcher.close()


def measure_conditions(given: argparse.Namespace, searcher: PairSearcher, folder: Path) -> None:
    """Filtered queries from their text on, over a query without a filter.

    first: as in a process that has not filtered before, the file's checksum included; again: of
    another filter in the same process (`Selector` keeps the answer of the same one); json: where
    the fields have no columns.
    """
    make_documents(folder, given.documents)
    asked = queries(1, OLMOE)
    filters = [Filter.parse(condition) for condition in _CONDITIONS]
    opened = open_fields(folder)
    with opened, open_documents(folder) as documents:
        documents.check()
        ways = {"none": call(searcher, asked)}
        for one in filters:
            ways |= {
                f"{one.text} first": partial(filtered, searcher, asked, folder, one),
                f"{one.text} again": partial(evaluated, searcher, asked, opened, one),
                f"{one.text} json": partial(through_json, searcher, asked, documents, one),
            }
        found = in_turn(ways, given.runs)
        for one in filters:
            left = int(in_columns(opened, one).sum())
            over = {
                way: found[f"{one.text} {way}"] / found["none"]
                for way in ("first", "again", "json")
            }
            show(
                {"condition": one.text, "left": left, "over_unfiltered": over},
                given.json,
                f"{one.text}: leaves {left}; over {found['none'] * 1e3:.1f} ms without: "
                + ", ".join(f"{way} {ratio:.2f}" for way, ratio in over.items()),
            )


def in_columns(fields: FieldReader, condition: Filter) -> Mask:
    quick = condition.over_columns(fields.column)
    assert quick is not None
    return fields.matching(*quick)


def evaluated(
    searcher: PairSearcher, asked: UnitVectors, fields: FieldReader, condition: Filter
) -> object:
    return call(searcher, asked, in_columns(fields, Filter.parse(condition.text)))()


def filtered(searcher: PairSearcher, asked: UnitVectors, folder: Path, condition: Filter) -> object:
    with open_fields(folder) as fields:
        return evaluated(searcher, asked, fields, condition)


def through_json(
    searcher: PairSearcher, asked: UnitVectors, documents: DocumentReader, condition: Filter
) -> object:
    return call(searcher, asked, documents.matching(*condition.over_json()))()


def measure_size(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One size of the growth, in this process."""
    one, many = queries(1, OLMOE), queries(64, OLMOE)
    searcher = open_searcher(folder)
    # What any process needs once: pools of threads, libraries' buffers.
    warm = np.zeros(given.documents, dtype=bool)
    warm[: 1 + _K] = True
    searcher.search(many, _K, "sum", _ALPHA, allowed=warm)
    before = memory()["anonymous"]
    with PeakAnonymous() as watched:
        found = in_turn(
            {"read": reader(folder), "one": call(searcher, one), "many": call(searcher, many)},
            given.runs,
        )
    searcher.close()
    return {
        "documents": given.documents,
        "read_s": found["read"],
        "one_s": found["one"],
        "many_s": found["many"],
        "anonymous_gb": watched.peak - before,
        "codes_gb": codes_bytes(given.documents) / 1e9,
    }


def measure_growth(given: argparse.Namespace, data: Path) -> None:
    rows = []
    for size in given.sizes:
        folder = data / f"{size}"
        make(folder, size, OLMOE)
        options = ["--data", data, "--documents", size, "--runs", given.runs, "--way", "size"]
        row = run_way(__file__, options)
        rows.append(row)
        show(
            row,
            given.json,
            f"{size:>9,} documents: {row['codes_gb']:.2f} GB of codes read in "
            f"{row['read_s'] * 1e3:.1f} ms; one query {row['one_s'] * 1e3:.1f} ms, 64 "
            f"{row['many_s'] * 1e3:.1f}; {row['anonymous_gb'] * 1e3:.0f} MB of memory beside",
        )
    if given.plot:
        plot(rows, given.plot)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Milliseconds by documents, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, label in _PLOTTED.items():
        style = "k:" if name == "read_s" else "o-"
        axes.loglog(
            [row["documents"] for row in rows],
            [row[name] * 1e3 for row in rows],
            style,
            label=label,
        )
    axes.set_xlabel("documents (2048 + 1024 dimensions, float16 codes)")
    axes.set_ylabel("milliseconds a call")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Make what is missing, measure, print."""
    parser = make_parser(__doc__)
    parts = ("search", "checks", "filters", "growth")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        default=[10_000, 30_000, 100_000, 300_000, 1_000_000],
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--way", choices=["size"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plot and find_spec("matplotlib") is None:
        raise SystemExit(f"--plot needs matplotlib: {INSTALL}")
    with tempfile.TemporaryDirectory() as temporary:
        data = given.data or Path(temporary)
        folder = data / f"{given.documents}"
        if given.way:
            print(json.dumps(measure_size(given, folder)))
            return
        for size in {given.documents, *(given.sizes if "growth" in given.only else ())}:
            say(f"making {size:,} documents in {data}, unless they are there")
            make(data / f"{size}", size, OLMOE)
        if given.make:
            return
        if "search" in given.only:
            measure_search(given, folder)
        if "checks" in given.only:
            measure_checks(given, folder)
        if "filters" in given.only:
            measure_filters(given, folder)
        if "growth" in given.only:
            measure_growth(given, data)


if __name__ == "__main__":
    main()
