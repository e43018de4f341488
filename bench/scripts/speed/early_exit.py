"""Which share of its bytes an exact scan would read if it left documents early.

    python bench/scripts/speed/early_exit.py INDEX --queries FILE [FILE…] [--rows 100000]
        [--most 50] [--vectors index 1.0 0.5 random] [--seed 0] [--json]

Panorama's idea on the codes of an exact scan: each part's unit vectors are rotated by PCA, so that
what matters comes first, and read in levels of equal width (4, 8 or 16). With what a document has
so far goes a bound for all that follows: Cauchy and Schwarz on the norms of the rest of its vector
and of the query's, both parts weighed as the method does. A document whose bound is below the k-th
best score, less the scan's own margin for the errors of float16 codes, is left, and none is missed.
INDEX is a finished one of the model that embeds the queries; `--rows` documents of it, evenly
spread, and `--most` queries of each file, one at a time.

Vectors: `index` are the index's own, standardized; a number makes vectors of 2048 + 1024 dimensions
of them whose variances fall as that power of the rank (spectrum.py says how); `random` are as many
dimensions without any structure, the worst case.

Thresholds: `ideal` is the k-th best score known beforehand, a limit for every order of reading;
`running` the best so far, in document order, after every block. Bytes: `rows` are those of the
documents that remain and of the norms that are read with them; `lines` those of the 64-byte lines
in which these lie, and `pages` of 4 kB, where a file keeps each level of a block of documents
together. All are shares of float16 codes without levels. Told besides: what rotating and
reordering cost.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import make_parser, say, show
from levels import BLOCK, FINEST, RotatedPart, sampled
from search_data import OLMOE
from spectrum import Widening

from moee_index.fusion import Method, UnitVectors, unit_vectors
from moee_index.index.search.shortlist import SearchRequest
from moee_index.types import PARTS, FloatArray, Pair, Part

Mask = npt.NDArray[np.bool_]
_METHODS: tuple[tuple[Method, float | None], ...] = (
    ("sum", 0.25),
    ("sum", 1.0),
    ("sum", 4.0),
    ("hs", None),
    ("rw", None),
)
_KS = (10, 100)
_THRESHOLDS = ("ideal", "running")
_LEVELS = (4, 8, FINEST)
_GRAINS = {"rows": 1, "lines": 64, "pages": 4096}
_CODE, _NORM = 2, 2
# Rounding of float32 products and sums and of the rotation, as the scan allows for it.
_ARITHMETIC = 1e-5


@dataclass(frozen=True, eq=False)
class Setting:
    """A method with its weights of the parts that count, and the margin below the k-th score down
    to which a document of the true top k can be."""

    method: Method
    alpha: float | None
    weights: dict[Part, float]
    margin: float

    @classmethod
    def of(cls, method: Method, alpha: float | None, errors: Pair[float]) -> Setting:
        no_queries = UnitVectors(*(np.empty((0, 0)),) * 3)
        request = SearchRequest(no_queries, 1, method, alpha, None, None)
        bounds = [np.array([errors[part] + _ARITHMETIC]) for part in request.parts]
        weights = {part: 1.0 if part == "hs" or alpha is None else alpha for part in request.parts}
        return cls(method, alpha, weights, float(request.margins(bounds, [0])[0]))


class Reading:
    """The bytes that one setting reads, by k, threshold, number of levels and grain, block by
    block.

    ideal: the k-th best scores, by k, [q]. Raises SystemExit where a document that the scan would
    keep was left.
    """

    def __init__(self, setting: Setting, dims: Pair[int], ideal: dict[int, FloatArray]) -> None:
        self._setting = setting
        self._dims = [dims[part] for part in setting.weights]
        self._ideal = ideal
        self._best = np.full((len(ideal[_KS[0]]), max(_KS)), -np.inf, dtype=np.float32)
        self._whole = 0
        self.bytes: dict[tuple[int, str, int, str], npt.NDArray[np.float64]] = {}

    def add(self, bounds: FloatArray) -> None:
        """bounds [16, rows, q]: what a document's score can still be after each level; after the
        last it is the score."""
        scores = bounds[-1]
        self._whole += len(scores) * sum(self._dims) * _CODE
        for k in _KS:
            kth = np.partition(self._best, -k, axis=1)[:, -k]
            for name, threshold in zip(_THRESHOLDS, (self._ideal[k], kth), strict=True):
                least = threshold - self._setting.margin
                remain = bounds[:-1] >= least
                if (~remain.all(axis=0) & (scores >= self._ideal[k] - self._setting.margin)).any():
                    raise SystemExit(f"{self._setting}: a document of the answer was left")
                self._count(k, name, remain)
        joined = np.concatenate([self._best, scores.T], axis=1)
        self._best = np.partition(joined, -max(_KS), axis=1)[:, -max(_KS) :]

    def _count(self, k: int, threshold: str, remain: Mask) -> None:
        """remain [15, rows, q]: which documents remain after each level but the last."""
        rows, queries = remain.shape[1:]
        for levels, (grain, size) in itertools.product(_LEVELS, _GRAINS.items()):
            step = FINEST // levels
            read = np.zeros(queries)
            for width in (dim * _CODE // levels for dim in self._dims):
                read += rows * width + touched(remain[step - 1 :: step], width, size)
                # Norms are read with every level but the last.
                read += rows * _NORM + touched(remain[step - 1 : -step : step], _NORM, size)
            key = (k, threshold, levels, grain)
            self.bytes[key] = self.bytes.get(key, np.zeros(queries)) + read

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row of the table for each k and threshold."""
        for k, threshold in itertools.product(_KS, _THRESHOLDS):
            shares: dict[str, dict[str, float]] = {}
            for levels, grain in itertools.product(_LEVELS, _GRAINS):
                read = self.bytes[k, threshold, levels, grain] / self._whole
                shares.setdefault(str(levels), {})[grain] = float(read.mean())
                if grain == "rows":
                    shares[str(levels)]["p90"] = float(np.quantile(read, 0.9))
            yield {
                "method": self._setting.method,
                "alpha": self._setting.alpha,
                "k": k,
                "threshold": threshold,
                "share_read": shares,
            }


