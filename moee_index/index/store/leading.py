"""Leading components of a segment's unit vectors: the file that holds them, opened and checked.

A part's float16 codes v are projected on some orthonormal directions P, the first principal
components of a sample. The file keeps P v in a byte a component, as c · steps, and |v - PᵀP v|, the
length of the rest. So the similarity to any query q is known up to

    ⟨q, v⟩ <= ⟨P q, c · steps⟩ + |P q| · error + |q - PᵀP q| · rest

by Cauchy and Schwarz, where `error` is the longest P v - c · steps. A row with a component that a
byte does not hold has an infinite rest instead.

The file is in the safetensors format, HS before RW: codes uint8 [n, p] (c + 128), rest float32 [n],
directions float32 [p, d], steps float32 [p], error float32 [1].
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moee_index.errors import IndexDamagedError
from moee_index.index.store.checksums import Bytes, CheckedFile, Crcs
from moee_index.index.store.reading import HINT
from moee_index.types import PARTS, FloatArray, Pair

# What stands for a component of 0.
ZERO = 128
_ALIGNED = 64
_MOST_HEADER = 1 << 16
# Float32 products that are made anew differ by less.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Shape:
    """Of one part: how many rows, dimensions, and leading components."""

    rows: int
    dim: int
    components: int

    def tensors(self) -> Iterator[tuple[str, str, list[int]]]:
        """Name, type and shape of each tensor, in the order of the file."""
        yield "codes", "U8", [self.rows, self.components]
        yield "rest", "F32", [self.rows]
        yield "directions", "F32", [self.components, self.dim]
        yield "steps", "F32", [self.components]
        yield "error", "F32", [1]


def header(shapes: Pair[Shape]) -> bytes:
    """What the file begins with: it follows from the shapes alone."""
    told, end = {}, 0
    for part, shape in shapes:
        for name, kind, sizes in shape.tensors():
            begin, end = end, end + int(np.prod(sizes)) * (1 if kind == "U8" else 4)
            offsets = [begin, end]
            told[f"{part}.{name}"] = {"dtype": kind, "shape": sizes, "data_offsets": offsets}
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True, eq=False)
class LeadingPart:
    """One part of the file. directions: float32 [p, d], steps: float32 [p]; error: of codes."""

    directions: FloatArray
    steps: FloatArray
    error: float
    _file: CheckedFile
    _codes: int
    _rest: int

    def holds(self, rows: range, units: FloatArray) -> bool:
        """Whether bounds by the file are true of consecutive rows, whose unit vectors [m, d] are
        given. Raises IndexDamagedError."""
        leading = units @ self.directions.T
        rest = self.rest(rows)
        held = np.isfinite(rest)
        squares = np.square(units).sum(axis=1) - np.square(leading).sum(axis=1)
        errors = leading - (self.codes(rows).astype(np.float32) - ZERO) * self.steps
        within = np.square(errors).sum(axis=1)[held] <= (self.error + _ROUNDING) ** 2
        return bool(within.all() and (np.square(rest) >= squares - _ROUNDING).all())

    def is_orthonormal(self) -> bool:
        """Whether the directions are what bounds take them for."""
        products = self.directions.astype(np.float64) @ self.directions.T
        return bool(np.abs(products - np.eye(len(products))).max() <= _ROUNDING)

    def codes(self, rows: range) -> Bytes:
        """uint8 [m, p] of consecutive rows, not copied. Raises IndexDamagedError."""
        width = len(self.steps)
        begin, end = self._codes + rows.start * width, self._codes + rows.stop * width
        return self._file.read(begin, end).reshape(-1, width)

    def rest(self, rows: range) -> FloatArray:
        """float32 [m] of consecutive rows, not copied. Raises IndexDamagedError."""
        begin, end = self._rest + 4 * rows.start, self._rest + 4 * rows.stop
        return self._file.read(begin, end).view("<f4")


def open_leading(path: Path, crcs: Crcs, rows: int, dims: Pair[int]) -> Pair[LeadingPart]:
    """The file of so many rows. Raises IndexDamagedError unless it is one of theirs."""
    file = CheckedFile(path, crcs)
    try:
        size = 8 + int.from_bytes(file.read(0, 8).tobytes(), "little")
        if not 8 < size <= min(file.size, _MOST_HEADER):
            raise ValueError("it has no header")
        begin = file.read(0, size).tobytes()
        told = json.loads(begin[8:])
        shapes = PARTS.map(
            lambda part: Shape(rows, dims[part], int(told[f"{part}.steps"]["shape"][0]))
        )
        # Of the same header, which tells where the last tensor ends.
        if begin != header(shapes) or file.size != size + told["rw.error"]["data_offsets"][1]:
            raise ValueError(f"it is none of {rows} rows")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise IndexDamagedError(f"{path} is damaged ({error}); {HINT}") from error
    return PARTS.map(lambda part: _part(file, told, size, part))


def _part(
    file: CheckedFile, told: dict[str, dict[str, list[int]]], size: int, part: str
) -> LeadingPart:
    def offset(name: str) -> int:
        return size + told[f"{part}.{name}"]["data_offsets"][0]

    def whole(name: str) -> npt.NDArray[np.float32]:
        begin, end = told[f"{part}.{name}"]["data_offsets"]
        values = file.read(size + begin, size + end).view("<f4")
        return np.array(values).reshape(told[f"{part}.{name}"]["shape"])

    return LeadingPart(
        directions=whole("directions"),
        steps=whole("steps"),
        error=float(whole("error")[0]),
        _file=file,
        _codes=offset("codes"),
        _rest=offset("rest"),
    )
