"""The MoEE maths: standardising, similarities of the two parts, fusing them, exact top k.

Arrays in, arrays out: no model, no disk, no FAISS. Where a number has to be exact the work is done
in float64 and scores are rounded to float32 at the very end, so that equal texts have equal scores
and stay in document order.

Source: Li & Zhou, ICLR 2025, section 3 (HS, RW, `concat`, `sum`).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from moee_index.errors import MisuseError, ModelError, counted
from moee_index.text import shown
from moee_index.types import PARTS, Embeddings, FloatArray, Pair, Part

Method = Literal["hs", "rw", "concat", "sum"]
Standardize = Literal["both", "rw", "hs", "none"]
Float64Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.floating[Any]]
RowNumbers = npt.NDArray[np.int64]

METHODS: tuple[Method, ...] = get_args(Method)
STANDARDIZE: tuple[Standardize, ...] = get_args(Standardize)
# Fewer rows than this say little about a mean and a deviation (DESIGN, maths 5).
MIN_ROWS = 64
DROP_BELOW = 1e-6
# Standardised rows are some √d long; shorter ones than this are the mean itself.
ZERO_BELOW = 1e-6
# A larger weight drowns HS in any float format, and overflows float32 scores in the end.
MAX_ALPHA = 1e30
# Rows held in float64 at a time; a constant, because sums depend on how they are grouped.
FIT_BLOCK = 2048


def check_search(
    method: str, alpha: float | None, k: int, *, default_alpha: float = 1.0
) -> float | None:
    """The alpha to search with: the given one or the default for `sum`, None for other methods.

    Raises MisuseError for an unknown method, k below 1, an alpha that is negative or not finite,
    or an alpha given to another method than `sum`.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise MisuseError(f"method is {shown_value(method)}; it is one of {', '.join(METHODS)}")
    # numpy's integers are allowed; a bool is not a number here.
    whole: Any = k
    if isinstance(whole, bool) or not isinstance(whole, numbers.Integral) or k < 1:
        raise MisuseError(f"k is {shown_value(k)}; it must be a whole number, 1 or more")
    if method != "sum":
        if alpha is not None:
            raise MisuseError(f"alpha weighs RW in method sum only, not in {method}; leave it out")
        return None
    if alpha is None:
        return default_alpha
    return check_alpha(alpha)


def check_alpha(alpha: float) -> float:
    """alpha as a float. Raises MisuseError unless it is a finite number of 0 or more."""
    weight = finite_number(alpha)
    if weight is None or weight < 0:
        raise MisuseError(f"alpha is {shown_value(alpha)}; it must be a finite number, 0 or more")
    if weight > MAX_ALPHA:
        raise MisuseError(
            f"alpha is {shown_value(alpha)}, where HS no longer counts; use method rw instead"
        )
    return weight


def shown_value(value: object) -> str:
    """A caller's value in a message."""
    try:
        return shown(repr(value))
    except ValueError:  # Python writes no whole number of more than some thousand digits
        return f"of type {type(value).__name__}, with thousands of digits"


