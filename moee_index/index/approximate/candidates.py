"""A segment's candidates: codes of one bit a dimension (RaBitQ) in lists, and what these find.

Written from the float16 codes of both parts beside them. What is found is scored exactly by who
asks (search/pair.py): estimates decide which rows are looked at, and never a score.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.atomic import replacing, storage_errors, write_file
from moee_index.backends import load_faiss
from moee_index.errors import IndexDamagedError, StorageError
from moee_index.index.approximate.asked import Asked
from moee_index.index.approximate.coarse import CoarseQuantizer
from moee_index.index.store.approximation import Reach
from moee_index.index.store.checksums import CheckedFile, Codes, piece_crcs
from moee_index.index.store.faiss_files import read_mapped, short
from moee_index.index.store.layout import CANDIDATES, code_checks_name, codes_name
from moee_index.index.store.reading import HINT
from moee_index.index.store.rows import RowNumbers
from moee_index.types import Pair, Progress

Mask = npt.NDArray[np.bool_]
# Codes that FAISS's scan takes at a time: its layout.
_BLOCK_CODES = 32
_BITS = 1
_ROWS = 2048
# FAISS makes a table of sixteen float32 for four dimensions of each list that each query of a call
# goes through, and counts their bytes in 32 bits: more than that ends the process.
_TABLE_BYTES_A_DIMENSION = 16
# How many more are asked for where some are left out, beyond their share.
_SPARE = 1.25
_TABLE_BYTES = 1 << 27


def write_candidates(
    folder: Path, coarse: CoarseQuantizer, codes: Pair[Codes], revision: int, report: Progress
) -> None:
    """Write the candidates of a segment and their checksums. codes: its float16 unit vectors. The
    same codes give the same bytes. Raises StorageError."""
    faiss = load_faiss()
    path = folder / codes_name(CANDIDATES, revision)
    index = _empty(coarse)
    rows = len(codes.hs)
    for start in range(0, rows, _ROWS):
        block = slice(start, min(start + _ROWS, rows))
        index.add(coarse.rotated(Pair(codes.hs[block], codes.rw[block])))
        report("listing", block.stop, rows)
    # The centroids are in a file of their own, once for all segments.
    nothing = faiss.IndexFlatIP(coarse.width)
    index.quantizer = nothing
    with replacing(path) as temporary, storage_errors(path), temporary.open("wb") as file:
        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        except RuntimeError as error:
            raise StorageError(f"FAISS cannot write {path} ({short(error)})") from None
    write_file(folder / code_checks_name(CANDIDATES, revision), piece_crcs(path).tobytes())


def _empty(coarse: CoarseQuantizer) -> Any:
    faiss = load_faiss()
    index = faiss.IndexIVFRaBitQFastScan(
        coarse.flat, coarse.width, coarse.lists, faiss.METRIC_INNER_PRODUCT, _BLOCK_CODES, True,
        _BITS,
    )  # fmt: skip
    index.own_fields = False
    index.train(coarse.centroids)
    return index


class Candidates:
    """The candidates of one opened segment; from any number of threads. The file is read and
    checked whole at the first question: FAISS holds these codes in memory."""

    def __init__(self, path: Path, crcs: npt.NDArray[np.uint32], rows: int) -> None:
        self.path = path
        self._file = CheckedFile(path, crcs)
        self._rows = rows
        self._opening = threading.Lock()
        self._opened: Any = None
        # How many rows so many lists hold at most; known once it is open.
        self._most = np.array([rows])

    @property
    def size(self) -> int:
        """Bytes of the file, about as many as are held in memory."""
        return self._file.size

    def opened(self, coarse: CoarseQuantizer) -> Any:
        """The codes as FAISS searches them, whose lists are those of a coarse quantizer. Raises
        IndexDamagedError unless the file is what was written, for these rows."""
        with self._opening:
            if self._opened is None:
                self._opened = self._open(coarse)
            return self._opened

    def _open(self, coarse: CoarseQuantizer) -> Any:
        faiss = load_faiss()
        index = read_mapped(self._file.read(0, self._file.size), self.path)
        if not isinstance(index, faiss.IndexIVFRaBitQFastScan) or (
            index.ntotal,
            index.d,
            index.nlist,
        ) != (self._rows, coarse.width, coarse.lists):
            raise IndexDamagedError(f"{self.path} does not hold these rows' candidates; {HINT}")
        index.quantizer = coarse.flat
        index.own_fields = False
        sizes = np.sort([index.get_list_size(number) for number in range(coarse.lists)])
        self._most = np.concatenate([[1], np.cumsum(sizes[::-1])])
        return index

    def check(self, coarse: CoarseQuantizer) -> None:
        """Raises IndexDamagedError unless the lists hold each row once."""
        faiss = load_faiss()
        lists = self.opened(coarse).invlists
        held = np.zeros(self._rows, dtype=bool)
        for number in range(coarse.lists):
            size = lists.list_size(number)
            rows = faiss.rev_swig_ptr(lists.get_ids(number), size) if size else held[:0]
            held[rows] = True
        if not held.all():
            raise IndexDamagedError(f"{self.path} does not list every row; {HINT}")

    def ranked(self, asked: Asked, reach: Reach, allowed: Mask | None) -> list[RowNumbers]:
        """For each query rows that it may be nearest to, by descending estimate, at most
        `reach.depth`; allowed: bool [n], those that count."""
        if allowed is None:
            return self._found(asked, reach, None)
        # FAISS looks at each row by itself where it is to leave some out, which takes longer than
        # leaving them out of more.
        share = max(1, int(allowed.sum())) / self._rows
        deeper = Reach(reach.lists, math.ceil(_SPARE * reach.depth / share))
        found = [rows[allowed[rows]][: reach.depth] for rows in self._found(asked, deeper, None)]
        lacking = [query for query, rows in enumerate(found) if len(rows) < reach.depth]
        if lacking:
            again = self._found(asked.of(lacking), reach, allowed)
            for query, rows in zip(lacking, again, strict=True):
                found[query] = rows
        return found

    def _found(self, asked: Asked, reach: Reach, allowed: Mask | None) -> list[RowNumbers]:
        """As `ranked`; FAISS leaves out what is not allowed."""
        faiss, width = load_faiss(), asked.coarse.width
        # What FAISS is given by reference has to live until it has answered.
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        lists = min(reach.lists, asked.coarse.lists)
        parameters = faiss.SearchParametersIVF(nprobe=lists, sel=selector)
        some = max(1, _TABLE_BYTES // (lists * width * _TABLE_BYTES_A_DIMENSION))
        found: list[RowNumbers] = []
        for start in range(0, len(asked.vectors), some):
            rows = self._rows_of(asked.of(slice(start, start + some)), reach, parameters)
            found += [each[each >= 0] for each in rows]
        return found

    def _rows_of(self, asked: Asked, reach: Reach, parameters: Any) -> npt.NDArray[np.int64]:
        """As `_found`, of few queries, [q, depth]; -1 where there is none."""
        faiss = load_faiss()
        index, vectors = self.opened(asked.coarse), asked.vectors
        near, lists = asked.nearest(reach.lists)
        # FAISS sorts as many places as it is asked for, filled or not.
        count, depth = len(vectors), min(reach.depth, int(self._most[lists.shape[1]]))
        estimates = np.empty((count, depth), dtype=np.float32)
        rows = np.empty((count, depth), dtype=np.int64)
        index.search_preassigned_c(
            count, faiss.swig_ptr(vectors), depth, faiss.swig_ptr(lists), faiss.swig_ptr(near),
            faiss.swig_ptr(estimates), faiss.swig_ptr(rows), False, parameters, None,
        )  # fmt: skip
        return rows