def touched(remain: Mask, width: int, grain: int) -> npt.NDArray[np.float64]:
    """Bytes [q] that are read of levels of `width` bytes a document, grain by grain. remain:
    [levels, rows, q]."""
    group = max(1, grain // width)
    if group > 1:
        spare = -remain.shape[1] % group
        padded = np.pad(remain, ((0, 0), (0, spare), (0, 0)))
        remain = np.any(padded.reshape(len(remain), -1, group, remain.shape[2]), axis=2)
    read: npt.NDArray[np.float64] = remain.sum(axis=(0, 1)) * float(group * width)
    return read


def measure(parts: Pair[RotatedPart]) -> Iterator[dict[str, Any]]:
    """Rows of the table of some vectors."""
    errors = PARTS.map(lambda part: parts[part].error)
    dims = PARTS.map(lambda part: parts[part].codes.shape[1])
    settings = [Setting.of(method, alpha, errors) for method, alpha in _METHODS]
    readings = [
        Reading(setting, dims, ideal)
        for setting, ideal in zip(settings, best_scores(parts, settings), strict=True)
    ]
    for start in range(0, len(parts.hs.codes), BLOCK):
        bounds = {part: block_bounds(parts[part], start) for _, part in PARTS}
        for setting, reading in zip(settings, readings, strict=True):
            reading.add(weighed(setting, bounds))
    for reading in readings:
        yield from reading.rows()


def weighed(setting: Setting, values: dict[Part, FloatArray]) -> FloatArray:
    terms = [np.float32(weight) * values[part] for part, weight in setting.weights.items()]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def block_bounds(part: RotatedPart, start: int) -> FloatArray:
    """[16, rows, q]: a part's products so far and the bound for what follows, by level."""
    codes = part.codes[start : start + BLOCK]
    width = codes.shape[1] // FINEST
    products = np.stack(
        [
            codes[:, i : i + width] @ part.queries[:, i : i + width].T
            for i in range(0, codes.shape[1], width)
        ]
    )
    rest = part.tails[start : start + BLOCK].T[:, :, None] * part.query_tails.T[:, None, :]
    bounds: FloatArray = products.cumsum(axis=0, dtype=np.float32) + rest
    return bounds


def best_scores(
    parts: Pair[RotatedPart], settings: Sequence[Setting]
) -> Iterator[dict[int, FloatArray]]:
    """The k-th best scores of each setting, by k, [q]."""
    products = {part: parts[part].codes @ parts[part].queries.T for _, part in PARTS}
    for setting in settings:
        scores = weighed(setting, products)
        yield {k: np.partition(scores, len(scores) - k, axis=0)[len(scores) - k] for k in _KS}


def real_vectors(given: argparse.Namespace) -> tuple[UnitVectors, UnitVectors]:
    """Standardized unit vectors of documents of the index and of the queries."""
    from moee_index.encode.encoder import Encoder
    from moee_index.index import Index
    from moee_index.readers.queries import read_queries

    with Index.open(given.index, lambda spec: Encoder.load(spec.model, notify=say)) as index:
        rows = np.array([row for _, row in index.named_rows()])
        if min(given.rows, len(rows)) <= max(_KS):
            raise SystemExit(
                f"{given.index}: {min(given.rows, len(rows))} rows; it takes more than {max(_KS)}"
            )
        picked = rows[np.linspace(0, len(rows) - 1, min(given.rows, len(rows))).astype(np.int64)]
        texts = [
            query.text
            for path in given.queries
            for query in itertools.islice(read_queries(path), given.most)
        ]
        documents = unit_vectors(index.vectors_at(picked.tolist()), index.standardizer)
        asked = index.encoder().encode(texts, query=True)
        return documents, unit_vectors(asked, index.standardizer)


def vectors_of(
    kind: str, real: tuple[UnitVectors, UnitVectors], seed: int
) -> Iterator[tuple[Part, FloatArray, FloatArray]]:
    """(part, documents, queries) of one kind of vectors, float32 and of length 1."""
    single = [units.parts.map(lambda values: values.astype(np.float32)) for units in real]
    if kind == "index":
        yield from ((part, single[0][part], single[1][part]) for _, part in PARTS)
        return
    rng = np.random.default_rng(seed)
    joined = [np.concatenate([units.hs, units.rw], axis=1) for units in single]
    for number, (_, part) in enumerate(PARTS):
        dim = OLMOE[part]
        if kind == "random":
            made = [rng.standard_normal((len(rows), dim), dtype=np.float32) for rows in joined]
        else:
            widening = Widening.fit(sampled(joined[0]), dim, float(kind), seed + number)
            made = [widening(rows) for rows in joined]
        yield part, *standardized(*made)


def standardized(documents: FloatArray, queries: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As an index standardizes: each dimension by the documents' mean and deviation."""
    mean, deviation = documents.mean(axis=0), documents.std(axis=0, ddof=1)
    made = []
    for rows in (documents, queries):
        rows = (rows - mean) / deviation
        made.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return made[0], made[1]


def told_of(kind: str, parts: Pair[RotatedPart]) -> tuple[dict[str, Any], str]:
    """What rotating and reordering cost, as a row and in words."""
    codes = sum(part.codes.shape[1] * _CODE for _, part in parts)
    row = {
        "vectors": kind,
        "documents": len(parts.hs.codes),
        "queries": len(parts.hs.queries),
        "bytes_of_codes": codes,
        "bytes_of_norms": {str(levels): 2 * (levels - 1) * _NORM for levels in _LEVELS},
        "parts": {part: made.told | {"codes_error": made.error} for part, made in parts},
    }
    lines = [
        f"\n## {kind}: {row['documents']:,} documents, {row['queries']} queries, {codes} bytes of "
        f"codes a document, {2 * (FINEST - 1) * _NORM} of norms at {FINEST} levels\n"
    ]
    for part, made in parts:
        told = made.told
        lines.append(
            f"{part.upper()}, {made.codes.shape[1]} dimensions: variances fall as rank^-"
            f"{told['decay']:.2f}, {told['energy in 1/16']:.0%} of the energy in the first "
            f"sixteenth, {told['energy in 1/4']:.0%} in the first quarter; seconds to fit "
            f"{told['fit_s']:.1f}, to rotate {told['rotate_s']:.1f}, to reorder "
            f"{told['reorder_s']:.1f}; codes are off by at most {made.error:.1e}"
        )
    return row, "\n".join([*lines, "", *_HEAD])


_HEAD = (
    "| method | k | threshold | "
    + " | ".join(f"{levels} levels: rows / lines / pages" for levels in _LEVELS)
    + " |",
    "|---|---|---|" + "---|" * len(_LEVELS),
)


def line_of(row: Mapping[str, Any]) -> str:
    name = row["method"] + ("" if row["alpha"] is None else f", α = {row['alpha']:g}")
    shares = [
        " / ".join(f"{row['share_read'][str(levels)][grain]:.1%}" for grain in _GRAINS)
        for levels in _LEVELS
    ]
    return f"| {name} | {row['k']} | {row['threshold']} | {' | '.join(shares)} |"


def kind_of(text: str) -> str:
    """`index`, `random`, or an exponent."""
    if text not in ("index", "random"):
        float(text)
    return text


def main() -> None:
    """Make, measure and print one kind of vectors after another."""
    parser = make_parser(__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--most", type=int, default=50)
    kinds = ["index", "1.0", "0.5", "random"]
    parser.add_argument("--vectors", type=kind_of, nargs="+", default=kinds)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    real = real_vectors(given)
    for kind in given.vectors:
        made = {
            part: RotatedPart.made(documents, queries)
            for part, documents, queries in vectors_of(kind, real, given.seed)
        }
        parts = Pair(made["hs"], made["rw"])
        costs, told = told_of(kind, parts)
        show(costs, given.json, told)
        for row in measure(parts):
            show({"vectors": kind, **row}, given.json, line_of(row))


if __name__ == "__main__":
    main()
