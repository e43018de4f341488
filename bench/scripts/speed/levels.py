"""Codes rotated by PCA and cut into levels, for reading an exact scan's vectors in steps.

Whether steps pay is early_exit.py's question.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from spectrum import decay, principal

from moee_index.types import FloatArray

T = TypeVar("T")
# Levels of the finest cut.
FINEST = 16
# Documents whose levels lie together.
BLOCK = 1024
_FIT_ROWS = 50_000


@dataclass(frozen=True, eq=False)
class RotatedPart:
    """A part's rotated codes and queries.

    codes: float32 [n, d], the values that float16 holds; queries: float32 [q, d]; tails and
    query_tails, [n, 16] and [q, 16]: norms of what follows each level, never too small; error:
    longest difference of a vector to its codes; told: what was measured on the way.
    """

    codes: FloatArray
    queries: FloatArray
    tails: FloatArray
    query_tails: FloatArray
    error: float
    told: dict[str, float]

    @classmethod
    def made(cls, units: FloatArray, queries: FloatArray) -> RotatedPart:
        """units, queries: unit vectors in the model's own axes."""
        if units.shape[1] % FINEST:
            raise SystemExit(f"{units.shape[1]} dimensions do not divide into {FINEST} levels")
        (_, variances, axes), fit_s = timed(lambda: principal(sampled(units), centered=False))
        rotation = axes.astype(np.float32)
        rotated, rotate_s = timed(lambda: units @ rotation)
        codes = as_float16(rotated)
        half = codes.astype(np.float16)
        _, reorder_s = timed(lambda: level_major(half))
        error = float(np.sqrt(np.square(rotated - codes).sum(axis=1)).max())
        turned = queries @ rotation
        told = {"fit_s": fit_s, "rotate_s": rotate_s, "reorder_s": reorder_s}
        told["decay"] = decay(variances)
        for part, end in (("1/16", len(variances) // 16), ("1/4", len(variances) // 4)):
            told[f"energy in {part}"] = float(variances[:end].sum() / variances.sum())
        return cls(codes, turned, rounded_up(tails(codes)), tails(turned), error, told)


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its seconds."""
    before = time.perf_counter()
    return call(), time.perf_counter() - before


def sampled(rows: FloatArray) -> FloatArray:
    """Evenly spread rows to fit on."""
    return rows[:: max(1, len(rows) // _FIT_ROWS)]


def as_float16(rows: FloatArray) -> FloatArray:
    """float32 values that float16 holds; torch converts many times as fast as numpy."""
    import torch

    rounded: FloatArray = torch.from_numpy(rows).half().float().numpy()
    return rounded


def tails(rows: FloatArray) -> FloatArray:
    """Norms [n, 16] of what follows each of the finest levels; the last is 0."""
    energy = np.square(rows, dtype=np.float64).reshape(len(rows), FINEST, -1).sum(axis=2)
    after = energy[:, ::-1].cumsum(axis=1)[:, ::-1] - energy
    after[:, -1] = 0.0
    norms: FloatArray = np.sqrt(np.maximum(after, 0.0)).astype(np.float32)
    return norms


def rounded_up(norms: FloatArray) -> FloatArray:
    """The next float16 that is not smaller, as float32."""
    half = norms.astype(np.float16)
    below = half.astype(np.float32) < norms
    half[below] = np.nextafter(half[below], np.float16(np.inf))
    return half.astype(np.float32)


def level_major(codes: npt.NDArray[np.float16]) -> list[npt.NDArray[np.float16]]:
    """What a file would hold: blocks of documents, each level of a block together."""
    width = codes.shape[1] // FINEST
    return [
        np.ascontiguousarray(block.reshape(len(block), FINEST, width).swapaxes(0, 1))
        for block in (codes[i : i + BLOCK] for i in range(0, len(codes), BLOCK))
    ]
