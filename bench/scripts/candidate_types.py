"""Which FAISS index brings the best candidates: codes and lists compared, joined and by part.

    python bench/scripts/candidate_types.py INDEX --queries FILE [--rows 100000] [--out DIR]
        [--types IVF,RaBitQfs …] [--threads 1] [--json]

Unit vectors are those of a finished index, queries are embedded as its own. A joined index holds
[h ; r] and is asked with [h_q ; α·r_q]; two indexes hold a part each, and their lists are joined.
Candidates are scored exactly, from float16 codes as a search does it. For each type, of all numbers
of lists (HNSW: of neighbors looked at) and depths that were tried, the fastest with which all ways
of asking find 95 % of the ten best: milliseconds a query, one at a time, candidates and their exact
scores together. A plot of recall and time goes to DIR.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.backends import load_faiss
from moee_index.fusion import UnitVectors, unit_vectors
from moee_index.index import Index
from moee_index.index.approximate.asked import weights_of
from moee_index.index.approximate.coarse import CoarseQuantizer, lists_for
from moee_index.types import FloatArray, Pair

_TYPES = (
    "IVF,RaBitQfs", "IVF,RaBitQfs2", "IVF,RaBitQfs4", "IVF,SQ8", "HNSW32,SQ8",
)  # fmt: skip
_WAYS: tuple[tuple[Any, float | None], ...] = (
    ("sum", 0.25), ("sum", 1.0), ("sum", 4.0), ("hs", None), ("rw", None), ("concat", None),
)  # fmt: skip
_DEPTHS = (32, 64, 128, 256, 512, 1024)
_SHARES = (128, 64, 32, 16, 8, 6, 4, 3)
_EF = (32, 64, 128, 256, 512, 1024)
_BLOCK = 4096
_WANTED = 0.95
_TIMED = 50


@dataclass(frozen=True, eq=False)
class Data:
    """Unit vectors of documents, float16, their lengths and queries. coarse: what rotates."""

    codes: Pair[npt.NDArray[np.float16]]
    norms: npt.NDArray[np.float32]
    queries: UnitVectors
    coarse: CoarseQuantizer

    def joined(self, start: int) -> FloatArray:
        return self.coarse.rotated(self.codes.map(lambda part: part[start : start + _BLOCK]))

    def asked(self, method: Any, alpha: float | None) -> FloatArray:
        return self.coarse.rotated(self.queries.parts, weights_of(self.queries, method, alpha))

    def scores(self, method: Any, alpha: float | None, query: int, rows: Any) -> FloatArray:
        """Exact scores of some rows, up to a factor a query."""
        weight = weights_of(self.queries[query : query + 1], method, alpha)[0]
        parts = [
            self.codes[part][rows].astype(np.float32) @ values[query].astype(np.float32)
            for part, values in self.queries.parts
        ]
        if method == "concat":
            norms = self.norms[rows]
            together = weight[0] * norms[:, 0] * parts[0] + weight[1] * norms[:, 1] * parts[1]
            return together / np.linalg.norm(norms, axis=1)
        return weight[0] * parts[0] + weight[1] * parts[1]


def data_of(index: Index, rows: int, texts: list[str], lift: Any) -> Data:
    embedded = index.encoder().encode(texts, query=True) if lift is None else lift(texts)
    taken = [
        unit_vectors(index.vectors_at(range(start, min(start + _BLOCK, rows))), index.standardizer)
        for start in range(0, rows, _BLOCK)
    ]
    codes = Pair(
        np.concatenate([each.hs.astype(np.float16) for each in taken]),
        np.concatenate([each.rw.astype(np.float16) for each in taken]),
    )
    norms = np.concatenate([each.norms for each in taken]).astype(np.float32)
    width = sum(1 << (dim - 1).bit_length() for _, dim in index.spec.dims)
    coarse = CoarseQuantizer(np.zeros((1, width), dtype=np.float32), index.spec.dims)
    return Data(codes, norms, unit_vectors(embedded, index.standardizer), coarse)


# The indexes

Search = Callable[[FloatArray, int, int], npt.NDArray[np.int64]]


def build(factory: str, blocks: Callable[[], Iterator[FloatArray]], rows: int) -> tuple[Any, float]:
    """An index and the seconds that it took; `IVF` stands for as many lists as ours has."""
    faiss = load_faiss()
    began = time.perf_counter()
    first = next(blocks())
    lists = lists_for(rows)
    index = faiss.index_factory(
        first.shape[1], factory.replace("IVF", f"IVF{lists}"), faiss.METRIC_INNER_PRODUCT
    )
    sample = np.concatenate(list(blocks()))
    if not index.is_trained:
        index.train(sample[: 64 * lists] if rows > 64 * lists else sample)
    for start in range(0, rows, _BLOCK):
        index.add(sample[start : start + _BLOCK])
    return index, time.perf_counter() - began


def reaches(index: Any) -> list[int]:
    faiss = load_faiss()
    if isinstance(faiss.downcast_index(index), faiss.IndexHNSW):
        return list(_EF)
    lists = faiss.extract_index_ivf(index).nlist
    return sorted({max(1, lists // share) for share in _SHARES})


def neighbors(index: Any, queries: FloatArray, reach: int, depth: int) -> npt.NDArray[np.int64]:
    faiss = load_faiss()
    if isinstance(faiss.downcast_index(index), faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(efSearch=max(reach, depth))
    else:
        parameters = faiss.SearchParametersIVF(nprobe=reach)
    found: npt.NDArray[np.int64] = index.search(queries, depth, params=parameters)[1]
    return found


def size(index: Any, rows: int) -> float:
    return float(load_faiss().serialize_index(index).nbytes / rows)


@dataclass(frozen=True, eq=False)
class Kind:
    """A type of index, joined or a pair. parts: which halves of a rotated vector each holds."""

    name: str
    indexes: list[Any]
    halves: list[slice]
    seconds: float
    bytes: float

    def candidates(self, vectors: FloatArray, reach: int, depth: int) -> list[Any]:
        """For each query the rows that are brought; a part that weighs nothing is not asked."""
        lists = []
        for index, half in zip(self.indexes, self.halves, strict=True):
            asked = np.ascontiguousarray(vectors[:, half])
            if np.abs(asked).max() > 0:
                lists.append(neighbors(index, asked, reach, depth))
        joined = np.concatenate(lists, axis=1)
        return [np.unique(rows[rows >= 0]) for rows in joined]


def kinds(factory: str, data: Data) -> Iterator[Kind]:
    rows, first = len(data.norms), 1 << (data.codes.hs.shape[1] - 1).bit_length()
    whole = [slice(None)]
    for name, halves in (("joined", whole), ("two", [slice(0, first), slice(first, None)])):
        made = [
            build(
                factory,
                lambda half=half: (
                    np.ascontiguousarray(data.joined(start)[:, half])
                    for start in range(0, rows, _BLOCK)
                ),
                rows,
            )
            for half in halves
        ]
        yield Kind(
            f"{factory} {name}",
            [index for index, _ in made],
            halves,
            sum(seconds for _, seconds in made),
            sum(size(index, rows) for index, _ in made),
        )


# What is measured


def best_rows(data: Data, way: tuple[Any, float | None]) -> list[set[int]]:
    rows = slice(None)
    best = []
    for query in range(len(data.queries)):
        scores = data.scores(*way, query, rows)
        best.append(set(np.argpartition(-scores, 10)[:10].tolist()))
    return best


def measure(kind: Kind, data: Data, best: list[list[set[int]]]) -> list[dict[str, Any]]:
    """A row a reach and depth: recall by way, and milliseconds a query by `sum` with α 1."""
    table = []
    for reach in reaches(kind.indexes[0]):
        for depth in _DEPTHS:
            recall = []
            for way, wanted in zip(_WAYS, best, strict=True):
                found = kind.candidates(data.asked(*way), reach, depth)
                shares = [len(w & set(f.tolist())) / 10 for w, f in zip(wanted, found, strict=True)]
                recall.append(float(np.mean(shares)))
            table.append({"reach": reach, "depth": depth, "recall": recall})
            if min(recall) > 0.995:
                break
    good = [row for row in table if min(row["recall"]) >= _WANTED - 0.05]
    vectors = data.asked("sum", 1.0)
    for row in good:
        times = []
        for query in range(min(_TIMED, len(vectors))):
            began = time.perf_counter()
            (rows,) = kind.candidates(vectors[query : query + 1], row["reach"], row["depth"])
            data.scores("sum", 1.0, query, rows)
            times.append(time.perf_counter() - began)
        row["ms"] = float(np.median(times) * 1e3)
    return table


def plot(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for result in results:
        points = sorted((row["ms"], min(row["recall"])) for row in result["table"] if "ms" in row)
        frontier: list[tuple[float, float]] = []
        for point in points:
            if not frontier or point[1] > frontier[-1][1]:
                frontier.append(point)
        if frontier:
            label = f"{result['name']}, {result['bytes']:.0f} bytes"
            axes.plot(*zip(*frontier, strict=True), marker="o", markersize=3, label=label)
    axes.set(xscale="log", xlabel="ms a query", ylabel="recall@10, least of six ways")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument(
        "--lifted-from", type=Path, help="INDEX was made by lifted.py from this one"
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--types", nargs="+", default=_TYPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    from moee_index import Encoder

    texts = [json.loads(line)["text"] for line in given.queries.read_text().splitlines()]
    lift = None
    with Index.open(given.index, Encoder.for_spec) as index:
        if given.lifted_from is not None:
            from lifted import DECAY, NOISE, Lifting

            base = Index.open(given.lifted_from, Encoder.for_spec)
            lift = Lifting(base, index.spec.dims, DECAY, NOISE).encode
        data = data_of(index, given.rows, texts[: given.count], lift)
    load_faiss().omp_set_num_threads(given.threads)
    best = [best_rows(data, way) for way in _WAYS]
    results = []
    for factory in given.types:
        for kind in kinds(factory, data):
            table = measure(kind, data, best)
            enough = [row for row in table if min(row["recall"]) >= _WANTED]
            fastest = min(enough, key=lambda row: row["ms"], default=None)
            result = {
                "name": kind.name, "bytes": kind.bytes, "build_seconds": kind.seconds,
                "fastest": fastest, "table": table,
            }  # fmt: skip
            results.append(result)
            told = (
                "95 % never reached"
                if fastest is None
                else (
                    f"{fastest['ms']:.2f} ms, reach {fastest['reach']}, depth {fastest['depth']}, "
                    f"recall {' '.join(f'{each:.3f}' for each in fastest['recall'])}"
                )
            )
            line = f"{kind.name:24} {kind.bytes:6.0f} bytes, built in {kind.seconds:4.0f} s: {told}"
            print(json.dumps(result) if given.json else line, flush=True)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "candidate-types.json").write_text(json.dumps(results))
        plot(results, given.out / "candidate-types.png")


if __name__ == "__main__":
    main()
