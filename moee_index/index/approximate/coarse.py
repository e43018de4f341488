"""The coarse quantizer of an approximate index: what puts a row, or a query, near some lists.

Fitted once on a sample, then frozen like the standardizer and shared by all segments, so that rows
added later need no training. A row is the joined vector [h ; r] of its two unit vectors, each
rotated on its own (a randomized Hadamard transform, which evens out what a code of one bit a
dimension would lose on a few large ones). A query [h_q ; α·r_q] has the row's score of `sum` as its
inner product with it, for any α; other methods are other weights of the two parts.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.atomic import write_file
from moee_index.backends import load_faiss
from moee_index.dependencies import lacking
from moee_index.errors import IndexDamagedError, first_line
from moee_index.fusion import Standardizer, unit_vectors
from moee_index.index.store.reading import HINT, reading
from moee_index.index.store.rows import RowNumbers, RowReader
from moee_index.types import FloatArray, Pair, Progress

_SEED = 20250415
_SIGNS = Pair(1, 2)
_ROUNDS = 10
# Lists grow as the square root of the rows: both a query's way to the lists and through some of
# them then take about as long. Fewer rows than this a list would be fitted on chance.
_LISTS_PER_ROOT = 1
_MOST_LISTS = 1 << 16
_ROWS_A_LIST = 20
_SAMPLE_A_LIST = 64
_SAMPLE_BYTES = 1 << 30
_BLOCK = 2048
# The largest difference of one processor's rotation from another's.
_SAME = 1e-4


def lists_for(rows: int) -> int:
    """How many lists so many rows are put into."""
    wanted = round(_LISTS_PER_ROOT * math.sqrt(rows))
    return max(1, min(wanted, rows // _ROWS_A_LIST, _MOST_LISTS))


class CoarseQuantizer:
    """centroids: float32 [lists, width], where width is that of both parts, each rounded up to a
    power of two. dims: of the parts."""

    def __init__(self, centroids: FloatArray, dims: Pair[int]) -> None:
        self.centroids = centroids
        self._dims = dims

    @property
    def lists(self) -> int:
        return len(self.centroids)

    @property
    def width(self) -> int:
        return int(self.centroids.shape[1])

    @cached_property
    def _rotations(self) -> Pair[Any]:
        faiss = load_faiss()
        return self._dims.zip(_SIGNS).map(lambda each: faiss.HadamardRotation(*each))

    @cached_property
    def flat(self) -> Any:
        """The centroids as FAISS searches them."""
        faiss = load_faiss()
        index = faiss.IndexFlatIP(self.width)
        index.add(self.centroids)
        return index

    def rotated(
        self, units: Pair[npt.NDArray[Any]], weights: FloatArray | None = None
    ) -> FloatArray:
        """Both parts' unit vectors [n, d] rotated and joined, float32 [n, width]; weights: of the
        parts, [n, 2]."""
        return _rotated(self._rotations, units, weights)

    @classmethod
    def fit(
        cls,
        segments: Sequence[tuple[RowReader, RowNumbers | None]],
        standardizer: Standardizer,
        dims: Pair[int],
        report: Progress,
    ) -> CoarseQuantizer:
        """Fit on a sample of the rows that count of some segments: (rows, which of them count; None
        is all). The same rows give the same numbers. Raises IndexDamagedError."""
        faiss = load_faiss()
        fitted = cls(np.empty((0, 0), dtype=np.float32), dims)
        sample = _sample(fitted, segments, standardizer, report)
        rows = sum(len(raw) if live is None else len(live) for raw, live in segments)
        clusters = faiss.Kmeans(
            sample.shape[1], lists_for(rows), niter=_ROUNDS, seed=_SEED, spherical=True,
            min_points_per_centroid=1, max_points_per_centroid=_SAMPLE_A_LIST,
        )  # fmt: skip
        report("grouping", 0, None)
        clusters.train(sample)
        return cls(np.ascontiguousarray(clusters.centroids, dtype=np.float32), dims)

    def write(self, path: Path) -> None:
        """Raises StorageError."""
        from safetensors.numpy import save

        write_file(path, save({"centroids": self.centroids, "probe": self._probe()}))

    @classmethod
    def read(cls, path: Path, content: bytes, dims: Pair[int], lists: int) -> CoarseQuantizer:
        """content: of the file at `path`. Raises IndexDamagedError where it is none for these
        dimensions, LibraryError where this FAISS rotates otherwise than the one that made it."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            centroids, probe = arrays["centroids"], arrays["probe"]
            width = sum(_rounded_up(dim) for _, dim in dims)
            if centroids.shape != (lists, width) or centroids.dtype != np.float32:
                raise ValueError(f"it is no {lists} lists of {width} dimensions")
            if not np.isfinite(centroids).all() or probe.shape != (1, width):
                raise ValueError("its numbers are no centroids")
        except (SafetensorError, ValueError, TypeError, KeyError) as error:
            raise IndexDamagedError(f"{path} is damaged ({first_line(error)}); {HINT}") from error
        coarse = cls(centroids, dims)
        if not np.allclose(coarse._probe(), probe, rtol=0, atol=_SAME):
            raise lacking("faiss-cpu", "rotates vectors otherwise than the one that made the index")
        return coarse

    def _probe(self) -> FloatArray:
        """A fixed vector rotated: whether rotations are the same shows by it."""
        return self.rotated(self._dims.map(lambda dim: np.linspace(-1, 1, dim)[None, :]))