def finite_number(value: object) -> float | None:
    """A real number as a float; None for what is no number (a bool is none) or not finite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def choose_standardize(rows: int, requested: str | None = None) -> tuple[Standardize, str]:
    """Which parts to standardise for a corpus of so many rows, and the reason.

    Raises MisuseError for anything but both, rw, hs or none.
    """
    if requested is not None:
        for which in STANDARDIZE:
            if isinstance(requested, str) and requested == which:
                return which, "as requested"
        raise MisuseError(
            f"standardize is {shown_value(requested)}; it is one of {', '.join(STANDARDIZE)}"
        )
    if rows < MIN_ROWS:
        return "none", f"too few rows to fit on ({rows}, fewer than {MIN_ROWS})"
    return "both", f"mean and deviation of each dimension, fitted once on {rows} rows"


def check_finite(rows: Rows, part: str, first: int = 0) -> None:
    """Raises ModelError naming the first row that holds NaN or infinity."""
    good = np.isfinite(rows).all(axis=1)
    if not good.all():
        row = first + int(np.flatnonzero(~good)[0])
        raise ModelError(f"{part.upper()} of row {row} holds values that are not finite")


class SlicedRows(Protocol):
    """Rows [n, d] that are read in slices, as an array's or a memory map's are."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Moments:
    """How many rows there were, and of each dimension their mean and the sum of the squares of
    their differences from it: float64 [d].

    Those of several groups of rows merge into those of all of them, so that a standardizer can be
    fitted where no one process reads all rows.
    """

    count: int
    mean: Float64Array
    squares: Float64Array

    @classmethod
    def of(cls, rows: SlicedRows, part: str) -> Moments:
        """Of rows [n, d], read block by block. Raises ModelError naming the first row that is not
        finite."""
        moments = cls(0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1]))
        for start in range(0, len(rows), FIT_BLOCK):
            taken = np.asarray(rows[start : start + FIT_BLOCK])
            check_finite(taken, part, start)
            block = taken.astype(np.float64)
            mean = block.mean(axis=0)
            squares = np.square(block - mean).sum(axis=0)
            moments = moments.merged(cls(len(block), mean, squares))
        return moments

    def merged(self, other: Moments) -> Moments:
        """Of both groups together (Chan, Golub & LeVeque 1983). The order decides the rounding."""
        total = self.count + other.count
        if not total:
            return self
        delta = other.mean - self.mean
        squares = self.squares + other.squares
        squares += np.square(delta) * (self.count * other.count / total)
        return Moments(total, self.mean + delta * (other.count / total), squares)


@dataclass(frozen=True, eq=False)
class PartStandardizer:
    """Mean and unbiased deviation of one part's dimensions, float64 [d].

    kept: bool [d]; a dimension that hardly varies (below 1e-6 of the median deviation) is dropped,
    which means it is 0 in every standardised row. Where none varies nothing is standardised: rows
    pass unchanged, because zeros would leave nothing to compare.
    """

    mean: Float64Array
    deviation: Float64Array
    kept: npt.NDArray[np.bool_]

    @classmethod
    def fit(cls, rows: SlicedRows, part: str) -> PartStandardizer:
        """Fit on rows [n, d], read block by block: they may be a memory map larger than memory.

        Raises ModelError naming the first row that is not finite.
        """
        return cls.of(Moments.of(rows, part))

    @classmethod
    def of(cls, moments: Moments) -> PartStandardizer:
        """Fitted on the rows that these are the moments of."""
        deviation = np.sqrt(moments.squares / max(moments.count - 1, 1))
        median = float(np.median(deviation)) if len(deviation) else 0.0
        kept = (deviation > 0) & (deviation >= DROP_BELOW * median)
        return cls(moments.mean, deviation, kept)

    @property
    def varies(self) -> bool:
        """Whether any dimension is kept."""
        return bool(self.kept.any())

    def apply(self, rows: Rows) -> Float64Array:
        """Standardised rows, float64 [n, d], dropped dimensions 0."""
        if not self.varies:
            return np.array(rows, dtype=np.float64)
        scale = np.where(self.kept, self.deviation, 1.0)
        standardized: Float64Array = (np.asarray(rows, dtype=np.float64) - self.mean) / scale
        standardized[:, ~self.kept] = 0.0
        return standardized


