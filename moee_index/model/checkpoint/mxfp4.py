"""gpt-oss's MXFP4: stacks of experts in 4-bit floats, with one power of two for 32 of them.

`X_blocks` uint8 [experts, out, groups, 16] holds two e2m1 codes a byte, the first one low;
`X_scales` uint8 [experts, out, groups] holds exponents, biased by 127 (OCP Microscaling Formats
v1.0). The model's tensor X is [experts, in, out], so matrices are transposed on the way. One expert
is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

import torch

from moee_index.model.checkpoint.quant_config import SourceFormat
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

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_BLOCKS, _SCALES = "_blocks", "_scales"

# Bytes of a group, two codes each.
_GROUP = 16


@dataclass(frozen=True)
class MXFP4Matrix:
    """blocks: uint8 [out, groups, 16]. scales: uint8 [out, groups]."""

    blocks: torch.Tensor
    scales: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.blocks.nbytes + self.scales.nbytes

    def dense(self) -> torch.Tensor:
        """bfloat16 [in, out]: exact, since e2m1 has one bit of mantissa and the scale has none. A
        scale of 255 is NaN."""
        rows, groups, _ = self.blocks.shape
        pairs = _pairs().index_select(0, self.blocks.reshape(-1).int())
        values = pairs.view(torch.bfloat16).view(rows, groups, 2 * _GROUP)
        scales = self.scales.contiguous().view(torch.float8_e8m0fnu).to(torch.bfloat16)
        return values.mul_(scales[..., None]).view(rows, -1).T


def _join(
    header: Header, headers: Headers, _readers: Readers, _source: SourceFormat
) -> Stored | None:
    stem = header.key.removesuffix(_BLOCKS).removesuffix(_SCALES)
    if header.dtype == "U8" and header.key.endswith(_SCALES):
        companion(header, headers, stem + _BLOCKS)
    if header.dtype != "U8" or not header.key.endswith(_BLOCKS):
        return None
    return _stack(stem, header, companion(header, headers, stem + _SCALES))


FORMAT = Format(_join)


def _stack(name: str, blocks: Header, scales: Header) -> Stored:
    if len(blocks.shape) != 4 or blocks.shape[-1] != _GROUP:
        raise misfit(scales, blocks.key, blocks.shape, "blocks are [experts, out, groups, 16]")
    if scales.shape != blocks.shape[:-1] or scales.dtype != "U8":
        raise misfit(blocks, scales.key, scales.shape, "there is one scale, a byte, for 32 weights")
    count, rows, groups, _ = blocks.shape
    shape = (count, groups * 2 * _GROUP, rows)
    return Stored(name, shape, (blocks, scales), partial(_read, blocks, scales))


def _read(blocks: Header, scales: Header, readers: Readers, index: int | None) -> MXFP4Matrix:
    return MXFP4Matrix(read_member(blocks, readers, index), read_member(scales, readers, index))


@cache
def _pairs() -> torch.Tensor:
    """int32 [256]: the two bfloat16 values that each byte stands for, side by side."""
    values = torch.tensor([*_E2M1, *(-value for value in _E2M1)], dtype=torch.bfloat16)
    byte = torch.arange(256)
    both = torch.stack((values[byte & 15], values[byte >> 4]), dim=1)
    return both.view(torch.int32).reshape(-1)
