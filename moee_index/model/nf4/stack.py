"""NF4 matrices: quantized slice by slice, multiplied as they are or dequantized first.

The layout is bitsandbytes' standard one (two codes a byte, block 64, absmax per block), so that
what is written to disk moves between machines.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from moee_index.backends import import_bitsandbytes
from moee_index.model.device import on_device
from moee_index.model.nf4.dequantize import (
    called,
    dequantize,
    dequantize_nested,
    gemm,
    has_gemm,
    on_card,
)
from moee_index.model.nf4.native import library as native
from moee_index.model.nf4.quantize import BLOCK, quantize_on_cpu
from moee_index.model.nf4.tensor_like import TensorLike

NESTED_BLOCK = 256

# Up to how many rows a card's product with the codes is asked for: those of a query.
_FUSED_ROWS = 256


class Nested(NamedTuple):
    """absmax under double quantisation: codes uint8 [blocks], scale float32 [blocks / 256]."""

    codes: torch.Tensor
    scale: torch.Tensor
    offset: float


class Quantized(NamedTuple):
    """Weights in NF4: packed uint8 [numel / 2] and absmax float32 [numel / 64]. nested: the source
    of absmax, if a whole matrix came with double quantisation."""

    packed: torch.Tensor
    absmax: torch.Tensor
    nested: Nested | None = None


def quantize(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise one matrix to NF4 (QLoRA, Dettmers et al. 2023, section 3).

    Returns (packed uint8 [ceil(numel / 2)], absmax float32 [ceil(numel / 64)]), flat over the
    row-major matrix, on the processor: a card's kernel might choose other codes at ties.
    """
    matrix = matrix.cpu()
    if matrix.numel() % BLOCK == 0:
        if native.in_use(torch.float32, matrix.device):
            kept = matrix if matrix.dtype == torch.bfloat16 else matrix.float()
            return native.quantize(kept.detach().contiguous())
        return quantize_on_cpu(matrix)
    import_bitsandbytes()
    packed, absmax = torch.ops.bitsandbytes.quantize_4bit(
        matrix.float().contiguous(), BLOCK, "nf4", torch.uint8
    )
    return packed.reshape(-1), absmax.reshape(-1).float()