@dataclass(frozen=True, eq=False)
class Standardizer(Pair["PartStandardizer | None"]):
    """Per-dimension mean and deviation, fitted once on a corpus and frozen (DESIGN, maths 5).

    A part that is None passes unchanged.
    """

    hs: PartStandardizer | None = None
    rw: PartStandardizer | None = None

    @classmethod
    def fit(cls, embeddings: Pair[SlicedRows], which: Standardize = "both") -> Standardizer:
        """Fit on the rows of `embeddings`, whose arrays may be memory maps. Deterministic.

        Raises ModelError naming the first row that is not finite.
        """

        def fitted(part: Part) -> PartStandardizer | None:
            chosen = which in ("both", part)
            return PartStandardizer.fit(embeddings[part], part) if chosen else None

        return cls(fitted("hs"), fitted("rw"))

    @classmethod
    def of(cls, moments: Pair[Moments], which: Standardize = "both") -> Standardizer:
        """Fitted on the rows that these are the moments of, as `fit` is on the rows themselves."""

        def fitted(part: Part) -> PartStandardizer | None:
            return PartStandardizer.of(moments[part]) if which in ("both", part) else None

        return cls(fitted("hs"), fitted("rw"))

    @property
    def which(self) -> Standardize:
        """The parts that are standardised."""
        return _named(self.map(lambda part: part is not None and part.varies))

    @property
    def fitted(self) -> Standardize:
        """The parts that were to be standardised: those too in which no dimension varies."""
        return _named(self.map(lambda part: part is not None))

    def not_standardized(self, rows: int) -> str | None:
        """Why parts that were to be standardised are not, for a fit on so many rows; None where
        all are."""
        constant = [name.upper() for name, part in self if part is not None and not part.varies]
        if not constant:
            return None
        return (
            f"no dimension of {' and '.join(constant)} varies over "
            f"{counted(rows, 'row')}, so there is no deviation to divide by"
        )

    @property
    def dropped(self) -> dict[str, int]:
        """How many dimensions of each part vary too little to be used."""
        return {name: int((~part.kept).sum()) if part else 0 for name, part in self}

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """Standardised embeddings, float32; parts that are not standardised pass unchanged."""
        return Embeddings(
            _standardized(self.hs, embeddings.hs).astype(np.float32),
            _standardized(self.rw, embeddings.rw).astype(np.float32),
        )

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Named arrays for storage; empty when nothing is standardised."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, part in self:
            if part is not None:
                arrays[f"{name}.mean"] = part.mean
                arrays[f"{name}.deviation"] = part.deviation
                arrays[f"{name}.kept"] = part.kept.astype(np.uint8)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Standardizer:
        """The inverse of `to_arrays`. Raises ValueError where arrays are missing or do not fit."""

        def read(name: Part) -> PartStandardizer | None:
            found = [arrays.get(f"{name}.{field}") for field in ("mean", "deviation", "kept")]
            mean, deviation, kept = found
            if mean is None or deviation is None or kept is None:
                if any(array is not None for array in found):
                    raise ValueError(f"the standardizer of {name} is not complete")
                return None
            if not mean.shape == deviation.shape == kept.shape or mean.ndim != 1:
                raise ValueError(f"the standardizer of {name} has arrays of different lengths")
            return PartStandardizer(
                mean.astype(np.float64), deviation.astype(np.float64), kept.astype(np.bool_)
            )

        return cls(read("hs"), read("rw"))


def standardise_batch(rows: Rows) -> Float64Array:
    """The authors' per-batch standardising: unbiased deviation + 1e-8, NaN to 0; float64 [n, d].

    For parity tests and the bench alone: it makes a vector depend on its neighbours, and a batch
    of one all zeros (the authors' `moee.py`).
    """
    block = np.asarray(rows, dtype=np.float64)
    if len(block) < 2:
        return np.zeros(block.shape)
    scaled = (block - block.mean(axis=0)) / (block.std(axis=0, ddof=1) + 1e-8)
    cleaned: Float64Array = np.nan_to_num(scaled, nan=0.0)
    return cleaned


