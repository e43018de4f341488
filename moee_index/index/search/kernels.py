"""Similarities of every stored code to some queries, at the speed of memory.

Multiplies float32 queries with float16 codes, on as many threads as torch uses. Parts, fusion and
ranks are left to `shortlist`: this is the one place to change when another way is faster.

Three ways, by the number of queries. Milliseconds of a whole search by `sum` for 10 of 100,000
documents (2048 + 1024; their 614 MB of codes are read once in 22), 2 cores of an EPYC with
AVX-512 BF16; float32 with the program as it was before bfloat16, in the next minute:

| queries | 1 | 2 | 4 | 6 | 8 | 16 | 32 | 64 |
|---|---|---|---|---|---|---|---|---|
| FAISS's scanner, query by query | 25 | 46 | 70 | | | | | |
| float32, 512 codes at a time and one GEMM | | | | | 110 | 118 | 187 | 314 |
| bfloat16, and what it leaves again (bfloat16_scan.py) | | | | 99 | 109 | 119 | 156 | 225 |
| two `IndexFlatIP.search` calls, k = 10 | 75 | | | | | | | 899 |

Torch's half-precision product was rounded to 3 digits and no faster; numpy's conversion took 2000.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from moee_index.backends import load_faiss, torch_in_use
from moee_index.index.search import bfloat16_scan as rough
from moee_index.index.search.leading import QueryBounds
from moee_index.index.store.checksums import Bytes, CheckedCodes, Codes
from moee_index.index.store.leading import LeadingPart
from moee_index.index.store.rows import RowNumbers
from moee_index.limits import processor_limit
from moee_index.types import FloatArray

# Up to so many queries FAISS's scanner, which converts the codes for each, beats a product in
# float32; from so many on one in bfloat16 and a second look beat both.
_SCANNER_QUERIES = 6
_ROUGH_QUERIES = 5
_GEMM_ROWS = 512
# Fewer columns are slower than these (8 take twice the time of 16).
_GEMM_COLUMNS = 16
# Rows of a job: below this a thread costs more than it scans.
_JOB_ROWS = 4096
_GATHERED_ROWS = 512
_BOUND_ROWS = 1 << 15
_PAD = 48
_LOWEST = -3.0e38

_of_thread = threading.local()

Scan = Callable[[Codes, FloatArray, FloatArray], None]
Job = Callable[[], None]


class Scanner:
    """Scans blocks of codes with as many threads as torch uses (without it, as this process may),
    which all callers share. Used from
    any thread; closed when no call is in flight."""

    def __init__(self) -> None:
        torch = torch_in_use()
        threads = processor_limit().value if torch is None else torch.get_num_threads()
        self._threads = max(1, threads)
        self._starting = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def rough_pays(self, queries: int) -> bool:
        """Whether a rough pass over all codes, then an exact one over some, is faster for this many
        queries than an exact pass over all."""
        if queries < _ROUGH_QUERIES:
            return False
        # Where the jobs will run, each in one thread.
        return self._workers().submit(rough.pays).result()

    def similarities(
        self,
        parts: Sequence[tuple[CheckedCodes, FloatArray]],
        rows: range | RowNumbers,
        *,
        roughly: bool = False,
        room: Sequence[FloatArray] | None = None,
    ) -> list[FloatArray]:
        """For each part's codes and unit queries [q, d], float32 [q, m]: the similarities of the
        m given rows, which are consecutive or ascending numbers.

        All parts have the same rows and q. room: what `room` gave, where they are written until
        the next call with it. Differences to exact arithmetic on the codes stay below 1e-5, or
        roughly below what bfloat16_scan.py says. Raises IndexDamagedError where codes are altered.
        """
        queries, width = len(parts[0][1]), len(rows) + _PAD
        if room is None:
            room = self.room(len(parts), queries, len(rows))
        results = [held[: queries * width].reshape(queries, width)[:, : len(rows)] for held in room]
        if roughly:
            scan: Scan = rough.multiply
        elif queries > _SCANNER_QUERIES or not _scanner_works():
            scan = _multiply
        else:
            scan = _scan_each
        jobs: list[Job] = []
        step = _JOB_ROWS if isinstance(rows, range) else _GATHERED_ROWS
        for (codes, vectors), out in zip(parts, results, strict=True):
            for start in range(0, len(rows), step):
                some = slice(start, start + step)
                jobs.append(partial(_run, scan, codes, rows[some], vectors, out[:, some]))
        self._work(jobs, alone=len(jobs) <= len(parts))
        return results

    def upper_bounds(
        self,
        parts: Sequence[tuple[LeadingPart, QueryBounds]],
        rows: range,
        room: Sequence[FloatArray],
    ) -> list[FloatArray]:
        """For each part's leading components, and what one query asks of them, float32 [m]: what
        the similarities of consecutive rows are at most. room: as for `similarities`. Raises
        IndexDamagedError where the file is altered.
        """
        results = [held[: len(rows)] for held in room]
        jobs: list[Job] = []
        for (leading, bounds), out in zip(parts, results, strict=True):
            for start in range(0, len(rows), _BOUND_ROWS):
                some = slice(start, start + _BOUND_ROWS)
                jobs.append(partial(_bound, leading, bounds, rows[some], out[some]))
        self._work(jobs, alone=len(jobs) <= len(parts))
        return results

    def _work(self, jobs: Sequence[Job], *, alone: bool) -> None:
        """Do all of some jobs, in this thread if it is to work alone."""
        if alone or self._threads == 1:
            for job in jobs:
                job()
        else:
            for future in [self._workers().submit(job) for job in jobs]:
                future.result()

    @staticmethod
    def room(parts: int, queries: int, rows: int) -> list[FloatArray]:
        """Memory for the similarities of up to so many rows, to be used again for each block."""
        # Rows a power of two apart would share a few lines of every cache.
        size = queries * (rows + _PAD)
        return [np.empty(size, dtype=np.float32) for _ in range(parts)]

    def _workers(self) -> ThreadPoolExecutor:
        with self._starting:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "moee-scan", _alone)
            return self._pool


def _alone() -> None:
    """Run this thread's OpenMP work in this thread alone: the jobs already share the cores.

    The number of threads is each thread's own in OpenMP. `torch.set_num_threads` would set MKL's
    for all threads as well, so FAISS, which shares torch's OpenMP, is asked.
    """
    if (torch := torch_in_use()) is not None:
        torch.get_num_threads()  # its first look in a thread would undo what follows
    load_faiss().omp_set_num_threads(1)


def _run(
    scan: Scan,
    codes: CheckedCodes,
    rows: range | RowNumbers,
    queries: FloatArray,
    out: FloatArray,
) -> None:
    scan(_taken(codes, rows), queries, out)


def _bound(leading: LeadingPart, bounds: QueryBounds, rows: range, out: FloatArray) -> None:
    """Into out [m] what the similarities of rows to one query are at most."""
    bounds.upper_of_one(leading.codes(rows), leading.rest(rows), out)


def _taken(codes: CheckedCodes, rows: range | RowNumbers) -> Codes:
    """Some rows; gathered ones until this thread gathers again."""
    if isinstance(rows, range):
        return codes.block(rows.start, rows.stop)
    known: dict[int, Bytes] = _of_thread.__dict__.setdefault("rooms", {})
    width = codes.row_bytes
    if width not in known:
        known[width] = np.empty((_GATHERED_ROWS, width), dtype=np.uint8)
    return codes.rows(rows, known[width])


def _scan_each(codes: Codes, queries: FloatArray, out: FloatArray) -> None:
    """Queries [q, d] over codes [m, d], one after another, into out [q, m]."""
    for query, target in zip(queries, out, strict=True):
        _scan(codes, query, target)


def _scan(codes: Codes, query: FloatArray, out: FloatArray) -> None:
    """One query [d] over codes [m, d] by FAISS's scanner, which releases the GIL."""
    faiss = load_faiss()
    query = np.ascontiguousarray(query, dtype=np.float32)
    scanner = _scanner(codes.shape[1])
    scanner.set_query(faiss.swig_ptr(query))
    # "All within a radius" with a radius that nothing is outside of gives every similarity, in
    # order; FAISS has no plainer way to ask for that.
    result = faiss.RangeSearchResult(1)
    partial = faiss.RangeSearchPartialResult(result)
    collected = partial.new_result(0)
    scanner.scan_codes_range(
        len(codes), faiss.swig_ptr(codes.view(np.uint8)), None, _LOWEST, collected
    )
    partial.finalize()
    out[:] = faiss.rev_swig_ptr(result.distances, len(codes))