class NF4Stack(TensorLike):
    """n matrices [rows, cols] of the same shape in 4 bits: the experts of one projection.

    turned: the class that owns them has transposed matrices, [cols, rows]; here they are as in a
    linear layer, so that blocks run along the dimension that is summed over.
    Kept as buffers: `packed` uint8 [n, rows * cols / 2] and either `absmax` float32 [n, blocks],
    or with double quantisation `absmax` uint8 [n, blocks] with `absmax_scale` float32
    [n, ceil(blocks / 256)] and `absmax_offset` float32 [n]. Each matrix has its own statistics, as
    if bitsandbytes had quantised it alone. Bytes a weight: 0.5625 plain, 0.516 double.
    """

    packed: torch.Tensor
    absmax: torch.Tensor
    absmax_scale: torch.Tensor | None
    absmax_offset: torch.Tensor | None

    def __init__(
        self, n: int, rows: int, cols: int, *, double_quant: bool, turned: bool = False
    ) -> None:
        super().__init__()
        self.n, self.rows, self.cols, self.double_quant = n, rows, cols, double_quant
        self.turned = turned
        self.size = rows * cols
        if self.size % BLOCK:
            raise ValueError(f"a {rows} x {cols} matrix is not a multiple of {BLOCK} weights")
        self.blocks = self.size // BLOCK
        self._filled: list[torch.Tensor | None] = [None] * n
        for name in self.shapes():
            self.register_buffer(name, None)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each buffer, by its name, which is also its name on disk."""
        found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "packed": ((self.n, self.size // 2), torch.uint8),
            "absmax": ((self.n, self.blocks), torch.uint8 if self.double_quant else torch.float32),
        }
        if self.double_quant:
            found["absmax_scale"] = ((self.n, math.ceil(self.blocks / NESTED_BLOCK)), torch.float32)
            found["absmax_offset"] = ((self.n,), torch.float32)
        return found

    def allocate(
        self, device: torch.device | str = "cpu", home: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Make empty buffers, to be filled by `put`, or use those of `home`."""
        for name, (shape, dtype) in self.shapes().items():
            own = home[name] if home else torch.empty(shape, dtype=dtype, device=device)
            setattr(self, name, own)

    @property
    def holds_weights(self) -> bool:
        """Whether there are buffers, filled or to be filled."""
        return self._buffers["packed"] is not None

    def put(self, index: int, row: int, part: torch.Tensor) -> None:
        """Quantise `part` [r, cols] as rows row..row+r of matrix `index`.

        Rows of a matrix may come in several parts where r * cols is a multiple of the block.
        """
        if not 0 <= row <= row + len(part) <= self.rows or part.shape[1] != self.cols:
            raise ValueError(f"{tuple(part.shape)} does not fit at row {row} of {self}")
        self.put_quantized(index, row, *quantize(part))

    def put_quantized(
        self,
        index: int,
        row: int,
        packed: torch.Tensor,
        absmax: torch.Tensor,
        nested: Nested | None = None,
    ) -> None:
        """Store the result of `quantize` for rows of matrix `index` from `row` on. nested: the
        statistics that came with a whole matrix, to be stored as they are."""
        block = row * self.cols // BLOCK
        blocks = slice(block, block + len(absmax))
        self.packed[index, blocks.start * BLOCK // 2 : blocks.stop * BLOCK // 2] = packed
        if not self.double_quant:
            self.absmax[index, blocks] = absmax
            return
        if nested is not None and len(absmax) == self.blocks:
            self._keep_nested(index, *nested)
            return
        pending = self._filled[index]
        if pending is None:
            pending = self._filled[index] = torch.full((self.blocks,), torch.nan)
        pending[blocks] = absmax
        if not bool(pending.isnan().any()):
            self._nest(index, pending)
            self._filled[index] = None

    def _nest(self, index: int, absmax: torch.Tensor) -> None:
        offset = absmax.mean()
        values = dynamic_map(absmax.device)  # first, for it imports bitsandbytes
        quantize_blockwise = torch.ops.bitsandbytes.quantize_blockwise.default
        codes, scale = called(quantize_blockwise, absmax - offset, values, NESTED_BLOCK)
        self._keep_nested(index, codes, scale, offset)

    def _keep_nested(
        self, index: int, codes: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | float
    ) -> None:
        assert self.absmax_scale is not None and self.absmax_offset is not None
        self.absmax[index] = codes
        self.absmax_scale[index] = scale
        self.absmax_offset[index] = offset

    def full_absmax(self, index: Sequence[int]) -> torch.Tensor:
        """float32 [len(index), blocks], with double quantisation undone."""
        codes = _taken(self.absmax, index)
        if not self.double_quant:
            return codes
        assert self.absmax_scale is not None and self.absmax_offset is not None
        scale, offset = _taken(self.absmax_scale, index), _taken(self.absmax_offset, index)
        if on_card(codes.device) and (len(codes) == 1 or self.blocks % NESTED_BLOCK == 0):
            nested = dequantize_nested(codes, scale, dynamic_map(codes.device))
            return nested.add_(offset[:, None])
        # index_select: several times as fast as indexing with a tensor
        values = dynamic_map(codes.device).index_select(0, codes.flatten().int()).view(codes.shape)
        if self.blocks % NESTED_BLOCK == 0:
            values.view(len(codes), -1, NESTED_BLOCK).mul_(scale[..., None])
        else:
            values.mul_(scale.repeat_interleave(NESTED_BLOCK, dim=1)[:, : self.blocks])
        return values.add_(offset[:, None])

    def dequantize(
        self, index: Sequence[int], dtype: torch.dtype, workspace: Workspace
    ) -> torch.Tensor:
        """Matrices `index` as [k, rows, cols], valid until the workspace's next use."""
        count = len(index) * self.size
        out = workspace.take(count, dtype, self.packed.device)
        if native.in_use(dtype, out.device):
            native.dequantize(self._native(), index, 0, self.blocks, out)
        else:
            dequantize(_taken(self.packed, index), self.full_absmax(index), count, out)
        return out.view(len(index), self.rows, self.cols)

    def matrix(self, index: int, dtype: torch.dtype) -> torch.Tensor:
        """Matrix `index` [rows, cols] in memory of its own."""
        return self._weights(index, 0, self.rows, dtype)

    def part(self, row: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """`count` rows of the only matrix from `row` on, [count, cols]."""
        if row * self.cols % BLOCK or count * self.cols % BLOCK:
            return self.matrix(0, dtype)[row : row + count]
        return self._weights(0, row, count, dtype)

    def multiplies(self, dtype: torch.dtype, most: int) -> bool:
        """Whether up to `most` rows a matrix are multiplied sooner with the codes as they are than
        with dequantized weights."""
        return self.cols % BLOCK == 0 and most <= native.most_rows(dtype, self.packed.device)

    def multiply(
        self,
        index: Sequence[int],
        starts: Sequence[int],
        x: torch.Tensor,
        source: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [n, cols] times matrices `index`, transposed, as `native.multiply` has it: products
        starts[i]..starts[i + 1] are those of matrix index[i], and source names their rows of x."""
        return native.multiply(self._native(), index, starts, x, source)

    def fuses(self, rows: int, device: torch.device) -> bool:
        """Whether a card multiplies so many rows with the codes of the only matrix as they are."""
        return on_card(device) and rows <= _FUSED_ROWS and self.cols % BLOCK == 0 and has_gemm()

    def fused(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [..., cols] times the only matrix, transposed, by bitsandbytes' product for cards."""
        shape, values = [self.rows, self.cols], (self.packed.view(-1, 1), self.absmax.view(-1))
        if not self.double_quant:
            return gemm(x, values[0], shape, values[1], bias)
        assert self.absmax_scale is not None and self.absmax_offset is not None
        nested = (values[1], dynamic_map(x.device), self.absmax_offset)
        return gemm(x, values[0], shape, self.absmax_scale.view(-1), bias, *nested)

    def _native(self) -> native.Stack:
        """Where the buffers lie; valid as long as they are not replaced."""
        shared = {"packed": self.packed.data_ptr(), "rows": self.rows, "cols": self.cols}
        if not self.double_quant:
            return native.Stack(absmax=self.absmax.data_ptr(), **shared)
        assert self.absmax_scale is not None and self.absmax_offset is not None
        return native.Stack(
            codes=self.absmax.data_ptr(),
            scale=self.absmax_scale.data_ptr(),
            offset=self.absmax_offset.data_ptr(),
            map=dynamic_map(self.packed.device).data_ptr(),
            **shared,
        )

    def _weights(self, index: int, row: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        out = torch.empty(count * self.cols, dtype=dtype, device=self.packed.device)
        self.write(index, row * self.cols // BLOCK, out)
        return out.view(count, self.cols)

    def write(self, index: int, block: int, out: torch.Tensor) -> None:
        """Dequantize matrix `index` from `block` on into the flat tensor `out`, whole blocks."""
        blocks = slice(block, block + out.numel() // BLOCK)
        if native.in_use(out.dtype, out.device):
            native.dequantize(self._native(), [index], block, blocks.stop - block, out)
            return
        absmax = self.full_absmax([index])[0, blocks]
        codes = self.packed[index, blocks.start * BLOCK // 2 : blocks.stop * BLOCK // 2]
        dequantize(codes, absmax.contiguous(), out.numel(), out)

    def extra_repr(self) -> str:
        kind = "double quantisation" if self.double_quant else "float32 absmax"
        return f"n={self.n}, rows={self.rows}, cols={self.cols}, {kind}"


class Workspace(threading.local):
    """One growing scratch buffer per thread and dtype for dequantised weights: no allocation per
    call."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}

    def take(self, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        buffer = self._buffers.get((dtype, device))
        if buffer is None or len(buffer) < count:
            # The smaller one goes first: both at once may be more than there is.
            del buffer
            self._buffers.pop((dtype, device), None)
            buffer = self._buffers[dtype, device] = torch.empty(count, dtype=dtype, device=device)
        return buffer[:count]


def _taken(values: torch.Tensor, index: Sequence[int]) -> torch.Tensor:
    """Rows `index`, ascending, of a tensor: a view of it where they lie side by side."""
    first, last = index[0], index[-1]
    if last - first + 1 == len(index):
        return values[first : last + 1]
    return values.index_select(0, on_device(index, torch.int64, values.device))


_MAPS: dict[torch.device, torch.Tensor] = {}


def dynamic_map(device: torch.device) -> torch.Tensor:
    """The 256 values of bitsandbytes' dynamic 8-bit type, in which nested absmax is stored."""
    if device not in _MAPS:
        functional = import_bitsandbytes().functional
        _MAPS[device] = functional.create_dynamic_map().to(device)
    return _MAPS[device]


def stacks(module: nn.Module) -> Iterator[tuple[str, NF4Stack]]:
    """All NF4 stacks of a model with their names, in order."""
    for name, child in module.named_modules():
        if isinstance(child, NF4Stack):
            yield name, child