@dataclass(frozen=True, eq=False)
class UnitVectors:
    """Both parts of n texts at length 1, and the lengths they had.

    hs: float64 [n, d]; rw: float64 [n, layers * experts]; norms: float64 [n, 2], |z(h)| and
    |z(r)|. A part whose length is 0 stays zero: its similarity to everything is 0.
    """

    hs: Float64Array
    rw: Float64Array
    norms: Float64Array

    def __len__(self) -> int:
        return len(self.norms)

    @property
    def parts(self) -> Pair[Float64Array]:
        return Pair(self.hs, self.rw)

    def __getitem__(self, rows: slice) -> UnitVectors:
        return UnitVectors(self.hs[rows], self.rw[rows], self.norms[rows])


def unit_vectors(embeddings: Embeddings, standardizer: Standardizer | None = None) -> UnitVectors:
    """Standardise with a frozen standardizer (none: raw vectors) and normalise each part.

    Raises ModelError naming the first row that is not finite.
    """
    frozen = standardizer or Standardizer()
    units = PARTS.map(lambda part: unit_rows(embeddings[part], part, frozen[part]))
    return UnitVectors(units.hs[0], units.rw[0], np.stack([units.hs[1], units.rw[1]], axis=1))


def unit_rows(
    rows: Rows, part: str, standardizer: PartStandardizer | None = None
) -> tuple[Float64Array, Float64Array]:
    """One part's rows standardised and at length 1, [n, d], and the lengths they had, [n].

    Raises ModelError naming the first row that is not finite.
    """
    check_finite(rows, part)
    standardized = _standardized(standardizer, rows)
    norms = np.sqrt(np.square(standardized).sum(axis=1))
    if standardizer is not None and standardizer.varies:
        # A row equal to the mean is zero up to rounding, and noise has no direction to compare.
        norms[norms < ZERO_BELOW] = 0.0
        standardized[norms == 0] = 0.0
    return standardized / np.where(norms > 0, norms, 1.0)[:, None], norms


def fuse(
    method: Method,
    sim_hs: Rows,
    sim_rw: Rows,
    alpha: float | None,
    query_norms: Rows,
    document_norms: Rows,
) -> Rows:
    """Scores of n documents for one query, in the precision of the similarities.

    sim_hs, sim_rw: [n]; query_norms: [2]; document_norms: [n, 2]. `concat` is the cosine of the
    joined vectors, from the similarities and lengths of their parts (DESIGN, maths 2).
    """
    if method == "hs":
        return sim_hs
    if method == "rw":
        return sim_rw
    if method == "sum":
        return sim_hs + sim_hs.dtype.type(1.0 if alpha is None else alpha) * sim_rw
    query = _share(np.asarray(query_norms, dtype=np.float64)[None, :])[0]
    shares = _share(np.asarray(document_norms, dtype=np.float64)) * query
    shares = shares.astype(sim_hs.dtype, copy=False)
    fused: Rows = shares[:, 0] * sim_hs + shares[:, 1] * sim_rw
    return fused


