"""FP8 as DeepSeek-V3 has it: 8-bit floats with one scale for each block of a matrix.

`X.weight` [rows, cols] in float8, beside it `X.weight_scale_inv` [ceil(rows / a), ceil(cols / b)]
for blocks of a x b (config.json's `weight_block_size`, 128 x 128; DeepSeek-V3 technical report,
3.3.2), ragged at the edges; a weight is its code times the scale, despite the "inv". Without blocks
there is one scale for a tensor or for each row. Each matrix of fused experts [n, rows, cols] has a
grid of its own. MXFP8 has blocks of 1 x 32, and its scales are exponents biased by 127.

Scales of activations are not read: activations are not quantized here. One matrix is in memory at a
time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch

from moee_index.errors import ModelError
from moee_index.model.checkpoint.quant_config import ADVICE, SourceFormat
from moee_index.model.checkpoint.tensors import (
    Format,
    Header,
    Headers,
    Readers,
    Stored,
    companion,
    misfit,
    read_member,
)

_CODES = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALES = frozenset({"F64", "F32", "F16", "BF16", "F8_E8M0", "U8"})

# Scales of activations and of a cache of keys and values.
_UNUSED = ("activation_scale", "input_scale", ".k_scale", ".v_scale", ".qscale_act")


@dataclass(frozen=True)
class FP8Matrix:
    """codes: float8 [rows, cols]. scales: [ceil(rows / a), ceil(cols / b)] for block (a, b)."""

    codes: torch.Tensor
    scales: torch.Tensor
    block: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def dense(self) -> torch.Tensor:
        """float32 [rows, cols]."""
        values = self.codes.float()
        scales = _numbers(self.scales)
        high, wide = self.block
        if values.shape == (len(scales) * high, scales.shape[1] * wide):
            blocks = values.view(len(scales), high, scales.shape[1], wide)
            blocks.mul_(scales[:, None, :, None])
            return values
        for number, row_scales in enumerate(scales):  # ragged at the edges
            rows = values[number * high : (number + 1) * high]
            rows.mul_(row_scales.repeat_interleave(wide)[: values.shape[1]])
        return values


def _join(
    header: Header, headers: Headers, _readers: Readers, source: SourceFormat
) -> Stored | None:
    if header.dtype not in _CODES:
        return None
    return _matrix(header, companion(header, headers, *_scale_names(header.key)), source)


FORMAT = Format(_join, _UNUSED)


def _scale_names(key: str) -> list[str]:
    """DeepSeek's name first; then those of per-tensor checkpoints, DeepSeek-V4 and Mistral."""
    stem = key.removesuffix(".weight")
    return [f"{key}_scale_inv", f"{key}_scale", f"{stem}.scale", f"{stem}.qscale_weight"]


def _matrix(codes: Header, scale: Header, source: SourceFormat) -> Stored:
    if scale.dtype not in _SCALES:
        raise ModelError(
            f"{scale.file}: {scale.key} is stored as {scale.dtype}, not a type for scales; {ADVICE}"
        )
    if not 2 <= len(codes.shape) <= 3 or 0 in codes.shape:
        raise ModelError(
            f"{codes.file}: {codes.key} {list(codes.shape)} is not an FP8 matrix; {ADVICE}"
        )
    block = _block(codes, scale, source)
    return Stored(codes.key, codes.shape, (codes, scale), partial(_read, codes, scale, block))


def _block(codes: Header, scale: Header, source: SourceFormat) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    *stack, rows, cols = codes.shape
    grid = scale.shape[len(stack) :]
    if scale.shape[: len(stack)] != tuple(stack):
        raise misfit(codes, scale.key, scale.shape, "each matrix of a stack has its own scales")
    block = source.settings.get("weight_block_size", (128, 128))
    if block is not None and grid == (math.ceil(rows / block[0]), math.ceil(cols / block[1])):
        return block[0], block[1]
    if grid in ((), (1,)):
        return rows, cols
    if grid == (rows,):
        return 1, cols
    fits = len(grid) == 2 and 0 not in grid and rows % grid[0] == 0 and cols % grid[1] == 0
    if source.settings.get("weight_block_size") is not None or not fits:
        why = "without blocks there is one scale, or one for each row"
        if block:
            why = f"config.json gives blocks of {block[0]} x {block[1]}"
        raise misfit(codes, scale.key, scale.shape, why)
    return rows // grid[0], cols // grid[1]


def _read(
    codes: Header,
    scale: Header,
    block: tuple[int, int],
    readers: Readers,
    index: int | None,
) -> FP8Matrix:
    values = read_member(codes, readers, index)
    rows, cols = values.shape
    grid = (math.ceil(rows / block[0]), math.ceil(cols / block[1]))
    return FP8Matrix(values, read_member(scale, readers, index).reshape(grid), block)


def _numbers(scales: torch.Tensor) -> torch.Tensor:
    """float32 scales, also from bare exponents."""
    if scales.dtype == torch.uint8:
        scales = scales.contiguous().view(torch.float8_e8m0fnu)
    return scales.float()
