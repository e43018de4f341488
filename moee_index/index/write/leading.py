"""Find and write the leading components of a segment (store/leading.py) where scans gain by them.

The directions are the first principal components of a sample of the segment's own rows, so that a
segment needs no other one's, and whatever the rows are like, nothing is wrong but speed. How many
are kept is chosen by trying: rows of the sample, moved towards others, are asked for among the
sample, and what a scan would read is counted. No clock is looked at: the same rows give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from moee_index.atomic import replacing, storage_errors, write_file
from moee_index.index.search.leading import QueryBounds
from moee_index.index.store.checksums import Bytes, Codes, piece_crcs
from moee_index.index.store.layout import LEADING, code_checks_name, leading_name
from moee_index.index.store.leading import ZERO, Shape, header
from moee_index.index.store.manifest import Leading
from moee_index.types import PARTS, FloatArray, Pair, Part, Progress

# Bytes of codes that a scan is through with before anything pays.
_LEAST_BYTES = 64 << 20
# Of fewer a sample says nothing.
_LEAST_ROWS = 4 * 64
# What a scan may read at most, as a share of the codes, for the components to be kept (LAB.md).
_MOST_READ = 0.4
_SAMPLE_ROWS = 1 << 14
_SAMPLE_BYTES = 256 << 20
_MOST_COMPONENTS = 1024
# Components that are taken together.
_TOGETHER = 16
_SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 7 / 16, 1 / 2, 9 / 16, 5 / 8)
_ROUNDS = 4
_SEED = 20250415
_ASKED = 64
_HITS = 10
_TOWARDS = 0.75
# Reading a row apart from others costs as much as reading some in sequence (LAB.md).
_GATHER = 8
# How much larger than the sample's a component may be before a byte does not hold it.
_HEADROOM = 1.25
_LARGEST = 127
_BLOCK = 2048
# Of squared lengths in float32, and of codes' errors: bounds must not be too small.
_SQUARES = 1e-5
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Encoded:
    """Leading components of some rows. codes: uint8 [n, p]; rest: float32 [n]; error: the longest
    difference of components to their codes, of rows whose rest is finite."""

    codes: Bytes
    rest: FloatArray
    error: float


@dataclass(frozen=True, eq=False)
class Directions:
    """float32 [p, d], orthonormal, and steps float32 [p]."""

    directions: FloatArray
    steps: FloatArray

    @classmethod
    def fit(cls, sample: FloatArray) -> Directions:
        """The first principal components of rows [m, d], by their second moments about zero, as
        products are taken; found by subspace iteration (Halko, Martinsson & Tropp 2011)."""
        dim = sample.shape[1]
        count = min(_components(dim, max(_SHARES)), len(sample))
        basis = np.random.default_rng(_SEED).standard_normal((dim, count), dtype=np.float32)
        for _ in range(_ROUNDS):
            spread = (sample.T @ (sample @ basis)).astype(np.float64)
            basis = np.linalg.qr(spread)[0].astype(np.float32)
        within = sample @ basis
        _, turn = np.linalg.eigh((within.T @ within).astype(np.float64))
        directions = np.ascontiguousarray((basis @ turn[:, ::-1]).T, dtype=np.float32)
        largest = np.abs(sample @ directions.T).max(axis=0)
        steps = _HEADROOM / _LARGEST * np.where(largest > 0, largest, 1.0)
        return cls(directions, steps.astype(np.float32))

    def first(self, count: int) -> Directions:
        return Directions(np.ascontiguousarray(self.directions[:count]), self.steps[:count])

    def encoded(self, rows: FloatArray) -> Encoded:
        """Of rows float32 [n, d] of length 1 or 0."""
        leading = rows @ self.directions.T
        counted = np.rint(leading / self.steps)
        held = (np.abs(counted) <= _LARGEST).all(axis=1)
        counted = np.clip(counted, -_LARGEST, _LARGEST)
        squares = np.square(rows).sum(axis=1) - np.square(leading).sum(axis=1)
        rest = np.sqrt(np.maximum(squares, 0.0) + np.float32(_SQUARES))
        errors = np.sqrt(np.square(leading - counted * self.steps).sum(axis=1))[held]
        error = float(errors.max(initial=0.0)) + _ROUNDING
        codes = (counted + ZERO).astype(np.uint8)
        return Encoded(codes, np.where(held, rest, np.inf).astype(np.float32), error)


def write_leading(
    folder: Path, codes: Pair[Codes], revision: int, report: Progress
) -> Leading | None:
    """Write the leading components of a segment and their checksums; None, and nothing, where a
    scan would not gain by them. codes: its float16 unit vectors. The same codes give the same
    bytes. Raises StorageError."""
    if len(codes.hs) < _LEAST_ROWS or codes.hs.nbytes + codes.rw.nbytes < _LEAST_BYTES:
        return None
    report("finding leading components", 0, None)
    samples = codes.map(_sample)
    fitted = samples.map(Directions.fit)
    share, read = _choose(fitted, samples, len(codes.hs))
    if read > _MOST_READ:
        return None
    kept = fitted.zip(codes).map(lambda each: each[0].first(_components(each[1].shape[1], share)))
    path = folder / leading_name(revision)
    with replacing(path) as temporary, storage_errors(path), temporary.open("wb") as file:
        for piece in _pieces(codes, kept, report):
            file.write(piece)
    write_file(folder / code_checks_name(LEADING, revision), piece_crcs(path).tobytes())
    return Leading(revision, read)


def _components(dim: int, share: float) -> int:
    """How many components are this share of all, in whole groups."""
    rounded = max(1, round(share * dim / _TOGETHER)) * _TOGETHER
    return min(dim, rounded, _MOST_COMPONENTS)


def _sample(codes: Codes) -> FloatArray:
    """Evenly spread rows, float32."""
    most = max(1, min(len(codes), _SAMPLE_ROWS, _SAMPLE_BYTES // (4 * codes.shape[1])))
    return codes[np.linspace(0, len(codes) - 1, most).astype(np.int64)].astype(np.float32)


def _pieces(
    codes: Pair[Codes], fitted: Pair[Directions], report: Progress
) -> Iterator[bytes | memoryview]:
    """The file, piece by piece."""

    def shape(part: Part) -> Shape:
        rows, dim = codes[part].shape
        return Shape(rows, dim, len(fitted[part].steps))

    yield header(PARTS.map(shape))
    for part, values in codes:
        rest = np.empty(len(values), dtype="<f4")
        error = 0.0
        for start in range(0, len(values), _BLOCK):
            block = slice(start, start + _BLOCK)
            encoded = fitted[part].encoded(values[block].astype(np.float32))
            rest[block] = encoded.rest
            error = max(error, encoded.error)
            yield encoded.codes.data
            report(f"leading components of {part}", min(block.stop, len(values)), len(values))
        yield rest.tobytes()
        yield fitted[part].directions.astype("<f4").tobytes()
        yield fitted[part].steps.astype("<f4").tobytes()
        yield np.array([np.nextafter(np.float32(error), np.float32(np.inf))], dtype="<f4").tobytes()


def _choose(fitted: Pair[Directions], samples: Pair[FloatArray], rows: int) -> tuple[float, float]:
    """The share of components by which a scan of so many rows reads least, and the share of the
    codes that it then reads; rows that it has to look at count as often as they cost."""
    trial = _Trial.of(samples, rows)
    read, share = min((trial.read(fitted, share), share) for share in _SHARES)
    return share, read


@dataclass(frozen=True, eq=False)
class _Trial:
    """Rows of a sample and what they are asked. least: float32 [q, 1], the score that the best rows
    for each query have; out: bool [q, m], rows that a query was made of."""

    samples: Pair[FloatArray]
    asked: Pair[FloatArray]
    least: FloatArray
    out: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, samples: Pair[FloatArray], rows: int) -> _Trial:
        """rows: that the sample is of."""
        count = len(samples.hs)
        firsts, others = (
            np.random.default_rng(_SEED).permutation(count)[: 2 * _ASKED].reshape(2, -1)
        )
        asked = samples.map(lambda part: _unit(part[firsts] + _TOWARDS * part[others]))
        scores = _summed(samples.zip(asked).map(lambda each: each[1] @ each[0].T))
        out = np.zeros(scores.shape, dtype=bool)
        for made_of in (firsts, others):
            out[np.arange(len(firsts)), made_of] = True
        scores[out] = -np.inf
        least = _kth_of(scores, _HITS, rows)
        return cls(samples, asked, least, out)

    def read(self, fitted: Pair[Directions], share: float) -> float:
        """The share of the codes that a scan reads by a share of the components."""
        bounds, bytes_read, whole = [], 0, 0
        for part, sample in self.samples:
            count = _components(sample.shape[1], share)
            kept = fitted[part].first(count)
            encoded = kept.encoded(sample)
            asked = QueryBounds.of(kept.directions, kept.steps, encoded.error, self.asked[part])
            bounds.append(asked.upper(encoded.codes, encoded.rest))
            bytes_read += count + 4
            whole += 2 * sample.shape[1]
        left = (_summed(Pair(*bounds)) >= self.least) & ~self.out
        return float(bytes_read / whole + _GATHER * left.mean())


def _kth_of(scores: FloatArray, k: int, rows: int) -> FloatArray:
    """What the k-th best of so many rows scores, [q, 1], told by the k-th best of a sample, [q, m]:
    as far away from the middle as a normal distribution has it, which real scores pass."""
    count = scores.shape[1]
    middle = np.median(scores, axis=1)
    kth = np.partition(scores, count - k, axis=1)[:, count - k]
    deviations = [NormalDist().inv_cdf(1 - k / each) for each in (rows, count)]
    farther = deviations[0] / deviations[1]
    told = (middle + (kth - middle) * farther).astype(np.float32)
    return told[:, None]


def _unit(rows: FloatArray) -> FloatArray:
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def _summed(parts: Pair[FloatArray]) -> FloatArray:
    """As method `sum` at α = 1."""
    return parts.hs + parts.rw