class CoarseFile:
    """The file of a coarse quantizer, held open, for a newer version may remove its name. It is
    read when the quantizer is asked for: once, from whichever thread.

    content: what reads an open file whole, and checks it. Raises IndexDamagedError, StorageError.
    """

    def __init__(
        self,
        path: Path,
        content: Callable[[BufferedReader], bytes],
        dims: Pair[int],
        lists: int,
    ) -> None:
        self.path = path
        self._content = content
        self._dims, self._lists = dims, lists
        self._opening = threading.Lock()
        self._opened: CoarseQuantizer | None = None
        with reading(path):
            self._file = path.open("rb")

    def opened(self) -> CoarseQuantizer:
        """The quantizer. Raises what `CoarseQuantizer.read` and the reading of the file raise."""
        with self._opening:
            if self._opened is None:
                content = self._content(self._file)
                opened = CoarseQuantizer.read(self.path, content, self._dims, self._lists)
                # Made here, once: the codes of all segments point to it and do not keep it alive.
                _ = opened.flat
                self._opened = opened
                self._file.close()
            return self._opened

    def close(self) -> None:
        self._file.close()


def _rotated(
    rotations: Pair[Any], units: Pair[npt.NDArray[Any]], weights: FloatArray | None
) -> FloatArray:
    parts = []
    for (_, rotation), (_, values), column in zip(rotations, units, (0, 1), strict=True):
        turned = rotation.apply(np.ascontiguousarray(values, dtype=np.float32))
        parts.append(turned if weights is None else turned * weights[:, column : column + 1])
    return np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float32)


def _rounded_up(dim: int) -> int:
    """The next power of two, which a Hadamard transform needs."""
    return 1 << (dim - 1).bit_length()


def _sample(
    coarse: CoarseQuantizer,
    segments: Sequence[tuple[RowReader, RowNumbers | None]],
    standardizer: Standardizer,
    report: Progress,
) -> FloatArray:
    """Some rows that count, rotated and joined, in the order of the index."""
    counts = [len(raw) if live is None else len(live) for raw, live in segments]
    rows = sum(counts)
    width = sum(_rounded_up(dim) for _, dim in coarse._dims)
    most = max(1, min(rows, _SAMPLE_A_LIST * lists_for(rows), _SAMPLE_BYTES // (4 * width)))
    chosen = np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))
    taken = np.empty((most, width), dtype=np.float32)
    begin = done = 0
    for (raw, live), count in zip(segments, counts, strict=True):
        within = chosen[(chosen >= begin) & (chosen < begin + count)] - begin
        numbers = within if live is None else live[within]
        for start in range(0, len(numbers), _BLOCK):
            block = raw.take(numbers[start : start + _BLOCK])
            units = unit_vectors(block, standardizer).parts
            taken[done : done + len(block)] = coarse.rotated(units)
            done += len(block)
            report("sampling", done, most)
        begin += count
    return taken
