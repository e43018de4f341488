"""An approximate index against a scan of the same index: recall, time, memory, filters.

    python bench/scripts/speed/approximate.py INDEX --queries FILE… [--lifted-from BASE] [--runs 9]
        [--recall 0.9] [--forced] [--json]

INDEX is of type `approx`. Queries are JSON lines with `text`, embedded as the index's own (by
lifted.py's road where it was made by that); their documents need not be in the index. Told:

recall   of the ten best by each way of asking, beside what the index promises
times    of one query and of 64 by `sum` with α 1, candidates and a scan in turn, from memory;
         medians
filters  the same where random rows are left: one, 1 %, 10 %, 50 % of all, with the recall
deep     recall of the hundred best
bytes    a document: of candidates, which are held in memory, and of all files

--forced looks for candidates in small indexes too, which are scanned otherwise.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import make_parser, median_seconds, memory, say

from moee_index import Encoder
from moee_index.fusion import Method
from moee_index.index import Index
from moee_index.index.hits import Search
from moee_index.index.search import pair
from moee_index.index.search.request import SearchRequest
from moee_index.types import Embeddings

_WAYS: tuple[tuple[Method, float | None], ...] = (
    ("sum", 0.25), ("sum", 1.0), ("sum", 4.0), ("hs", None), ("rw", None), ("concat", None),
)  # fmt: skip
_SHARES = (None, 0.5, 0.1, 0.01, 0.0)
Mask = npt.NDArray[np.bool_]


@dataclass
class _AskedFor:
    """What --recall says."""

    recall: float | None = None


_asked_for = _AskedFor()


def ask(
    index: Index,
    queries: Embeddings,
    *,
    method: Method = "sum",
    alpha: float | None = 1.0,
    k: int = 10,
    exact: bool = False,
    masks: list[Mask] | None = None,
    texts: list[str] | None = None,
) -> list[set[int]]:
    """The best k rows of each query, with words where there are texts."""
    request = SearchRequest.checked(
        k, method=method, alpha=alpha, exact=exact, lexical=index.lexical if texts else 0.0,
        recall=None if exact else _asked_for.recall,
    )  # fmt: skip
    search = Search(index.snapshot, index._searchers, request, queries, texts)
    if masks is not None:
        search._masks = [*masks]
    return [set(ranking.rows.tolist()) for ranking in search.rows(k)]


def shared(exact: list[set[int]], found: list[set[int]]) -> tuple[float, float]:
    """The mean share that is found, and half of its 95 % interval."""
    shares = np.array(
        [len(one & two) / max(1, len(one)) for one, two in zip(exact, found, strict=True)]
    )
    return float(shares.mean()), float(1.96 * shares.std(ddof=1) / np.sqrt(len(shares)))


def recalls(index: Index, queries: Embeddings, texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method, alpha in _WAYS:
        name = method if alpha is None else f"{method}, alpha {alpha:g}"
        exact, some = (
            ask(index, queries, method=method, alpha=alpha, exact=every) for every in (True, False)
        )
        found[name] = shared(exact, some)
    if index.lexical:
        exact, some = (ask(index, queries, exact=every, texts=texts) for every in (True, False))
        found[f"sum, lexical {index.lexical:g}"] = shared(exact, some)
    return found


def times(index: Index, queries: Embeddings, share: float | None, runs: int) -> dict[str, float]:
    """Milliseconds and recall where a share of the rows is left; 0 is one row."""
    generator = np.random.default_rng(3)
    masks = None
    if share is not None:
        sizes = [segment.entry.rows for segment in index.snapshot.segments]
        masks = [generator.random(size) < share for size in sizes]
        masks[0][0] = True
    exact, some = (ask(index, queries, exact=every, masks=masks) for every in (True, False))
    row = {"recall": shared(exact, some)[0]}
    one = Embeddings(queries.hs[:1], queries.rw[:1])
    many = Embeddings(queries.hs[:64], queries.rw[:64])
    for name, asked in (("one", one), ("64", many)):
        for every, way in ((False, "approximate"), (True, "exact")):
            seconds = median_seconds(
                lambda asked=asked, every=every: ask(index, asked, exact=every, masks=masks), runs
            )
            row[f"{way}_{name}_ms"] = seconds * 1e3
    return row


def measure(index: Index, texts: list[str], encode: Any, runs: int) -> dict[str, Any]:
    approximation = index.manifest.approximation
    assert approximation is not None
    queries = encode(texts)
    before = memory()["anonymous"]
    ask(index, queries)
    held = memory()["anonymous"] - before
    documents = len(index)
    candidates = [s.candidates for s in index.snapshot.segments if s.candidates is not None]
    deep = shared(*(ask(index, queries, k=100, exact=every) for every in (True, False)))
    rung = approximation.rung(_asked_for.recall)
    return {
        "documents": documents,
        "segments": len(index.snapshot.segments),
        "promise": 1.0 if rung is None else rung.recall,
        "reach": None if rung is None else [rung.reach.lists, rung.reach.depth],
        "alone": None if rung is None else [rung.alone.lists, rung.alone.depth],
        "lists": approximation.lists,
        "recall": recalls(index, queries, texts),
        "recall_100": deep,
        "filters": {str(share): times(index, queries, share, runs) for share in _SHARES},
        "candidate_bytes": sum(each.size for each in candidates) / documents,
        "disk_bytes": index.manifest.size / documents,
        "anonymous_mb_of_a_search": held * 1000,
    }


def told(name: str, row: dict[str, Any]) -> str:
    lines = [
        f"{name}: {row['documents']} documents, {row['segments']} segments, promise "
        f"{row['promise']:.3f}, reach {row['reach']}, alone {row['alone']} of {row['lists']} lists",
        "  recall@10 "
        + ", ".join(f"{way} {mean:.3f} ± {half:.3f}" for way, (mean, half) in row["recall"].items())
        + f"; recall@100 {row['recall_100'][0]:.3f}",
    ]
    for share, filtered in row["filters"].items():
        ratio = filtered["exact_one_ms"] / filtered["approximate_one_ms"]
        lines.append(
            f"  left {share}: one {filtered['approximate_one_ms']:.1f} ms against "
            f"{filtered['exact_one_ms']:.1f} ({ratio:.1f} x), 64 "
            f"{filtered['approximate_64_ms']:.0f} against {filtered['exact_64_ms']:.0f}; recall "
            f"{filtered['recall']:.3f}"
        )
    lines.append(
        f"  bytes a document: candidates {row['candidate_bytes']:.0f}, all files "
        f"{row['disk_bytes']:.0f}; {row['anonymous_mb_of_a_search']:.0f} MB anonymous for a search"
    )
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__)
    add_query_options(parser, 400)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--recall", type=float, help="as of a query")
    parser.add_argument("--forced", action="store_true")
    given: argparse.Namespace = parser.parse_args()
    _asked_for.recall = given.recall
    if given.forced:
        pair.SCANNED_ROWS = 0
    with Index.open(given.index, Encoder.for_spec) as index:
        for path in given.queries:
            texts = asked_texts(path, given.count)
            row = measure(index, texts, encoder_of(index, given.lifted_from), given.runs)
            say(json.dumps({"queries": path.name, **row}) if given.json else told(path.name, row))


def add_query_options(parser: argparse.ArgumentParser, count: int) -> None:
    """INDEX, files of queries, how they are embedded, and how many are asked of each."""
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path, nargs="+", required=True)
    parser.add_argument("--lifted-from", type=Path)
    parser.add_argument("--count", type=int, default=count)


def asked_texts(path: Path, count: int) -> list[str]:
    """The first queries of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["text"] for line in lines]


def encoder_of(index: Index, lifted_from: Path | None) -> Any:
    """What embeds queries."""
    if lifted_from is None:
        return lambda texts: index.encoder().encode(texts, query=True)
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from lifted import DECAY, NOISE, Lifting

    base = Index.open(lifted_from, Encoder.for_spec)
    return Lifting(base, index.spec.dims, DECAY, NOISE).encode


if __name__ == "__main__":
    main()
