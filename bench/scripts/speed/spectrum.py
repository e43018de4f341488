"""Vectors of many dimensions with a chosen spectrum, made of real ones of few.

A model's standardized states have a covariance whose eigenvalues fall about as a power of their
rank, and its queries lie near some documents. Random vectors have neither. So these are real
vectors [h ; r] of a small model through a fixed random layer with GELU, whose principal components
are rescaled to the wanted variances and turned at random, as a model's own axes are none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moee_index.types import FloatArray

# Rows of a layer's outputs in memory at a time.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Widening:
    """The map of rows [n, d] to rows [n, dim], the same for documents and queries."""

    weights: FloatArray
    shifts: FloatArray
    mean: FloatArray
    components: FloatArray

    @classmethod
    def fit(cls, sample: FloatArray, dim: int, exponent: float, seed: int) -> Widening:
        """sample: real rows [m, d], of more rows than dim. The j-th variance of what comes out over
        the sample is proportional to j to the power of -exponent."""
        if len(sample) <= dim:
            raise SystemExit(f"{dim} dimensions of a chosen spectrum take more rows than that")
        rng = np.random.default_rng([seed, dim])
        scale = 1.0 / np.sqrt(np.square(sample).sum(axis=1).mean())
        weights = rng.standard_normal((sample.shape[1], dim), dtype=np.float32) * scale
        shifts = rng.standard_normal(dim, dtype=np.float32)
        mean, variances, axes = principal(_layer(sample, weights, shifts))
        wanted = np.arange(1, dim + 1) ** -exponent
        rescaled = axes * np.sqrt(wanted / wanted.mean() / variances)
        turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        return cls(weights, shifts, mean, (rescaled @ turn).astype(np.float32))

    def __call__(self, rows: FloatArray) -> FloatArray:
        made = np.empty((len(rows), self.components.shape[1]), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK):
            outputs = _layer(rows[start : start + _BLOCK], self.weights, self.shifts)
            made[start : start + _BLOCK] = (outputs - self.mean) @ self.components
        return made


def principal(
    rows: FloatArray, *, centered: bool = True
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(mean [d], variances [d], axes [d, d] in columns) of rows, largest variance first.

    Not centered, the axes are those of the energy about 0, and the mean is 0.
    """
    mean = rows.mean(axis=0) if centered else np.zeros(rows.shape[1], dtype=np.float32)
    moments = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK] - mean
        moments += some.T @ some
    variances, axes = np.linalg.eigh(moments / len(rows))
    return mean, np.maximum(variances[::-1], 1e-12), axes[:, ::-1]


def decay(variances: FloatArray) -> float:
    """The exponent of the power of the rank that fits variances best, from the 4th to the half: the
    first few and the end follow no power in any data."""
    ranks = np.arange(4, len(variances) // 2)
    return -float(np.polyfit(np.log(ranks), np.log(variances[ranks - 1]), 1)[0])


def _layer(rows: FloatArray, weights: FloatArray, shifts: FloatArray) -> FloatArray:
    import torch

    outputs = torch.from_numpy(rows @ weights + shifts)
    activated: FloatArray = torch.nn.functional.gelu(outputs).numpy()
    return activated