@dataclass(frozen=True, eq=False)
class Scores:
    """Score and similarities of n documents for one query, float32 [n] each."""

    score: FloatArray
    hs: FloatArray
    rw: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Scores of several groups of documents, one after another."""
        if not parts:
            empty = np.empty(0, np.float32)
            return cls(empty, empty, empty)
        return cls(
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.hs for part in parts]),
            np.concatenate([part.rw for part in parts]),
        )

    def __getitem__(self, rows: RowNumbers) -> Scores:
        return Scores(self.score[rows], self.hs[rows], self.rw[rows])


def blend(dense: Rows, words: Rows, weight: float, method: Method, alpha: float | None) -> Rows:
    """Scores of n documents by similarity and by words: (1-w)·dense/(1+α) + w·words for `sum`,
    without the divisor for the other methods.

    dense: [n], as of `fuse`; words: [n], BM25 over the query's largest; weight: w, 0 to 1.
    """
    return dense_share(weight, method, alpha) * dense + weight * words


def dense_share(weight: float, method: Method, alpha: float | None) -> float:
    """What similarities are multiplied with where words weigh `weight`."""
    span = 1.0 + (1.0 if alpha is None else alpha) if method == "sum" else 1.0
    return (1.0 - weight) / span


def score(
    query: UnitVectors,
    documents: UnitVectors,
    method: Method = "sum",
    alpha: float | None = 1.0,
    words: tuple[float, Rows] | None = None,
) -> Scores:
    """Scores of n documents for one query (`query` holds one row): float64 rounded to float32.

    Each document is summed by itself, so that equal rows have equal scores wherever they are;
    a matrix product does not promise that. words: their weight and each document's share, where
    they count as well (`blend`).
    """
    sim_hs = np.clip((documents.hs * query.hs[0]).sum(axis=1), -1.0, 1.0)
    sim_rw = np.clip((documents.rw * query.rw[0]).sum(axis=1), -1.0, 1.0)
    fused = fuse(method, sim_hs, sim_rw, alpha, query.norms[0], documents.norms)
    if words is not None:
        fused = blend(fused, words[1], words[0], method, alpha)
    # Adding 0 turns -0.0 into 0.0.
    return Scores(
        *(values.astype(np.float32) + np.float32(0.0) for values in (fused, sim_hs, sim_rw))
    )


def known(similarity: np.floating[Any]) -> float:
    """A similarity; one that nobody looked at is the one NaN that equals itself in a tuple."""
    return math.nan if np.isnan(similarity) else float(similarity)


def top_k(scores: Rows, k: int) -> RowNumbers:
    """Positions of the k highest scores, highest first; equal ones in order, at the cut too.

    Returns int64 [min(k, n)].
    """
    if k < len(scores):
        cut = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= cut)
    else:
        candidates = np.arange(len(scores))
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order[:k]].astype(np.int64)


def unseen_bound(
    method: Method, last_hs: float, last_rw: float, alpha: float | None, query_norms: Rows
) -> float:
    """The highest score that a document on neither of two sorted lists can have.

    last_hs, last_rw: the lowest similarities on the lists (Fagin's threshold; DESIGN, maths 3).
    For `concat` tan θ = |z(r)| / |z(h)| of the query.
    """
    if method == "hs":
        return last_hs
    if method == "rw":
        return last_rw
    if method == "sum":
        return last_hs + (1.0 if alpha is None else alpha) * last_rw
    cos, sin = _share(np.asarray(query_norms, dtype=np.float64)[None, :])[0]
    return math.hypot(cos * max(last_hs, 0.0), sin * max(last_rw, 0.0))


def one_vector(vectors: UnitVectors, method: Method, alpha: float | None = 1.0) -> FloatArray:
    """The vectors of a method as single rows, float32 [n, d], for wherever one is expected.

    The inner product of two rows is the method's score. `sum` is [h ; √α·r] (DESIGN, maths
    1).
    """
    if method == "hs":
        return vectors.hs.astype(np.float32)
    if method == "rw":
        return vectors.rw.astype(np.float32)
    if method == "concat":
        shares = _share(vectors.norms)
        joined = [vectors.hs * shares[:, :1], vectors.rw * shares[:, 1:]]
    else:
        weight = check_alpha(1.0 if alpha is None else alpha)
        joined = [vectors.hs, vectors.rw * math.sqrt(weight)]
    return np.concatenate(joined, axis=1).astype(np.float32)


def _named(parts: Pair[bool]) -> Standardize:
    if parts.hs:
        return "both" if parts.rw else "hs"
    return "rw" if parts.rw else "none"


def _standardized(part: PartStandardizer | None, rows: Rows) -> Float64Array:
    return np.asarray(rows, dtype=np.float64) if part is None else part.apply(rows)


def _share(norms: Float64Array) -> Float64Array:
    """Each part's share of the joined vector's length, [n, 2]; 0 where the whole is zero."""
    whole = np.hypot(norms[:, 0], norms[:, 1])
    return norms / np.where(whole > 0, whole, 1.0)[:, None]