def _scanner(dim: int) -> Any:
    """This thread's FAISS scanner for a dimension.

    Kept for good: FAISS's Python binding does not own scanners, and taking ownership crashes.
    """
    known: dict[int, Any] | None = getattr(_of_thread, "scanners", None)
    if known is None:
        known = _of_thread.scanners = {}
    if dim not in known:
        faiss = load_faiss()
        quantizer = faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
        scanner = quantizer.select_InvertedListScanner(
            faiss.METRIC_INNER_PRODUCT, None, True, None, False
        )
        known[dim] = (quantizer, scanner)
    return known[dim][1]


@functools.cache
def _scanner_works() -> bool:
    """Whether this faiss has the scanner as it is used here, which is not a documented interface;
    without it one query is answered as many are."""
    codes = np.eye(3, 8, dtype=np.float16)
    query = np.arange(1, 9, dtype=np.float32)
    similarities = np.zeros(3, dtype=np.float32)
    try:
        _scan(codes, query, similarities)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    return bool((similarities == query[:3]).all())


def _multiply(codes: Codes, queries: FloatArray, out: FloatArray) -> None:
    """Queries [q, d] over codes [m, d]: blocks that fit the cache to float32, one GEMM each."""
    import torch

    count, dim = queries.shape
    padded = np.zeros((dim, -(-count // _GEMM_COLUMNS) * _GEMM_COLUMNS), dtype=np.float32)
    padded[:, :count] = queries.T
    right: Any = torch.from_numpy(padded)
    target: Any = torch.from_numpy(out)
    halves: Any = torch.from_numpy(codes)
    for start in range(0, len(codes), _GEMM_ROWS):
        product = halves[start : start + _GEMM_ROWS].float() @ right
        target[:, start : start + _GEMM_ROWS] = product[:, :count].T
