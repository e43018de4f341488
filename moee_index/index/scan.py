"""Similarities of every stored code to some queries, at the speed of memory.

Knows how to multiply float32 queries with float16 codes. Refuses to know parts, fusion and ranks:
this is the one place to change when another way is faster.

Measured on 2 shared cores of an EPYC with AVX-512, 100,000 codes of 2048 + 1024 (614 MB, read once
in 21 ms): FAISS's own scanner 27 to 34 ms a query; torch, 512 codes at a time to float32 and one
GEMM, 66 ms for one query, 210 for 16 and 520 for 64, where FAISS's search takes 1900; torch's
half-precision product 33 ms, but rounded to 3 digits; numpy's conversion 2000 ms.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from moee_index.embeddings import FloatArray
from moee_index.index.checks import CheckedCodes, Codes
from moee_index.index.pair import load_faiss
from moee_index.index.vectors import RowNumbers

# Up to so many queries FAISS's scanner, which converts the codes for each, beats one GEMM.
SCANNER_QUERIES = 6
_GEMM_ROWS = 512
# Fewer columns are slower than these (8 take twice the time of 16).
_GEMM_COLUMNS = 16
# Below this a thread costs more than it scans.
_THREAD_ROWS = 4096
_LOWEST = -3.0e38


class Scanner:
    """Scans blocks of codes with as many threads as torch uses. Close it when done."""

    def __init__(self) -> None:
        import torch

        self._threads = max(1, torch.get_num_threads())
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def similarities(
        self, parts: Sequence[tuple[CheckedCodes, FloatArray]], rows: range | RowNumbers
    ) -> list[FloatArray]:
        """For each part's codes and unit queries [q, d], float32 [q, m]: the similarities of the
        m given rows, which are consecutive or ascending numbers.

        All parts have the same rows and q. Differences to exact arithmetic on the codes stay
        below 1e-5. Raises IndexDamagedError where codes are altered.
        """
        queries = len(parts[0][1])
        found = [np.empty((queries, len(rows)), dtype=np.float32) for _ in parts]
        scan = _multiply if queries > SCANNER_QUERIES or not _scanner_works() else _scan_each
        share = max(_THREAD_ROWS, -(-len(rows) // self._threads))
        jobs = [
            (codes, rows[start : start + share], vectors, out[:, start : start + share])
            for (codes, vectors), out in zip(parts, found, strict=True)
            for start in range(0, len(rows), share)
        ]
        if scan is _multiply or len(jobs) == 1 or self._threads == 1 or len(rows) < _THREAD_ROWS:
            for job in jobs:
                scan(_taken(*job[:2]), *job[2:])
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "moee-scan")

            def run(job: tuple[CheckedCodes, range | RowNumbers, FloatArray, FloatArray]) -> None:
                scan(_taken(*job[:2]), *job[2:])

            for future in [self._pool.submit(run, job) for job in jobs]:
                future.result()
        return found


def _taken(codes: CheckedCodes, rows: range | RowNumbers) -> Codes:
    return codes.block(rows.start, rows.stop) if isinstance(rows, range) else codes.rows(rows)


def _scan_each(codes: Codes, queries: FloatArray, out: FloatArray) -> None:
    """Queries [q, d] over codes [m, d], one after another, into out [q, m]."""
    for query, target in zip(queries, out, strict=True):
        _scan(codes, query, target)


def _scan(codes: Codes, query: FloatArray, out: FloatArray) -> None:
    """One query [d] over codes [m, d] by FAISS's scanner, which lets go of the GIL."""
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


_of_thread = threading.local()


def _scanner(dim: int) -> Any:
    """This thread's FAISS scanner for a dimension.

    Kept for good: FAISS's Python binding does not own scanners, and taking ownership crashes.
    """
    known: dict[int, Any] | None = getattr(_of_thread, "scanners", None)
    if known is None:
        known = _of_thread.scanners = {}
    if dim not in known:
        faiss = load_faiss()
        quantiser = faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
        scanner = quantiser.select_InvertedListScanner(
            faiss.METRIC_INNER_PRODUCT, None, True, None, False
        )
        known[dim] = (quantiser, scanner)
    return known[dim][1]


@functools.cache
def _scanner_works() -> bool:
    """Whether this faiss has the scanner as it is used here, which is no documented interface."""
    codes = np.eye(3, 8, dtype=np.float16)
    query = np.arange(1, 9, dtype=np.float32)
    found = np.zeros(3, dtype=np.float32)
    try:
        _scan(codes, query, found)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return bool((found == query[:3]).all())


def _multiply(codes: Codes, queries: FloatArray, out: FloatArray) -> None:
    """Queries [q, d] over codes [m, d]: blocks that fit the cache to float32, one GEMM each."""
    import torch

    count, dim = queries.shape
    padded = np.zeros((dim, -(-count // _GEMM_COLUMNS) * _GEMM_COLUMNS), dtype=np.float32)
    padded[:, :count] = queries.T
    right: Any = torch.from_numpy(padded)
    target: Any = torch.from_numpy(out)
    with warnings.catch_warnings():
        # Torch warns of memory that must not be written to; nothing here writes.
        warnings.simplefilter("ignore")
        halves: Any = torch.from_numpy(codes)
    for start in range(0, len(codes), _GEMM_ROWS):
        product = halves[start : start + _GEMM_ROWS].float() @ right
        target[:, start : start + _GEMM_ROWS] = product[:, :count].T
